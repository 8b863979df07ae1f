"""A user's own event logs: Parquet, Delta tables, CSV, JSON lines or TFRecord, one row an exposure."""

import csv
import glob
import io
import json
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from google.protobuf.message import DecodeError

from tutelage.pipeline.days import slice_expr
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Schema, check_time_zone
from tutelage.pipeline.sources.base import RawFile, Unit

_TEXT = (".csv", ".csv.gz", ".csv.zst", ".jsonl", ".jsonl.gz", ".jsonl.zst")
_RECORDS = (".tfrecord", ".tfrecord.gz")
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000}
_YEAR_2100 = 4_102_444_800  # in seconds
_ROWS = 1 << 16  # of a frame
_MAX_LINE = 1 << 20  # characters; a longer line is no row, and must not be read into memory whole
_EXACT = 2**53  # a larger whole number may have been another one before it became a float
# What stands for a value that is no text and no number, so that it fits no dtype: a code point that Unicode
# keeps out of every text.
_BAD = "\U0010ffff"
_BOOLEANS = {"true": "1", "True": "1", "false": "0", "False": "0"}
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Reads the files that `pattern` finds below the raw folder.

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
    binary label that is not 0 or 1, a `log1p` label below 0).

    A unit is a file, of a Delta table one of its data files; a worker holds 65,536 rows of it at a time, of Parquet
    also one row group as it is on disk.
    """

    pattern: str
    """A glob, as in events/**/*.parquet, or events/ for a Delta table."""
    schema: Schema
    """The experiment's: it says which columns are read, and what they hold."""
    event_time: str
    """The raw column that says when the exposure was."""
    time_unit: Literal["s", "ms", "us", "iso8601"] = "iso8601"
    """Of a number since 1970 in UTC, or text like 2026-01-31T18:30:00.5+01:00. Parquet's own timestamps need none."""
    time_zone: str = "UTC"
    """Of times that name none (an IANA name); of two that are the same on the clock, the earlier is meant."""
    renamed: tuple[tuple[str, str], ...] = ()
    """Pairs of a feature or label and the raw column it is read from, where the names differ."""

    def __post_init__(self) -> None:
        if (
            not self.pattern.endswith((".parquet", *_TEXT, *_RECORDS, "/"))
            or Path(self.pattern).is_absolute()
        ):
            raise UserError(
                f"Files: pattern is {self.pattern!r}, expected a path below --raw_dir that ends in .parquet, "
                f"{', '.join((*_TEXT, *_RECORDS))}, or in / for Delta tables"
            )
        if self.time_unit not in (*_PER_SECOND, "iso8601"):
            raise UserError(f"Files: time_unit is {self.time_unit!r}, expected 's', 'ms', 'us' or 'iso8601'")
        check_time_zone("Files", self.time_zone)
        ours = [name for name, _ in self.renamed]
        for name in ours:
            if name not in self.columns() or ours.count(name) > 1:
                raise UserError(
                    f"Files: renamed has {name!r}, expected features and labels of the schema, each once: "
                    f"{', '.join(self.columns())}"
                )

    def columns(self) -> Mapping[str, pl.DataType]:
        """The schema's features and labels, with its dtypes."""
        empty = pl.DataFrame(self.schema.interactions.empty_table())
        return {name: empty.schema[name] for name in empty.columns[2:]}  # the first two are no raw columns

    def units(self, raw_dir: str, *, workdir: str, days: Sequence[date]) -> list[Unit]:
        """A file each, in the order of their paths; then one of all files that hold no row of `days`, if any.

        Raises UserError where there is none, and where a Parquet or CSV file lacks a column.
        """
        found = glob.glob(self.pattern, root_dir=raw_dir, recursive=True)
        paths = [Path(raw_dir, name) for name in sorted(found)]
        files: list[tuple[Path, Row]] = []
        if self.pattern.endswith("/"):
            for path in paths:
                if (path / "_delta_log").is_dir():
                    files += _delta(path)
        else:
            files = [(path, {}) for path in paths if path.is_file()]
        if not files:
            why = "" if Path(raw_dir).is_dir() else ", which is no folder"
            raise UserError(
                f"no files {self.pattern} in {raw_dir!r}{why}; see --raw_dir and the config's pattern"
            )
        inside: list[tuple[Path, Row, RawFile]] = []
        outside = 0
        for path, partition in files:
            with _readable(path):
                file = RawFile.of(path)
                self._check(path, partition)
                rows = self._outside(path, days) if path.suffix == ".parquet" and days else 0
            outside += rows
            if not rows:
                inside.append((path, partition, file))
        units = [
            Unit(index=i, where=str(path), args={"path": str(path), "partition": partition}, files=(file,))
            for i, (path, partition, file) in enumerate(inside)
        ]
        if outside:
            where = f"{len(files) - len(inside)} files of other days"
            units.append(Unit(index=len(units), where=where, args={}, rows_outside=outside))
        return units

    def read(self, unit: Unit) -> Iterator[pl.DataFrame]:
        """Frames of up to 65,536 rows.

        Raises UserError for a file that is truncated or of another format, and for a column that is missing (of
        JSON lines and tf.Example: that none of the first 65,536 has) or of a type that can never fit.
        """
        path, partition = Path(unit.args["path"]), unit.args["partition"]
        with _readable(path):
            self._check(path, partition)
            if path.suffix == ".parquet":
                frames = _parquet(path, partition)
            else:
                lists = {self._raw[name] for name, dtype in self.columns().items() if dtype == pl.List}
                frames = (_examples if ".tfrecord" in path.suffixes else _text)(path, self._wanted, lists)
            for raw, content, bad_row in frames:
                dropped = pl.when(bad_row).then(pl.lit("bad_row")).otherwise("dropped")
                yield (
                    self._fit(raw, path)
                    .with_columns(content=content, dropped=dropped)
                    .select("event_time_us", *self.columns(), "content", "dropped")
                )

    def _outside(self, path: Path, days: Sequence[date]) -> int:
        """The rows of a Parquet file that can hold none of `days`; 0 where it may hold one."""
        with pq.ParquetFile(path) as file:
            metadata = file.metadata
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        columns = [group.column(i) for group in groups for i in range(group.num_columns)]
        times = [column.statistics for column in columns if column.path_in_schema == self.event_time]
        # A null has no place among the days: its row is to be read, and counted as what it is.
        if not times or not all(s and s.has_min_max and s.has_null_count and not s.null_count for s in times):
            return 0
        try:
            bounds = [value for s in times for value in (s.min, s.max)]
        except (OverflowError, ValueError):  # a timestamp that Python's datetime cannot hold
            return 0
        if not all(isinstance(value, int | datetime) for value in bounds):
            return 0
        raw = pl.DataFrame({self.event_time: bounds}, strict=False)
        us = raw.select(event_time_us=self._time(raw.schema[self.event_time], path))
        if us["event_time_us"].null_count():
            return 0
        slices = us.select(
            slice_expr("event_time_us", time_zone=self.schema.time_zone, slice_days=self.schema.slice_days)
        )
        first, *_, last = sorted(slices.to_series().to_list())
        return 0 if any(first <= day <= last for day in days) else metadata.num_rows

    @property
    def _raw(self) -> dict[str, str]:
        """Our name to the raw one, for every feature and label."""
        return {name: name for name in self.columns()} | dict(self.renamed)

    @property
    def _wanted(self) -> list[str]:
        return list(dict.fromkeys([self.event_time, *self._raw.values()]))

    def _check(self, path: Path, partition: Row) -> None:
        """Raise UserError where a wanted column is missing, or there twice. Objects have no header to look at."""
        if ".jsonl" in path.suffixes or ".tfrecord" in path.suffixes:
            return
        names = (
            [*pq.read_schema(path).names, *partition]
            if path.suffix == ".parquet"
            else _header(_lines(path), path)
        )
        for name in self._wanted:
            if names.count(name) != 1:
                raise _missing(path, name, names)

    def _fit(self, raw: pl.DataFrame, path: Path) -> pl.DataFrame:
        """The columns of `columns()` from the raw ones, and why a row is no good."""
        time = self._time(raw.schema[self.event_time], path)
        values, bad, reasons = [], [time.is_null()], ["bad_time"]
        for name, dtype in self.columns().items():
            column = self._raw[name]
            cast = _cast_items if dtype == pl.List else _cast
            value, missing = cast(pl.col(column), column, raw.schema[column], dtype, path)
            if name in self.schema.labels:
                fits = value.is_in([0, 1]) if dtype == pl.Int8 else value >= 0
                value = pl.when(fits).then(value)
            values.append(value.cast(dtype).alias(name))
            bad.append(value.is_null() & ~missing)
            reasons.append(f"bad_{name}")
        # By number: a column of text for each reason would take longer than all the rest.
        first = pl.coalesce(pl.when(wrong).then(pl.lit(i, pl.UInt32)) for i, wrong in enumerate(bad))
        dropped = pl.lit(pl.Series(reasons)).gather(first).alias("dropped")
        return raw.select(time.alias("event_time_us"), *values, dropped)

    def _time(self, dtype: pl.DataType, path: Path) -> pl.Expr:
        """Microseconds in UTC, null where they cannot be read."""
        column = pl.col(self.event_time)
        local = {"ambiguous": "earliest", "non_existent": "null"}
        if isinstance(dtype, pl.Datetime):
            utc = column if dtype.time_zone else column.dt.replace_time_zone(self.time_zone, **local)  # type: ignore[arg-type]
            us = utc.dt.epoch("us")
        elif self.time_unit != "iso8601" and (dtype.is_numeric() or dtype in (pl.String, pl.Null)):
            second = _PER_SECOND[self.time_unit]
            number = column.cast(pl.Float64, strict=False)
            # Whole microseconds of these years are exact in a float.
            in_range = number.is_between(0, _YEAR_2100 * second, closed="left")
            us = pl.when(in_range).then((number * (1_000_000 // second)).round()).cast(pl.Int64)
        elif self.time_unit == "iso8601" and dtype in (pl.String, pl.Null):
            text = column.cast(pl.String).str.replace(" ", "T", literal=True).str.replace("Z$", "+00:00")
            seconds = "%Y-%m-%dT%H:%M:%S%.f"
            aware = text.str.to_datetime(f"{seconds}%z", time_unit="us", time_zone="UTC", strict=False)
            naive = text.str.to_datetime(seconds, time_unit="us", strict=False)
            there = naive.dt.replace_time_zone(self.time_zone, **local)  # type: ignore[arg-type]
            us = aware.dt.epoch("us").fill_null(there.dt.epoch("us"))
        else:
            expected = "text in ISO 8601" if self.time_unit == "iso8601" else f"a number of {self.time_unit}"
            raise _unfit(
                path, self.event_time, dtype, f"{expected} or a timestamp; see the config's time_unit"
            )
        return pl.when(us.is_between(0, _YEAR_2100 * 1_000_000, closed="left")).then(us)


def _cast_items(
    column: pl.Expr, name: str, raw: pl.DataType, dtype: pl.DataType, path: Path
) -> tuple[pl.Expr, pl.Expr]:
    """The raw lists as `dtype`, null where an item does not fit, and where there is no list at all."""
    if raw == pl.Null:
        return pl.lit(None, dtype), pl.lit(True)
    if isinstance(raw, pl.Array):
        column, raw = column.arr.to_list(), pl.List(raw.inner)
    if not (isinstance(raw, pl.List) and isinstance(dtype, pl.List)):
        raise _unfit(path, name, raw, str(dtype))
    item, none = _cast(pl.element(), name, raw.inner, dtype.inner, path)  # type: ignore[arg-type]
    bad = column.list.eval(item.is_null() & ~none).list.any().fill_null(False)
    return pl.when(~bad).then(column.list.eval(item).list.drop_nulls()), column.is_null()


def _cast(
    column: pl.Expr, name: str, raw: pl.DataType, dtype: pl.DataType, path: Path
) -> tuple[pl.Expr, pl.Expr]:
    """The raw column as `dtype`, null where it does not fit, and where there is no value at all."""
    missing = column.is_null()
    if raw == pl.Null:
        return pl.lit(None, dtype), pl.lit(True)
    if raw == pl.String:
        missing |= column == ""
        if dtype == pl.String:
            return pl.when((column != "") & (column != _BAD)).then(column), missing
        column = column.replace(_BOOLEANS)
    elif raw.is_float() and dtype != pl.String:
        missing |= column.is_nan()
    elif not (raw.is_integer() or raw == pl.Boolean):
        raise _unfit(path, name, raw, str(dtype))
    if dtype == pl.String:
        return column.cast(pl.String), missing
    if dtype == pl.Float32:
        number = column.cast(pl.Float64, strict=False)
        value = number.cast(pl.Float32, strict=False)
        return pl.when(value.is_finite()).then(value), missing | number.is_nan().fill_null(False)
    if raw == pl.String:
        column = column.str.replace(r"\.0+$", "")
    elif raw.is_float():
        column = pl.when((column == column.round()) & (column.abs() <= _EXACT)).then(column)
    return column.cast(pl.Int64, strict=False), missing


def _delta(path: Path) -> list[tuple[Path, Row]]:
    """The data files of the newest version, each with the values that it has of the partition columns."""
    with _readable(path):
        try:
            table = DeltaTable(path)
            adds = pl.DataFrame(table.get_add_actions(flatten=True))
        except DeltaError as error:
            raise OSError(str(error)) from None
    # Their files are not to be read as they are: rows are deleted, columns have other names.
    if found := {"deletionVectors", "columnMapping"} & set(table.protocol().reader_features or ()):
        raise UserError(f"{path} has Delta's {min(found)}, which is not supported; write it without")
    keys = table.metadata().partition_columns
    return [
        (path / unquote(add["path"]), {key: add[f"partition.{key}"] for key in keys})
        for add in adds.sort("path").to_dicts()
    ]


def _parquet(path: Path, partition: Row) -> Iterator[tuple[pl.DataFrame, pl.Series, pl.Series]]:
    """All columns, a fingerprint of each row, and whether it is no row: here, each is one."""
    with pq.ParquetFile(path) as file:
        left = file.metadata.num_rows
        for batch in file.iter_batches(batch_size=_ROWS):
            raw = pl.DataFrame([_series(name, batch[name]) for name in batch.schema.names])
            raw = raw.with_columns(pl.lit(value).alias(name) for name, value in partition.items())
            yield raw, raw.hash_rows(), pl.repeat(False, len(raw), eager=True)
            left -= len(raw)
        if left:
            raise pa.ArrowInvalid(f"its row groups and its footer differ by {abs(left)} rows")


def _series(name: str, array: pa.Array) -> pl.Series:
    """A column; text that is no UTF-8, of which Polars would know nothing, is `_BAD`, and a decimal is text."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_decimal(array.type):
        array = array.cast(pa.string())
    is_list = pa.types.is_list(array.type) or pa.types.is_large_list(array.type)
    item = array.type.value_type if is_list else array.type
    if item not in (pa.string(), pa.large_string(), pa.string_view()):
        return pl.Series(name, array)
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        if is_list:
            lists = array.cast(pa.list_(pa.binary())).to_pylist()
            decoded = [None if each is None else [_decoded(value) for value in each] for each in lists]
            return pl.Series(name, decoded, pl.List(pl.String))
        return pl.Series(name, [_decoded(value) for value in array.cast(pa.binary()).to_pylist()], pl.String)
    return pl.Series(name, array)


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return _BAD


def _text(
    path: Path, wanted: Sequence[str], lists: Container[str]
) -> Iterator[tuple[pl.DataFrame, pl.Series, pl.Series]]:
    """The wanted columns of CSV or JSON lines as text, a fingerprint of each row, and whether it is no row."""
    lines = _lines(path)
    parse = _json if ".jsonl" in path.suffixes else partial(_csv, _header(lines, path))
    unseen = parse is _json
    while batch := list(islice(lines, _ROWS)):
        rows = [parse(line.rstrip("\r\n")) for line in batch]
        if rows[-1] is None and not batch[-1].endswith("\n"):
            raise UserError(f"{path} is truncated: its last line ends within a row; fetch it again")
        if unseen:
            _check_names(path, rows, wanted, "JSON object")
            unseen = False
        yield _frame(
            rows, wanted, lists, [line.rstrip("\r\n").encode(errors="surrogatepass") for line in batch]
        )


def _examples(
    path: Path, wanted: Sequence[str], lists: Container[str]
) -> Iterator[tuple[pl.DataFrame, pl.Series, pl.Series]]:
    """The same of a TFRecord file of tf.Example."""
    import tensorflow as tf

    packing = "GZIP" if path.suffix == ".gz" else ""
    if packing:  # TensorFlow takes the end of a truncated file for the end of its records.
        with pa.input_stream(str(path)) as stream:
            while stream.read(1 << 20):
                pass
    records = tf.data.TFRecordDataset(str(path), packing).as_numpy_iterator()
    unseen = True
    while True:
        try:
            batch = list(islice(records, _ROWS))
        except tf.errors.OpError as error:
            raise OSError(error.message) from None
        if not batch:
            return
        rows = [_example(record, tf.train.Example, lists) for record in batch]
        if unseen:
            _check_names(path, rows, wanted, "tf.Example")
            unseen = False
        yield _frame(rows, wanted, lists, batch)


def _check_names(path: Path, rows: Sequence[Row | None], wanted: Sequence[str], kind: str) -> None:
    """Raise UserError for a column that none of the first rows has."""
    names = {name for row in rows if row for name in row}
    if not names:
        each = "one a line" if kind == "JSON object" else "each record to be one"
        raise UserError(f"{path} has no {kind} in its first {len(rows):,} rows; expected {each}")
    if missing := sorted(set(wanted) - names):
        raise _missing(path, missing[0], sorted(names))


def _frame(
    rows: Sequence[Row | None], wanted: Sequence[str], lists: Container[str], raw: Sequence[bytes]
) -> tuple[pl.DataFrame, pl.Series, pl.Series]:
    columns = {
        name: [(_items if name in lists else _value)((row or {}).get(name)) for row in rows]
        for name in wanted
    }
    frame = pl.DataFrame(
        columns, schema={name: pl.List(pl.String) if name in lists else pl.String for name in wanted}
    )
    return frame, pl.Series(raw, dtype=pl.Binary).hash(), pl.Series([row is None for row in rows])


def _lines(path: Path) -> Iterator[str]:
    """The lines that are not blank, with their ends; a byte that is no UTF-8 is a lone surrogate."""
    stream = pa.input_stream(str(path))  # unpacked as the suffix says
    with io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as text:
        while line := text.readline(_MAX_LINE):
            if len(line) == _MAX_LINE and not line.endswith("\n"):
                raise UserError(f"{path} has no line end in {_MAX_LINE:,} characters; expected a row a line")
            if line.rstrip("\r\n"):
                yield line


def _header(lines: Iterator[str], path: Path) -> list[str]:
    line = next(lines, None)
    if line is None:
        raise UserError(f"{path} is empty; expected a CSV file with a header line; fetch it again")
    return _fields(line.rstrip("\r\n"))


def _fields(line: str) -> list[str]:
    """Of a line of CSV; none where its quotes are wrong."""
    try:
        return next(csv.reader((line,), strict=True))
    except csv.Error:
        return []


def _csv(header: Sequence[str], line: str) -> Row | None:
    fields = _fields(line)
    return dict(zip(header, fields, strict=True)) if len(fields) == len(header) else None


def _json(line: str) -> Row | None:
    """The object of a line."""
    row = _parsed(line)
    return row if isinstance(row, dict) else None


def _parsed(text: str) -> Any:
    """JSON, its numbers as they are written: a float would not hold every id. None where it is none."""
    try:
        return json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        return None


def _example(record: bytes, kind: Any, lists: Container[str]) -> Row | None:
    """The features of a serialised tf.Example: a value, nothing, or a list of many, or of `lists` any list."""
    try:
        features = kind.FromString(record).features.feature
    except DecodeError:
        return None
    row: dict[str, Any] = {}
    for name, feature in features.items():
        if feature.HasField("bytes_list"):
            values = [value.decode(errors="surrogateescape") for value in feature.bytes_list.value]
        else:
            values = [str(value) for value in (*feature.int64_list.value, *feature.float_list.value)]
        row[name] = values if name in lists or len(values) > 1 else next(iter(values), None)
    return row


def _items(value: object) -> list[str | None] | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        value = _parsed(value)
    return [_value(item) for item in value] if isinstance(value, list) else [_BAD]


def _value(value: object) -> str | None:
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return _BAD
    if value is None or isinstance(value, str):
        return value
    # As JSON and Arrow write it; else it is a list or an object.
    return str(value).lower() if isinstance(value, bool) else _BAD


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What the libraries say of a file that is damaged, as one line."""
    try:
        yield
    except (OSError, UnicodeDecodeError, pa.ArrowException, pl.exceptions.PolarsError) as error:
        what = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"cannot read {path}: {what}; expected a whole {''.join(path.suffixes[-2:])} file; fetch it again"
        ) from None


def _missing(path: Path, name: str, names: Sequence[str]) -> UserError:
    how = "more than one column" if name in names else "no column"
    shown = ", ".join(map(ascii, names[:30])) or "none"
    return UserError(
        f"{path} has {how} {name!r}; it has {shown:.500}; see the config's renamed and event_time"
    )


def _unfit(path: Path, name: str, dtype: pl.DataType, expected: str) -> UserError:
    return UserError(f"{path}: column {name!r} is {dtype}, expected {expected}")
