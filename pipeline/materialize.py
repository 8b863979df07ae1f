"""Beam job: raw data to daily slices of `interactions`. Every row is kept or counted, and every day is judged."""

import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import apache_beam as beam
import polars as pl

from tutelage.pipeline import beam_job, histories, negatives
from tutelage.pipeline.alarms import AlarmBudget
from tutelage.pipeline.commit_day import DayCommitter, StagedDay
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.ids import example_id
from tutelage.pipeline.io.arrow import write_arrow
from tutelage.pipeline.io.retry import with_retries
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.leaks import Suspicion, leaks
from tutelage.pipeline.pieces import Piece, concatenate_small, find_repeats, without_repeats
from tutelage.pipeline.quality import DEFAULT_ALARMS, DEFAULT_QUALITY, QualityConfig
from tutelage.pipeline.schema import SAMPLING_RATE, Schema, interaction_columns
from tutelage.pipeline.sources.base import Source, Unit
from tutelage.pipeline.statistics import Sketches
from tutelage.pipeline.table import DataFile

NO_DAY = "no day"
"""The group of the rows that belong to none of the requested days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What became of the rows of a day: rows_in + sampled = kept + the sum of `dropped`."""

    rows_in: int
    kept: int
    dropped: Mapping[str, int]
    """Number of dropped rows by reason."""
    late: int = 0
    """Kept rows that arrived after their day was over."""
    masked: Mapping[str, int] = field(default_factory=dict)
    """Nulls of each label that was not mature, among the kept rows."""
    sampled: int = 0
    """Negatives that were added (`Schema.negatives`)."""
    pairs: int = 0
    """Pairs of a user and an item that these were drawn from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Materialized:
    """What a job did."""

    days: Mapping[date, Counts]
    """The days that were committed."""
    quarantined: Mapping[date, str]
    """The days that went into quarantine, each with the message that says why."""
    held: Mapping[date, Counts]
    """The counts of these days: what they kept is in quarantine."""
    elsewhere: Mapping[str, int]
    """Rows that belong to none of the requested days, by reason."""
    warnings: Sequence[str] = ()
    """A line for each column that seems to give a label away, or has numbers that count as missing."""
    seconds: float

    @property
    def rows_in(self) -> int:
        """All rows that were read."""
        counts = (*self.days.values(), *self.held.values())
        return sum(c.rows_in for c in counts) + sum(self.elsewhere.values())


class ReadUnit(beam_job.ThreadedDoFn):
    """Reads a unit and stages its rows, a file or more for each day.

    Memory, for each of three units at a time: 524,288 rows, and one frame of the source.
    """

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
            frames = (self.conform(frame, unit, differences) for frame in self.source.read(unit))
            for number, frame in enumerate(concatenate_small(frames)):
                pieces += self._pieces(frame, (unit.index, number), unit.day, tuple(differences))
        return pieces

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
        now = int(self.now.timestamp() * 1_000_000)
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
        """Stage the rows of each requested day; yields a piece per day, and one for the rows of no such day."""
        downsampling = self.schema.downsampling
        frame = self.judge_rows(frame)
        good = pl.col("dropped").is_null()
        reasons = self._dropped_by_day(frame)
        if None in reasons:
            yield NO_DAY, Piece(order=order, dropped=reasons.pop(None))
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
            yield (
                str(day),
                Piece(
                    order=order,
                    path=_stage(part, day, self.schema, self.staging),
                    rows=part.height,
                    late=unit_day is not None and day + timedelta(days=self.schema.slice_days) <= unit_day,
                    dropped=dropped,
                    differences=differences,
                ),
            )

    def _dropped_by_day(self, frame: pl.DataFrame) -> dict[date | None, dict[str, int]]:
        """Return the number of dropped rows by day and reason; the rows of no requested day are under None."""
        day = pl.when(pl.col("day").is_in(self.days)).then("day").alias("day")
        reasons: dict[date | None, dict[str, int]] = {}
        for value, reason, rows in (
            frame.select(day, "dropped").drop_nulls("dropped").group_by("day", "dropped").len().iter_rows()
        ):
            reasons.setdefault(value, {})[reason] = rows
        return reasons


def _stage(rows: pl.DataFrame, day: date, schema: Schema, staging: beam_job.Staging) -> str:
    """Write the rows into a file of the staging folder and return its path, "" where there are none."""
    if rows.is_empty():
        return ""
    # A runner may start a unit again while its first attempt still runs, so the name is unique.
    path = str(staging.path / f"{day}-{uuid.uuid4().hex}.arrow")
    rows.select(*interaction_columns(schema).names, "content").pipe(write_arrow, path)
    return path


def _downsampled(frame: pl.DataFrame, label: str, rate: float) -> pl.DataFrame:
    """Return all positives and a share `rate` of the negatives.

    An example_id is a hash, and the lowest share of the ids is kept, so that a day that is made again keeps the same
    rows.
    """
    lowest = pl.col("example_id") <= min(round((rate - 0.5) * 2**64), 2**63 - 1)
    kept = (lowest | (pl.col(label) != 0)).fill_null(True)
    return frame.filter(kept).with_columns(pl.lit(rate, pl.Float32).alias(SAMPLING_RATE))


class MakeDay(beam_job.ThreadedDoFn):
    """Turns all pieces of a day into data files without repeats, and gives the day to the driver.

    For the rows of no requested day it only adds up the counts. Memory, for each of three days at a time: 4,194,304
    ids, the keys of those that repeat, the rows of one data file, and the day's sketches; with `Schema.negatives` also
    what `negatives.draw` says.
    """

    def __init__(self, schema: Schema, lake_root: str, staging: str, newest: date):
        """`newest` is the day of the job that is searched for leaks; a backfill need not say the same of every day."""
        self.schema = schema
        self.newest = newest
        self.lake_root = lake_root
        self.staging = beam_job.Staging(staging)

    def work(self, group: tuple[str, Iterable[Piece]]) -> tuple[()]:
        text, pieces = group
        in_order = sorted(pieces, key=lambda piece: piece.order)
        with self.staging.telling(text):
            with_retries(f"the rows of {text}", self._give, text, in_order)
        return ()

    def _give(self, text: str, pieces: Sequence[Piece]) -> None:
        dropped: Counter[str] = Counter()
        for piece in pieces:
            dropped.update(piece.dropped)
        if text == NO_DAY:
            self.staging.give(text, dropped)
        elif made := self._make(date.fromisoformat(text), [piece for piece in pieces if piece.rows], dropped):
            differences = dict.fromkeys(d for piece in pieces for d in piece.differences)
            self.staging.give(text, _to_json(replace(made, differences=tuple(differences))))
        else:
            self.staging.give(text, {"lost": dropped})

    def _make(self, day: date, pieces: Sequence[Piece], dropped: Counter[str]) -> StagedDay | None:
        """Write the data files and the statistics of a day; returns None where no row is left."""
        rows_in = sum(piece.rows for piece in pieces) + dropped.total()
        sampled, pairs = self._sample(day, pieces)
        pieces = [*pieces, *sampled]
        repeats = find_repeats(pieces, self.schema.key)
        dropped.update(dict(repeats["reason"].value_counts().iter_rows()))
        table = Lake(self.lake_root, self.schema).interactions
        sketches, files = Sketches(self.schema), list[DataFile]()
        late, masked = 0, Counter[str]()
        suspicions: list[Suspicion] = []
        for frame, late_rows in without_repeats(repeats, pieces):
            sketches.add(frame)
            suspicions = leaks(frame, self.schema) if day == self.newest and not files else suspicions
            files.append(table.write_file(frame, {"day": day}, name=f"part-{len(files):05d}"))
            late += late_rows
            masked.update({name: frame[name].null_count() for name in self.schema.maturity})
        if not files:
            return None
        statistics = self.staging.path / f"{day}.statistics"
        sketches.finish().write(statistics)
        return StagedDay(
            day=day,
            files=tuple(files),
            statistics=str(statistics),
            differences=(),
            leaks={suspicion.column: suspicion.said for suspicion in suspicions},
            metadata={
                "rows_in": rows_in,
                "kept": sum(file.rows for file in files),
                "dropped": dict(sorted(dropped.items())),
                "late": late,
                "masked": {name: rows for name, rows in masked.items() if rows},
                **({"sampled": sum(piece.rows for piece in sampled), "pairs": pairs} if sampled else {}),
            },
        )

    def _sample(self, day: date, pieces: Sequence[Piece]) -> tuple[list[Piece], int]:
        """Stage the negatives of a day; returns their pieces, and the number of pairs that they were drawn from."""
        made: list[Piece] = []
        pairs = 0
        if self.schema.negatives and pieces:
            for drawn in negatives.draw(pieces, self.schema, day):
                if rows := drawn.rows.height:
                    path = _stage(drawn.rows, day, self.schema, self.staging)
                    made.append(Piece(order=pieces[-1].order, path=path, rows=rows))
                pairs += drawn.pairs
        return made, pairs


def _to_json(made: StagedDay) -> dict[str, Any]:
    return {**asdict(made), "day": str(made.day)}


def _from_json(record: Mapping[str, Any]) -> StagedDay:
    return StagedDay(
        day=date.fromisoformat(record["day"]),
        files=tuple(DataFile(**file) for file in record["files"]),
        statistics=record["statistics"],
        differences=tuple(record["differences"]),
        metadata=record["metadata"],
        leaks=record["leaks"],
    )


def materialize(
    source: Source,
    schema: Schema,
    lake: Lake,
    *,
    raw_dir: str,
    workdir: str,
    days: Sequence[date],
    quality: QualityConfig = DEFAULT_QUALITY,
    alarms: AlarmBudget = DEFAULT_ALARMS,
    now: datetime | None = None,
    beam_flags: Sequence[str] = (),
    progress: beam_job.Progress | None = None,
) -> Materialized:
    """Replace `days` of `interactions` with what the source has of them, then build the histories that changed.

    Labels that are not mature at `now` (None: the present moment) become null. Every day is committed by itself, last
    and whole. A day that fails `quality` goes into quarantine, and the table keeps its earlier rows of that day. The
    driver judges and commits the days in order, because each day is compared with the days before it. Memory of the
    driver: the statistics of the trailing days.

    Raises UserError if the source cannot be read (then nothing is committed), if a day has no rows (the other days are
    committed), or if another job replaced a day since this one started (the rows of the other job stay).
    """
    started = time.monotonic()
    as_of = lake.interactions.snapshot()
    check_columns(source, schema)
    units = source.units(raw_dir, workdir=workdir, days=days)
    root = lake.interactions.path.parent
    with beam_job.staging_folder(root) as staging:

        def build(pipeline: beam.Pipeline) -> None:
            read = ReadUnit(source, schema, days, now or datetime.now(UTC), str(staging.path))
            groups = beam_job.one_group_per_unit(pipeline, units)
            pieces = groups | "Read" >> beam.ParDo(read) | "ByDay" >> beam.GroupByKey()
            _ = pieces | "Make" >> beam.ParDo(MakeDay(schema, str(root), str(staging.path), max(days)))

        beam_job.run(build, flags=beam_flags, staging=staging, units=len(units), progress=progress)
        # The pieces are not needed any more, and deleting them takes a while.
        with ThreadPoolExecutor(1) as deleting:
            deleting.submit(staging.remove, "*.arrow")
            made = staging.given()
            elsewhere = dict(sorted(made.pop(NO_DAY, {}).items()))
            lost: Counter[str] = Counter()
            for text in [text for text, given in made.items() if "lost" in given]:
                lost.update(made.pop(text)["lost"])
            committer = DayCommitter(lake, quality, attempt=staging.attempt, as_of=as_of, alarms=alarms)
            done, held = _commit_days([_from_json(made[text]) for text in sorted(made)], elsewhere, committer)
    histories.build(schema, lake, days=lake.interactions.partitions()["day"].to_list(), beam_flags=beam_flags)
    if missing := [text for text in map(str, days) if text not in made]:
        lost.update({reason: rows for reason, rows in elsewhere.items() if reason != "outside_days"})
        why, remedy = _explain(lost, source, schema, raw_dir)
        raise UserError(
            f"no rows for {', '.join(missing)} in {raw_dir or 'the source'}{why}; "
            f"of the other days, {len(done)} were committed. {remedy}"
        )
    return Materialized(
        days=done,
        quarantined=committer.quarantined_days,
        held=held,
        elsewhere=elsewhere,
        warnings=committer.warnings(),
        seconds=time.monotonic() - started,
    )


def _commit_days(
    made: Sequence[StagedDay], elsewhere: Mapping[str, int], committer: DayCommitter
) -> tuple[dict[date, Counts], dict[date, Counts]]:
    """Commit or quarantine the days in order; returns the counts of the committed ones, and of the quarantined."""
    job = {"attempt": committer.attempt, "elsewhere": elsewhere}
    done: dict[date, Counts] = {}
    held: dict[date, Counts] = {}
    for day in made:
        of_job = replace(day, metadata={**day.metadata, "job": job})
        verdict = with_retries(f"the commit of {day.day}", committer.commit_day, of_job)
        (done if verdict.blessed else held)[day.day] = Counts(**day.metadata)
    return done, held


def _explain(lost: Counter[str], source: Source, schema: Schema, raw_dir: str) -> tuple[str, str]:
    """Return why days have no rows, and what to do. `lost` counts dropped rows that may belong to these days."""
    if not lost:
        return "", "Ask for days that the data has"
    reasons = ", ".join(f"{rows:,} {reason}" for reason, rows in lost.most_common())
    why = f": all {lost.total():,} rows that may be theirs were dropped ({reasons})"
    name = lost.most_common(1)[0][0].removeprefix("bad_")
    if name not in source.columns():
        several = {"label": schema.labels, "key": schema.key}.get(name)
        what = f"the columns {', '.join(several)}" if several else "the time and its unit" * (name == "time")
        return why, f"Look at {what or 'the data'}, and correct it or the config"
    if advise := getattr(source, "advise", None):  # A source need not have it.
        return why, advise(raw_dir, name)
    return why, f"Look at column {name} ({source.columns()[name]}): correct its values, or the source"


def check_columns(source: Source, schema: Schema) -> None:
    """Raise UserError if the schema needs a column that the source does not offer."""
    offered = source.columns()
    for name in schema.offered:
        if name not in offered:
            raise UserError(
                f"{type(source).__name__} has no column {name!r}; it offers {', '.join(sorted(offered))}"
            )
