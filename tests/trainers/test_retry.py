"""What fails for a cause that may pass is tried again; what fails for another is not."""

import errno
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from tests.same import assert_same
from tests.tiny import DAYS, make_run
from tutelage.pipeline.errors import UserError
from tutelage.trainers import day_loop, retry
from tutelage.trainers.checkpoints import Checkpoints
from tutelage.trainers.day_loop import teach
from tutelage.trainers.retry import persistently

EIO = OSError(errno.EIO, "Input/output error")


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Those that were made, in no time."""
    made: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", made.append)
    return made


def _failing(times: int, error: Exception, act: Callable[..., Any] = lambda: "done") -> Callable[..., Any]:
    left = [error] * times

    def fails_first(*args: Any, **kwargs: Any) -> Any:
        if left:
            raise left.pop()
        return act(*args, **kwargs)

    return fails_first


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (EIO, "Input/output error ([Errno 5] Input/output error)"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "Connection reset by peer ([Errno 104] reset)"),
        # As Delta Lake and TensorFlow say it.
        (RuntimeError("Generic error: (os error 116)"), "Stale file handle (Generic error: (os error 116))"),
        (
            tf.errors.UnknownError(None, None, "w/variables; Input/output error"),
            "Input/output error (w/variables; Input/output error)",
        ),
    ],
)
def test_a_passing_cause_is_said_aloud_and_tried_again(
    error: Exception, says: str, pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    assert persistently("teacher, labels", _failing(2, error)) == "done"
    assert pauses == [1, 5]
    assert caplog.messages == [f"teacher, labels: {says}; it is tried again in {n} s" for n in (1, 5)]


def test_a_cause_that_does_not_pass_is_told_in_one_line(pauses: list[float]) -> None:
    with pytest.raises(UserError) as told:
        persistently("teacher, labels", _failing(4, EIO))
    assert str(told.value) == (
        "teacher, labels: Input/output error ([Errno 5] Input/output error), 4 times; look after the disk or "
        "the network behind the workdir, then run again to go on from what was finished"
    )
    assert pauses == [1, 5, 20]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        PermissionError(errno.EACCES, "Permission denied"),
        UserError("a label is older than what it labels"),
        ValueError("a bug"),
    ],
)
def test_another_cause_is_raised_at_once(error: Exception, pauses: list[float]) -> None:
    with pytest.raises(type(error)) as raised:
        persistently("teacher, labels", _failing(1, error))
    assert raised.value is error
    assert pauses == []


def test_a_teacher_whose_disk_fails_for_a_while_ends_as_the_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    undisturbed, run = (make_run(tmp_path / name) for name in ("undisturbed", "run"))
    teach(undisturbed, DAYS)
    for where, name in (
        (day_loop, "load_day"),
        (day_loop, "soft_label_frame"),
        (day_loop, "write_metrics"),
        (day_loop, "write_events"),
        (Checkpoints, "save"),
    ):
        monkeypatch.setattr(where, name, _failing(1, EIO, getattr(where, name)))
    teach(run, DAYS[:1])
    monkeypatch.setattr(Checkpoints, "restore", _failing(1, EIO, Checkpoints.restore))
    teach(run, DAYS)
    told = [message.split(":")[0] for message in caplog.messages if "tried again in 1 s" in message]
    assert told == [
        "teacher, the rows of 2026-01-01",
        "teacher, labels of 2026-01-01",
        "teacher, metrics of 2026-01-01",
        "teacher, events of 2026-01-01",
        "teacher, the checkpoint of 2026-01-01",
        "teacher, its checkpoint",
    ]
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    assert_same(undisturbed.root, run.root)
