"""Byte ranges of a CSV file, each read by itself into a frame of text, without a loop over rows."""

from pathlib import Path
from typing import BinaryIO

import polars as pl

from tutelage.pipeline.errors import UserError

_MAX_LINE = 1 << 20  # a longer line is no line of a table, and must not be read into memory whole
# A field with the comma before it. A quote that opens a field and is never closed is plain text, so
# every line splits in one way, whatever is in it.
_FIELD = r',(?:"(?:[^"]|"")*"[^,]*|[^,]*)'


def header(path: str | Path) -> list[str]:
    """The column names in the first line of `path`.

    Raises UserError for a file that cannot be read, is empty, is no UTF-8 text, or whose first line
    is blank or names a column twice.
    """
    return _header(path)[0]


def blocks(path: str | Path, block_bytes: int) -> list[tuple[int, int]]:
    """Ranges (start, end) that cover all bytes after the header, of `block_bytes` but for the last.

    They are cut blindly: `read_block` finds the lines. A file with nothing but a header gives one
    range, of no bytes. Raises what `header` raises.
    """
    start, size = _header(path)[1], Path(path).stat().st_size
    cuts = range(start, max(size, start + 1), block_bytes)
    return [(cut, min(cut + block_bytes, size)) for cut in cuts]


def read_block(path: str | Path, start: int, end: int, columns: list[str]) -> pl.DataFrame:
    """The rows whose lines begin in [start, end), in order: `columns` as text, and `ragged`.

    `columns` is the file's `header`. `ragged` is true where a line has more fields than that, or
    fewer: the text is then that of its first fields, and null for those it lacks. An empty field is
    "". Lines end in LF or CRLF; an empty line is no row. A field in double quotes may hold commas
    and doubled quotes, but no line end: a range could not tell it from the end of a row.

    Raises UserError for bytes that are no UTF-8 text, a line of a mebibyte, a file that has shrunk since
    it was cut, and one that ends within a row: its last line has no line end and too few fields.
    """
    data = _owned_bytes(path, start, end)
    lines = pl.Series("line", [_text(path, data)]).str.split("\n").explode().str.strip_suffix("\r")
    lines = lines.filter(lines != "")
    fields = _split(lines)
    rows = fields.to_frame("fields").select(
        *(pl.col("fields").list.get(i, null_on_oob=True).alias(name) for i, name in enumerate(columns)),
        (pl.col("fields").list.len() != len(columns)).alias("ragged"),
    )
    # Only the last line of a file has no end.
    if len(lines) and not data.endswith(b"\n") and len(fields[-1]) < len(columns):
        raise UserError(
            f"{path} is truncated: its last line has {len(fields[-1])} fields and no line end, expected "
            f"{len(columns)} fields; fetch it again"
        )
    return rows


def _header(path: str | Path) -> tuple[list[str], int]:
    """The column names, and the byte at which the next line begins."""
    with _open(path) as file:
        line = _line(path, file)
    if not line:
        raise UserError(f"{path} is empty; expected a CSV file with a header line; fetch it again")
    text = _text(path, line).removeprefix("\ufeff").removesuffix("\n").removesuffix("\r")
    names = _split(pl.Series([text])).to_list()[0]
    taken = [*names, "ragged"]  # the column that `read_block` adds
    twice = [name for name in names if taken.count(name) > 1]
    if not text or twice:
        raise UserError(
            f"{path}: its first line is {text[:80]!r}, expected column names, each once and none of them "
            f"'ragged'{f'; rename {twice[0]!r}' if twice else ''}"
        )
    return names, len(line)


def _owned_bytes(path: str | Path, start: int, end: int) -> bytes:
    """The bytes of the lines that begin in [start, end), for 0 < start <= end."""
    with _open(path) as file:
        file.seek(start - 1)  # the byte before tells whether a line begins at `start`
        data = file.read(end - start + 1)
        if len(data) < end - start + 1:
            raise UserError(f"{path} shrank, expected {end} bytes or more; run again once it is whole")
        tail = b"" if data.endswith(b"\n") else _line(path, file)
    before = data.find(b"\n", 0, end - start)  # the last byte may end a line, but begins none in here
    return data[before + 1 :] + tail if before >= 0 else b""


def _open(path: str | Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; expected a CSV file") from None


def _line(path: str | Path, file: BinaryIO) -> bytes:
    """The rest of the line that `file` is in."""
    line = file.readline(_MAX_LINE)
    if len(line) == _MAX_LINE and not line.endswith(b"\n"):
        raise UserError(f"{path} has no line end in {_MAX_LINE} bytes; expected a CSV file")
    return line


def _text(path: str | Path, data: bytes) -> str:
    """`data` decoded; a NUL byte is valid UTF-8, yet only binary files hold one."""
    try:
        if b"\0" not in data:
            return data.decode()
    except UnicodeDecodeError:
        pass
    raise UserError(f"{path} is binary; expected UTF-8 CSV text; unpack it, or fetch it again")


def _split(lines: pl.Series) -> pl.Series:
    """The fields of each line, as a list of text per line."""
    if not lines.str.contains('"', literal=True).any():
        return lines.str.split(",")  # what the rest would give, several times as fast
    field = pl.element().str.slice(1)
    inner = field.str.slice(1, field.str.len_chars() - 2).str.replace_all('""', '"', literal=True)
    unquoted = pl.when(field.str.contains('(?s)^".*"$')).then(inner).otherwise(field)
    return ("," + lines).str.extract_all(_FIELD).list.eval(unquoted)
