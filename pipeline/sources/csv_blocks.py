"""Byte ranges of a CSV file, each read by itself into a frame of text, without a loop over rows."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

import polars as pl

from tutelage.pipeline.errors import UserError

_MAX_LINE = 1 << 20
"""Bytes. A longer line is not a line of a table, and must not be read into memory as a whole."""
# A field with the comma before it. A quote that opens a field and is never closed is plain text, so every line splits
# in exactly one way, whatever it holds.
_FIELD = r',(?:"(?:[^"]|"")*"[^,]*|[^,]*)'


def header(path: str | Path) -> list[str]:
    """Return the column names in the first line of `path`.

    Raises UserError for a file that cannot be read, is empty or is not UTF-8 text, and for a first line that is blank
    or names a column twice.
    """
    return _header(path)[0]


def blocks(path: str | Path, block_bytes: int) -> list[tuple[int, int]]:
    """Return ranges (start, end) of `block_bytes` that cover all bytes after the header; the last one may be shorter.

    They may cut a line in two: `read_block` finds where lines begin. A file that has only a header gives one empty
    range. Raises what `header` raises.
    """
    start, size = _header(path)[1], Path(path).stat().st_size
    cuts = range(start, max(size, start + 1), block_bytes)
    return [(cut, min(cut + block_bytes, size)) for cut in cuts]


def read_block(path: str | Path, start: int, end: int, columns: list[str]) -> pl.DataFrame:
    """Return the rows whose lines begin in [start, end), in order: `columns` as text, and `ragged`.

    `columns` is the file's `header`. `ragged` is true where a line has more or fewer fields than that; its text is then
    that of its first fields, and null for the fields that it lacks. An empty field is "". Lines end in LF or CRLF; an
    empty line is not a row. A field in double quotes may hold commas and doubled quotes, but no line end, because a
    range that begins in the middle of a file cannot tell it from the end of a row.

    Raises UserError for bytes that are not UTF-8 text, for a line of a mebibyte or more, for a file that shrank since
    the ranges were made, and for a file that ends within a row: its last line has no line end and too few fields.
    """
    data = _owned_bytes(path, start, end)
    lines = pl.Series("line", [_text(path, data)]).str.split("\n").explode().str.strip_suffix("\r")
    lines = lines.filter(lines != "")
    fields = _split(lines)
    rows = fields.to_frame("fields").select(
        *(pl.col("fields").list.get(i, null_on_oob=True).alias(name) for i, name in enumerate(columns)),
        (pl.col("fields").list.len() != len(columns)).alias("ragged"),
    )
    # Only the last line of a file may lack a line end.
    if len(lines) and not data.endswith(b"\n") and len(fields[-1]) < len(columns):
        raise UserError(
            f"{path} is truncated: its last line has {len(fields[-1])} fields and no line end, expected "
            f"{len(columns)} fields; fetch it again"
        )
    return rows


def _header(path: str | Path) -> tuple[list[str], int]:
    """Return the column names, and the byte at which the next line begins."""
    with _open(path) as file:
        line = _line(path, file)
    if not line:
        raise UserError(f"{path} is empty; expected a CSV file with a header line; fetch it again")
    text = _text(path, line).removeprefix("\ufeff").removesuffix("\n").removesuffix("\r")
    names = _split(pl.Series([text])).to_list()[0]
    taken = [*names, "ragged"]  # `read_block` adds the column `ragged`.
    repeated = [name for name in names if taken.count(name) > 1]
    if not text or repeated:
        raise UserError(
            f"{path}: its first line is {text[:80]!r}, expected column names, each once and none of them "
            f"'ragged'{f'; rename {repeated[0]!r}' if repeated else ''}"
        )
    return names, len(line)


def _owned_bytes(path: str | Path, start: int, end: int) -> bytes:
    """Return the bytes of the lines that begin in [start, end), for 0 < start <= end."""
    with _open(path) as file:
        file.seek(start - 1)  # The byte before tells whether a line begins at `start`.
        data = file.read(end - start + 1)
        if len(data) < end - start + 1:
            raise UserError(f"{path} shrank, expected {end} bytes or more; run again once it is complete")
        tail = b"" if data.endswith(b"\n") else _line(path, file)
    before = data.find(
        b"\n", 0, end - start
    )  # The last byte may end a line, but no line of the range begins there.
    return data[before + 1 :] + tail if before >= 0 else b""


def _open(path: str | Path) -> BinaryIO:
    try:
        # Opening a FIFO would wait for somebody to write into it.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError(f"cannot read {path}: it is not a regular file; expected a CSV file")
        return open(path, "rb")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; expected a CSV file") from None


def _line(path: str | Path, file: BinaryIO) -> bytes:
    """Return the rest of the line at which `file` stands."""
    line = file.readline(_MAX_LINE)
    if len(line) == _MAX_LINE and not line.endswith(b"\n"):
        raise UserError(f"{path} has no line end in {_MAX_LINE} bytes; expected a CSV file")
    return line


def _text(path: str | Path, data: bytes) -> str:
    """Return `data` decoded. A NUL byte is valid UTF-8, but only binary files have one."""
    try:
        if b"\0" not in data:
            return data.decode()
    except UnicodeDecodeError:
        pass
    raise UserError(f"{path} is binary; expected UTF-8 CSV text; unpack it, or fetch it again")


def _split(lines: pl.Series) -> pl.Series:
    """Return the fields of each line, as a list of text per line."""
    if not lines.str.contains('"', literal=True).any():
        return lines.str.split(",")  # The same result, several times as fast.
    field = pl.element().str.slice(1)
    inner = field.str.slice(1, field.str.len_chars() - 2).str.replace_all('""', '"', literal=True)
    unquoted = pl.when(field.str.contains('(?s)^".*"$')).then(inner).otherwise(field)
    return ("," + lines).str.extract_all(_FIELD).list.eval(unquoted)
