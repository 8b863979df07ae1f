"""The MovieLens reader on shards made here, and on the real archive if it is available."""

import dataclasses
import hashlib
import os
import pickle
import subprocess
import sys
import zipfile
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from tutelage.pipeline.days import slice_of
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.materialize import materialize
from tutelage.pipeline.schema import Feature, Schema, Task
from tutelage.pipeline.sources.base import Unit
from tutelage.pipeline.sources.movielens import MovieLens

_NAMES = ["Action", "Comedy", "(no genres listed)"]
_NOON = int(datetime(2001, 2, 3, 12, 59, 59, tzinfo=UTC).timestamp())


def _shard(path: Path, *rows: tuple[str, list[int], float, int]) -> Unit:
    """Write a TFRecord file like TFDS, with rows of (title, genres, rating, timestamp)."""
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


def test_a_workdir_in_an_object_store_is_refused_and_nothing_is_written_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"^--workdir=s3://bucket/w: .* which must be local; give a local --workdir$"
    ):
        MovieLens().units("", workdir="s3://bucket/w", days=[])
    assert list(tmp_path.iterdir()) == []


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
    assert source.units("", workdir=workdir, days=[]) == units  # It is prepared, so nothing is fetched.
    assert pickle.loads(pickle.dumps(units)) == units
    frame = pl.concat([part for unit in units for part in source.read(unit)])
    assert len(frame) == frame["dropped"].null_count() == frame["content"].n_unique() == 100_836
    assert frame["user_id"].n_unique() == 610
    assert frame["movie_id"].n_unique() == 9_724
    times = pl.from_epoch(frame["event_time_us"], time_unit="us").dt.date()
    assert (times.min(), times.max()) == (datetime(1996, 3, 29).date(), datetime(2018, 9, 24).date())
    assert frame["year"].null_count() == 18
    assert frame["click"].sum() == (frame["rating"] >= 4).sum() == 48_580


# Users 7 and 8, movies of 1995 and 2000, and ratings on two days, in the layout of each archive.
_FIRST, _SECOND = date(2001, 2, 3), date(2001, 2, 5)
_TIMES = [int(datetime(d.year, d.month, d.day, 12, tzinfo=UTC).timestamp()) for d in (_FIRST, _SECOND)]
_NEW = {
    "movies.csv": 'movieId,title,genres\n1,Toy Story (1995),Animation|Comedy\n2,"Été, L\' (2000)",(no genres listed)\n',
    "ratings.csv": f"userId,movieId,rating,timestamp\n7,1,4.5,{_TIMES[0]}\n8,2,3.0,{_TIMES[1]}\n",
}
_ARCHIVES = {
    "latest-small": _NEW,
    "20m": _NEW,
    "25m": _NEW,
    "1m": {
        "movies.dat": "1::Toy Story (1995)::Animation|Children's\n2::Été, L' (2000)::Drama\n",
        "users.dat": "7::F::1::10::48067\n8::M::56::16::70072-1\n",
        "ratings.dat": f"7::1::5::{_TIMES[0]}\n8::2::3::{_TIMES[1]}\n",
    },
    "100k": {
        "u.item": "1|Toy Story (1995)|01-Jan-1995||http://x|0|0|0|1|1" + "|0" * 14 + "\n"
        "2|Été, L' (2000)|01-Jan-2000||http://y|0|0|0|0|0|0|0|0|1" + "|0" * 10 + "\n",
        "u.user": "7|17|F|student|48067\n8|57|M|librarian|T8H1N\n",
        "u.data": f"7\t1\t5\t{_TIMES[0]}\n8\t2\t3\t{_TIMES[1]}\n",
    },
}
_USERS = {
    "1m": [("F", 1, "student", "48067"), ("M", 56, "self-employed", "70072-1")],
    "100k": [("F", 1, "student", "48067"), ("M", 56, "librarian", "T8H1N")],
}


@pytest.mark.parametrize("name", _ARCHIVES)
def test_an_archive_of_each_config_is_read_by_its_builder_and_cut_into_days_and_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.checksums import UrlInfo

    archive = tmp_path / f"ml-{name}.zip"
    encoding = "latin-1" if name in _USERS else "utf-8"
    with zipfile.ZipFile(archive, "w") as packed:
        for file, text in _ARCHIVES[name].items():
            packed.writestr(f"ml-{name}/{file}", text.encode(encoding))
    # The builders are those of TFDS; only the checksum is replaced by that of the archive made here.
    url = f"https://files.grouplens.org/datasets/movielens/{archive.name}"
    data = archive.read_bytes()
    known = UrlInfo(size=len(data), checksum=hashlib.sha256(data).hexdigest(), filename=archive.name)
    monkeypatch.setitem(tfds.builder_cls("movielens").url_infos, url, known)

    source = MovieLens(config=f"{name}-ratings")
    user = list(source.columns())[7:]
    schema = Schema(
        features=(
            Feature(name="user_id", dtype="string", capacity=9),
            Feature(name="movie_id", dtype="string", capacity=9),
            Feature(name="genres", dtype="string", capacity=9),
            Feature(name="year", dtype="int64", capacity=9),
            *(
                Feature(name=column, dtype="int64" if column == "age" else "string", capacity=9)
                for column in user
            ),
        ),
        tasks=(Task(name="click", label="click"), Task(name="rating", label="rating", kind="log1p")),
        key=("user_id", "movie_id", "event_time_us"),
    )
    month = slice_of(_FIRST, slice_days=30)
    assert slice_of(_SECOND, slice_days=30) == month
    for slice_days, days in ((1, [_FIRST, _SECOND]), (30, [month])):
        cut = dataclasses.replace(schema, slice_days=slice_days)
        lake = Lake(tmp_path / f"lake{slice_days}", cut)
        lake.create()
        materialize(source, cut, lake, raw_dir=str(tmp_path), workdir=str(tmp_path), days=days)
        rows = lake.interactions.scan().collect().sort("user_id")
        assert rows["day"].to_list() == [days[0], days[-1]]
        assert rows["event_time_us"].to_list() == [time * 1_000_000 for time in _TIMES]
    old = name in _USERS
    genres = {"1m": ("Animation,Children", "Drama"), "100k": ("Animation,Children", "Drama")}
    assert rows.select("user_id", "movie_id", "genres", "year", "click", "rating").rows() == [
        ("7", "1", genres.get(name, ("Animation,Comedy", ""))[0], 1995, 1, 5.0 if old else 4.5),
        ("8", "2", genres.get(name, ("", "(no genres listed)"))[1], 2000, 0, 3.0),
    ]
    assert rows.select(user).rows() == _USERS.get(name, [(), ()] if user else [])
