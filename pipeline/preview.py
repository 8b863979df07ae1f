"""What a materialize job would make of a sample of the raw data. Nothing is written."""

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any

import polars as pl

from tutelage.pipeline.days import spans
from tutelage.pipeline.leaks import Suspicion, suspicious
from tutelage.pipeline.materialize import check_columns
from tutelage.pipeline.read_unit import Job, ReadUnit
from tutelage.pipeline.schema import Schema
from tutelage.pipeline.sources.base import Source, Unit
from tutelage.pipeline.sources.files import Files
from tutelage.pipeline.sources.sample import Sampled, evenly, sampled

UNITS = 64
"""Units that are looked into."""
SIZE = 1 << 25
"""Bytes of files that are read."""
ROWS = 1_000_000
"""Rows of other sources that are read, about."""
_MANY = 0.1
"""More dropped rows than this share are a mistake in the config or the data."""

_MEANT = ("outside_days", "downsampled")
"""Reasons that are no mistakes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What became of the sampled rows."""

    units: int
    """Units that were looked into."""
    all_units: int
    whole: bool
    """Whether every row was read."""
    rows_in: int
    dropped: Mapping[str, int]
    """Rows that were dropped, by reason."""
    examples: Mapping[str, str]
    """A raw value for some of the reasons."""
    outside: tuple[date, date] | None
    """The first and the last slice of the rows that were dropped as `outside_days`; None where these are unknown."""
    days: pl.DataFrame
    """`day`, `rows` that are kept, and the mean of each label; a row for each day asked for, in order."""
    suspicions: Sequence[Suspicion]
    findings: Sequence[str]
    """What to correct before a run, a line each."""

    @property
    def kept(self) -> int:
        """Rows that are kept."""
        return self.rows_in - sum(self.dropped.values())


def preview(
    source: Source, schema: Schema, *, raw_dir: str, days: Sequence[date], now: datetime | None = None
) -> Preview:
    """Return what `days` of `interactions` would hold, judged by a sample of the raw rows.

    Of files it reads about `SIZE` bytes, in evenly spaced pieces of up to `UNITS` evenly spaced files, of other sources
    about `ROWS` rows. Raises UserError if the source cannot be read, or lacks a column of the schema.
    """
    check_columns(source, schema)
    # It stages nothing.
    job = Job(schema=schema, days=days, now=now or datetime.now(UTC), lake_root="", staging="0")
    reader = ReadUnit(source, job)
    differences: dict[str, None] = {}
    examples: dict[str, str] = {}
    frames: list[pl.DataFrame] = []
    with tempfile.TemporaryDirectory() as scratch:  # MovieLens unpacks its archive.
        every = source.units(raw_dir, workdir=scratch, days=days)
        to_read = [unit for unit in every if not unit.rows_outside]
        units = evenly(to_read, UNITS)
        whole = len(units) == len(to_read)
        for unit in (sampled(unit, SIZE // len(units)) for unit in units):
            limit, share = ROWS // len(units), getattr(unit.args.get("file"), "share", 1.0)
            for frame in source.read(unit):
                frames.append(reader.judge_rows(reader.conform(frame, unit, differences)))
                if (limit := limit - len(frame)) < 0:
                    break
            whole &= limit >= 0 and share == 1
            examples |= _examples(
                source, unit, {*frames[-1]["dropped"].drop_nulls().unique()} - examples.keys()
            )
    rows = _without_repeats(pl.concat(frames), schema)
    kept = rows.filter(pl.col("dropped").is_null())
    dropped = Counter(dict(rows["dropped"].drop_nulls().value_counts().iter_rows()))
    dropped["outside_days"] += sum(unit.rows_outside for unit in every)
    outside = rows.filter(dropped="outside_days")["day"]
    found = Preview(
        units=len(units),
        all_units=len(every),
        whole=whole,
        rows_in=len(rows) + sum(unit.rows_outside for unit in every),
        dropped={reason: count for reason, count in dropped.most_common() if count},
        examples=examples,
        outside=(outside.min(), outside.max()) if len(outside) else None,  # type: ignore[arg-type]
        days=_by_day(kept, schema, days),
        suspicions=suspicious(kept, schema),
        findings=[],
    )
    return replace(found, findings=[*_findings(found, schema), *differences])


def _without_repeats(rows: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """Return the rows, with the reason to drop those whose key occurs earlier."""
    good, key = pl.col("dropped").is_null(), list(schema.key)
    same = pl.col("content") == pl.col("content").first().over(key)
    repeat = pl.when(same).then(pl.lit("duplicate")).otherwise(pl.lit("conflicting_duplicate"))
    kept = rows.filter(good).with_columns(dropped=pl.when(~pl.struct(key).is_first_distinct()).then(repeat))
    return pl.concat([kept, rows.filter(~good)])


def _examples(source: Source, unit: Unit, reasons: Iterable[str]) -> dict[str, str]:
    """Return a raw value of the unit's file for each of the reasons that are a column's."""
    file: Any = unit.args.get("file")
    if not (isinstance(source, Files) and isinstance(file, Sampled)):
        return {}
    columns = ("time", *source.columns())
    found = {
        reason: reason.removeprefix("bad_") for reason in reasons if reason.removeprefix("bad_") in columns
    }
    unfit = {reason: source.unfit(file, name).head(1).to_dicts() for reason, name in found.items()}
    return {
        reason: ", ".join(f"{name} {value!r:.80}" for name, value in row[0].items())
        for reason, row in unfit.items()
        if row
    }


def _by_day(kept: pl.DataFrame, schema: Schema, days: Sequence[date]) -> pl.DataFrame:
    means = kept.group_by("day").agg(pl.len().alias("rows"), pl.col(schema.labels).cast(pl.Float64).mean())
    asked = pl.DataFrame({"day": days}, schema={"day": pl.Date})
    return asked.join(means, on="day", how="left", maintain_order="left").with_columns(
        pl.col("rows").fill_null(0)
    )


def _findings(found: Preview, schema: Schema) -> Iterator[str]:
    """Yield what a run would stop at, or what a model should not be trained with."""
    empty = found.days.filter(rows=0)["day"].to_list()
    if empty and (found.whole or len(empty) == len(found.days)):
        which = spans(empty, slice_days=schema.slice_days)
        where = f"rows of {found.outside[0]} to {found.outside[1]}" if found.outside else "no others"
        yield f"no rows on {which}, and {where}: look at start_day and end_day, and at the time's column and unit"
    bad = {reason: rows for reason, rows in found.dropped.items() if reason not in _MEANT}
    share = sum(bad.values()) / max(found.kept + sum(bad.values()), 1)
    if share > _MANY:
        yield f"{share:.0%} of the rows of these days are dropped: {', '.join(bad)}"
    means = found.days.select(schema.labels).drop_nulls()
    for task in schema.tasks:
        values = set(means[task.label])
        if task.is_binary and schema.negatives is None and len(values) == 1 and values <= {0.0, 1.0}:
            yield f"{task.label} is {values.pop():g} in all rows, so there is nothing to predict"
    for suspicion in found.suspicions:
        yield suspicion.describe()
