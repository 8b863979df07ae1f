"""The MovieLens reader on made shards, and on the real archive where it is there."""

import os
import pickle
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.sources.base import Unit
from tutelage.pipeline.sources.movielens import MovieLens

_NAMES = ["Action", "Comedy", "(no genres listed)"]
_NOON = int(datetime(2001, 2, 3, 12, 59, 59, tzinfo=UTC).timestamp())


def _shard(path: Path, *rows: tuple[str, list[int], float, int]) -> Unit:
    """A TFRecord file as TFDS writes it, of (title, genres, rating, timestamp)."""
    import tensorflow as tf

    def feature(*values: bytes | float | int) -> tf.train.Feature:
        if any(isinstance(value, bytes) for value in values):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        if any(isinstance(value, float) for value in values):
            return tf.train.Feature(float_list=tf.train.FloatList(value=values))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    with tf.io.TFRecordWriter(str(path)) as writer:
        for title, genres, rating, timestamp in rows:
            row = {
                "user_id": feature(b"7"),
                "movie_id": feature(b"3"),
                "movie_title": feature(title.encode()),
                "movie_genres": feature(*genres),
                "user_rating": feature(rating),
                "timestamp": feature(timestamp),
            }
            example = tf.train.Example(features=tf.train.Features(feature=row))
            writer.write(example.SerializeToString())
    return Unit(index=0, where=str(path), args={"path": str(path), "genres": _NAMES})


def _read(unit: Unit) -> pl.DataFrame:
    return pl.concat(MovieLens().read(unit))


def test_one_rating(tmp_path: Path) -> None:
    frame = _read(_shard(tmp_path / "shard", ("Amélie (2001)", [1, 0], 4.0, _NOON)))
    assert frame.drop("content").to_dicts() == [
        {
            "event_time_us": _NOON * 1_000_000,
            "user_id": "7",
            "movie_id": "3",
            "genres": "Action,Comedy",
            "year": 2001,
            "hour": 12,
            "click": 1,
            "rating": 4.0,
            "dropped": None,
        }
    ]
    columns = MovieLens().columns()
    assert dict(frame.schema) == {
        "event_time_us": pl.Int64,
        **columns,
        "content": pl.UInt64,
        "dropped": pl.String,
    }


@pytest.mark.parametrize(
    ("title", "year"),
    [
        ("Toy Story (1995)", 1995),
        ("Metropolis (1927) ", 1927),
        ("(500) Days of Summer (2009)", 2009),
        ("Up in (1990) the Air", None),
        ("Death Note (2006–2007)", None),
        ("Babylon 5", None),
    ],
)
def test_the_year_is_at_the_end_of_the_title(tmp_path: Path, title: str, year: int | None) -> None:
    assert _read(_shard(tmp_path / "shard", (title, [0], 3.5, _NOON)))["year"].to_list() == [year]


def test_bad_rows_are_dropped_with_a_reason(tmp_path: Path) -> None:
    ratings = [0.5, 5.0, 0.0, 5.5, float("nan"), 3.0, 3.0, 3.0]
    times = [0, _NOON, _NOON, _NOON, _NOON, -1, 4_102_444_800, 2**62]
    rows = [("Up (2009)", [0], *pair) for pair in zip(ratings, times, strict=True)]
    frame = _read(_shard(tmp_path / "shard", *rows))
    assert frame["dropped"].to_list() == [None] * 2 + ["bad_label"] * 3 + ["bad_time"] * 3
    assert frame["event_time_us"].is_null().to_list() == [False] * 5 + [True] * 3


def test_content_tells_rows_apart(tmp_path: Path) -> None:
    row = ("Up (2009)", [0, 2], 4.5, _NOON)
    others = [("Up (2009)", [0], 4.5, _NOON), ("Up (2009)", [], 4.5, _NOON), ("Up", [0, 2], 4.5, _NOON)]
    frame = _read(_shard(tmp_path / "shard", row, row, *others))
    assert frame["content"].n_unique() == 4
    assert frame["content"][0] == frame["content"][1]
    assert frame["genres"].to_list()[1:4] == ["Action,(no genres listed)", "Action", ""]


def test_a_damaged_or_missing_shard_is_named(tmp_path: Path) -> None:
    unit = _shard(tmp_path / "shard", *[("Up (2009)", [0], 4.5, _NOON)] * 9)
    data = (tmp_path / "shard").read_bytes()
    for damaged in (data[:-5], data[:99] + b"?" + data[100:], None):
        (tmp_path / "shard").unlink()
        if damaged:
            (tmp_path / "shard").write_bytes(damaged)
        with pytest.raises(UserError, match=r"shard is missing or damaged: .*; delete the folder") as error:
            _read(unit)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("raw_dir", ["", "/none"])
def test_a_missing_archive_is_explained(tmp_path: Path, raw_dir: str) -> None:
    with pytest.raises(UserError, match=r"no file '.*ml-25m\.zip'; raw_dir must be a folder that holds ml"):
        MovieLens(config="25m-ratings").units(f"{tmp_path}{raw_dir}", workdir=str(tmp_path), days=[])


def test_another_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ml-latest-small.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"wrong checksum.*; put the original ml-latest-small\.zip"):
        MovieLens().units(str(tmp_path), workdir=str(tmp_path / "work"), days=[])


def test_configs_are_checked() -> None:
    with pytest.raises(UserError, match="config is 'latest-small-movies', expected one of latest-small"):
        MovieLens(config="latest-small-movies")


def test_other_sources_do_not_wait_for_tensorflow() -> None:
    code = "import sys, tutelage.pipeline.sources.movielens; sys.exit('tensorflow' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_the_real_archive(
    shared_data: Path, tmp_path_factory: pytest.TempPathFactory, capfd: pytest.CaptureFixture[str]
) -> None:
    source, workdir = MovieLens(), str(tmp_path_factory.mktemp("work"))
    units = source.units(str(shared_data / "movielens"), workdir=workdir, days=[])
    assert capfd.readouterr().out == ""
    assert source.units("", workdir=workdir, days=[]) == units  # prepared: nothing is fetched
    assert pickle.loads(pickle.dumps(units)) == units
    frame = pl.concat([part for unit in units for part in source.read(unit)])
    assert len(frame) == frame["dropped"].null_count() == frame["content"].n_unique() == 100_836
    assert frame["user_id"].n_unique() == 610
    assert frame["movie_id"].n_unique() == 9_724
    times = pl.from_epoch(frame["event_time_us"], time_unit="us").dt.date()
    assert (times.min(), times.max()) == (datetime(1996, 3, 29).date(), datetime(2018, 9, 24).date())
    assert frame["year"].null_count() == 18
    assert frame["click"].sum() == (frame["rating"] >= 4).sum() == 48_580
