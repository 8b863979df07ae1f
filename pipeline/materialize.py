"""Beam job: raw data to daily slices of `interactions`. Every row is kept or counted, and every day is judged."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import partial

import apache_beam as beam

from tutelage.pipeline import beam_job, histories
from tutelage.pipeline.alarms import AlarmBudget
from tutelage.pipeline.arrivals import Arrivals, DayArrivals
from tutelage.pipeline.commit_day import DayCommitter, StagedDay
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.make_shard import DrawNegatives, GroupShards, MakeShard
from tutelage.pipeline.pieces import ROWS_PER_SHARD
from tutelage.pipeline.quality import DEFAULT_ALARMS, DEFAULT_QUALITY, QualityConfig
from tutelage.pipeline.read_unit import Job, ReadUnit
from tutelage.pipeline.schema import Schema
from tutelage.pipeline.sources.base import Source, Unit
from tutelage.pipeline.table import DataFile


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
    rows_per_shard: int = ROWS_PER_SHARD,
    beam_flags: Sequence[str] = (),
    progress: beam_job.Progress | None = None,
) -> Materialized:
    """Replace `days` of `interactions` with what the source has of them, then build the histories that changed.

    Labels that are not mature at `now` (None: the present moment) become null. Every day is committed by itself, last
    and whole. A day that fails `quality` goes into quarantine, and the table keeps its earlier rows of that day. The
    driver judges and commits the days in order, because each day is compared with the days before it.

    A day of more than `rows_per_shard` rows is made in shards, by several workers. Memory of a worker follows the
    shard, not the day (`ReadUnit`, `MakeShard`); of the driver: the statistics of the trailing days, and what there is
    of each staged piece but its rows.

    Raises UserError if the source cannot be read, or if the runner lost rows (then nothing is committed), if a day has
    no rows (the other days are committed), or if another job replaced a day since this one started (the rows of the
    other job stay).
    """
    started = time.monotonic()
    as_of = lake.interactions.snapshot()
    check_columns(source, schema)
    units = source.units(raw_dir, workdir=workdir, days=days)
    root = str(lake.interactions.path.parent)
    with beam_job.staging_folder(lake.interactions.path.parent) as staging:
        job = Job(
            schema=schema,
            days=days,
            now=now or datetime.now(UTC),
            lake_root=root,
            staging=str(staging.path),
            units=len(units),
            rows_per_shard=rows_per_shard,
        )
        graph = partial(build, units=units, source=source, job=job)
        beam_job.run(graph, flags=beam_flags, staging=staging, units=len(units), progress=progress)
        # The pieces are not needed any more, and deleting them takes a while.
        with ThreadPoolExecutor(1) as deleting:
            deleting.submit(staging.remove, "*.arrow")
            arrivals = Arrivals.of(staging.given())
            arrivals.check(
                {unit.index: unit.where for unit in units},
                rows_per_shard=rows_per_shard if schema.negatives else None,
            )
            elsewhere = dict(sorted(arrivals.elsewhere.items()))
            made = arrivals.made
            committer = DayCommitter(lake, quality, attempt=staging.attempt, as_of=as_of, alarms=alarms)
            done, held = _commit_days(made, elsewhere, committer)
    histories.build(
        schema,
        lake,
        days=lake.interactions.partitions()["day"].to_list(),
        rows_per_shard=rows_per_shard,
        beam_flags=beam_flags,
    )
    if missing := [text for text in map(str, days) if text not in made]:
        raise _no_rows(missing, arrivals.dropped_whole, source, schema, raw_dir=raw_dir, committed=len(done))
    return Materialized(
        days=done,
        quarantined=committer.quarantined_days,
        held=held,
        elsewhere=elsewhere,
        warnings=committer.warnings(),
        seconds=time.monotonic() - started,
    )


def build(pipeline: beam.Pipeline, *, units: Sequence[Unit], source: Source, job: Job) -> None:
    """Add the job's steps to the pipeline: read the units, draw negatives if there are any, make the shards."""
    size = beam_job.group_size(pipeline)
    found = beam_job.in_groups(pipeline, units, size=size) | "Read" >> beam.ParDo(ReadUnit(source, job))
    if job.schema.negatives:
        drawn = (
            found
            | "AllRead" >> beam.GroupByKey()
            | "Users" >> beam.ParDo(GroupShards(job.rows_per_shard, size, whole_pieces=True))
            | "ByUsers" >> beam.GroupByKey()
            | "Draw" >> beam.ParDo(DrawNegatives(job))
        )
        found = (found, drawn) | beam.Flatten()
    _ = (
        found
        | "All" >> beam.GroupByKey()
        | "Shards" >> beam.ParDo(GroupShards(job.rows_per_shard, size))
        | "ByShards" >> beam.GroupByKey()
        | "Make" >> beam.ParDo(MakeShard(job))
    )


def _commit_days(
    made: Mapping[str, DayArrivals], elsewhere: Mapping[str, int], committer: DayCommitter
) -> tuple[dict[date, Counts], dict[date, Counts]]:
    """Commit or quarantine the days in order; returns the counts of the committed ones, and of the quarantined."""
    job = {"attempt": committer.attempt, "elsewhere": elsewhere}
    days = (_staged(date.fromisoformat(text), found) for text, found in made.items())
    of_job = (replace(day, metadata={**day.metadata, "job": job}) for day in days)
    done: dict[date, Counts] = {}
    held: dict[date, Counts] = {}
    for day, verdict in committer.commit_days(of_job):
        counts = {name: value for name, value in day.metadata.items() if name != "job"}
        (done if verdict.blessed else held)[day.day] = Counts(**counts)
    return done, held


def _staged(day: date, found: DayArrivals) -> StagedDay:
    """Add up the shards of a day."""
    shards = [shard for _, shard in sorted(found.shards.items())]
    masked = sum((Counter(shard["masked"]) for shard in shards), Counter[str]())
    files = [DataFile(**file) for shard in shards for file in shard["files"]]
    sampled = found.sampled.total()
    return StagedDay(
        day=day,
        files=tuple(files),
        sketches=tuple(shard["sketches"] for shard in shards),
        differences=tuple(found.differences),
        leaks=next(shard["leaks"] for shard in shards if shard["files"]),
        metadata={
            "rows_in": found.read.total() + (found.dropped - found.repeated).total(),
            "kept": sum(file.rows for file in files),
            "dropped": dict(sorted(found.dropped.items())),
            "late": sum(shard["late"] for shard in shards),
            "masked": dict(masked),
            **({"sampled": sampled, "pairs": found.pairs} if sampled else {}),
        },
    )


def _no_rows(
    missing: Sequence[str],
    dropped: Counter[str],
    source: Source,
    schema: Schema,
    *,
    raw_dir: str,
    committed: int,
) -> UserError:
    """Return the error about days of which no row is left. `dropped` counts dropped rows that may be theirs."""
    why, remedy = _explain(dropped, source, schema, raw_dir)
    return UserError(
        f"no rows for {', '.join(missing)} in {raw_dir or 'the source'}{why}; "
        f"of the other days, {committed} were committed. {remedy}"
    )


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
