"""A partition of a table is replaced in one commit, and no reader sees half of one."""

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from tests.recording import record_disk
from tutelage.pipeline import table as table_module
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.schema import Feature, Schema, Task
from tutelage.pipeline.soft_labels import label_columns
from tutelage.pipeline.table import FORGOTTEN, DataFile, Table, add_dropped

SCHEMA = Schema(
    features=(Feature(name="user", dtype="int64", capacity=10),),
    tasks=(Task(name="click", label="click"),),
    key=("user",),
)
DAYS = FIRST, SECOND, _ = [date(2026, 1, day) for day in (1, 2, 3)]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path, SCHEMA)
    lake.create()
    return lake


def _rows(users: Sequence[int]) -> pl.DataFrame:
    dtypes = {"example_id": pl.Int64, "event_time_us": pl.Int64, "user": pl.Int64, "click": pl.Int8}
    columns = {"example_id": users, "event_time_us": users, "user": users, "click": [1] * len(users)}
    return pl.DataFrame(columns, schema=dtypes)


def _write(table: Table, day: date, *files: Sequence[int]) -> list[DataFile]:
    return [
        table.write_file(_rows(users), {"day": day}, name=f"part-{i:05d}") for i, users in enumerate(files)
    ]


def _commit(table: Table, day: date, *files: Sequence[int], attempt: int) -> None:
    written = _write(table, day, *files)
    table.commit(written, {"day": day}, attempt=attempt, metadata={"kept": sum(map(len, files))})


def _users(frame: pl.LazyFrame | pl.DataFrame) -> list[int]:
    return sorted(frame.lazy().collect()["user"])


def test_a_new_table_is_empty_and_has_the_declared_columns(lake: Lake) -> None:
    frame = lake.interactions.scan().collect()
    assert frame.schema == {
        "example_id": pl.Int64,
        "event_time_us": pl.Int64,
        "user": pl.Int64,
        "click": pl.Int8,
        "day": pl.Date,
    }
    assert frame.height == 0
    assert lake.interactions.files(day=FIRST) == []
    assert lake.interactions.partitions().schema == {"day": pl.Date, "rows": pl.Int64}
    assert lake.interactions.partitions().height == 0
    assert lake.interactions.counts() == {}


def test_the_log_that_holds_the_counts_is_kept(lake: Lake) -> None:
    configuration = DeltaTable(lake.interactions.path).metadata().configuration
    assert configuration["delta.logRetentionDuration"] == "interval 36500 days"


def test_a_file_is_invisible_until_it_is_committed(lake: Lake) -> None:
    table = lake.interactions
    _commit(table, FIRST, [1], attempt=1)
    written = _write(table, FIRST, [2, 3])
    assert (table.path / written[0].path).is_file()
    assert _users(table.scan()) == [1]
    assert len(table.files(day=FIRST)) == 1
    table.commit(written, {"day": FIRST}, attempt=2, metadata={})
    assert _users(table.scan()) == [2, 3]


def test_a_commit_replaces_its_day_and_no_other(lake: Lake) -> None:
    table = lake.interactions
    _commit(table, FIRST, [1, 2], [3], attempt=1)
    _commit(table, SECOND, [4], attempt=1)
    _commit(table, FIRST, [5], [6], attempt=2)
    assert _users(table.scan(day=FIRST)) == [5, 6]
    assert _users(table.scan(day=SECOND)) == [4]
    assert _users(table.scan()) == [4, 5, 6]


def test_a_commit_replaces_the_labels_of_one_teacher_and_producer_and_day(lake: Lake) -> None:
    table = lake.soft_labels.table
    frame = pl.DataFrame(
        {"example_id": [1], "click_logit": [0.5], "snapshot_day": None, "teacher_step": 1, "trained_step": 1},
        schema=pl.Schema(label_columns(SCHEMA.outputs)),
    )
    one = {"teacher": "big", "producer": "snapshot", "day": FIRST}
    others = [{**one, "teacher": "small"}, {**one, "producer": "pre_update"}, {**one, "day": SECOND}]
    for partition in (one, *others):
        table.commit([table.write_file(frame, partition, name="p")], partition, attempt=1, metadata={})
    twice = pl.concat([frame, frame])
    table.commit([table.write_file(twice, one, name="p")], one, attempt=2, metadata={"labelled": 2})
    assert table.partitions().filter(**one)["rows"].to_list() == [2]
    assert table.partitions()["rows"].sum() == 2 + 3
    assert table.counts()["big/snapshot/2026-01-01"] == {"labelled": 2}


def test_a_repeated_commit_changes_nothing(lake: Lake) -> None:
    table = lake.interactions
    _commit(table, FIRST, [1, 2], attempt=7)
    version, files = DeltaTable(table.path).version(), table.files(day=FIRST)
    _commit(table, FIRST, [8, 9, 9], attempt=7)
    assert DeltaTable(table.path).version() == version
    assert table.files(day=FIRST) == files
    assert table.counts() == {"2026-01-01": {"kept": 2}}
    # The same attempt on another day is another commit.
    _commit(table, SECOND, [3], attempt=7)
    assert _users(table.scan()) == [1, 2, 3]


def test_a_file_that_lacks_rows_is_reported(lake: Lake) -> None:
    table = lake.interactions
    (file,) = _write(table, FIRST, [1, 2])
    text = "interactions, 2026-01-01: 5 rows are to be committed, 2 are there"
    with pytest.raises(RuntimeError, match=f"^{text}$"):
        table.commit(
            [DataFile(path=file.path, rows=5, digest=file.digest)], {"day": FIRST}, attempt=1, metadata={}
        )


def test_several_days_are_replaced_in_one_commit_and_each_has_its_attempt(lake: Lake) -> None:
    table = lake.interactions
    for day in DAYS:
        _commit(table, day, [1], attempt=1)
    before, other = table.version, table.versions([str(DAYS[2])])
    parts = [({"day": day}, _write(table, day, [4], [5])) for day in DAYS[:2]]
    table.commit_together(parts, attempt=2)
    assert table.version == before + 1
    assert table.partitions()["rows"].to_list() == [2, 2, 1]
    assert _users(table.scan()) == [1, 4, 4, 5, 5]
    assert list(table.attempts(DAYS).values()) == [2, 2, 1]
    assert table.versions([str(DAYS[2])]) == other
    alone = table.versions([str(DAYS[0])])
    _commit(table, DAYS[0], [4, 5], attempt=3)
    assert table.versions([str(DAYS[0])]) == alone
    # The first is there already, under another attempt; so the second is all that a repeat would add.
    table.commit_together(parts[1:], attempt=2)
    assert table.version == before + 2


def test_of_several_days_none_is_replaced_where_another_job_replaced_one(lake: Lake) -> None:
    table = lake.interactions
    parts = [({"day": day}, _write(table, day, [4])) for day in DAYS]
    with (
        _overtaken(table, lambda: _commit(table, DAYS[1], [2], attempt=2)),
        pytest.raises(UserError, match=r"^interactions, 2026-01-02: another job replaced it meanwhile"),
    ):
        table.commit_together(parts, attempt=3)
    assert _users(table.scan()) == [2]


def test_counts_come_from_the_newest_commit_of_each_day(lake: Lake) -> None:
    table = lake.interactions
    for attempt, (day, users) in enumerate([(FIRST, [1]), (SECOND, [1, 2]), (FIRST, [1, 2, 3])]):
        _commit(table, day, users, attempt=attempt)
    assert table.counts() == {"2026-01-01": {"kept": 3}, "2026-01-02": {"kept": 2}}


def test_commits_by_a_clock_that_jumped_back_are_read_in_their_order(lake: Lake) -> None:
    table = lake.interactions
    for attempt, users in ((30, [1]), (20, [1, 2]), (10, [1, 2, 3])):
        _commit(table, FIRST, users, attempt=attempt)
        # Each commit has a time one day before the last one.
        (log,) = (table.path / "_delta_log").glob(f"*{DeltaTable(table.path).version()}.json")
        entries = [json.loads(line) for line in log.read_text().splitlines()]
        for entry in entries:
            if "commitInfo" in entry:
                entry["commitInfo"]["timestamp"] = attempt * 86_400_000
        log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        os.utime(log, (attempt * 86_400, attempt * 86_400))
    assert table.counts() == {"2026-01-01": {"kept": 3}}
    assert table.attempts([FIRST]) == {FIRST: 10}
    assert _users(table.scan()) == [1, 2, 3]


def test_partitions_say_how_many_rows_the_data_has(lake: Lake) -> None:
    table = lake.interactions
    _commit(table, SECOND, [1, 2], [3], attempt=1)
    _commit(table, FIRST, [4], attempt=1)
    _commit(table, SECOND, [5, 6], [7], [8], attempt=2)
    assert table.partitions().rows() == [(FIRST, 1), (SECOND, 4)]
    counted = table.scan().group_by("day").agg(rows=pl.len().cast(pl.Int64)).sort("day").collect()
    assert table.partitions().equals(counted)


def test_the_files_of_a_day_are_listed_by_name(lake: Lake) -> None:
    table = lake.interactions
    _commit(table, SECOND, [9], attempt=1)
    files = _write(table, FIRST, [1], [2], [3])
    table.commit(files[::-1], {"day": FIRST}, attempt=1, metadata={})
    assert table.files(day=FIRST) == [str(table.path / file.path) for file in files]
    assert [pl.read_parquet(file)["user"].item() for file in table.files(day=FIRST)] == [1, 2, 3]
    assert len(table.files(day=SECOND)) == 1


def test_replacing_rows_keeps_other_partitions_and_rows_that_do_not_match(lake: Lake) -> None:
    table = lake.metrics

    def put(model: str, day: date, *values: float) -> None:
        text = dict.fromkeys(["run", "task", "metric", "slice", "basis"], "")
        frame = pl.DataFrame({"day": day, **text, "value": values, "rows": 1})
        table.replace(frame, {"model": model}, day=day)

    put("teacher", FIRST, 1.0)
    put("teacher", SECOND, 2.0)
    put("student", FIRST, 3.0)
    put("teacher", FIRST, 4.0, 5.0)
    rows = table.scan().select("model", "day", "value").sort(pl.all()).collect()
    assert rows.rows() == [
        ("student", FIRST, 3.0),
        ("teacher", FIRST, 4.0),
        ("teacher", FIRST, 5.0),
        ("teacher", SECOND, 2.0),
    ]


def test_a_table_can_be_read_as_any_delta_table(lake: Lake) -> None:
    _commit(lake.interactions, FIRST, [1], attempt=1)
    lake.interactions.replace(_rows([2, 3]), {"day": SECOND})
    frame = pl.read_delta(str(lake.interactions.path)).sort("user")
    assert frame["day"].to_list() == [FIRST, SECOND, SECOND]
    assert frame.schema == lake.interactions.scan().collect_schema()


@contextlib.contextmanager
def _overtaken(table: Table, other: Callable[[], None]) -> Iterator[None]:
    """In the block, the first look at the table is stale, because `other` commits right after it."""
    stale = DeltaTable(table.path)
    other()
    table._committed = None  # The block is another process, which has committed nothing yet.
    looks = iter([stale])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_module, "DeltaTable", lambda path: next(looks, None) or DeltaTable(path))
        yield


def test_the_later_of_two_writers_on_a_day_is_refused(lake: Lake) -> None:
    table = lake.interactions
    _commit(table, FIRST, [1], attempt=1)
    text = (
        "interactions, 2026-01-01: another job replaced it meanwhile, and its rows stay; "
        "run this one again if they are to be replaced"
    )
    with (
        _overtaken(table, lambda: _commit(table, FIRST, [2], attempt=2)),
        pytest.raises(UserError, match=f"^{text}$"),
    ):
        _commit(table, FIRST, [3, 4], attempt=3)
    assert _users(table.scan()) == [2]
    assert table.counts() == {"2026-01-01": {"kept": 1}}


def test_a_commit_through_a_snapshot_is_refused_where_the_day_was_replaced_since(lake: Lake) -> None:
    table = lake.interactions
    _commit(table, FIRST, [1], attempt=1)
    began = table.snapshot()
    written = {day: _write(table, day, [5]) for day in (FIRST, SECOND)}
    _commit(table, FIRST, [2], attempt=2)
    with pytest.raises(UserError, match=r"^interactions, 2026-01-01: another job replaced it meanwhile"):
        began.commit(written[FIRST], {"day": FIRST}, attempt=3, metadata={})
    began.commit(written[SECOND], {"day": SECOND}, attempt=3, metadata={})
    assert _users(table.scan()) == [2, 5]


def test_a_commit_that_another_process_has_just_made_is_not_repeated(lake: Lake) -> None:
    table = lake.interactions
    _commit(table, FIRST, [1], attempt=1)
    with _overtaken(table, lambda: _commit(table, FIRST, [2], attempt=2)):
        _commit(table, FIRST, [2], attempt=2)
    assert _users(table.scan()) == [2]


def test_a_writer_on_another_day_succeeds(lake: Lake) -> None:
    table = lake.interactions
    _commit(table, FIRST, [1], attempt=1)
    with _overtaken(table, lambda: _commit(table, SECOND, [2], attempt=1)):
        _commit(table, FIRST, [3], attempt=2)
    # After a commit that replaces files, Delta refuses every stale writer, whatever its day.
    with _overtaken(table, lambda: _commit(table, SECOND, [4], attempt=3)):
        _commit(table, FIRST, [5], attempt=4)
    assert _users(table.scan()) == [4, 5]


def test_a_reader_of_a_version_keeps_it_and_another_reads_all_of_the_newest(lake: Lake) -> None:
    table = lake.interactions
    _commit(table, FIRST, [1], [2], attempt=1)
    pinned = pl.scan_delta(str(table.path), version=DeltaTable(table.path).version())
    lazy, files = table.scan(day=FIRST), table.files(day=FIRST)
    _commit(table, FIRST, [3], [4], [5], attempt=2)
    assert _users(pinned) == [1, 2]
    assert _users(pl.read_parquet(files)) == [1, 2]
    assert _users(lazy) == [3, 4, 5]


def test_a_reader_beside_a_writer_sees_one_commit_at_a_time(lake: Lake) -> None:
    table = lake.interactions
    _commit(table, FIRST, [0], [0], [0], attempt=0)
    enough = threading.Event()

    def write() -> None:
        attempt = 0
        while not enough.is_set():
            attempt += 1
            _commit(table, FIRST, [attempt], [attempt], [attempt], attempt=attempt)

    writer = threading.Thread(target=write)
    writer.start()
    seen: set[int] = set()
    try:
        while writer.is_alive() and len(seen) < 8:
            users = _users(table.scan(day=FIRST))
            assert users == [users[0]] * 3
            seen.add(users[0])
    finally:
        enough.set()
        writer.join()
    assert len(seen) == 8


def test_a_table_that_exists_opens_with_its_own_columns(lake: Lake) -> None:
    _commit(lake.interactions, FIRST, [1], attempt=1)
    table = Table.open(lake.interactions.path)
    assert (table.schema, table.partition_by) == (lake.interactions.schema, ["day"])
    assert _users(table.scan(day=FIRST)) == [1]


def test_rows_of_a_partition_are_deleted_and_its_counts_say_why(lake: Lake) -> None:
    table = lake.interactions
    _commit(table, FIRST, [1, 2], [3], attempt=1)
    untouched = table.files(day=FIRST)[1]
    counts = add_dropped({"rows_in": 4, "kept": 3, "dropped": {"duplicate": 1}}, 1, FORGOTTEN)
    table.delete_rows({"day": FIRST}, pl.col("user") == 2, metadata=counts)
    assert _users(table.scan()) == [1, 3]
    assert untouched in table.files(day=FIRST)
    assert table.counts() == {
        "2026-01-01": {"rows_in": 4, "kept": 2, "dropped": {"duplicate": 1, "forgotten": 1}}
    }
    assert table.attempts([FIRST]) == {FIRST: 1}


def test_several_partitions_are_deleted_in_one_commit_and_keep_their_attempts(lake: Lake) -> None:
    table = lake.interactions
    for day in DAYS:
        _commit(table, day, [1], [2], attempt=1)
    version = table.version
    for _ in range(2):  # A repeat finds nothing to delete.
        table.delete_partitions([({"day": day}, {"kept": 0, "pruned": 2}) for day in DAYS[:2]])
        assert table.version == version + 1
    assert table.partitions().rows() == [(DAYS[2], 2)]
    assert list(table.attempts(DAYS).values()) == [1, 1, 1]
    assert [table.counts()[str(day)]["kept"] for day in DAYS] == [0, 0, 2]
    _commit(table, FIRST, [3], attempt=2)
    assert table.counts()[str(FIRST)] == {"kept": 1}


def test_a_table_as_of_a_version_shows_its_rows(lake: Lake) -> None:
    table = lake.interactions
    _commit(table, FIRST, [1], attempt=1)
    version = table.version
    _commit(table, FIRST, [2], attempt=2)
    assert (table.version, table.as_of(version).version) == (version + 1, version)
    assert _users(table.as_of(version).scan()) == [1]
    assert not table.pinned


def test_rows_and_their_commit_are_on_the_disk_when_a_write_returns(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, where = lake.interactions, {"day": FIRST}

    def replace() -> None:
        table.replace(_rows([1, 2]), where)

    def commit() -> None:
        _commit(table, FIRST, [1, 2, 3], attempt=1)

    def delete() -> None:
        table.delete_rows(where, pl.col("user") == 1, metadata=None)

    done = record_disk(monkeypatch, table.path)
    for version, act in enumerate((replace, commit, delete), 1):
        del done[:]
        act()
        assert table.version == version
        assert {f"fsync _delta_log/{version:020}.json", "fsync _delta_log", "fsync ."} <= set(done)
        for path in table.files(**where):
            part = Path(path).relative_to(table.path)
            assert {f"fsync {part}", f"fsync {part.parent}"} <= set(done)


def test_a_path_that_delta_encodes_is_brought_to_the_disk_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table(tmp_path, pa.schema([("value", pa.int64())]), partition_by={"model": pa.string()})
    table.create()
    done = record_disk(monkeypatch, tmp_path)
    table.replace(pl.DataFrame({"value": [1]}), {"model": "a b=c"})
    assert [said for said in done if said.endswith(".parquet")]
