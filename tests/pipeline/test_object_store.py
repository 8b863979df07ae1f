"""Tables and jobs in an object store, on a real S3 server: equal to those of a local disk."""

import errno
import logging
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from fsspec.registry import _registry
from polars.testing import assert_frame_equal

from tests.faulty import FAULTS, faulty
from tests.pipeline.rows import DAY, Rows
from tutelage.pipeline.beam_job import abandoned, left_over, staging_folder, sweep
from tutelage.pipeline.commit_day import accept
from tutelage.pipeline.errors import TransientError, UserError, disk_full_as_user_error, system_error
from tutelage.pipeline.io import leases
from tutelage.pipeline.io.arrow import read_arrow, write_arrow
from tutelage.pipeline.io.json import TornFile
from tutelage.pipeline.io.locks import locked
from tutelage.pipeline.io.paths import as_path
from tutelage.pipeline.io.store import FILES
from tutelage.pipeline.lake import LOCK, Lake
from tutelage.pipeline.materialize import materialize
from tutelage.pipeline.quality import QualityConfig
from tutelage.pipeline.schema import Feature, History, Schema, Task
from tutelage.pipeline.soft_labels import PRE_UPDATE, LabelPartition, SoftLabelStore, labels_before_update
from tutelage.pipeline.sources.store import find
from tutelage.pipeline.table import Table

DAYS = [date(1970, 1, 1), date(1970, 1, 2)]
COLUMNS = pa.schema([("example_id", pa.int64()), ("x", pa.float32())])
SCHEMA = Schema(
    features=(
        Feature(name="user", dtype="int64", capacity=10),
        Feature(name="item", dtype="string", capacity=10),
    ),
    tasks=(Task(name="click", label="click"),),
    key=("user", "item", "event_time_us"),
)


def _table(root: Path) -> Table:
    table = Table(root / "lake" / "rows", COLUMNS, partition_by={"day": pa.date32()})
    table.create()
    return table


def _frame(*ids: int) -> pl.DataFrame:
    return pl.DataFrame({"example_id": ids, "x": [0.5] * len(ids)}, schema_overrides={"x": pl.Float32})


def _commit(table: Table, day: date, *ids: int, attempt: int = 1) -> None:
    file = table.write_file(_frame(*ids), {"day": day}, name="part")
    table.commit([file], {"day": day}, attempt=attempt, metadata={"kept": len(ids)}, source=7)


def _ids(table: Table, day: date) -> list[int]:
    return table.scan(day=day).collect()["example_id"].sort().to_list()


def test_days_are_replaced_read_as_they_were_deleted_from_and_vacuumed(s3: str) -> None:
    table = _table(as_path(s3))
    _commit(table, DAYS[0], 1, 2)
    table.replace(_frame(3), {"day": DAYS[1]})
    before = table.snapshot()
    _commit(table, DAYS[0], 4, 5, 6, attempt=2)
    assert (_ids(table, DAYS[0]), _ids(table, DAYS[1]), _ids(before, DAYS[0])) == ([4, 5, 6], [3], [1, 2])
    assert _ids(table.as_of(before.version), DAYS[0]) == [1, 2]
    assert table.partitions().rows() == [(DAYS[0], 3), (DAYS[1], 1)]
    assert table.attempts(DAYS) == {DAYS[0]: 2, DAYS[1]: None}
    assert table.sources([str(DAYS[0])]) == {str(DAYS[0]): 7}
    assert table.counts()[str(DAYS[0])] == {"kept": 3}
    assert Table.open(table.path).schema.names == ["example_id", "x", "day"]
    table.delete_rows({"day": DAYS[0]}, pl.col("example_id") == 5, metadata={"kept": 2})
    assert _ids(table, DAYS[0]) == [4, 6]
    assert len(list(table.path.rglob("*.parquet"))) == 4
    table.vacuum()
    assert len(list(table.path.rglob("*.parquet"))) == 2
    assert _ids(table, DAYS[0]) == [4, 6]
    with pytest.raises(UserError, match="is no Delta table"):
        Table.open(as_path(s3) / "nothing")


def test_a_repeated_commit_changes_nothing_and_a_stale_one_is_refused(s3: str) -> None:
    table = _table(as_path(s3))
    _commit(table, DAYS[0], 1)
    as_of = table.snapshot()
    _commit(table, DAYS[0], 2, attempt=2)
    version = table.version
    _commit(table, DAYS[0], 2, attempt=2)
    assert table.version == version
    with pytest.raises(UserError, match="another job replaced it meanwhile, and its rows stay"):
        _commit(as_of, DAYS[0], 3, attempt=3)
    assert _ids(table, DAYS[0]) == [2]


def test_writers_of_several_days_at_once_lose_nothing(s3: str) -> None:
    path = _table(as_path(s3)).path
    days = [date(2026, 1, day) for day in range(1, 7)]

    def write(day: date) -> None:
        _commit(Table(path, COLUMNS, partition_by={"day": pa.date32()}), day, day.day)

    with ThreadPoolExecutor(len(days)) as pool:
        list(pool.map(write, days))
    assert Table.open(path).partitions().rows() == [(day, 1) for day in days]


def test_a_data_file_that_is_gone_or_has_another_size_is_told(s3: str) -> None:
    table = _table(as_path(s3))
    _commit(table, DAYS[0], 1)
    _commit(table, DAYS[1], 2)
    assert table.damaged() == {}
    files = [as_path(file) for day in DAYS for file in table.files(day=day)]
    files[0].unlink()
    files[1].write_bytes(b"short")
    assert sorted(why[:11] for why in table.damaged().values()) == ["has 5 bytes", "is missing"]
    assert list(table.damaged(days=[DAYS[0]]).values()) == ["is missing"]
    with pytest.raises(TornFile, match="is missing; tutelage-verify says what mends it"):
        table.scan(day=DAYS[0])


def test_a_process_whose_lease_was_taken_over_commits_nothing(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = _table(as_path(s3))
    with leases.leased(table.path.parent / LOCK, "", shared=True, wait=0):  # type: ignore[arg-type]
        (lease,) = leases._HELD
        lease.path.write_bytes(b'{"holders": []}')  # As another process does that takes it over.
        monkeypatch.setattr(leases, "EXPIRY_SECONDS", -1.0)
        with pytest.raises(TransientError, match="another one has taken its place, so it stops here"):
            _commit(table, DAYS[0], 1)
        with pytest.raises(TransientError, match="another one has taken its place, so it stops here"):
            table.replace(_frame(1), {"day": DAYS[0]})
    assert table.version == 0


def test_soft_labels_are_written_and_joined(s3: str) -> None:
    store = SoftLabelStore.declare(f"{s3}/lake", ["click_logit"])
    store.create()
    labels = labels_before_update(np.array([7, 8]), {"click_logit": np.array([0.5, -1])}, teacher_step=3)
    store.write(LabelPartition("teacher", PRE_UPDATE, DAYS[0]), labels)
    again = SoftLabelStore.open(f"{s3}/lake")
    assert again.days("teacher") == [DAYS[0]]
    assert again.read(LabelPartition("teacher", PRE_UPDATE, DAYS[0]))["click_logit"].to_list() == [0.5, -1.0]


@pytest.mark.parametrize("rows", [None, 10, 70_000])
def test_a_part_of_a_staged_file_is_read_alike(s3: str, tmp_path: Path, rows: int | None) -> None:
    frame = pl.DataFrame({"a": range(150_000), "b": ["x", None, "yz"] * 50_000})
    for path in (str(tmp_path / "piece.arrow"), f"{s3}/piece.arrow"):
        write_arrow(frame, path)
        assert_frame_equal(read_arrow(path, 65_530, rows), frame.slice(65_530, rows))


def test_raw_files_are_read_by_the_workdir_s_driver_and_a_missing_one_is_told_by_its_extra(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # fsspec's own driver may be installed or not: here it is not.
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)
    FILES.put(as_path(s3) / "raw/day=1/a.csv", b"user,item\n1,2\n")
    FILES.put(as_path(s3) / "raw/b.csv", b"")
    (file,) = find(f"{s3}/raw", "day=*/*.csv")
    assert (file.below, file.stream().read()) == ("day=1/a.csv", b"user,item\n1,2\n")
    monkeypatch.setitem(sys.modules, "obstore.fsspec", None)
    monkeypatch.delitem(_registry, "s3")
    with pytest.raises(
        UserError, match=r"the driver of s3:// is not installed; run pip install 'tutelage\[s3\]'"
    ):
        find(f"{s3}/raw", "*.csv")


def test_left_over_staging_is_swept_once_its_job_is_dead(s3: str) -> None:
    root = as_path(s3) / "lake"
    code = (
        "from tutelage.pipeline.beam_job import staging_folder\n"
        "from tutelage.pipeline.io.paths import as_path\n"
        f"with staging_folder(as_path({str(root)!r})) as staging:\n"
        "    staging.give('unit', {'rows': 3})\n"
        "    print('staged', flush=True)\n"
        "    input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "staged\n"
        sweep(root)
        (left,) = left_over(root)
        assert abandoned(root) == []
        assert (left / "unit.json").exists()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert abandoned(root) == [left]
        with staging_folder(root) as staging:
            assert staging.given() == {}
            assert left_over(root) == [staging.path]
    assert left_over(root) == []


def _world(root: Path, rows: Rows, quality: QualityConfig | None = None) -> Lake:
    schema = replace(
        SCHEMA,
        user="user",
        histories=(History(name="clicked", of="item", where="click", days=1, length=3),),
    )
    lake = Lake(root / "lake", schema)
    lake.create()
    materialize(
        rows,
        schema,
        lake,
        raw_dir="",
        workdir=str(root),
        days=DAYS,
        **({"quality": quality} if quality else {}),
    )
    return lake


ROWS = Rows(
    (
        tuple((i, i % 4, "ab"[i % 2], i % 3 == 0, "") for i in range(1, 60)),
        tuple((DAY + i, i % 5, "abc"[i % 3], i % 2 == 0, "") for i in range(1, 70)),
        ((5, 1, "b", 0, ""), (5, 1, "b", 1, "again"), (None, 1, "a", 0, "")),
    )
)


def test_a_small_world_in_a_bucket_equals_the_local_one(s3: str, tmp_path: Path) -> None:
    remote, local = _world(as_path(s3) / "w", ROWS), _world(tmp_path, ROWS)
    tables = {"interactions": "example_id", "statistics": "column", "histories": "user"}
    for name, key in tables.items():
        one, other = (getattr(lake, name) for lake in (remote, local))
        assert_frame_equal(*(t.scan().collect().sort("day", key) for t in (one, other)))
        assert one.versions(list(map(str, DAYS))) == other.versions(list(map(str, DAYS)))
    assert remote.stale_histories(DAYS) == []
    below = {path.name for path in (as_path(s3) / "w/lake").iterdir()}
    assert below == {"interactions", "statistics", "histories", "soft_labels", "metrics", LOCK}
    # Nothing was written to a local folder named like the URL.
    assert not Path("s3:").exists()


def test_a_day_in_quarantine_is_accepted_as_it_is(s3: str) -> None:
    many = tuple((DAY + i, i % 5, "abc"[i % 3], i % 2, "") for i in range(1, 400))
    rows = Rows((ROWS.parts[0], many))
    lake = _world(as_path(s3), rows, QualityConfig(min_days=1, rows_ratio=2.0))
    assert lake.quarantine.skipped() == DAYS[1:]
    assert lake.interactions.partitions()["day"].to_list() == DAYS[:1]
    assert accept(lake, DAYS[1], "it was a holiday") == len(many)
    assert lake.quarantine.skipped() == []
    assert lake.interactions.scan(day=DAYS[1]).collect().height == len(many)
    # Rows and statistics have left the quarantine; the record stays.
    assert [path.name for path in lake.quarantine.folder.iterdir()] == [f"{DAYS[1]}.json"]


def test_no_credential_is_logged_or_stored(
    s3: str, s3_endpoint: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        _world(as_path(s3), ROWS)
    printed = capfd.readouterr()
    stored = b"".join(path.read_bytes() for path in as_path(s3).rglob("*") if path.is_file())
    assert b"no-secret" not in stored
    assert "no-secret" not in caplog.text + printed.out + printed.err


def test_what_is_written_through_faults_is_there_once(
    s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with faulty(s3_endpoint, share=0.1) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        root = as_path(s3)
        table = _table(root)
        with locked(root / ".lock", "held"):
            for number in range(20):
                path = root / f"records/{number}"
                assert FILES.put_if_absent(path, b"%d" % number)
                FILES.replace_if(path, b"again", FILES.tag(b"%d" % number))
            _commit(table, DAYS[0], 1, 2, 3)
            table.replace(_frame(4), {"day": DAYS[1]})
            table.delete_rows({"day": DAYS[0]}, pl.col("example_id") == 2, metadata=None)
        assert [FILES.read(path) for path in FILES.list(root / "records")] == [b"again"] * 20
        assert (_ids(table, DAYS[0]), _ids(table, DAYS[1])) == ([1, 3], [4])
        assert leases.holders(root / ".lock") == []  # type: ignore[arg-type]
        assert all(proxy.counts().get(fault) for fault in FAULTS), proxy.counts()


@pytest.mark.parametrize("library", ["Delta Lake", pytest.param("Polars", marks=pytest.mark.cluster)])
def test_a_store_that_went_away_is_a_passing_cause_in_one_line(
    s3: str, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    read = {"Delta Lake": DeltaTable, "Polars": pl.read_parquet}[library]
    with pytest.raises(TransientError) as told, disk_full_as_user_error(s3):
        read(f"{s3}/rows/part.parquet")
    text = str(told.value)
    assert text.startswith(f"{s3}: Generic S3 error")
    assert text.endswith("; look after the network and the store, then run again")
    assert "\n" not in text
    assert system_error(told.value) == errno.EIO


@pytest.mark.cluster
@pytest.mark.parametrize("seed", range(5))
def test_a_world_made_through_faults_equals_one_made_without(
    s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seed: int
) -> None:
    local = _world(tmp_path, ROWS)
    with faulty(s3_endpoint, seed=seed) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        made = _world(as_path(s3) / "w", ROWS)
        for name, key in (("interactions", "example_id"), ("statistics", "column"), ("histories", "user")):
            frames = (getattr(lake, name).scan().collect().sort("day", key) for lake in (made, local))
            assert_frame_equal(*frames)
        assert left_over(as_path(s3) / "w/lake") == []
        assert sum(proxy.counts().get(fault, 0) for fault in FAULTS) > 10
