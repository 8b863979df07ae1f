"""A failure is retried if its cause may pass, and raised at once if not."""

import errno
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from polars.testing import assert_frame_equal

from tests.failing import EIO, failing
from tests.pipeline.rows import DAY, Rows
from tutelage.pipeline import histories, materialize, pieces
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io import retry
from tutelage.pipeline.io.retry import with_retries
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.schema import Feature, History, Schema, Task
from tutelage.pipeline.table import Table

SCHEMA = Schema(
    features=(
        Feature(name="user", dtype="int64", capacity=10),
        Feature(name="item", dtype="string", capacity=10),
    ),
    tasks=(Task(name="click", label="click"),),
    key=("event_time_us",),
    user="user",
    histories=(History(name="met", of="item", length=2, days=1),),
)
# The second row is a duplicate.
SOURCE = Rows((((1, 1, "a", 1, ""), (2, 1, "b", 0, ""), (2, 1, "b", 0, ""), (DAY + 1, 1, "c", 1, "")),))
DAYS = [date(1970, 1, 1), date(1970, 1, 2)]


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the pauses instead of sleeping."""
    made: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", made.append)
    return made


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (EIO, "Input/output error ([Errno 5] Input/output error)"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "Connection reset by peer ([Errno 104] reset)"),
        # Delta Lake and TensorFlow report it like this.
        (RuntimeError("Generic error: (os error 116)"), "Stale file handle (Generic error: (os error 116))"),
        (
            tf.errors.UnknownError(None, None, "w/variables; Input/output error"),
            "Input/output error (w/variables; Input/output error)",
        ),
    ],
)
def test_a_passing_cause_is_logged_and_retried(
    error: Exception, says: str, pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    assert with_retries("teacher, labels", failing(2, error)) == "done"
    assert pauses == [1, 5]
    assert caplog.messages == [f"teacher, labels: {says}; trying again in {n} s" for n in (1, 5)]


def test_a_cause_that_does_not_pass_is_reported_in_one_line(pauses: list[float]) -> None:
    with pytest.raises(UserError) as told:
        with_retries("teacher, labels", failing(4, EIO))
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
        with_retries("teacher, labels", failing(1, error))
    assert raised.value is error
    assert pauses == []


def _made(folder: Path) -> tuple[Lake, materialize.Materialized]:
    lake = Lake(folder, SCHEMA)
    lake.create()
    return lake, materialize.materialize(SOURCE, SCHEMA, lake, raw_dir="", workdir="", days=DAYS)


def test_a_job_whose_disk_fails_for_a_while_gives_the_same_tables_as_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    undisturbed, counts = _made(tmp_path / "undisturbed")
    commit, failed = Table._commit, set()

    def commits_and_fails(self: Table, *args: Any, **kwargs: Any) -> None:
        commit(self, *args, **kwargs)
        if self.path not in failed:
            failed.add(self.path)
            raise EIO

    monkeypatch.setattr(Table, "_commit", commits_and_fails)
    for where, name in ((Rows, "read"), (pieces, "find_repeats"), (histories, "_items")):
        monkeypatch.setattr(where, name, failing(1, EIO, getattr(where, name)))
    lake, found = _made(tmp_path / "disturbed")
    assert found.days == counts.days
    assert [day.dropped for day in found.days.values()] == [{"duplicate": 1}, {}]
    for table in ("interactions", "statistics", "histories"):
        one, other = (
            getattr(each, table).scan().collect().sort("day", maintain_order=True)
            for each in (undisturbed, lake)
        )
        assert_frame_equal(one, other)
    # The days are made at the same time, and the statistics of a day are committed before its rows.
    first, second, *others = [message.split(":")[0] for message in caplog.messages]
    assert first == "the rows of part 0"
    assert second in [f"the rows of {day}" for day in DAYS]
    assert others == [
        "the commit of statistics",
        "the commit of 1970-01-01",
        *["the histories of 1970-01-01"] * 2,
    ]


def test_a_job_whose_disk_stays_broken_ends_with_one_line_and_commits_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Rows, "read", failing(4, EIO))
    with pytest.raises(
        UserError, match=r"^the rows of part 0: Input/output error \(.*\), 4 times; look after"
    ):
        _made(tmp_path)
    assert Lake(tmp_path, SCHEMA).interactions.partitions().is_empty()
