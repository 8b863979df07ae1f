"""Logs below a URL are found, pruned and read in place, by each worker itself, like those in a folder."""

import gzip
import os
import pickle
import subprocess
import sys
import zipfile
from datetime import UTC, date, datetime
from pathlib import Path

import fsspec
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import tensorflow as tf
from deltalake import write_deltalake
from fsspec.implementations.memory import MemoryFileSystem
from polars.testing import assert_frame_equal

from tests.pipeline.sources import bucket
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.materialize import materialize
from tutelage.pipeline.schema import Feature, Schema, Task
from tutelage.pipeline.sources.files import Files

SCHEMA = Schema(
    features=(
        Feature(name="user", dtype="int64", capacity=10),
        Feature(name="topic", dtype="string", capacity=10),
    ),
    tasks=(Task(name="click", label="click"),),
    key=("user", "event_time_us"),
)
DAY = date(2026, 1, 2)
START_MS = int(datetime(2026, 1, 2, tzinfo=UTC).timestamp()) * 1000
DAY_MS = 86_400_000
FORMATS = ("parquet", "csv", "csv.gz", "csv.zst", "jsonl", "jsonl.gz", "jsonl.zst", "tfrecord", "tfrecord.gz")


def _events(rows: int, *, day: int = 0) -> pl.DataFrame:
    users = np.arange(rows)
    return pl.DataFrame(
        {
            "user": users,
            "topic": [f"{user % 7}日" for user in users],
            "click": users % 2,
            "ts": START_MS + day * DAY_MS + users,
        }
    )


def _packed(events: pl.DataFrame, kind: str, folder: Path) -> bytes:
    """Return the bytes of the file."""
    path = folder / f"packed.{kind}"
    if kind == "parquet":
        events.write_parquet(path)
    elif kind.startswith("tfrecord"):
        with tf.io.TFRecordWriter(str(path), "GZIP" if kind.endswith("gz") else "") as writer:
            for user, topic, click, ts in events.iter_rows():
                ints = {"user": user, "click": click, "ts": ts}
                features = {
                    name: tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
                    for name, value in ints.items()
                }
                features["topic"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[topic.encode()]))
                writer.write(
                    tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
                )
    else:
        text = events.write_csv() if kind.startswith("csv") else events.write_ndjson()
        data = text.encode()
        if kind.endswith(".gz"):
            data = gzip.compress(data)
        path.write_bytes(pa.compress(data, codec="zstd", asbytes=True) if kind.endswith(".zst") else data)
    data = path.read_bytes()
    path.unlink()
    return data


def _files(pattern: str) -> Files:
    return Files(pattern=pattern, schema=SCHEMA, event_time="ts", time_unit="ms")


def _read(raw_dir: str, pattern: str) -> pl.DataFrame:
    source = _files(pattern)
    units = source.units(raw_dir, workdir="", days=[])
    return pl.concat([frame for unit in units for frame in source.read(unit)])


@pytest.mark.parametrize("kind", FORMATS)
def test_a_remote_file_is_read_like_a_local_one(tmp_path: Path, kind: str) -> None:
    data = _packed(_events(20), kind, tmp_path)
    (tmp_path / f"a.{kind}").write_bytes(data)
    bucket.make().pipe(f"/logs/day/a.{kind}", data)
    remote = _read("bucket://logs", f"**/*.{kind}")
    assert remote["user"].to_list() == list(range(20))
    assert remote["dropped"].null_count() == 20
    assert_frame_equal(remote, _read(str(tmp_path), f"*.{kind}"))


@pytest.mark.parametrize("kind", ["parquet", "csv.gz", "jsonl.zst", "tfrecord", "tfrecord.gz"])
def test_a_truncated_remote_file_is_named_by_its_url(tmp_path: Path, kind: str) -> None:
    data = _packed(_events(20), kind, tmp_path)
    bucket.make().pipe(f"/logs/a.{kind}", data[:-15])
    with pytest.raises(UserError, match=rf"^cannot read bucket:///logs/a\.{kind}: .*; fetch it again$"):
        _read("bucket://logs", f"*.{kind}")


def test_a_job_reads_remote_files_and_leaves_none_of_them_in_the_workdir(tmp_path: Path) -> None:
    store = bucket.make()
    for day in (-1, 0, 1):
        store.pipe(f"/logs/{day}.parquet", _packed(_events(1_000, day=day), "parquet", tmp_path))
    lake = Lake(tmp_path / "lake", SCHEMA)
    lake.create()
    done = materialize(
        _files("*.parquet"), SCHEMA, lake, raw_dir="bucket://logs", workdir=str(tmp_path), days=[DAY]
    )
    assert (done.days[DAY].kept, done.elsewhere) == (1_000, {"outside_days": 2_000})
    assert [path.name for path in tmp_path.iterdir()] == ["lake"]


def test_only_the_footer_of_remote_parquet_of_other_days_is_fetched(tmp_path: Path) -> None:
    store, rng = bucket.make(), np.random.default_rng(1)
    large = _events(200_000, day=-1).with_columns(user=pl.Series(rng.integers(0, 2**62, 200_000)))
    store.pipe("/logs/a.parquet", _packed(large, "parquet", tmp_path))
    store.pipe("/logs/b.parquet", _packed(_events(9), "parquet", tmp_path))
    size = len(store.cat("/logs/a.parquet"))
    bucket.Bucket.fetched.clear()
    units = _files("*.parquet").units("bucket://logs", workdir="", days=[DAY])
    assert [(unit.where, unit.rows_outside) for unit in units] == [
        ("bucket:///logs/b.parquet", 0),
        ("1 files of other days", 200_000),
    ]
    fetched = sum(n for path, n in bucket.Bucket.fetched if path == "/logs/a.parquet")
    assert 0 < fetched <= 65_536 < size / 20


def test_remote_text_is_fetched_in_pieces_and_only_its_header_when_it_is_listed(tmp_path: Path) -> None:
    store = bucket.make()
    text = _events(700_000).write_csv().encode()
    store.pipe("/logs/a.csv", text)
    bucket.Bucket.fetched.clear()
    source = _files("*.csv")
    (unit,) = source.units("bucket://logs", workdir="", days=[DAY])
    assert sum(n for _, n in bucket.Bucket.fetched) <= 2 * 65_536
    bucket.Bucket.fetched.clear()
    next(source.read(unit))  # The first of 11 frames.
    pieces = [n for _, n in bucket.Bucket.fetched]
    assert max(pieces) <= 6 << 20  # A block of fsspec and what was requested.
    assert sum(pieces) < len(text) / 2


def test_a_worker_opens_the_store_itself(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "logs.zip", "w") as archive:
        archive.writestr("events/a.csv", _events(5).write_csv())
    source = _files("events/*.csv")
    (unit,) = source.units(f"zip://::file://{tmp_path}/logs.zip", workdir="", days=[DAY])
    code = """
import pickle, sys
source, unit = pickle.load(sys.stdin.buffer)
(frame,) = source.read(unit)
print(frame["user"].to_list())
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    worker = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps((source, unit)),
        capture_output=True,
        check=True,
        env=environment,
    )
    assert worker.stdout.decode() == "[0, 1, 2, 3, 4]\n"


def test_a_delta_table_is_read_by_its_url(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "logs/events", _events(3, day=-1))
    write_deltalake(tmp_path / "logs/events", _events(4), mode="append")
    source = _files("*/")
    units = source.units(f"file://{tmp_path}/logs", workdir="", days=[DAY])
    assert [unit.rows_outside for unit in units] == [0, 3]
    assert units[0].where.startswith(f"file://{tmp_path}/logs/events/part-")
    assert pl.concat(source.read(units[0]))["user"].to_list() == [0, 1, 2, 3]


def test_remote_files_are_found_like_those_of_a_folder(tmp_path: Path) -> None:
    store, text = bucket.make(), _events(2).write_csv()
    names = ["[x]/b.csv", "[x]/a.csv", "[x]/c/d.csv", "[x]/.hidden.csv", "[x]/a.tsv", "x/e.csv"]
    for name in names:
        store.pipe(f"/{name}", text.encode())
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    for pattern, found in {"*.csv": ["a", "b"], "**/*.csv": ["a", "b", "c/d"]}.items():
        for root in (f"{tmp_path}/[x]", f"file://{tmp_path}/[x]", "bucket:///[x]"):
            units = _files(pattern).units(root, workdir="", days=[])
            assert [unit.where for unit in units] == [f"{root}/{name}.csv" for name in found]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (
            "nothing://logs",
            "--raw_dir=nothing://logs: Protocol not known: nothing; give a folder, or a URL like ",
        ),
        (
            "absent://logs",
            "--raw_dir=absent://logs: pip install it first; give a folder, or a URL like s3://",
        ),
        ("bucket://none", "no files *.csv in 'bucket://none'; check --raw_dir and the config's pattern"),
        ("zip://::/none.zip", "--raw_dir=zip://::/none.zip: [Errno 2] No such file or directory: "),
    ],
)
def test_a_url_that_cannot_be_opened_is_explained(url: str, says: str) -> None:
    bucket.make()
    fsspec.register_implementation(
        "absent", "tutelage_absent.Store", clobber=True, errtxt="pip install it first"
    )
    with pytest.raises(UserError) as error:
        _read(url, "*.csv")
    assert str(error.value).startswith(says)
    assert "\n" not in str(error.value)


def test_a_pattern_must_not_be_a_url() -> None:
    with pytest.raises(UserError, match=r"pattern is 's3://logs/\*\.csv', expected a path below --raw_dir"):
        _files("s3://logs/*.csv")


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("glob", "--raw_dir=memory://refusing: 403: access denied; give a folder, or a URL like s3://"),
        (
            "_open",
            "cannot read memory:///refusing/a.csv: RuntimeError: 403: access denied; expected a complete .csv",
        ),
    ],
)
def test_a_store_that_refuses_is_explained_in_one_line(
    monkeypatch: pytest.MonkeyPatch, method: str, says: str
) -> None:
    fsspec.filesystem("memory").pipe_file("/refusing/a.csv", b"user,click\n1,0\n")

    def refuse(self: object, *args: object, **options: object) -> None:
        raise RuntimeError("403: access denied\nfor this key")

    monkeypatch.setattr(MemoryFileSystem, method, refuse)
    with pytest.raises(UserError) as error:
        _read("memory://refusing", "*.csv")
    assert str(error.value).startswith(says)
    assert "\n" not in str(error.value)
