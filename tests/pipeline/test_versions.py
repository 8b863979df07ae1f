"""The version of a day's rows depends on the rows alone, not on when and how they were written."""

from datetime import date
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

from tutelage.pipeline.lake import Lake
from tutelage.pipeline.schema import Feature, History, Schema, Task
from tutelage.pipeline.table import Table

SCHEMA = Schema(
    features=(
        Feature(name="user", dtype="int64", capacity=10),
        Feature(name="item", dtype="int64", capacity=10),
        Feature(name="tags", dtype="string", capacity=10, length=3),
        Feature(name="age", dtype="float32"),
    ),
    tasks=(Task(name="click", label="click"),),
    key=("user",),
    user="user",
    histories=(History(of="item"),),
)
DAY = date(2026, 1, 1)
KEY = str(DAY)
ROWS = pl.DataFrame(
    [
        (1, 10, 7, 1, ["a", None], 1.5, 1),
        (2, 20, None, 1, [], None, 0),
        (3, 20, 8, 2, None, 0.0, None),
        (4, 30, 0, 1, ["a", "b"], 2.5, 0),
    ],
    schema={
        "example_id": pl.Int64,
        "event_time_us": pl.Int64,
        "user": pl.Int64,
        "item": pl.Int64,
        "tags": pl.List(pl.String),
        "age": pl.Float32,
        "click": pl.Int8,
    },
    orient="row",
)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path, SCHEMA)
    lake.create()
    return lake


def _commit(table: Table, *parts: pl.DataFrame, attempt: int = 1, source: int | None = None) -> int | None:
    files = [table.write_file(part, {"day": DAY}, name="part") for part in parts]
    table.commit(files, {"day": DAY}, attempt=attempt, metadata={}, source=source)
    return table.versions([KEY]).get(KEY)


def test_equal_rows_have_equal_versions_however_they_were_written(lake: Lake) -> None:
    table = lake.interactions
    version = _commit(table, ROWS)
    assert version
    assert _commit(table, ROWS.reverse(), attempt=2) == version
    assert _commit(table, ROWS[2:], ROWS[:2], attempt=3) == version
    table.replace(ROWS.select(reversed(ROWS.columns)), {"day": DAY})
    assert table.versions([KEY, "2026-01-02"]) == {KEY: version}


@pytest.mark.parametrize(
    "change",
    [
        ROWS[1:],
        pl.concat([ROWS, ROWS[:1]]),
        *(
            ROWS.with_columns(pl.when(pl.col("example_id") == row).then(value).otherwise(name).alias(name))
            for row, name, value in (
                (1, "user", pl.lit(None)),
                (2, "user", pl.lit(0)),
                (1, "tags", pl.lit(["a"])),
                (3, "tags", pl.lit([], pl.List(pl.String))),
                (4, "tags", pl.lit(["b", "a"])),
                (3, "age", pl.lit(None)),
                (1, "age", pl.lit(1.5000001, pl.Float32)),
                (3, "click", pl.lit(0, pl.Int8)),
                (4, "event_time_us", pl.lit(31)),
            )
        ),
        ROWS.with_columns(user=pl.col("user").reverse()),
    ],
)
def test_any_other_value_gives_another_version(lake: Lake, change: pl.DataFrame) -> None:
    version = _commit(lake.interactions, ROWS)
    assert _commit(lake.interactions, change.cast(ROWS.schema), attempt=2) != version  # type: ignore[arg-type]


def test_a_day_without_rows_has_no_version(lake: Lake) -> None:
    _commit(lake.interactions, ROWS)
    lake.interactions.replace(ROWS[:0], {"day": DAY})
    assert lake.interactions.versions([KEY]) == {}


def test_a_day_written_before_versions_were_recorded_has_its_attempt_as_version(lake: Lake) -> None:
    rows = ROWS.with_columns(day=pl.lit(DAY)).select(lake.interactions.schema.names)
    write_deltalake(
        lake.interactions.path,
        rows.to_arrow().cast(lake.interactions.schema),
        mode="append",
        commit_properties=CommitProperties(app_transactions=[Transaction(KEY, 17)]),
    )
    assert lake.interactions.versions([KEY]) == {KEY: 17}


def test_a_commit_records_the_source_of_its_rows(lake: Lake) -> None:
    _commit(lake.interactions, ROWS, source=5)
    assert lake.interactions.sources([KEY, "2026-01-02"]) == {KEY: 5}


def test_histories_are_not_stale_when_the_same_rows_are_written_again(lake: Lake) -> None:
    _commit(lake.interactions, ROWS)
    (attempt,) = lake.history_attempts([DAY]).values()
    assert lake.histories
    made = pl.DataFrame({"user": [7], "history": [[8]]})
    lake.histories.commit(
        [lake.histories.write_file(made, {"day": DAY}, name="part")],
        {"day": DAY},
        attempt=attempt,
        metadata={},
    )
    sources = lake.label_sources([DAY, date(2026, 1, 2)])
    assert list(sources) == [DAY]
    _commit(lake.interactions, ROWS.reverse(), attempt=2)
    assert lake.stale_histories([DAY]) == []
    assert lake.label_sources([DAY]) == sources
    _commit(lake.interactions, ROWS[1:], attempt=3)
    assert lake.stale_histories([DAY]) == [DAY]
    assert lake.label_sources([DAY]) != sources
    input_versions = lake.input_versions([DAY], histories=True, labels=("t", "p"))
    assert list(input_versions[DAY]) == ["interactions", "histories"]  # There are no labels.


@pytest.mark.parametrize("checkpoint", [None, 2, 4])
def test_numbers_are_those_that_delta_gives_one_by_one(tmp_path: Path, checkpoint: int | None) -> None:
    """Whether the log has a checkpoint before the version that is read, after it, or none."""
    table = Table(
        tmp_path / "table", pa.schema([("example_id", pa.int64())]), partition_by={"day": pa.date32()}
    )
    table.create()
    days = [date(2026, 1, day) for day in (1, 2, 3, 4, 5)]
    for attempt, day in enumerate([*days[:3], days[0]], 1):  # versions 1 to 4
        file = table.write_file(pl.DataFrame({"example_id": [attempt]}), {"day": day}, name="part")
        table.commit([file], {"day": day}, attempt=attempt, metadata={}, source=10 * attempt)
        if attempt == checkpoint:
            DeltaTable(table.path).create_checkpoint()
    assert table.attempts(days) == dict(zip(days, [4, 2, 3, None, None], strict=True))
    assert table.as_of(3).attempts(days) == dict(zip(days, [1, 2, 3, None, None], strict=True))
    assert table.as_of(3).sources(list(map(str, days))) == {
        "2026-01-01": 10,
        "2026-01-02": 20,
        "2026-01-03": 30,
    }
    for version in (table, table.as_of(3), table.as_of(1), table.snapshot()):
        delta = version._delta
        contents = {str(day): delta.transaction_version(f"{day}#content") for day in days}
        assert version.versions(list(contents)) == {key: n for key, n in contents.items() if n}


def test_a_job_opens_a_table_once_for_all_its_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(
        tmp_path / "table", pa.schema([("example_id", pa.int64())]), partition_by={"day": pa.date32()}
    )
    table.create()
    opened = []
    original = DeltaTable.__init__
    monkeypatch.setattr(
        DeltaTable, "__init__", lambda *a, **named: (opened.append(1), original(*a, **named))[1]
    )
    for day in (1, 2, 3):
        partition = {"day": date(2026, 1, day)}
        file = table.write_file(pl.DataFrame({"example_id": [day]}), partition, name="part")
        table.commit([file], partition, attempt=1, metadata={})
    assert len(opened) == 1
    assert table.partitions()["rows"].to_list() == [1, 1, 1]


def test_a_job_that_goes_on_sees_what_another_committed_meanwhile(tmp_path: Path) -> None:
    one, other = (
        Table(tmp_path / "table", pa.schema([("example_id", pa.int64())]), partition_by={"day": pa.date32()})
        for _ in range(2)
    )
    one.create()
    partition = {"day": DAY}

    def commit(table: Table, attempt: int) -> None:
        file = table.write_file(pl.DataFrame({"example_id": [attempt]}), partition, name="part")
        table.commit([file], partition, attempt=attempt, metadata={})

    for table, attempt in ((one, 1), (other, 2), (one, 3)):
        commit(table, attempt)
    assert one.attempts([DAY]) == {DAY: 3}
    assert one.scan().collect()["example_id"].to_list() == [3]
