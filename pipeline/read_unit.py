"""The first stage of materialising: units of raw data become staged pieces of days."""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import polars as pl

from tutelage.pipeline import beam_job
from tutelage.pipeline.ids import example_id
from tutelage.pipeline.io.paths import as_path
from tutelage.pipeline.io.retry import with_retries
from tutelage.pipeline.pieces import ROWS_PER_SHARD, Piece, concatenate_small, shards
from tutelage.pipeline.schema import SAMPLING_RATE, Schema, interaction_columns
from tutelage.pipeline.sources.base import Source, Unit

NO_DAY = "no day"
"""The name of the rows that belong to none of the requested days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What all workers of a job know."""

    schema: Schema
    days: Sequence[date]
    now: datetime
    """Labels that are not mature then become null."""
    lake_root: str
    staging: str
    """The folder of `beam_job.Staging`."""
    units: int = 1
    """The number of units."""
    rows_per_shard: int = ROWS_PER_SHARD

    def stage(self, rows: pl.DataFrame, day: date, *, expected: int, **fields: Any) -> Piece:
        """Write rows of a day that is `expected` to have so many."""
        # A runner may start a unit again while its first attempt still runs, so the name is unique.
        path = as_path(self.staging) / f"{day}-{uuid.uuid4().hex}.arrow"
        rows = rows.select(*interaction_columns(self.schema).names, "content")
        return Piece.stage(rows, path, expected=shards(expected, self.rows_per_shard), **fields)


class ReadUnit(beam_job.ThreadedDoFn):
    """Reads a unit and stages its rows, a file or more for each day; gives the driver the counts of the unit.

    Memory, for each of three units at a time: 524,288 rows up to three times, and one frame of the source.
    """

    def __init__(self, source: Source, job: Job):
        self.source = source
        self.job = job
        self.schema = job.schema
        self.staging = beam_job.Staging(job.staging)

    def work(self, unit: Unit) -> list[tuple[int, tuple[str, Piece]]]:
        with self.staging.telling(unit.index):
            pieces, days = with_retries(f"the rows of {unit.where}", self._read, unit)
        self.staging.give(f"read-{unit.index}", {"unit": unit.index, "where": unit.where, "days": days})
        self.staging.done(unit.index)
        return [(beam_job.ALL, piece) for piece in pieces]

    def _read(self, unit: Unit) -> tuple[list[tuple[str, Piece]], dict[str, Any]]:
        """Return the pieces of each day, and by day what `arrivals.Arrivals` says."""
        days: dict[str, dict[str, Any]] = {}
        pieces: list[tuple[str, Piece]] = []
        if unit.rows_outside:
            with unit.unchanged():
                return [], {NO_DAY: {"rows": 0, "dropped": {"outside_days": unit.rows_outside}}}
        differences: dict[str, None] = {}
        rows = 0
        with unit.unchanged():
            frames = (self.conform(frame, unit, differences) for frame in self.source.read(unit))
            for number, frame in enumerate(concatenate_small(frames)):
                rows += frame.height
                for text, piece, dropped in self._pieces(frame, unit, number, rows):
                    of_day = days.setdefault(text, {"rows": 0, "dropped": {}})
                    of_day["differences"] = list(differences)
                    for reason, count in dropped.items():
                        of_day["dropped"][reason] = of_day["dropped"].get(reason, 0) + count
                    if piece:
                        of_day["rows"] += piece.rows
                        pieces.append((text, piece))
        return pieces, days

    def conform(self, frame: pl.DataFrame, unit: Unit, differences: dict[str, None]) -> pl.DataFrame:
        """Return the frame with the table's columns in their dtypes, null where a value does not fit.

        Adds a text to `differences` for each column that is not as the source offers it.
        """
        offered, table, found_in = (
            self.source.columns(),
            pl.Schema(interaction_columns(self.schema)),
            frame.schema,
        )
        for name in frame.columns:
            if name not in (*offered, "event_time_us", "content", "dropped"):
                differences[f"{name} of {unit.where} is not offered"] = None
        changed = []
        for name in [feature.name for feature in self.schema.features] + self.schema.labels:
            found = found_in.get(name)
            if found != offered[name]:
                how = "is missing" if found is None else f"is {found}"
                differences[f"{name} of {unit.where} {how}, expected {offered[name]}"] = None
            if found is None or (found != table[name] and pl.List in (found, table[name])):
                changed.append(pl.lit(None, table[name]).alias(name))
            elif found != table[name]:
                changed.append(pl.col(name).cast(table[name], strict=False))
        return frame.with_columns(changed)

    def judge_rows(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the frame with the `day` of each row, and in `dropped` the reason to drop it.

        Labels that are not mature become null.
        """
        schema = self.schema
        day = schema.slice_expr("event_time_us")
        now = int(self.job.now.timestamp() * 1_000_000)
        # A label that is not yet mature is null, even if a value is present.
        immature = {
            name: pl.col("event_time_us") > now - after // timedelta(microseconds=1)
            for name, after in schema.maturity.items()
        }
        bad_label = [
            ~pl.col(name).cast(pl.Float64).is_finite().fill_null(False) & ~immature.get(name, pl.lit(False))
            for name in schema.labels
        ]
        return frame.with_columns(day=day).with_columns(
            *(pl.when(~is_immature).then(name).alias(name) for name, is_immature in immature.items()),
            dropped=pl.when(pl.col("dropped").is_not_null())
            .then("dropped")
            .when(pl.col("event_time_us").is_null())
            .then(pl.lit("bad_time"))
            .when(~pl.col("day").is_in(self.job.days))
            .then(pl.lit("outside_days"))
            .when(pl.any_horizontal(pl.col(schema.key).is_null()))
            .then(pl.lit("bad_key"))
            .when(pl.any_horizontal(bad_label))
            .then(pl.lit("bad_label")),
        )

    def _pieces(
        self, frame: pl.DataFrame, unit: Unit, number: int, rows: int
    ) -> Iterator[tuple[str, Piece | None, dict[str, int]]]:
        """Stage the rows of each requested day of a frame.

        Yields for each day the piece, None where no row is left, and the dropped rows by reason; the rows of no
        requested day are under `NO_DAY`. `rows` were read of the unit so far. As the unit has at least so many, and
        most others of the job too, they say how large its days will be; where they say too little, more is read.
        """
        downsampling = self.schema.downsampling
        frame = self.judge_rows(frame)
        good = pl.col("dropped").is_null()
        reasons = self._dropped_by_day(frame)
        if None in reasons:
            yield NO_DAY, None, reasons.pop(None)
        kept = frame.select(pl.col("day").filter(good).unique()).to_series()
        for day in sorted({*reasons, *kept} - {None}):
            part = frame.filter(good & (pl.col("day") == day))
            part = part.with_columns(example_id=example_id(self.schema.key, part.schema))
            dropped = reasons.get(day, {})
            if downsampling and downsampling.rate is not None:
                left = _downsampled(part, self.schema.downsampled.label, downsampling.rate)
                if left.height < part.height:
                    dropped["downsampled"] = part.height - left.height
                part = left
            if self.schema.negatives:
                part = part.with_columns(pl.lit(None, pl.Float32).alias(SAMPLING_RATE))
            if part.is_empty():
                yield str(day), None, dropped
                continue
            late = unit.day is not None and day + timedelta(days=self.schema.slice_days) <= unit.day
            expected = rows * self.job.units // len(self.job.days)
            piece = self.job.stage(part, day, expected=expected, order=(unit.index, number), late=late)
            yield str(day), piece, dropped

    def _dropped_by_day(self, frame: pl.DataFrame) -> dict[date | None, dict[str, int]]:
        """Return the number of dropped rows by day and reason; the rows of no requested day are under None."""
        day = pl.when(pl.col("day").is_in(self.job.days)).then("day").alias("day")
        reasons: dict[date | None, dict[str, int]] = {}
        for value, reason, rows in (
            frame.select(day, "dropped").drop_nulls("dropped").group_by("day", "dropped").len().iter_rows()
        ):
            reasons.setdefault(value, {})[reason] = rows
        return reasons


def _downsampled(frame: pl.DataFrame, label: str, rate: float) -> pl.DataFrame:
    """Return all positives and a share `rate` of the negatives.

    An example_id is a hash, and the lowest share of the ids is kept, so that a day that is made again keeps the same
    rows.
    """
    lowest = pl.col("example_id") <= min(round((rate - 0.5) * 2**64), 2**63 - 1)
    kept = (lowest | (pl.col(label) != 0)).fill_null(True)
    return frame.filter(kept).with_columns(pl.lit(rate, pl.Float32).alias(SAMPLING_RATE))
