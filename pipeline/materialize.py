"""Beam job: raw data to daily slices of `interactions`, one row per exposure, each counted and each day judged."""

import pickle
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa

from tutelage.pipeline import beam_job, histories
from tutelage.pipeline.commit_day import DayCommitter, StagedDay
from tutelage.pipeline.days import slice_expr
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.ids import example_id
from tutelage.pipeline.io.retry import with_retries
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.quality import DEFAULT_QUALITY, QualityConfig
from tutelage.pipeline.schema import SAMPLING_RATE, Schema, interaction_columns
from tutelage.pipeline.sources.base import Source, Unit
from tutelage.pipeline.statistics import Sketches
from tutelage.pipeline.table import DataFile

_ROWS = 1 << 19
"""Rows that a worker holds at once, but for a larger frame of the source's."""
_BUCKET_ROWS = 1 << 22
"""Rows of a day among which repeats are looked for at once."""
_REPEATS = {"piece": pl.Int64, "row": pl.UInt32, "reason": pl.String}
NO_DAY = "no day"
"""The group of the rows that belong to none of the days asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one unit holds of one day: `rows` in a file of the staging folder (none where all were dropped), whether
    they came after the day, and counts.

    The file is Arrow's, not compressed: it is written and read at the speed of memory. It has the table's columns and
    `content`. `differences` are of the unit's columns from what the source offers.
    """

    order: tuple[int, int]
    path: str = ""
    rows: int = 0
    late: bool = False
    dropped: Mapping[str, int] = field(default_factory=dict)
    differences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """rows_in = kept + the sum of `dropped`. Of what was kept, `late` rows came after their day, and `masked`
    counts the nulls of each label that was not mature."""

    rows_in: int
    kept: int
    dropped: Mapping[str, int]
    late: int = 0
    masked: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Materialized:
    """What a job did: per day what it committed, the rows that belong to no day asked for, and of the days that
    went into quarantine what is said of them."""

    days: Mapping[date, Counts]
    quarantined: Mapping[date, str]
    elsewhere: Mapping[str, int]
    seconds: float

    @property
    def rows_in(self) -> int:
        return sum(c.rows_in for c in self.days.values()) + sum(self.elsewhere.values())


class ReadUnit(beam_job.ThreadedDoFn):
    """A unit in, a staged file per day out, or more. Memory, of each of three units: 524,288 rows, and one frame."""

    def __init__(self, source: Source, schema: Schema, days: Sequence[date], now: datetime, staging: str):
        self.source = source
        self.schema = schema
        self.days = list(days)
        self.now = now
        self.staging = beam_job.Staging(staging)

    def work(self, group: tuple[int, Iterable[Unit]]) -> list[tuple[str, Piece]]:
        (unit,) = group[1]
        with self.staging.telling(unit.index):
            pieces = with_retries(f"the rows of {unit.where}", self._read, unit)
        self.staging.done(unit.index)
        return pieces

    def _read(self, unit: Unit) -> list[tuple[str, Piece]]:
        if unit.rows_outside:
            with unit.unchanged():
                return [(NO_DAY, Piece(order=(unit.index, 0), dropped={"outside_days": unit.rows_outside}))]
        differences: dict[str, None] = {}
        pieces: list[tuple[str, Piece]] = []
        with unit.unchanged():
            frames = (self._conform(frame, unit, differences) for frame in self.source.read(unit))
            for number, frame in enumerate(_joined(frames)):
                pieces += self._pieces(frame, (unit.index, number), unit.day, tuple(differences))
        return pieces

    def _conform(self, frame: pl.DataFrame, unit: Unit, differences: dict[str, None]) -> pl.DataFrame:
        """The frame with the columns of the table in its dtypes, nulls where they do not fit; adds what differs."""
        offered, table, there = (
            self.source.columns(),
            pl.Schema(interaction_columns(self.schema)),
            frame.schema,
        )
        for name in frame.columns:
            if name not in (*offered, "event_time_us", "content", "dropped"):
                differences[f"{name} of {unit.where} is not offered"] = None
        changed = []
        for name in [feature.name for feature in self.schema.features] + self.schema.labels:
            found = there.get(name)
            if found != offered[name]:
                how = "is missing" if found is None else f"is {found}"
                differences[f"{name} of {unit.where} {how}, expected {offered[name]}"] = None
            if found is None or (found != table[name] and pl.List in (found, table[name])):
                changed.append(pl.lit(None, table[name]).alias(name))
            elif found != table[name]:
                changed.append(pl.col(name).cast(table[name], strict=False))
        return frame.with_columns(changed)

    def _judged(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The frame with the `day` of each row and, in `dropped`, the reason to leave it out, and with null in the
        place of labels that are not mature."""
        schema = self.schema
        day = slice_expr("event_time_us", time_zone=schema.time_zone, slice_days=schema.slice_days)
        now = int(self.now.timestamp() * 1_000_000)
        # What is not final yet says nothing, be it there or not.
        immature = {
            name: pl.col("event_time_us") > now - after // timedelta(microseconds=1)
            for name, after in schema.maturity.items()
        }
        bad_label = [
            ~pl.col(name).cast(pl.Float64).is_finite().fill_null(False) & ~immature.get(name, pl.lit(False))
            for name in schema.labels
        ]
        return frame.with_columns(day=day).with_columns(
            *(pl.when(~there).then(name).alias(name) for name, there in immature.items()),
            dropped=pl.when(pl.col("dropped").is_not_null())
            .then("dropped")
            .when(pl.col("event_time_us").is_null())
            .then(pl.lit("bad_time"))
            .when(~pl.col("day").is_in(self.days))
            .then(pl.lit("outside_days"))
            .when(pl.any_horizontal(pl.col(schema.key).is_null()))
            .then(pl.lit("bad_key"))
            .when(pl.any_horizontal(bad_label))
            .then(pl.lit("bad_label")),
        )

    def _pieces(
        self, frame: pl.DataFrame, order: tuple[int, int], unit_day: date | None, differences: tuple[str, ...]
    ) -> Iterator[tuple[str, Piece]]:
        schema, downsampling = self.schema, self.schema.downsampling
        frame = self._judged(frame)
        good = pl.col("dropped").is_null()
        # Rows of no day asked for have a reason too, so that what has none is inside.
        inside = pl.when(pl.col("day").is_in(self.days)).then("day").alias("day")
        reasons: dict[date | None, dict[str, int]] = {}
        for value, reason, rows in (
            frame.select(inside, "dropped").drop_nulls("dropped").group_by("day", "dropped").len().iter_rows()
        ):
            reasons.setdefault(value, {})[reason] = rows
        if None in reasons:
            yield NO_DAY, Piece(order=order, dropped=reasons.pop(None))
        kept = frame.select(pl.col("day").filter(good).unique()).to_series()
        for value in sorted({*reasons, *kept} - {None}):
            part = frame.filter(good & (pl.col("day") == value))
            part = part.with_columns(example_id=example_id(schema.key, part.schema))
            dropped = reasons.get(value, {})
            if downsampling and downsampling.rate is not None:
                left = _downsampled(part, schema.downsampled.label, downsampling.rate)
                if left.height < part.height:
                    dropped["downsampled"] = part.height - left.height
                part = left
            path = ""
            if part.height:
                # A runner may try a unit again while the first one is still at it.
                path = str(self.staging.path / f"{value}-{uuid.uuid4().hex}.arrow")
                part.select(*interaction_columns(schema).names, "content").write_ipc(path)
            yield (
                str(value),
                Piece(
                    order=order,
                    path=path,
                    rows=part.height,
                    late=unit_day is not None and value + timedelta(days=schema.slice_days) <= unit_day,
                    dropped=dropped,
                    differences=differences,
                ),
            )


def _downsampled(frame: pl.DataFrame, label: str, rate: float) -> pl.DataFrame:
    """The rows without a share of the negatives.

    An example_id is a hash: the lowest share of the ids is kept, so that a day made anew keeps the same rows.
    """
    lowest = pl.col("example_id") <= min(round((rate - 0.5) * 2**64), 2**63 - 1)
    kept = (lowest | (pl.col(label) != 0)).fill_null(True)
    return frame.filter(kept).with_columns(pl.lit(rate, pl.Float32).alias(SAMPLING_RATE))


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


class MakeDay(beam_job.ThreadedDoFn):
    """All pieces of a day in, the day without repeats given to the driver; of the rows of no day, counts. Memory, of
    each of three days: 4,194,304 ids, the keys of those that repeat, the rows of one data file and its sketches."""

    def __init__(self, schema: Schema, lake_root: str, staging: str):
        self.schema = schema
        self.lake_root = lake_root
        self.staging = beam_job.Staging(staging)

    def work(self, group: tuple[str, Iterable[Piece]]) -> tuple[()]:
        text, pieces = group
        in_order = sorted(pieces, key=lambda piece: piece.order)
        with self.staging.telling(text):
            with_retries(f"the rows of {text}", self._give, text, in_order)
        return ()

    def _give(self, text: str, pieces: Sequence[Piece]) -> None:
        if made := self._make(text, pieces):
            self.staging.give(text, made)

    def _make(self, text: str, pieces: Sequence[Piece]) -> StagedDay | Counter[str] | None:
        dropped: Counter[str] = Counter()
        for piece in pieces:
            dropped.update(piece.dropped)
        if text == NO_DAY:
            return dropped
        day = date.fromisoformat(text)
        written = [piece for piece in pieces if piece.rows]
        rows_in = sum(piece.rows for piece in written) + dropped.total()
        repeats = _find_repeats(written, self.schema.key)
        dropped.update(dict(repeats["reason"].value_counts().iter_rows()))
        table = Lake(self.lake_root, self.schema).interactions
        sketches, files = Sketches(self.schema), list[DataFile]()
        late, masked = 0, Counter[str]()
        for frame, late_rows in _without(repeats, written):
            sketches.add(frame)
            files.append(table.write_file(frame, {"day": day}, name=f"part-{len(files):05d}"))
            late += late_rows
            masked.update({name: frame[name].null_count() for name in self.schema.maturity})
        if not files:
            return None
        statistics = self.staging.path / f"{text}.statistics"
        statistics.write_bytes(pickle.dumps(sketches.finish()))
        return StagedDay(
            day=day,
            files=tuple(files),
            statistics=str(statistics),
            differences=tuple(dict.fromkeys(d for piece in pieces for d in piece.differences)),
            metadata={
                "rows_in": rows_in,
                "kept": sum(file.rows for file in files),
                "dropped": dict(sorted(dropped.items())),
                "late": late,
                "masked": {name: rows for name, rows in masked.items() if rows},
            },
        )


def _find_repeats(pieces: Sequence[Piece], key: Sequence[str]) -> pl.DataFrame:
    """The rows of a day that repeat a key: `piece` and `row` by number, and the `reason` to leave them out.

    The first row by unit and row stays. Equal keys have equal ids, so that repeats are looked for in
    one bucket of ids after the other, and keys are read where an id is there more than once.
    """
    buckets = -(-sum(piece.rows for piece in pieces) // _BUCKET_ROWS)
    found = [_repeats(pieces, key, bucket, buckets) for bucket in range(buckets)]
    return pl.concat(found) if found else pl.DataFrame(schema=_REPEATS)


def _without(repeats: pl.DataFrame, pieces: Sequence[Piece]) -> Iterator[tuple[pl.DataFrame, int]]:
    """The pieces without these rows, small ones put together, and how many rows of each frame came late."""
    gone = repeats.partition_by("piece", as_dict=True)
    held: list[pl.DataFrame] = []
    late = 0
    for number, piece in enumerate(pieces):
        frame = _staged(piece)
        if (number,) in gone:
            good = np.ones(piece.rows, bool)
            good[gone[number,]["row"].to_numpy()] = False
            frame = frame.filter(good)
        if held and sum(map(len, held)) + len(frame) > _ROWS:
            yield pl.concat(held), late
            held, late = [], 0
        if len(frame):
            held.append(frame)
            late += len(frame) * piece.late
    if held:
        yield pl.concat(held), late


def _staged(piece: Piece) -> pl.DataFrame:
    """Its rows, of which the columns that are looked at are read."""
    with pa.memory_map(piece.path) as source:
        return pl.from_arrow(pa.ipc.open_file(source).read_all(), rechunk=False)  # type: ignore[return-value]


def _repeats(pieces: Sequence[Piece], key: Sequence[str], bucket: int, buckets: int) -> pl.DataFrame:
    """The rows to leave out of those whose id is in the bucket: `piece` and `row` by number, and the `reason`."""
    ids = [_staged(piece)["example_id"] for piece in pieces]
    if buckets > 1:
        ids = [part.filter(part % buckets == bucket) for part in ids]
    in_order = np.concatenate([part.to_numpy() for part in ids])
    in_order.sort()
    twice = pl.Series(np.unique(in_order[1:][in_order[1:] == in_order[:-1]]))
    if twice.is_empty():
        return pl.DataFrame(schema=_REPEATS)
    columns = list(dict.fromkeys([*key, "example_id", "content"]))
    rows = pl.concat(
        _staged(piece)
        .select(pl.lit(number, pl.Int64).alias("piece"), *columns)
        .with_row_index("row")
        .filter(pl.col("example_id").is_in(twice.implode()))
        for number, piece in enumerate(pieces)
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
    return rows.drop_nulls("reason").select(pl.col(name).cast(dtype) for name, dtype in _REPEATS.items())


def materialize(
    source: Source,
    schema: Schema,
    lake: Lake,
    *,
    raw_dir: str,
    workdir: str,
    days: Sequence[date],
    quality: QualityConfig = DEFAULT_QUALITY,
    now: datetime | None = None,
    beam_flags: Sequence[str] = (),
    progress: beam_job.Progress | None = None,
) -> Materialized:
    """Replace `days` of `interactions` by what the source holds of them, then make the histories that this
    left behind: of these days, and of later ones.

    Labels that are not mature `now` (None: at this moment) are nulls.

    Every day is committed on its own, last and whole; one that does not pass `quality` goes into quarantine, and
    what the table held of it stays. Raises UserError where the source cannot be read (nothing is committed then),
    where a day has no rows (the other days are committed), or where another job replaced a day since this one began
    (the other's rows stay).

    The days are judged and committed here, in their order, as each is held against those before it. Memory: the
    statistics of the trailing days.
    """
    started = time.monotonic()
    as_of = lake.interactions.snapshot()
    check_columns(source, schema)
    units = source.units(raw_dir, workdir=workdir, days=days)
    root = lake.interactions.path.parent
    with beam_job.staging_folder(root) as staging:
        where = (str(root), str(staging.path))

        def build(pipeline: beam.Pipeline) -> None:
            _ = (
                beam_job.one_group_per_unit(pipeline, units)
                | "Read"
                >> beam.ParDo(ReadUnit(source, schema, days, now or datetime.now(UTC), str(staging.path)))
                | "ByDay" >> beam.GroupByKey()
                | "Make" >> beam.ParDo(MakeDay(schema, *where))
            )

        beam_job.run(build, flags=beam_flags, staging=staging, units=len(units), progress=progress)
        # Nobody reads the pieces any more, and to remove them takes a while.
        with ThreadPoolExecutor(1) as aside:
            aside.submit(staging.remove, "*.arrow")
            made = staging.given()
            elsewhere = dict(sorted(made.pop(NO_DAY, {}).items()))
            admission = DayCommitter(lake, quality, attempt=staging.attempt, as_of=as_of)
            done = _admit(made, elsewhere, admission)
    histories.build(schema, lake, days=lake.interactions.partitions()["day"].to_list(), beam_flags=beam_flags)
    missing = [text for text in map(str, days) if text not in made]
    if missing:
        raise UserError(
            f"no rows for {', '.join(missing)} in {raw_dir or 'the source'}; "
            f"of the other days, {len(done)} were committed. Ask for days that the data has"
        )
    return Materialized(
        days=done,
        quarantined=admission.quarantined_days,
        elsewhere=elsewhere,
        seconds=time.monotonic() - started,
    )


def _admit(
    made: Mapping[str, StagedDay], elsewhere: Mapping[str, int], admission: DayCommitter
) -> dict[date, Counts]:
    """Commit the days, or put them into quarantine, in their order; returns what was committed."""
    job = {"attempt": admission.attempt, "elsewhere": elsewhere}
    done: dict[date, Counts] = {}
    for text, day in sorted(made.items()):
        of_job = replace(day, metadata={**day.metadata, "job": job})
        if with_retries(f"the commit of {text}", admission.commit_day, of_job).blessed:
            done[day.day] = Counts(**day.metadata)
    return done


def check_columns(source: Source, schema: Schema) -> None:
    """Raise UserError where the schema wants a column that the source does not offer."""
    offered = source.columns()
    for name in schema.offered:
        if name not in offered:
            raise UserError(
                f"{type(source).__name__} has no column {name!r}; it offers {', '.join(sorted(offered))}"
            )
