"""A preview of whole files counts what a job counts; of large ones it says that it is a sample."""

from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from tests.pipeline.rows import Rows
from tutelage.pipeline import preview as module
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.materialize import materialize
from tutelage.pipeline.preview import preview
from tutelage.pipeline.schema import Feature, Schema, Task
from tutelage.pipeline.sources.files import Files

SCHEMA = Schema(
    features=(
        Feature(name="user", dtype="int64", capacity=100, scope="user"),
        Feature(name="item", dtype="string", capacity=100),
        Feature(name="seconds", dtype="float32"),
    ),
    tasks=(Task(name="click", label="click"),),
    key=("user", "item", "event_time_us"),
)
DAYS = [date(2026, 1, day) for day in (1, 2, 3)]
SOURCE = Files(
    pattern="*.csv", schema=SCHEMA, event_time="ts", time_unit="s", expressions=(("click", "kind = 'click'"),)
)
START = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())


def _write(folder: Path, rows: int = 90) -> None:
    """Write rows of three days, the second of which has a click in each third one; the last lines are bad."""
    folder.mkdir(exist_ok=True)
    lines = [
        f"{row % 31},i{row % 7},{row % 5},{('view', 'view', 'click')[row % 3]},{START + 86_400 * 3 * row // rows}"
        for row in range(rows)
    ]
    bad = [
        "no number,i1,1,view,1767225600",
        "1,i1,fast\x1b,view,1767225601",
        "1,i1,1,view,yesterday",
        "1,i1,1,view,1767312000000",  # of another century
        "1,i1,1,view,1",  # of another day
        "1,,1,view,1767225600",  # no key
        "1,2",
        lines[0],
    ]
    (folder / "a.csv").write_text("\n".join(["user,item,seconds,kind,ts", *lines, *bad]) + "\n")


def test_a_preview_of_all_rows_counts_what_the_job_counts(tmp_path: Path) -> None:
    _write(tmp_path / "raw")
    found = preview(SOURCE, SCHEMA, raw_dir=str(tmp_path / "raw"), days=DAYS)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]
    lake = Lake(tmp_path / "lake", SCHEMA)
    lake.create()
    done = materialize(SOURCE, SCHEMA, lake, raw_dir=str(tmp_path / "raw"), workdir=str(tmp_path), days=DAYS)
    dropped = dict(done.elsewhere)
    for counts in done.days.values():
        dropped |= {reason: dropped.get(reason, 0) + rows for reason, rows in counts.dropped.items()}
    assert found.dropped == dropped
    assert dropped == {
        "bad_user": 1,
        "bad_seconds": 1,
        "bad_time": 2,
        "outside_days": 1,
        "bad_key": 1,
        "bad_row": 1,
        "duplicate": 1,
    }
    assert (found.rows_in, found.kept, found.whole) == (done.rows_in, 90, True)
    assert found.days.rows() == [(day, 30, 1 / 3) for day in DAYS]
    assert found.outside == (date(1970, 1, 1), date(1970, 1, 1))
    assert found.examples == {
        "bad_user": "user 'no number'",
        "bad_seconds": "seconds 'fast\\x1b'",
        "bad_time": "ts 'yesterday'",
    }
    assert found.findings == []


def test_days_without_rows_and_constant_labels_and_columns_are_found(tmp_path: Path) -> None:
    _write(tmp_path, rows=300)
    log = pl.read_csv(tmp_path / "a.csv", infer_schema=False, truncate_ragged_lines=True).head(300)
    log.with_columns(kind=pl.lit("view"), seconds=pl.lit("7")).write_csv(tmp_path / "a.csv")
    found = preview(SOURCE, SCHEMA, raw_dir=str(tmp_path), days=[*DAYS, date(2026, 1, 4)])
    assert found.findings == [
        "no rows on 2026-01-04, and no others: look at start_day and end_day, and at the time's column and unit",
        "click is 0 in all rows, so there is nothing to predict",
        "seconds has the same value in all 300 rows; take it out of the features, or mend its column",
    ]


def test_a_large_file_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path, rows=30_000)
    monkeypatch.setattr(module, "SIZE", 1 << 15)
    found = preview(SOURCE, SCHEMA, raw_dir=str(tmp_path), days=DAYS)
    assert not found.whole
    assert 500 < found.kept < 3_000
    assert found.days["rows"].min() > 100  # pieces of all days


def test_frames_of_another_source_are_read_until_there_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = Schema(
        features=(
            Feature(name="user", dtype="int64", capacity=100, scope="user"),
            Feature(name="item", dtype="string", capacity=100),
        ),
        tasks=(Task(name="click", label="click"),),
        key=("user", "item", "event_time_us"),
    )
    rows = tuple((START * 1_000_000 + row, row, "a", row % 2, "") for row in range(8))
    source = Rows((rows, rows[:3]))
    found = preview(source, schema, raw_dir="", days=DAYS[:1])
    assert (found.whole, found.units, found.rows_in, found.dropped) == (True, 2, 11, {"duplicate": 3})
    monkeypatch.setattr(module, "ROWS", 6)
    assert not preview(source, schema, raw_dir="", days=DAYS[:1]).whole
