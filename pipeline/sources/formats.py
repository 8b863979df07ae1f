"""Read files of each format as frames of raw rows: Parquet, CSV, JSON lines, TFRecord of tf.Example."""

import csv
import io
import json
import uuid
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import count, islice
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from google.protobuf.message import DecodeError

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.sources.store import File

_ROWS = 1 << 16
"""Rows of a frame."""
_MAX_LINE = 1 << 20
"""Characters. A longer line is not a row, and must not be read into memory as a whole."""
_MAX_RECORD = 1 << 26
"""Bytes of a TFRecord record, and of all records of a frame; larger ones must not be read into memory either."""
BAD = "\U0010ffff"
"""Stands for a value that is neither text nor a number, so that it fits no dtype. Unicode keeps this code point out of
every text."""
Row = Mapping[str, Any]
Batches = Iterator[tuple[list[str], list[Row | None]]]
"""The texts of the records of a frame with their line ends, and their rows, None where a text cannot be parsed."""
Frames = Iterator[tuple[pl.DataFrame, pl.Series, pl.Series]]
"""Frames of the raw columns, each with a fingerprint of every whole row, and whether the row cannot be parsed."""


def frames(file: File, wanted: Mapping[str, str], lists: Collection[str]) -> Frames:
    """Yield frames of up to 65,536 rows.

    A Parquet file gives all its columns as they are, other formats the `wanted` columns as text, and those in `lists`
    as lists of text. `wanted` says of each column what it is for, as in "which is read as click". Raises UserError if a
    wanted column is missing (in JSON lines and tf.Example: from all rows of the first frame), or occurs twice.
    """
    if file.suffix == ".parquet":
        return _parquet(file, wanted)
    return _examples(file, wanted, lists) if ".tfrecord" in file.suffixes else _text(file, wanted, lists)


def check_header(file: File, wanted: Mapping[str, str]) -> None:
    """Raise UserError if a CSV file lacks a wanted column, or has it twice."""
    with file.stream(head=True) as stream:
        _check(file, _header(file, _lines(stream, file)), wanted)


def check_parquet(file: File, parquet: pq.ParquetFile, wanted: Mapping[str, str]) -> None:
    """Raise UserError if a Parquet file lacks a wanted column, or has it twice."""
    _check(file, [*parquet.schema_arrow.names, *file.partition], wanted)


def _check(file: File, names: Sequence[str], wanted: Mapping[str, str]) -> None:
    for name in wanted:
        if names.count(name) != 1:
            raise _missing(file, name, names, wanted[name])


def _parquet(file: File, wanted: Mapping[str, str]) -> Frames:
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
    """Return a column as Polars can hold it: text that is not UTF-8 becomes `BAD`, and a decimal becomes text."""
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


def _text(file: File, wanted: Mapping[str, str], lists: Collection[str]) -> Frames:
    with file.stream() as stream:
        lines = _lines(stream, file)
        if unseen := ".jsonl" in file.suffixes:
            batches = _json_batches(lines)
        else:
            header = _header(file, lines)
            _check(file, header, wanted)
            batches = _csv_batches(header, lines)
        for texts, rows in batches:
            if rows[-1] is None and not texts[-1].endswith("\n"):
                raise UserError(f"{file} is truncated: its last line ends within a row; fetch it again")
            if unseen:
                _check_names(file, rows, wanted, "JSON object")
                unseen = False
            raw = [text.rstrip("\r\n").encode(errors="surrogatepass") for text in texts]
            yield _frame(rows, wanted, lists, raw)


def _examples(file: File, wanted: Mapping[str, str], lists: Collection[str]) -> Frames:
    import tensorflow as tf

    unseen = True
    for batch in _records(file):
        rows = [_example(record, tf.train.Example, lists) for record in batch]
        if unseen:
            _check_names(file, rows, wanted, "tf.Example")
            unseen = False
        yield _frame(rows, wanted, lists, batch)


def _records(file: File) -> Iterator[list[bytes]]:
    """Yield the records of one frame after another.

    TensorFlow checks the checksums, but it does not know the stores of fsspec, and takes the end of a truncated .gz for
    the end of the records. So the bytes of a frame are handed to it through its file system in memory.
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
    """Return the bytes of the next records: each a length (8 bytes), its checksum (4), the data, their checksum (4)."""
    parts: list[bytes] = []
    size = 0
    while len(parts) < 2 * _ROWS and size < _MAX_RECORD and (head := stream.read(12)):
        if len(head) < 12:  # TensorFlow would take it for the end of the file.
            raise OSError(f"truncated record: it has {len(head)} of the 12 bytes of its length and checksum")
        # A wrong length may be huge. TensorFlow finds it by its checksum.
        record = stream.read(min(int.from_bytes(head[:8], "little"), _MAX_RECORD) + 4)
        parts += [head, record]
        size += len(record)
    return b"".join(parts)


def _check_names(file: File, rows: Sequence[Row | None], wanted: Mapping[str, str], kind: str) -> None:
    """Raise UserError for a wanted column that none of the first rows has."""
    names = {name for row in rows if row for name in row}
    if not names:
        each = "one a line" if kind == "JSON object" else "each record to be one"
        raise UserError(f"{file} has no {kind} in its first {len(rows):,} rows; expected {each}")
    if missing := sorted(set(wanted) - names):
        raise _missing(file, missing[0], sorted(names), wanted[missing[0]])


def _frame(
    rows: Sequence[Row | None], wanted: Mapping[str, str], lists: Collection[str], raw: Sequence[bytes]
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
    """Yield the lines with their line ends. A byte that is not UTF-8 becomes a lone surrogate."""
    with io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as text:
        while line := text.readline(_MAX_LINE):
            if len(line) == _MAX_LINE and not line.endswith("\n"):
                raise UserError(
                    f"{file} has no line end in {_MAX_LINE:,} characters; expected a row per line"
                )
            yield line


def _header(file: File, lines: Iterator[str]) -> list[str]:
    line = next((line for line in lines if line.strip("\r\n")), None)
    if line is None:
        raise UserError(f"{file} is empty; expected a CSV file with a header line; fetch it again")
    return _fields(line.rstrip("\r\n"))


def _fields(text: str) -> list[str]:
    """Return the fields of a CSV row, [] where its quotes are wrong."""
    try:
        return next(csv.reader((text,), strict=True))
    except csv.Error:
        return []


def _csv(header: Sequence[str], text: str) -> Row | None:
    fields = _fields(text)
    return dict(zip(header, fields, strict=True)) if len(fields) == len(header) else None


def _csv_batches(header: Sequence[str], lines: Iterator[str]) -> Batches:
    """Yield the records of each frame. A quoted field may hold line ends, so a record may be several lines."""
    ahead: deque[str] = deque()
    texts: list[str] = []
    rows: list[Row | None] = []
    while line := ahead.popleft() if ahead else next(lines, ""):
        if not (text := line.rstrip("\r\n")):
            continue
        row = _csv(header, text)
        if row is None and (more := _lines_to_add(header, line, ahead, lines)):
            line = "".join((line, *(ahead.popleft() for _ in range(more))))
            row = _csv(header, line.rstrip("\r\n"))
        texts.append(line)
        rows.append(row)
        if len(rows) == _ROWS:
            yield texts, rows
            texts, rows = [], []
    if rows:
        yield texts, rows


def _lines_to_add(header: Sequence[str], line: str, ahead: deque[str], lines: Iterator[str]) -> int:
    """Return how many of the following lines complete the record that `line` begins; 0 if none do.

    A stray quote in a damaged line must not swallow good rows: the record must have the fields of the header, and no
    line within it may be a row by itself. Lines that are read to find out are added to `ahead`.
    """
    if line.count('"') % 2 == 0:  # Every quote is closed.
        return 0
    text = line
    for number in count(1):
        if len(ahead) < number:
            ahead.extend(islice(lines, 1))
        if len(ahead) < number or len(text) + len(ahead[number - 1]) > _MAX_LINE:
            return 0
        text += ahead[number - 1]
        if ahead[number - 1].count('"') % 2:
            return number if _csv(header, text.rstrip("\r\n")) else 0
        if _csv(header, ahead[number - 1].rstrip("\r\n")):
            return 0
    raise AssertionError  # `count` has no end.


def _json_batches(lines: Iterator[str]) -> Batches:
    """Yield the lines of each frame that are not blank."""
    lines = (line for line in lines if line.rstrip("\r\n"))
    while texts := list(islice(lines, _ROWS)):
        yield texts, [_json(line) for line in texts]


def _json(line: str) -> Row | None:
    """Return the object in a line, None where there is none."""
    row = _parsed(line)
    return row if isinstance(row, dict) else None


def _parsed(text: str) -> Any:
    """Return JSON with its numbers as text, because a float cannot hold every id; None if it is not JSON."""
    try:
        return json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        return None


def _example(record: bytes, kind: Any, lists: Collection[str]) -> Row | None:
    """Return the features of a serialised tf.Example, None where it is not one.

    A feature is a value, None if it has none, or a list if it has several; those in `lists` are always lists.
    """
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
    # A boolean is written as JSON and Arrow write it. Anything else is a list or an object.
    return str(value).lower() if isinstance(value, bool) else BAD


def _missing(file: File, name: str, names: Sequence[str], said: str) -> UserError:
    how = "more than one column" if name in names else "no column"
    shown = ", ".join(map(ascii, names[:30])) or "none"
    return UserError(
        f"{file} has {how} {name!r}, {said}; it has {shown:.500}; name the right column in the config"
    )


def column_names(file: File) -> list[str]:
    """Return the names of the raw columns: those of the header, or else those that the rows of the first frame have."""
    if file.suffix == ".parquet":
        with file.open() as source, pq.ParquetFile(source) as parquet:
            return [*parquet.schema_arrow.names, *file.partition]
    if ".tfrecord" in file.suffixes:
        import tensorflow as tf

        rows = [_example(record, tf.train.Example, ()) for record in next(_records(file), [])]
    else:
        with file.stream() as stream:
            lines = _lines(stream, file)
            if ".csv" in file.suffixes:
                return _header(file, lines)
            rows = next(_json_batches(lines), ([], []))[1]
    return list(dict.fromkeys(name for row in rows if row for name in row))
