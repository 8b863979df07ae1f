"""A user's own event logs: Parquet, Delta tables, CSV, JSON lines or TFRecord, one row per exposure."""

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

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Schema, interaction_columns
from tutelage.pipeline.sources.base import RawFile, Unit
from tutelage.pipeline.sources.columns import Columns, TimeUnit, check_time
from tutelage.pipeline.sources.expressions import as_column
from tutelage.pipeline.sources.expressions import check as check_expression
from tutelage.pipeline.sources.formats import check_header, check_parquet
from tutelage.pipeline.sources.side import Side
from tutelage.pipeline.sources.store import File, check_pattern, find, readable

_DAY_PARTS = {"%Y": 4, "%m": 2, "%d": 2}
_MICROSECOND = timedelta(microseconds=1)
_FRAMES = 8
"""Frames of 65,536 rows that are joined with side tables at a time."""
_ADVISED = 20
"""Files that are searched for values that do not fit."""
_EVER = (0, 4_102_444_800_000_000)
"""The years 1970 to 2099, in microseconds."""
_THREADS = 16
"""Threads that read the heads of files. For remote files they mostly wait."""

Slices = tuple[date, date]
"""The first and the last slice."""
Loaded = tuple[tuple[pl.DataFrame, Counter[str]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Reads the files that `pattern` finds below the raw folder, or below a URL of a store that fsspec supports.

    The suffix tells the format: .parquet; .csv with a header line and commas, whose quoted fields may hold line ends;
    .jsonl with one object per line; .csv and .jsonl also as .gz and .zst; .tfrecord of tf.Example, also as .gz. A
    pattern that ends in / finds Delta tables, which are read as they are when the units are listed.

    An absent key or value, an empty text and a NaN are nulls. Numbers may be text, `true` and `false` are 1 and 0, and
    9.0 is the integer 9. A float beyond 2^53 is not accepted as an integer, because it may have been a different one. A
    list is a list of Parquet or tf.Example, or a JSON array, in CSV its text; items are read like single values, and
    nulls among them are left out.

    Rows are dropped as `bad_row` (the number of fields differs from the header, not a JSON object, not a tf.Example),
    `bad_time` (not a time in the years 1970 to 2099) and `bad_<column>` (not of the schema's dtype, infinite, not
    UTF-8, a list where a single value is expected, a binary label that is not 0 or 1, a `log1p` label below 0, a
    sampling rate that is not above 0 and at most 1). A row is bad in a column with an expression too if the expression
    takes one of its columns for a number, and the row has a text there that is none.

    A Parquet file is not read if its statistics say that all its times lie outside the requested days; its rows are
    counted as `outside_days`. Text, and Parquet without statistics of integers or timestamps, is always read. With
    `day_in_path` only files that can hold rows of the requested days are opened: the files of these days, and of the
    schema's `late_days` after them. A row may be earlier than the day of its file by up to `late_days`; beyond that it
    is dropped as `too_late`, and a row of a later day as `early`, whatever days are requested.

    A unit is one file, in a Delta table one data file. A worker holds 65,536 rows of it at a time, for Parquet also one
    row group as it is on disk, and with `sides` 524,288 rows and what `Side` says. Remote files are read in place, by
    ranges: nothing is copied.
    """

    pattern: str
    """A glob like events/**/*.parquet, or events/ for a Delta table."""
    schema: Schema
    """The experiment's schema, which says which columns are read and what they hold."""
    event_time: str
    """The raw column with the time of the exposure."""
    time_unit: TimeUnit = "iso8601"
    """The unit of a number since 1970 in UTC, or iso8601 for text like 2026-01-31T18:30:00.5+01:00. Parquet's own
    timestamps need none. A date alone means its midnight."""
    time_zone: str = "UTC"
    """The time zone of times that name none (an IANA name). If a clock shows a time twice, the earlier is meant."""
    renamed: tuple[tuple[str, str], ...] = ()
    """Pairs of a feature or label and the raw column that it is read from, where the names differ."""
    expressions: tuple[tuple[str, str], ...] = ()
    """Pairs of a feature or label and an SQL expression (Polars') of the raw columns of a row, as in
    ("liked", "event IN ('like', 'share')"), ("good", "rating >= 4"), ("seconds", "watch_ms / 1000"). For a label, true
    is 1 and false 0, and a null is no label. Whether a column of text is taken for text, numbers or booleans follows
    from the expression: for text where both give the same (`a = b`), for numbers where they do not (`a > b`)."""
    day_in_path: str = ""
    """The part of a file's path below the raw folder that tells its day, like day=%Y-%m-%d or %Y/%m/%d. The day begins
    and ends by the clock of `time_zone`. Empty: a file may hold rows of any day."""
    sides: tuple[Side, ...] = ()
    """Tables with features that the events lack; each event gets the values that were known at its time."""

    def __post_init__(self) -> None:
        check_pattern("Files", self.pattern)
        check_time("Files", self.time_unit, self.time_zone)
        if self.day_in_path and not all(self.day_in_path.count(part) == 1 for part in _DAY_PARTS):
            raise UserError(
                f"Files: day_in_path is {self.day_in_path!r}, expected each of %Y, %m and %d once, as in day=%Y-%m-%d"
            )
        ours = [name for name, _ in (*self.renamed, *self.expressions)]
        for name in ours:
            if name not in self.columns() or ours.count(name) > 1:
                field = "renamed" if name in dict(self.renamed) else "expressions"
                raise UserError(
                    f"Files: {field} has {name!r}, expected features and labels of the schema, each once in renamed "
                    f"or expressions: {', '.join(self.columns())}"
                )
        typed = self.pattern.endswith((".parquet", "/"))
        for name, text in self.expressions:
            check_expression(text, f"Files: {name}", typed=typed)
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
        """Return the schema's features and labels with its dtypes, and `sampling_rate` if the schema reads it."""
        dtypes = pl.Schema(interaction_columns(self.schema))
        return {name: dtypes[name] for name in self.schema.offered}

    def units(self, raw_dir: str, *, workdir: str, days: Sequence[date]) -> list[Unit]:
        """Return a unit per file, in the order of their paths.

        Two more units may follow: one for all files without a row of `days`, and one for the bad rows of `sides`. Files
        that belong to other days by `day_in_path` are left out. Raises UserError if there is no file, if a path names
        no day, and if a Parquet or CSV file lacks a column.
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
        # A worker keeps the side tables that it loaded for its next unit, but not for another job.
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
        """Yield frames of up to 65,536 rows, or with `sides` of up to 524,288.

        Raises UserError for a file that is truncated or of another format, and for a column that is missing (in JSON
        lines and tf.Example: from all of the first 65,536 rows) or whose type can never fit.
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

    def advise(self, raw_dir: str, name: str) -> str:
        """Return what to do where no value of a column fits: values that the first files have, and what to write."""
        values = pl.DataFrame()
        for file in find(raw_dir, self.pattern)[:_ADVISED]:
            with readable(file):
                values = self._events.unfit(file, name)
            if len(values):
                break
        text, dtype = dict(self.expressions).get(name), self.columns()[name]
        shown = [", ".join(f"{value!r:.60}" for value in values[raw][:3]) for raw in values.columns]
        found = "; ".join(
            f"{raw!r} holds {those}" for raw, those in zip(values.columns, shown, strict=True) if those
        )
        if text is not None:
            return f"Correct the expression of {name}, {text!r}: {found or 'no value fits'}"
        column = values[values.columns[0]]
        what = (
            f"Column {column.name!r}, which is read as {name} ({dtype}), holds {shown[0] or 'no such value'}"
        )
        if name not in self.schema.labels or not len(column):
            return f"{what}: correct its values, or name another column in the config"
        return f"{what}: name another column, or say in the config {_as_label(name, column, dtype)}"

    def unfit(self, file: File, name: str) -> pl.DataFrame:
        """Return the raw values, each combination once, in which rows of a file are dropped as `bad_NAME`."""
        return self._events.unfit(file, name)

    def _head(self, file: File, days: Sequence[date]) -> tuple[int, Slices | None, tuple[RawFile, ...]]:
        """Return the rows of a Parquet file that cannot hold any of `days`, else 0; its slices; and its state.

        The slices are None if the file does not tell, the state is () for a remote file. Raises UserError if a wanted
        column is missing or occurs twice; JSON lines and tf.Example have no header to check.
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
        day = self.schema.slice_expr("us")
        first, last = pl.DataFrame({"us": bounds}).select(day).to_series()
        outside = bool(days) and not any(first <= day <= last for day in days)
        return rows if outside else 0, (first, last), raw

    def _span(self, path: str) -> tuple[date, ...]:
        """Return the first and the last day, by the schema's clock, of the day in a file's path; () without
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
                f"{path} does not name a day in the form of day_in_path, {self.day_in_path!r}; check the config's "
                "pattern and day_in_path"
            ) from None
        end = start + timedelta(days=1)
        zone = ZoneInfo(self.schema.time_zone)
        return start.astimezone(zone).date(), (end.astimezone(UTC) - _MICROSECOND).astimezone(zone).date()

    def _may_hold(self, span: tuple[date, ...], days: Sequence[date]) -> bool:
        """Return whether a file of these days may hold rows of one of the slices `days`."""
        if not span:
            return True
        first, last = span
        return any(day <= last and first <= day + self._kept_for for day in days)

    @property
    def _kept_for(self) -> timedelta:
        """The time from the first day of a slice to the last day whose files may hold rows of it."""
        return timedelta(days=self.schema.slice_days - 1 + self.schema.late_days)

    def _in_time(self, span: tuple[date, ...]) -> pl.Expr:
        """Return `dropped`, with the reason for rows that do not belong into a file of these days."""
        dropped = pl.col("dropped")
        if not span:
            return dropped
        first, last = span
        day = self.schema.slice_expr("event_time_us")
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
        """Return when the first slice begins and the last one ends, in microseconds."""
        if slices is None:
            return _EVER
        first, last = slices
        ends = (first, last + timedelta(days=self.schema.slice_days))
        zone = ZoneInfo(self.schema.time_zone)
        start, end = (int(datetime.combine(day, time(), zone).timestamp()) * 1_000_000 for day in ends)
        return start, end

    @property
    def _given(self) -> list[str]:
        """The features that come from the side tables."""
        return [name for side in self.sides for name, _ in side.columns]

    @property
    def _events(self) -> Columns:
        dtypes = {name: dtype for name, dtype in self.columns().items() if name not in self._given}
        return Columns(
            time=self.event_time,
            time_unit=self.time_unit,
            time_zone=self.time_zone,
            dates=True,
            raw={name: name for name in dtypes if name not in dict(self.expressions)} | dict(self.renamed),
            expressions=dict(self.expressions),
            dtypes=dtypes,
            labels=self.schema.labels,
        )


@lru_cache(maxsize=1)
def _sides(source: Files, raw_dir: str, between: tuple[int, int], job: int) -> Loaded:
    """Return what `Side.load` returns for each side table. One result is cached, because the units of a day follow each
    other."""
    return tuple(side.load(raw_dir, source.columns(), *between) for side in source.sides)


def _as_label(name: str, values: pl.Series, dtype: pl.DataType) -> str:
    """Return an expression that makes a label of values that are none, as it is written in a config."""
    column = as_column(values.name)
    numbers = values.cast(pl.Float64, strict=False)
    if numbers.null_count() < len(values):
        text = (
            f"{column} >= {numbers.drop_nulls().to_numpy().max():g}"
            if dtype == pl.Int8
            else f"GREATEST({column}, 0)"
        )
    else:
        quoted = "'" + str(values[0]).replace("'", "''") + "'"
        text = (
            f"{column} IN ({quoted})"
            if dtype == pl.Int8
            else f"CASE {column} WHEN {quoted} THEN 1 ELSE 0 END"
        )
    return f"which are what, as in expressions=(({name!r}, {text!r}),)"
