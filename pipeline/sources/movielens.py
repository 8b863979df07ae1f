"""MovieLens ratings through TensorFlow Datasets. One row is one rating of a movie by a user.

Harper and Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4), 2015.
"""

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.paths import as_path, remote
from tutelage.pipeline.sources.base import Unit

# TensorFlow is imported where it is used, so that a job on another source does not wait for it.

_CONFIGS = ("latest-small-ratings", "100k-ratings", "1m-ratings", "20m-ratings", "25m-ratings")
_DEMOGRAPHIC = ("100k-ratings", "1m-ratings")
_YEAR_2100_S = 4_102_444_800
_BATCH = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class MovieLens:
    """Reads the ratings of a TFDS config, which is prepared once under `WORKDIR/tfds`.

    `raw_dir` is a folder with the archive of that config (`ml-latest-small.zip` for `latest-small-ratings`); if it is
    empty, TFDS downloads the archive. The checksum is verified either way. A rating of 4 or more is a click.

    Rows are dropped as `bad_time` (a timestamp not in the years 1970 to 2099) and `bad_label` (a rating not between 0.5
    and 5).
    """

    config: str = "latest-small-ratings"

    def __post_init__(self) -> None:
        if self.config not in _CONFIGS:
            raise UserError(f"MovieLens: config is {self.config!r}, expected one of {', '.join(_CONFIGS)}")

    def columns(self) -> Mapping[str, pl.DataType]:
        """Return the columns. `genres` are names in TFDS's order, joined by commas; `year` is the year of the movie;
        `hour` is in UTC.

        The configs 100k and 1m also have the user's `gender` (F or M), `age` (in years, the lower end of a range),
        `occupation` (a name of TFDS, the same in both) and `zip_code`.
        """
        user = {
            "gender": pl.String(),
            "age": pl.Int64(),
            "occupation": pl.String(),
            "zip_code": pl.String(),
        }
        return {
            "user_id": pl.String(),
            "movie_id": pl.String(),
            "genres": pl.String(),
            "year": pl.Int64(),
            "hour": pl.Int64(),
            "click": pl.Int8(),
            "rating": pl.Float32(),
        } | (user if self.config in _DEMOGRAPHIC else {})

    def units(self, raw_dir: str, *, workdir: str, days: Sequence[date]) -> list[Unit]:
        """Return a unit per TFRecord shard. Shards are not ordered by time, so `days` excludes none.

        Prepares the data in this process if that is not done yet: about 20 seconds for 100,000 ratings. Raises
        UserError if `raw_dir` is not empty and lacks the archive, if TFDS cannot fetch or verify it, or if the workdir
        is in an object store.
        """
        archive = Path(raw_dir, f"ml-{self.config.removesuffix('-ratings')}.zip")
        if raw_dir and not archive.is_file():
            raise UserError(
                f"no file {str(archive)!r}; raw_dir must be a folder that holds {archive.name}, or empty to "
                "let TensorFlow Datasets download it"
            )
        if remote(as_path(workdir)):
            raise UserError(
                f"--workdir={workdir}: TensorFlow Datasets prepares {self.config} in a folder of the workdir, "
                "which must be local; give a local --workdir"
            )
        import tensorflow_datasets as tfds

        tfds.disable_progress_bar()
        builder = tfds.builder(f"movielens/{self.config}", data_dir=str(Path(workdir, "tfds")))
        download = tfds.download.DownloadConfig(manual_dir=raw_dir or None)
        wrong_archive = tfds.download.download_manager.NonMatchingChecksumError
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                builder.download_and_prepare(download_config=download)  # Returns at once if it is done.
        except (OSError, tfds.download.DownloadError, wrong_archive) as error:
            raise UserError(
                f"cannot prepare {self.config} from {archive if raw_dir else 'the network'} under {workdir}: "
                f"{_first_line(str(error))}; put the original {archive.name} into raw_dir"
            ) from error
        features = builder.info.features
        names = {"genres": list(features["movie_genres"].feature.names)}
        if self.config in _DEMOGRAPHIC:
            names["occupations"] = list(features["user_occupation_label"].names)
        return [
            Unit(index=index, where=str(path), args={"path": str(path), **names})
            for index, path in enumerate(builder.info.splits["train"].filepaths)
        ]

    def read(self, unit: Unit) -> Iterator[pl.DataFrame]:
        """Yield frames of 65,536 rows in the order of the shard, which TFDS shuffles the same way each time.

        Raises UserError for a shard that is missing, truncated or corrupt.
        """
        names = unit.args["genres"]
        genre = pl.element().sort().replace_strict(range(len(names)), names, return_dtype=pl.String)
        time = pl.when(pl.col("timestamp").is_between(0, _YEAR_2100_S, closed="left")).then("timestamp")
        bad_label = ~pl.col("user_rating").is_between(0.5, 5)
        dropped = pl.when(time.is_null()).then(pl.lit("bad_time")).when(bad_label).then(pl.lit("bad_label"))
        user: list[pl.Expr] = []
        if self.config in _DEMOGRAPHIC:
            jobs = unit.args["occupations"]
            user = [
                pl.when(pl.col("user_gender") == 1).then(pl.lit("M")).otherwise(pl.lit("F")).alias("gender"),
                pl.col("bucketized_user_age").cast(pl.Int64).alias("age"),
                pl.col("user_occupation_label")
                .replace_strict(range(len(jobs)), jobs, return_dtype=pl.String)
                .alias("occupation"),
                pl.col("user_zip_code").alias("zip_code"),
            ]
        for raw in _batches(unit.args["path"], demographic=bool(user)):
            yield raw.select(
                (time * 1_000_000).alias("event_time_us"),
                "user_id",
                "movie_id",
                pl.col("movie_genres").list.eval(genre).list.join(",").alias("genres"),
                pl.col("movie_title").str.extract(r"\((\d{4})\)\s*$").cast(pl.Int64).alias("year"),
                pl.from_epoch(time).dt.hour().cast(pl.Int64).alias("hour"),
                (pl.col("user_rating") >= 4).cast(pl.Int8).alias("click"),
                pl.col("user_rating").alias("rating"),
                *user,
                raw.hash_rows().alias("content"),
                dropped.alias("dropped"),
            )


def _batches(path: str, *, demographic: bool) -> Iterator[pl.DataFrame]:
    """Yield the raw columns of a shard, `movie_genres` as lists of class numbers."""
    import tensorflow as tf

    dtypes = {
        **dict.fromkeys(("user_id", "movie_id", "movie_title"), tf.string),
        "user_rating": tf.float32,
        "timestamp": tf.int64,
    }
    if demographic:
        dtypes |= {
            **dict.fromkeys(("user_gender", "user_occupation_label"), tf.int64),
            "bucketized_user_age": tf.float32,
            "user_zip_code": tf.string,
        }
    spec = {name: tf.io.FixedLenFeature([], dtype) for name, dtype in dtypes.items()}
    spec["movie_genres"] = tf.io.RaggedFeature(tf.int64)
    shard = tf.data.TFRecordDataset(path).batch(_BATCH).map(lambda rows: tf.io.parse_example(rows, spec))
    try:
        for batch in shard:
            yield pl.DataFrame({name: _arrow(tensor) for name, tensor in batch.items()})
    except tf.errors.OpError as error:
        raise UserError(
            f"{path} is missing or damaged: {_first_line(error.message)}; delete the folder "
            f"{Path(path).parent} and run again"
        ) from error


def _arrow(tensor: Any) -> pa.Array:
    """Return the values of a tensor of shape [rows], or the lists of a ragged one of shape [rows, (length)]."""
    if hasattr(tensor, "row_splits"):
        return pa.ListArray.from_arrays(tensor.row_splits.numpy(), tensor.flat_values.numpy())
    values = pa.array(tensor.numpy())
    return values.cast(pa.string()) if pa.types.is_binary(values.type) else values


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
