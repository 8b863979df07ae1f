"""Beam job: raw data to daily slices of `interactions`, one row per exposure, each counted."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

import apache_beam as beam
import numpy as np
import polars as pl

from tutelage.pipeline import beam_job, histories
from tutelage.pipeline.days import slice_expr
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.ids import example_id
from tutelage.pipeline.lake import DataFile, Lake, Table
from tutelage.pipeline.schema import SAMPLING_RATE, Schema
from tutelage.pipeline.sources.base import Source, Unit

_ROWS = 1 << 19
"""Rows that a worker holds at once, but for a larger frame of the source's."""
_BUCKET_ROWS = 1 << 22
"""Rows of a day among which repeats are looked for at once."""
NO_DAY = ""
"""The group of the rows that belong to none of the days asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one unit holds of one day: a data file (none where all its rows were dropped) and counts.

    `content` names a file of the fingerprints of the raw rows, in the order of the data file's rows.
    """

    order: tuple[int, int]
    file: DataFile | None = None
    content: str = ""
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """rows_in = kept + the sum of `dropped`."""

    rows_in: int
    kept: int
    dropped: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Materialized:
    """What a job did: per day what it committed, and the rows that belong to no day asked for."""

    days: Mapping[date, Counts]
    elsewhere: Mapping[str, int]
    seconds: float

    @property
    def rows_in(self) -> int:
        return sum(c.rows_in for c in self.days.values()) + sum(self.elsewhere.values())


class ReadUnit(beam.DoFn):
    """A unit in, a data file per day out, or more. Memory: 524,288 rows, and one frame of the unit."""

    def __init__(self, source: Source, schema: Schema, days: Sequence[date], lake_root: str, staging: str):
        self.source = source
        self.schema = schema
        self.lake_root = lake_root
        self.days = list(days)
        self.staging = beam_job.Staging(staging)

    def process(self, unit: Unit) -> Iterator[tuple[str, Piece]]:
        with self.staging.telling(unit.index):
            if unit.rows_outside:
                yield NO_DAY, Piece(order=(unit.index, 0), dropped={"outside_days": unit.rows_outside})
            else:
                for number, frame in enumerate(_joined(self.source.read(unit))):
                    yield from self._pieces(frame, (unit.index, number))
        self.staging.done(unit.index)

    def _pieces(self, frame: pl.DataFrame, order: tuple[int, int]) -> Iterator[tuple[str, Piece]]:
        schema = self.schema
        interactions = Lake(self.lake_root, schema).interactions
        day = slice_expr("event_time_us", time_zone=schema.time_zone, slice_days=schema.slice_days)
        labels = pl.col(schema.labels).cast(pl.Float64)
        frame = frame.with_columns(day=day).with_columns(
            dropped=pl.when(pl.col("dropped").is_not_null())
            .then("dropped")
            .when(pl.col("event_time_us").is_null())
            .then(pl.lit("bad_time"))
            .when(~pl.col("day").is_in(self.days))
            .then(pl.lit("outside_days"))
            .when(pl.any_horizontal(pl.col(schema.key).is_null()))
            .then(pl.lit("bad_key"))
            .when(pl.any_horizontal(~labels.is_finite().fill_null(False)))
            .then(pl.lit("bad_label"))
        )
        # Rows of no day asked for have a reason too, so that what has none is inside.
        inside = pl.when(pl.col("day").is_in(self.days)).then("day").alias("day")
        reasons: dict[date | None, dict[str, int]] = {}
        for value, reason, rows in (
            frame.select(inside, "dropped").drop_nulls("dropped").group_by("day", "dropped").len().iter_rows()
        ):
            reasons.setdefault(value, {})[reason] = rows
        if None in reasons:
            yield NO_DAY, Piece(order=order, dropped=reasons.pop(None))
        kept = frame.filter(pl.col("dropped").is_null())
        kept = kept.with_columns(example_id=example_id(schema.key, kept.schema))
        if schema.downsampling and schema.downsampling.rate is not None:
            kept, left_out = _downsampled(kept, schema.downsampled.label, schema.downsampling.rate)
            for value, rows in left_out.items():
                reasons.setdefault(value, {})["downsampled"] = rows
        parts = {day: rows for (day,), rows in kept.partition_by("day", as_dict=True).items()}
        for value in sorted({*reasons, *parts} - {None}):
            file, content = None, ""
            if value in parts:
                name = f"part-{order[0]:05d}-{order[1]:03d}"
                file = interactions.write_file(parts[value], {"day": value}, name=name)
                content = str(self.staging.path / f"{value}-{name}.content")
                parts[value].select("content").write_ipc(content)
            yield str(value), Piece(order=order, file=file, content=content, dropped=reasons.get(value, {}))


def _downsampled(frame: pl.DataFrame, label: str, rate: float) -> tuple[pl.DataFrame, dict[date, int]]:
    """The rows without a share of the negatives, and how many of each day were left out.

    An example_id is a hash: the lowest share of the ids is kept, so that a day made anew keeps the same rows.
    """
    lowest = pl.col("example_id") <= min(round((rate - 0.5) * 2**64), 2**63 - 1)
    kept = (lowest | (pl.col(label) != 0)).fill_null(True)
    counts = frame.filter(~kept).group_by("day").len()
    return frame.filter(kept).with_columns(pl.lit(rate, pl.Float32).alias(SAMPLING_RATE)), dict(
        counts.iter_rows()
    )


def _joined(frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Small frames put together: a data file each would be slow to write and to read."""
    held: list[pl.DataFrame] = []
    for frame in frames:
        held.append(frame)
        if sum(map(len, held)) >= _ROWS:
            yield pl.concat(held)
            held = []
    if held:
        yield pl.concat(held)


class CommitDay(beam.DoFn):
    """All pieces of a day in, one commit out. Memory: 4,194,304 ids, the keys of those that repeat, one data file."""

    def __init__(self, schema: Schema, lake_root: str, staging: str):
        self.schema = schema
        self.lake_root = lake_root
        self.staging = beam_job.Staging(staging)

    def process(self, group: tuple[str, Iterable[Piece]], elsewhere: Sequence[Piece]) -> None:
        text, pieces = group
        day = date.fromisoformat(text)
        pieces = sorted(pieces, key=lambda piece: piece.order)
        dropped: Counter[str] = Counter()
        for piece in pieces:
            dropped.update(piece.dropped)
        written = [piece for piece in pieces if piece.file]
        rows_in = sum(piece.file.rows for piece in written if piece.file) + dropped.total()
        table = Lake(self.lake_root, self.schema).interactions
        files, repeats = _without_repeats(written, table, day, self.schema.key)
        dropped.update(repeats)
        if not files:
            return
        unplaced: Counter[str] = Counter()
        for piece in elsewhere:
            unplaced.update(piece.dropped)
        metadata = {
            "rows_in": rows_in,
            "kept": sum(file.rows for file in files),
            "dropped": dict(sorted(dropped.items())),
            "job": {"attempt": self.staging.attempt, "elsewhere": dict(sorted(unplaced.items()))},
        }
        with self.staging.telling(text):
            table.commit(files, {"day": day}, attempt=self.staging.attempt, metadata=metadata)
        self.staging.committed(text)


def _without_repeats(
    pieces: Sequence[Piece], table: Table, day: date, key: Sequence[str]
) -> tuple[list[DataFile], dict[str, int]]:
    """The day's files without repeated keys, and how many rows were left out by reason.

    The first row by unit and row stays. Equal keys have equal ids, so that repeats are looked for in
    one bucket of ids after the other, and keys are read where an id is there more than once.
    """
    files = [piece.file for piece in pieces if piece.file]
    buckets = 1 + sum(file.rows for file in files) // _BUCKET_ROWS
    found = [_repeats(pieces, table, key, bucket, buckets) for bucket in range(buckets)]
    repeats = pl.concat(found) if found else pl.DataFrame()
    if repeats.is_empty():
        return files, {}
    left: list[DataFile] = []
    rows = repeats.partition_by("file", as_dict=True)
    for number, file in enumerate(files):
        if (number,) in rows:
            # A new file: a runner may try this bundle again, from the files as they were.
            good = np.ones(file.rows, bool)
            good[rows[number,]["row"].to_numpy()] = False
            path = table.path / file.path
            name = path.name.rsplit("-", 1)[0]
            file = table.write_file(pl.read_parquet(path).filter(good), {"day": day}, name=name)
        if file.rows:
            left.append(file)
    return left, dict(repeats["reason"].value_counts().iter_rows())


def _repeats(
    pieces: Sequence[Piece], table: Table, key: Sequence[str], bucket: int, buckets: int
) -> pl.DataFrame:
    """The rows to leave out of those whose id is in the bucket: `file` and `row` by number, and the `reason`."""
    paths = [table.path / piece.file.path for piece in pieces if piece.file]
    ids = pl.scan_parquet(paths).select("example_id").filter(pl.col("example_id") % buckets == bucket)
    twice = ids.collect()["example_id"]
    twice = twice.filter(twice.is_duplicated()).unique()
    empty = {"file": pl.Int64, "row": pl.UInt32, "reason": pl.String}
    if twice.is_empty():
        return pl.DataFrame(schema=empty)
    columns = list(dict.fromkeys([*key, "example_id"]))
    rows = pl.concat(
        pl.read_parquet(path, columns=columns)
        .with_columns(pl.read_ipc(piece.content)["content"], pl.lit(number, pl.Int64).alias("file"))
        .with_row_index("row")
        .filter(pl.col("example_id").is_in(twice.implode()))
        for number, (path, piece) in enumerate(zip(paths, pieces, strict=True))
    )
    same = pl.col("content") == pl.col("content").first().over(key)
    rows = rows.with_columns(
        reason=pl.when(pl.struct(key).is_first_distinct())
        .then(None)
        .otherwise(pl.when(same).then(pl.lit("duplicate")).otherwise(pl.lit("conflicting_duplicate")))
    )
    # Labels are joined by example_id: of two keys with one hash, the later one cannot be told apart.
    collision = pl.col("reason").is_null() & ~pl.col("example_id").is_first_distinct().over(
        pl.col("reason").is_null()
    )
    rows = rows.with_columns(reason=pl.when(collision).then(pl.lit("id_collision")).otherwise("reason"))
    return rows.drop_nulls("reason").select(pl.col(name).cast(dtype) for name, dtype in empty.items())


def materialize(
    source: Source,
    schema: Schema,
    lake: Lake,
    *,
    raw_dir: str,
    workdir: str,
    days: Sequence[date],
    beam_flags: Sequence[str] = (),
    progress: beam_job.Progress | None = None,
) -> Materialized:
    """Replace `days` of `interactions` by what the source holds of them, then make the histories that this
    left behind: of these days, and of later ones.

    Every day is committed on its own, last and whole. Raises UserError where the source cannot be
    read (nothing is committed then), or where a day has no rows (the other days are committed).
    """
    started = time.monotonic()
    check_columns(source, schema)
    units = source.units(raw_dir, workdir=workdir, days=days)
    root = lake.interactions.path.parent
    with beam_job.staging_folder(root) as staging:
        where = (str(root), str(staging.path))

        def build(pipeline: beam.Pipeline) -> None:
            pieces = (
                pipeline
                | "Units" >> beam.Create(units, reshuffle=False)
                | "Spread" >> beam.Reshuffle()
                | "Read" >> beam.ParDo(ReadUnit(source, schema, days, *where))
            )
            elsewhere = pieces | "Elsewhere" >> beam.Filter(_is_elsewhere) | "Counts" >> beam.Values()
            _ = (
                pieces
                | "Inside" >> beam.Filter(_is_inside)
                | "ByDay" >> beam.GroupByKey()
                | "Commit" >> beam.ParDo(CommitDay(schema, *where), beam.pvalue.AsList(elsewhere))
            )

        beam_job.run(build, flags=beam_flags, staging=staging, units=len(units), progress=progress)
        done = staging.commits()
    histories.build(schema, lake, days=lake.interactions.partitions()["day"].to_list(), beam_flags=beam_flags)
    missing = [str(day) for day in days if str(day) not in done]
    counts = {date.fromisoformat(day): values for day, values in lake.interactions.counts().items()}
    if missing:
        raise UserError(
            f"no rows for {', '.join(missing)} in {raw_dir or 'the source'}; "
            f"of the other days, {len(done)} were committed. Ask for days that the data has"
        )
    return Materialized(
        days={day: Counts(**{k: counts[day][k] for k in ("rows_in", "kept", "dropped")}) for day in days},
        elsewhere=counts[days[0]]["job"]["elsewhere"],
        seconds=time.monotonic() - started,
    )


def _is_elsewhere(item: tuple[str, Piece]) -> bool:
    return item[0] == NO_DAY


def _is_inside(item: tuple[str, Piece]) -> bool:
    return item[0] != NO_DAY


def check_columns(source: Source, schema: Schema) -> None:
    """Raise UserError where the schema wants a column that the source does not offer."""
    offered = source.columns()
    for name in schema.offered:
        if name not in offered:
            raise UserError(
                f"{type(source).__name__} has no column {name!r}; it offers {', '.join(sorted(offered))}"
            )
