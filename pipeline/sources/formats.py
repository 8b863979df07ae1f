"""Frames of raw rows from a file of each format: Parquet, CSV, JSON lines, TFRecord of tf.Example."""

import csv
import io
import json
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from google.protobuf.message import DecodeError

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.sources.store import File

_ROWS = 1 << 16  # of a frame
_MAX_LINE = 1 << 20  # characters; a longer line is no row, and must not be read into memory whole
_MAX_RECORD = 1 << 26  # bytes; the same of a record, and of all those of a frame
# What stands for a value that is no text and no number, so that it fits no dtype: a code point that Unicode
# keeps out of every text.
BAD = "\U0010ffff"
Row = Mapping[str, Any]
Frames = Iterator[tuple[pl.DataFrame, pl.Series, pl.Series]]
"""Of the raw columns, with a fingerprint of each whole row, and whether it is no row."""


def frames(file: File, wanted: Sequence[str], lists: Collection[str]) -> Frames:
    """Up to 65,536 rows each. Of Parquet all columns as they are; else those `wanted` as text, `lists` as lists of it.

    Raises UserError where a wanted column is missing (of JSON lines and tf.Example: where none of the first frame has
    it), or there twice.
    """
    if file.suffix == ".parquet":
        return _parquet(file, wanted)
    return _examples(file, wanted, lists) if ".tfrecord" in file.suffixes else _text(file, wanted, lists)


def check_header(file: File, wanted: Sequence[str]) -> None:
    """Raise UserError where a file of CSV lacks a column, or has it twice."""
    with file.stream(head=True) as stream:
        _check(file, _header(_lines(stream, file), file), wanted)


def check_parquet(file: File, parquet: pq.ParquetFile, wanted: Sequence[str]) -> None:
    """The same for Parquet."""
    _check(file, [*parquet.schema_arrow.names, *file.partition], wanted)


def _check(file: File, names: Sequence[str], wanted: Sequence[str]) -> None:
    for name in wanted:
        if names.count(name) != 1:
            raise _missing(file, name, names)


def _parquet(file: File, wanted: Sequence[str]) -> Frames:
    with file.open() as source, pq.ParquetFile(source) as parquet:
        check_parquet(file, parquet, wanted)
        left = parquet.metadata.num_rows
        for batch in parquet.iter_batches(batch_size=_ROWS):
            raw = pl.DataFrame([_series(name, batch[name]) for name in batch.schema.names])
            raw = raw.with_columns(pl.lit(value).alias(name) for name, value in file.partition.items())
            yield raw, raw.hash_rows(), pl.repeat(False, len(raw), eager=True)
            left -= len(raw)
        if left:
            raise pa.ArrowInvalid(f"its row groups and its footer differ by {abs(left)} rows")


def _series(name: str, array: pa.Array) -> pl.Series:
    """A column; text that is no UTF-8, of which Polars would know nothing, is `BAD`, and a decimal is text."""
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
        return BAD


def _text(file: File, wanted: Sequence[str], lists: Collection[str]) -> Frames:
    with file.stream() as stream:
        lines = _lines(stream, file)
        if unseen := ".jsonl" in file.suffixes:
            parse = _json
        else:
            header = _header(lines, file)
            _check(file, header, wanted)
            parse = partial(_csv, header)
        while batch := list(islice(lines, _ROWS)):
            rows = [parse(line.rstrip("\r\n")) for line in batch]
            if rows[-1] is None and not batch[-1].endswith("\n"):
                raise UserError(f"{file} is truncated: its last line ends within a row; fetch it again")
            if unseen:
                _check_names(file, rows, wanted, "JSON object")
                unseen = False
            yield _frame(
                rows, wanted, lists, [line.rstrip("\r\n").encode(errors="surrogatepass") for line in batch]
            )


def _examples(file: File, wanted: Sequence[str], lists: Collection[str]) -> Frames:
    import tensorflow as tf

    unseen = True
    for batch in _records(file):
        rows = [_example(record, tf.train.Example, lists) for record in batch]
        if unseen:
            _check_names(file, rows, wanted, "tf.Example")
            unseen = False
        yield _frame(rows, wanted, lists, batch)


def _records(file: File) -> Iterator[list[bytes]]:
    """The records of a frame after those of another.

    TensorFlow, which checks their sums, has a file system in memory: what it knows of other stores is not
    what fsspec knows, and it takes the end of a truncated .gz for the end of its records.
    """
    import tensorflow as tf

    part = f"ram://tutelage/{uuid.uuid4()}"
    with file.stream() as stream:
        while data := _framed(stream):
            with tf.io.gfile.GFile(part, "wb") as out:
                out.write(data)
            try:
                (records,) = tf.data.TFRecordDataset(part).batch(_ROWS).as_numpy_iterator()
                yield records.tolist()
            except tf.errors.OpError as error:
                raise OSError(error.message) from None
            finally:
                tf.io.gfile.remove(part)


def _framed(stream: pa.NativeFile) -> bytes:
    """The next records as they are: a length in 8 bytes, its sum in 4, the record, its sum in 4."""
    parts: list[bytes] = []
    size = 0
    while len(parts) < 2 * _ROWS and size < _MAX_RECORD and (head := stream.read(12)):
        if len(head) < 12:  # TensorFlow takes a few bytes for the end.
            raise OSError(f"truncated record: {len(head)} bytes of its length and the sum of that, of 12")
        # What a wrong length leads to is not read: the sum of the length tells.
        record = stream.read(min(int.from_bytes(head[:8], "little"), _MAX_RECORD) + 4)
        parts += [head, record]
        size += len(record)
    return b"".join(parts)


def _check_names(file: File, rows: Sequence[Row | None], wanted: Sequence[str], kind: str) -> None:
    """Raise UserError for a column that none of the first rows has."""
    names = {name for row in rows if row for name in row}
    if not names:
        each = "one a line" if kind == "JSON object" else "each record to be one"
        raise UserError(f"{file} has no {kind} in its first {len(rows):,} rows; expected {each}")
    if missing := sorted(set(wanted) - names):
        raise _missing(file, missing[0], sorted(names))


def _frame(
    rows: Sequence[Row | None], wanted: Sequence[str], lists: Collection[str], raw: Sequence[bytes]
) -> tuple[pl.DataFrame, pl.Series, pl.Series]:
    columns = {
        name: [(_items if name in lists else _value)((row or {}).get(name)) for row in rows]
        for name in wanted
    }
    frame = pl.DataFrame(
        columns, schema={name: pl.List(pl.String) if name in lists else pl.String for name in wanted}
    )
    return frame, pl.Series(raw, dtype=pl.Binary).hash(), pl.Series([row is None for row in rows])


def _lines(stream: pa.NativeFile, file: File) -> Iterator[str]:
    """The lines that are not blank, with their ends; a byte that is no UTF-8 is a lone surrogate."""
    with io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as text:
        while line := text.readline(_MAX_LINE):
            if len(line) == _MAX_LINE and not line.endswith("\n"):
                raise UserError(f"{file} has no line end in {_MAX_LINE:,} characters; expected a row a line")
            if line.rstrip("\r\n"):
                yield line


def _header(lines: Iterator[str], file: File) -> list[str]:
    line = next(lines, None)
    if line is None:
        raise UserError(f"{file} is empty; expected a CSV file with a header line; fetch it again")
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


def _example(record: bytes, kind: Any, lists: Collection[str]) -> Row | None:
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
    return [_value(item) for item in value] if isinstance(value, list) else [BAD]


def _value(value: object) -> str | None:
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return BAD
    if value is None or isinstance(value, str):
        return value
    # As JSON and Arrow write it; else it is a list or an object.
    return str(value).lower() if isinstance(value, bool) else BAD  # a list or an object


def _missing(file: File, name: str, names: Sequence[str]) -> UserError:
    how = "more than one column" if name in names else "no column"
    shown = ", ".join(map(ascii, names[:30])) or "none"
    return UserError(
        f"{file} has {how} {name!r}; it has {shown:.500}; see the config's renamed and event_time"
    )
