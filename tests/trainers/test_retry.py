"""A trainer whose disk fails for a while goes on as if it had not."""

import logging
from pathlib import Path

import pytest

from tests.failing import EIO, failing
from tests.same import assert_same
from tests.tiny import DAYS, make_run
from tutelage.pipeline.io import retry
from tutelage.trainers import day_loop
from tutelage.trainers.checkpoints import Checkpoints
from tutelage.trainers.day_loop import train_teacher
from tutelage.trainers.feed import Feed
from tutelage.trainers.teacher import Teacher


def test_a_teacher_whose_disk_fails_for_a_while_ends_as_the_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
    undisturbed, run = (make_run(tmp_path / name) for name in ("undisturbed", "run"))
    train_teacher(undisturbed, DAYS)
    for where, name in (
        (Feed, "read"),
        (Teacher, "publish"),
        (day_loop, "write_metrics"),
        (day_loop, "write_events"),
        (Checkpoints, "save"),
    ):
        monkeypatch.setattr(where, name, failing(1, EIO, getattr(where, name)))
    train_teacher(run, DAYS[:1])
    monkeypatch.setattr(Checkpoints, "restore", failing(1, EIO, Checkpoints.restore))
    train_teacher(run, DAYS)
    retried = [message.split(":")[0] for message in caplog.messages if "trying again in 1 s" in message]
    assert retried == [
        "teacher, the rows of 2026-01-01",
        "teacher, labels of 2026-01-01",
        "teacher, metrics of 2026-01-01",
        "teacher, events of 2026-01-01",
        "teacher, the checkpoint of 2026-01-01",
        "teacher, its checkpoint",
    ]
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    assert_same(undisturbed.root, run.root)
