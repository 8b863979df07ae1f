"""A user's own event logs: Parquet, Delta tables, CSV, JSON lines or TFRecord, one row an exposure."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache, partial
from itertools import islice
from time import time_ns
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow.parquet as pq

from tutelage.pipeline.days import slice_expr
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Schema, interaction_columns
from tutelage.pipeline.sources.base import RawFile, Unit
from tutelage.pipeline.sources.columns import Columns, TimeUnit, check_time
from tutelage.pipeline.sources.formats import check_header, check_parquet
from tutelage.pipeline.sources.side import Side
from tutelage.pipeline.sources.store import File, check_pattern, find, readable

_DAY_PARTS = {"%Y": 4, "%m": 2, "%d": 2}
_MICROSECOND = timedelta(microseconds=1)
_FRAMES = 8  # of 65,536 rows that are joined with side tables at once
_EVER = (0, 4_102_444_800_000_000)  # the years 1970 to 2099, in microseconds
_THREADS = 16  # that look at the heads of remote files, most of whose time is waiting

Slices = tuple[date, date]
"""The first and the last."""
Loaded = tuple[tuple[pl.DataFrame, Counter[str]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Reads the files that `pattern` finds below the raw folder, or below a URL of a store that fsspec knows.

    A Parquet file whose statistics say that all its times lie outside the days asked for is not read: its rows are
    counted as `outside_days`. A file without statistics of whole numbers or timestamps is read, as is any text.

    The suffix tells the format: .parquet; .csv with a header line, commas and no line ends within fields; .jsonl
    with an object a line; the last two also as .gz and .zst; .tfrecord of tf.Example, also as .gz. A pattern that
    ends in / finds Delta tables, read as they are when the units are listed. An absent key or value, an empty text
    and a NaN are a null. Numbers may be text, `true` and `false` are 1 and 0, and 9.0 is the integer 9. A float
    beyond 2^53 is no integer, for it may have been another one. A list is one of Parquet's or of
    tf.Example's, or a JSON array, in CSV the text of one; its items are read as single values are, nulls left out.

    Rows are dropped as `bad_row` (other fields than the header's, no JSON object, no tf.Example), `bad_time` (no time
    in the years 1970 to 2099) and `bad_<column>` (not of the schema's dtype, infinite, not UTF-8, a list of many, a
    binary label that is not 0 or 1, a `log1p` label below 0, a sampling rate not above 0 and at most 1).

    With `day_in_path` only files are opened that can hold rows of the days asked for: those of these days, and of the
    schema's `late_days` after them. A row of an earlier day than its file's is kept up to so many days later; beyond
    that it is dropped as `too_late`, and a row of a later day as `early`, whatever days are asked for.

    A unit is a file, of a Delta table one of its data files; a worker holds 65,536 rows of it at a time, of Parquet
    also one row group as it is on disk; with `sides` 524,288 rows, and what is said there. Remote files are read where
    they are, by ranges: nothing is copied.
    """

    pattern: str
    """A glob, as in events/**/*.parquet, or events/ for a Delta table."""
    schema: Schema
    """The experiment's: it says which columns are read, and what they hold."""
    event_time: str
    """The raw column that says when the exposure was."""
    time_unit: TimeUnit = "iso8601"
    """Of a number since 1970 in UTC, or text like 2026-01-31T18:30:00.5+01:00. Parquet's own timestamps need none."""
    time_zone: str = "UTC"
    """Of times that name none (an IANA name); of two that are the same on the clock, the earlier is meant."""
    renamed: tuple[tuple[str, str], ...] = ()
    """Pairs of a feature or label and the raw column it is read from, where the names differ."""
    day_in_path: str = ""
    """What tells a file's day in its path below the raw folder, as day=%Y-%m-%d or %Y/%m/%d; it begins and ends by the
    clock of `time_zone`. Empty: a file may be of any day."""
    sides: tuple[Side, ...] = ()
    """Tables that give features which the events do not have, as they were known at each event."""

    def __post_init__(self) -> None:
        check_pattern("Files", self.pattern)
        check_time("Files", self.time_unit, self.time_zone)
        if self.day_in_path and not all(self.day_in_path.count(part) == 1 for part in _DAY_PARTS):
            raise UserError(
                f"Files: day_in_path is {self.day_in_path!r}, expected each of %Y, %m and %d once, as in day=%Y-%m-%d"
            )
        ours = [name for name, _ in self.renamed]
        for name in ours:
            if name not in self.columns() or ours.count(name) > 1:
                raise UserError(
                    f"Files: renamed has {name!r}, expected features and labels of the schema, each once: "
                    f"{', '.join(self.columns())}"
                )
        names = [side.name for side in self.sides]
        features = {f.name: self.columns()[f.name] for f in self.schema.features}
        free = [name for name in features if name not in ours]
        earlier = [name for name in features if name not in self._given]
        for side in self.sides:
            if names.count(side.name) > 1:
                raise UserError(f"Files: two sides are named {side.name!r}; rename one of them")
            side.check(features, free, earlier)
            earlier += dict(side.columns)
            free = [name for name in free if name not in earlier]

    def columns(self) -> Mapping[str, pl.DataType]:
        """The schema's features and labels, and where it says so `sampling_rate`, with its dtypes."""
        dtypes = pl.Schema(interaction_columns(self.schema))
        return {name: dtypes[name] for name in self.schema.offered}

    def units(self, raw_dir: str, *, workdir: str, days: Sequence[date]) -> list[Unit]:
        """A file each, in the order of their paths; then one of all files that hold no row of `days`, if any, and
        one of the rows of `sides` that are no good. Files that `day_in_path` tells to be of other days are left out.

        Raises UserError where there is none, where a path names no day, and where a Parquet or CSV file lacks a column.
        """
        files = find(raw_dir, self.pattern)
        spans = {file.name: self._span(file.below) for file in files}
        files = [file for file in files if not days or self._may_hold(spans[file.name], days)]
        if not files:
            raise UserError(
                f"no files {self.pattern} in {raw_dir!r} are of {min(days)} to {max(days)} by day_in_path, "
                f"{self.day_in_path!r}; ask for days that the data has"
            )
        with ThreadPoolExecutor(_THREADS) as pool:
            heads = list(pool.map(partial(self._head, days=days), files))
        asked = (min(days), max(days)) if days else None
        # A worker keeps what it has read of the side tables for its next unit, not for another job.
        sides = {"raw_dir": raw_dir, "job": time_ns()} if self.sides else {}

        def args(file: File | None, slices: Slices | None) -> dict[str, object]:
            span = spans[file.name] if file else ()
            return {"file": file, "span": span, **sides} | (
                {"between": self._between(slices)} if sides else {}
            )

        units: list[Unit] = []
        for file, (outside, slices, raw) in zip(files, heads, strict=True):
            if not outside:
                if slices and asked:
                    slices = max(slices[0], asked[0]), min(slices[1], asked[1])
                units.append(
                    Unit(
                        index=len(units),
                        where=str(file),
                        args=args(file, slices or asked),
                        day=min(spans[file.name], default=None),
                        files=raw,
                    )
                )
        if rows := sum(outside for outside, _, _ in heads):
            where = f"{len(files) - len(units)} files of other days"
            units.append(Unit(index=len(units), where=where, args={}, rows_outside=rows))
        if sides:
            where = f"the rows of {', '.join(side.name for side in self.sides)}"
            units.append(Unit(index=len(units), where=where, args=args(None, asked)))
        return units

    def read(self, unit: Unit) -> Iterator[pl.DataFrame]:
        """Frames of up to 65,536 rows, with `sides` of up to 524,288.

        Raises UserError for a file that is truncated or of another format, and for a column that is missing (of
        JSON lines and tf.Example: that none of the first 65,536 has) or of a type that can never fit.
        """
        file: File | None = unit.args["file"]
        sides: Loaded = ()
        if self.sides:
            sides = _sides(self, *(unit.args[name] for name in ("raw_dir", "between", "job")))
        if file is None:
            schema = {
                "event_time_us": pl.Int64(),
                **self.columns(),
                "content": pl.UInt64(),
                "dropped": pl.String(),
            }
            for _, bad in sides:
                for reason, rows in sorted(bad.items()):
                    yield pl.DataFrame(schema=schema).clear(rows).with_columns(dropped=pl.lit(reason))
            return
        with readable(file):
            in_time = self._in_time(unit.args["span"])
            frames = (frame.with_columns(in_time) for frame in self._events.read(file))
            if not sides:
                yield from frames
            while several := list(islice(frames, _FRAMES)):
                frame = pl.concat(several)
                for side, (table, _) in zip(self.sides, sides, strict=True):
                    frame = side.join(frame, table)
                yield frame.select("event_time_us", *self.columns(), "content", "dropped")

    def _head(self, file: File, days: Sequence[date]) -> tuple[int, Slices | None, tuple[RawFile, ...]]:
        """Of a Parquet file that can hold none of `days`, its rows, else 0; of one that tells, its slices; and what a
        local one is like.

        Raises UserError where a wanted column is missing, or there twice. Objects have no header to look at.
        """
        events = self._events
        with readable(file):
            raw = () if file.store else (RawFile.of(file.path),)
            if ".csv" in file.suffixes:
                check_header(file, events.wanted)
            if file.suffix != ".parquet":
                return 0, None, raw
            with file.open() as source, pq.ParquetFile(source) as parquet:
                check_parquet(file, parquet, events.wanted)
                bounds = events.bounds(file, parquet.metadata)
                rows = parquet.metadata.num_rows
        if not bounds:
            return 0, None, raw
        day = slice_expr("us", time_zone=self.schema.time_zone, slice_days=self.schema.slice_days)
        first, last = pl.DataFrame({"us": bounds}).select(day).to_series()
        outside = bool(days) and not any(first <= day <= last for day in days)
        return rows if outside else 0, (first, last), raw

    def _span(self, path: str) -> tuple[date, ...]:
        """The first and the last day, by the schema's clock, of the day that a file's path names; none without
        `day_in_path`."""
        if not self.day_in_path:
            return ()
        pattern = re.escape(self.day_in_path)
        for part, digits in _DAY_PARTS.items():
            pattern = pattern.replace(re.escape(part), rf"(?P<{part[1]}>\d{{{digits}}})")
        try:
            found = re.search(pattern, path)
            year, month, day = (int(found[part[1]]) for part in _DAY_PARTS) if found else (0, 0, 0)
            start = datetime(year, month, day, tzinfo=ZoneInfo(self.time_zone))
        except ValueError:
            raise UserError(
                f"{path} names no day as day_in_path, {self.day_in_path!r}, says; see the config's pattern and "
                "day_in_path"
            ) from None
        end = start + timedelta(days=1)
        zone = ZoneInfo(self.schema.time_zone)
        return start.astimezone(zone).date(), (end.astimezone(UTC) - _MICROSECOND).astimezone(zone).date()

    def _may_hold(self, span: tuple[date, ...], days: Sequence[date]) -> bool:
        """Whether a file of these days may hold rows of one of the slices `days`."""
        if not span:
            return True
        first, last = span
        return any(day <= last and first <= day + self._kept_for for day in days)

    @property
    def _kept_for(self) -> timedelta:
        """From the first day of a slice to the last one whose files may hold rows of it."""
        return timedelta(days=self.schema.slice_days - 1 + self.schema.late_days)

    def _in_time(self, span: tuple[date, ...]) -> pl.Expr:
        """`dropped`, with the rows that are not of a file of these days."""
        dropped = pl.col("dropped")
        if not span:
            return dropped
        first, last = span
        day = slice_expr("event_time_us", time_zone=self.schema.time_zone, slice_days=self.schema.slice_days)
        return (
            pl.when(dropped.is_not_null())
            .then(dropped)
            .when(day > last)
            .then(pl.lit("early"))
            .when(day < first - self._kept_for)
            .then(pl.lit("too_late"))
            .alias("dropped")
        )

    def _between(self, slices: Slices | None) -> tuple[int, int]:
        """When the first of them begins and the last one ends, in microseconds."""
        if slices is None:
            return _EVER
        first, last = slices
        ends = (first, last + timedelta(days=self.schema.slice_days))
        zone = ZoneInfo(self.schema.time_zone)
        start, end = (int(datetime.combine(day, time(), zone).timestamp()) * 1_000_000 for day in ends)
        return start, end

    @property
    def _given(self) -> list[str]:
        """The features that the side tables give."""
        return [name for side in self.sides for name, _ in side.columns]

    @property
    def _events(self) -> Columns:
        dtypes = {name: dtype for name, dtype in self.columns().items() if name not in self._given}
        return Columns(
            time=self.event_time,
            time_unit=self.time_unit,
            time_zone=self.time_zone,
            raw={name: name for name in dtypes} | dict(self.renamed),
            dtypes=dtypes,
            labels=self.schema.labels,
        )


@lru_cache(maxsize=1)
def _sides(source: Files, raw_dir: str, between: tuple[int, int], job: int) -> Loaded:
    """What `Side.load` gives of each side table; the units of one day follow each other."""
    return tuple(side.load(raw_dir, source.columns(), *between) for side in source.sides)
