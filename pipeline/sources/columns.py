"""Read the time and the wanted columns of raw rows. A value that does not fit its dtype is a reason to drop its row."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Literal

import polars as pl
import pyarrow.parquet as pq

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import SAMPLING_RATE, check_time_zone
from tutelage.pipeline.sources.expressions import BOOLEANS, columns_of, computed, unfit, with_computed
from tutelage.pipeline.sources.formats import BAD, Frames, frames
from tutelage.pipeline.sources.store import File

TimeUnit = Literal["s", "ms", "us", "iso8601"]
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000}
_YEAR_2100 = 4_102_444_800
"""In seconds since 1970."""
_EXACT = 2**53
"""A larger integer may have been a different one before it became a float."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """How the raw columns of one kind of file become ours."""

    time: str
    """The raw column of the time. Empty: all rows have the time 0."""
    time_unit: TimeUnit = "iso8601"
    time_zone: str = "UTC"
    """The time zone of times that name none."""
    dates: bool = False
    """Whether a date alone is accepted as a time: its midnight in `time_zone`."""
    raw: Mapping[str, str]
    """Our name → the raw name."""
    expressions: Mapping[str, str] = field(default_factory=dict)
    """Our name → the expression that it is computed by, for names that `raw` lacks."""
    dtypes: Mapping[str, pl.DataType]
    """Our name → the dtype."""
    labels: Sequence[str] = ()
    """Our names of the labels. A label is 0 or 1, a label of dtype float any value ≥ 0."""

    @property
    def wanted(self) -> dict[str, str]:
        """The raw columns to read, each with what it is for, as in "which is read as click"."""
        use = {self.time: "which is read as the time"} if self.time else {}
        for name, raw in self.raw.items():
            use.setdefault(raw, f"which is read as {name}")
        for text in self.expressions.values():
            for raw in columns_of(text):
                use.setdefault(raw, f"which the expression {text!r} reads")
        return use

    def read(self, file: File) -> Iterator[pl.DataFrame]:
        """Yield frames of up to 65,536 rows: `event_time_us`, our columns, `content`, `dropped` (reason or null)."""
        for raw, content, bad_row in self._frames(file):
            dropped = pl.when(bad_row).then(pl.lit("bad_row")).otherwise("dropped")
            yield (
                self._fit(raw, file)
                .with_columns(content=content, dropped=dropped)
                .select("event_time_us", *self.dtypes, "content", "dropped")
            )

    def unfit(self, file: File, name: str) -> pl.DataFrame:
        """Return raw values, each combination once, in which rows are dropped as `bad_NAME`: those of the first frame
        that has any. The time is called `time`."""
        columns = (
            columns_of(self.expressions[name])
            if name in self.expressions
            else [self.raw.get(name, self.time)]
        )
        for raw, *_ in self._frames(file):
            bad = raw.filter(self._fit(raw, file)["dropped"] == f"bad_{name}")
            if len(bad):
                return bad.select(columns).unique(maintain_order=True)
        return pl.DataFrame(schema=columns)

    def _frames(self, file: File) -> Frames:
        """Yield what `formats.frames` does, with the columns that the expressions compute."""
        lists = {raw for name, raw in self.raw.items() if self.dtypes[name] == pl.List}
        for raw, content, bad_row in frames(file, self.wanted, lists):
            yield with_computed(raw, self.expressions.values(), file), content, bad_row

    def bounds(self, file: File, metadata: pq.FileMetaData) -> tuple[int, int] | None:
        """Return the first and the last time of a Parquet file, in microseconds; None if its statistics do not tell."""
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        columns = [group.column(i) for group in groups for i in range(group.num_columns)]
        times = [column.statistics for column in columns if column.path_in_schema == self.time]
        # Statistics leave out nulls, but the row of a null must be read and counted.
        if not times or not all(s and s.has_min_max and s.has_null_count and not s.null_count for s in times):
            return None
        try:
            found = [value for s in times for value in (s.min, s.max)]
        except (OverflowError, ValueError):  # A timestamp that Python's datetime cannot hold.
            return None
        if not all(isinstance(value, int | date) for value in found):  # A datetime is a date.
            return None
        raw = pl.DataFrame({self.time: found}, strict=False)
        us = raw.select(us=self._time(raw.schema[self.time], file))["us"]
        return None if us.null_count() else (us.min(), us.max())  # type: ignore[return-value]

    def _fit(self, raw: pl.DataFrame, file: File) -> pl.DataFrame:
        """Return our columns, and in `dropped` the first reason to drop a row."""
        found = raw.schema
        time = self._time(found[self.time], file) if self.time else pl.lit(0, pl.Int64)
        values = [time.alias("event_time_us")]
        missing = []
        for name, dtype in self.dtypes.items():
            text = self.expressions.get(name)
            column = self.raw[name] if text is None else computed(text)
            cast = _cast_items if dtype == pl.List else _cast
            value, none = cast(pl.col(column), column, found[column], dtype, file)
            if text is not None:
                value, none = pl.when(~pl.col(unfit(text))).then(value), none & ~pl.col(unfit(text))
            if name in self.labels:
                value = pl.when(value.is_between(0, 1) if dtype == pl.Int8 else value >= 0).then(value)
            elif name == SAMPLING_RATE:
                value = pl.when(value.is_between(0, 1, closed="right")).then(value)
            values.append(value.cast(dtype).alias(name))
            missing.append(none.alias(name))
        # Each is computed once; an eager frame would compute again what two expressions share.
        fitted, absent = raw.select(values), raw.select(missing)
        wrong = [pl.col(name).is_null() & ~pl.lit(absent[name]) for name in self.dtypes]
        reasons = ["bad_time", *(f"bad_{name}" for name in self.dtypes)]
        # Reasons are numbered, because a column of text for each would take longer than all the rest.
        first = pl.coalesce(
            pl.when(bad).then(pl.lit(i, pl.UInt32))
            for i, bad in enumerate([pl.col("event_time_us").is_null(), *wrong])
        )
        return fitted.with_columns(dropped=pl.lit(pl.Series(reasons)).gather(first))

    def _time(self, dtype: pl.DataType, file: File) -> pl.Expr:
        """Return the time in microseconds, UTC; null where it cannot be parsed."""
        column = pl.col(self.time)

        def utc(local: pl.Expr) -> pl.Expr:
            there = local.dt.replace_time_zone(self.time_zone, ambiguous="earliest", non_existent="null")
            return there.dt.epoch("us")

        if isinstance(dtype, pl.Datetime):
            us = column.dt.epoch("us") if dtype.time_zone else utc(column)
        elif self.dates and dtype == pl.Date:
            us = utc(column.cast(pl.Datetime("us")))
        elif self.time_unit != "iso8601" and (dtype.is_numeric() or dtype in (pl.String, pl.Null)):
            second = _PER_SECOND[self.time_unit]
            number = column.cast(pl.Float64, strict=False)
            # Whole microseconds of these years are exact in a float.
            in_range = number.is_between(0, _YEAR_2100 * second, closed="left")
            us = pl.when(in_range).then((number * (1_000_000 // second)).round()).cast(pl.Int64)
        elif self.time_unit == "iso8601" and dtype in (pl.String, pl.Null):
            text = column.cast(pl.String).str.replace(" ", "T", literal=True).str.replace("Z$", "+00:00")
            if self.dates:
                text = text.str.replace(r"^(\d{4}-\d\d-\d\d)$", "${1}T00:00:00")
            seconds = "%Y-%m-%dT%H:%M:%S%.f"
            aware = text.str.to_datetime(f"{seconds}%z", time_unit="us", time_zone="UTC", strict=False)
            naive = text.str.to_datetime(seconds, time_unit="us", strict=False)
            us = aware.dt.epoch("us").fill_null(utc(naive))
        else:
            expected = "text in ISO 8601" if self.time_unit == "iso8601" else f"a number of {self.time_unit}"
            raise _wrong_dtype(
                file, self.time, dtype, f"{expected} or a timestamp; check the config's time_unit"
            )
        return pl.when(us.is_between(0, _YEAR_2100 * 1_000_000, closed="left")).then(us)


def check_time(whose: str, unit: str, time_zone: str) -> None:
    """Raise UserError for an unknown unit, and for an unknown time zone."""
    if unit not in (*_PER_SECOND, "iso8601"):
        raise UserError(f"{whose}: time_unit is {unit!r}, expected 's', 'ms', 'us' or 'iso8601'")
    check_time_zone(whose, time_zone)


def _cast_items(
    column: pl.Expr, name: str, raw: pl.DataType, dtype: pl.DataType, file: File
) -> tuple[pl.Expr, pl.Expr]:
    """Return the raw lists as `dtype`, null where an item does not fit, and whether there is no list at all."""
    if raw == pl.Null:
        return pl.lit(None, dtype), pl.lit(True)
    if isinstance(raw, pl.Array):
        column, raw = column.arr.to_list(), pl.List(raw.inner)
    if not (isinstance(raw, pl.List) and isinstance(dtype, pl.List)):
        raise _wrong_dtype(file, name, raw, str(dtype))
    item, none = _cast(pl.element(), name, raw.inner, dtype.inner, file)  # type: ignore[arg-type]
    bad = column.list.eval(item.is_null() & ~none).list.any().fill_null(False)
    return pl.when(~bad).then(column.list.eval(item).list.drop_nulls()), column.is_null()


def _cast(
    column: pl.Expr, name: str, raw: pl.DataType, dtype: pl.DataType, file: File
) -> tuple[pl.Expr, pl.Expr]:
    """Return the raw column as `dtype`, null where it does not fit, and whether there is no value at all."""
    missing = column.is_null()
    if raw == pl.Null:
        return pl.lit(None, dtype), pl.lit(True)
    if raw == pl.String:
        missing |= column == ""
        if dtype == pl.String:
            return pl.when((column != "") & (column != BAD)).then(column), missing
        column = column.replace(BOOLEANS)
    elif raw.is_float() and dtype != pl.String:
        missing |= column.is_nan()
    elif not (raw.is_integer() or raw == pl.Boolean):
        raise _wrong_dtype(file, name, raw, str(dtype))
    if dtype == pl.String:
        return column.cast(pl.String), missing
    if dtype == pl.Float32:
        number = column if raw == dtype else column.cast(pl.Float64, strict=False)
        value = number.cast(pl.Float32, strict=False)
        return pl.when(value.is_finite()).then(value), missing | number.is_nan().fill_null(False)
    if raw == pl.String:
        column = column.str.replace(r"\.0+$", "")
    elif raw.is_float():
        column = pl.when((column == column.round()) & (column.abs() <= _EXACT)).then(column)
    return column.cast(pl.Int64, strict=False), missing


def _wrong_dtype(file: File, name: str, dtype: pl.DataType, expected: str) -> UserError:
    return UserError(f"{file}: column {name!r} is {dtype}, expected {expected}")
