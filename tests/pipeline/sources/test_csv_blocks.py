"""Any way to cut a file gives the rows of the whole file, whatever bytes it has."""

import csv
import io
import os
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.sources.csv_blocks import blocks, header, read_block

_WIDTH = 3
_ROWS = st.lists(st.lists(st.text('a1,"é ', max_size=4), min_size=_WIDTH, max_size=_WIDTH), max_size=8)
_SIZES = st.integers(1, 60)
_BYTES = st.sampled_from([b"", b"\n", b"\r", b"\r\n", b",", b'"', b"x", b"\0", b"\xff", "é".encode()])
_EDITS = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 3), _BYTES), max_size=4)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("csv") / "rows.csv"


def _write(rows: list[list[str]], end: str) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator=end).writerows([["x", "y", "z"], *rows])
    return text.getvalue().encode()


def _read(path: Path, block_bytes: int) -> pl.DataFrame:
    columns = header(path)
    return pl.concat([read_block(path, *block, columns) for block in blocks(path, block_bytes)])


def _read_or_error(path: Path, block_bytes: int) -> pl.DataFrame | None:
    try:
        return _read(path, block_bytes)
    except UserError:
        return None


@given(rows=_ROWS, size=_SIZES, end=st.sampled_from(["\n", "\r\n"]), bom=st.booleans(), cut=st.booleans())
def test_rows_come_back_as_they_were_written(
    path: Path, rows: list[list[str]], size: int, end: str, bom: bool, cut: bool
) -> None:
    data = _write(rows, end)
    path.write_bytes(b"\xef\xbb\xbf" * bom + (data.removesuffix(end.encode()) if cut else data))
    assert header(path) == ["x", "y", "z"]
    frame = _read(path, size)
    assert frame.drop("ragged").rows() == [tuple(row) for row in rows]
    assert not frame["ragged"].any()


@given(rows=_ROWS, size=_SIZES, edits=_EDITS)
def test_damaged_bytes_give_the_same_rows_for_any_cut(
    path: Path, rows: list[list[str]], size: int, edits: list[tuple[int, int, bytes]]
) -> None:
    data = _write(rows, "\n")
    for at, length, new in edits:
        data = data[:at] + new + data[at + length :]
    path.write_bytes(data)
    whole, cut = _read_or_error(path, 1 << 30), _read_or_error(path, size)
    if whole is None or cut is None:
        assert whole is cut
        return
    assert_frame_equal(cut, whole)
    lines = data.split(b"\n")[1:]
    assert len(whole) == sum(line.removesuffix(b"\r") != b"" for line in lines)


@given(rows=_ROWS, size=_SIZES)
def test_ranges_cover_every_byte_after_the_header_once(path: Path, rows: list[list[str]], size: int) -> None:
    data = _write(rows, "\n")
    path.write_bytes(data)
    cuts = blocks(path, size)
    assert cuts[0][0] == len("x,y,z\n")
    assert [end for _, end in cuts] == [*(start for start, _ in cuts[1:]), len(data)]


def test_a_quoted_line_and_a_plain_one_split_alike(path: Path) -> None:
    path.write_text('x,y,z\n1,,"39,43"\n"a ""b""",,\n,"open,2\n')
    frame = _read(path, 1 << 30)
    assert frame.drop("ragged").rows() == [("1", "", "39,43"), ('a "b"', "", ""), ("", '"open', "2")]


def test_ragged_rows_keep_their_first_fields(path: Path) -> None:
    path.write_text("x,y,z\n1,2\n\n1,2,3,4\n1,2,3\n")
    assert _read(path, 4).rows() == [
        ("1", "2", None, True),
        ("1", "2", "3", True),
        ("1", "2", "3", False),
    ]


@pytest.mark.parametrize("data", [b"x,y,z", b"x,y,z\n", b"x,y,z\r\n\r\n\n"])
def test_a_header_alone_gives_no_rows(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    assert _read(path, 1 << 30).shape == (0, 4)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"\nx,y\n", "first line is ''"),
        (b"x,y,x\n", "rename 'x'"),
        (b"x,ragged\n", "rename 'ragged'"),
        (b"\x1f\x8b\x08\0\n", "is binary"),
        (b"x,\xff\n1,2\n", "is binary"),
        (b"x,y\n1,2\n3,\0\n", "is binary"),
        (b"x,y\n1,2\n3,\xff\n", "is binary"),
        (b"x,y\n1,2\n3", "is truncated: its last line has 1 fields"),
        (b"x" * (1 << 20), "no line end in 1048576 bytes"),
        (b"x,y\n" + b"1" * (1 << 21), "no line end in 1048576 bytes"),
    ],
)
def test_a_file_that_is_not_a_table_is_refused(path: Path, data: bytes, says: str) -> None:
    path.write_bytes(data)
    with pytest.raises(UserError, match=says) as error:
        _read(path, 8)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_short_last_line_with_a_line_end_is_ragged(path: Path) -> None:
    path.write_text("x,y\n1,2\n3\n")
    assert _read(path, 1 << 30)["ragged"].to_list() == [False, True]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*none\.csv: No such file"):
        header(tmp_path / "none.csv")
    os.mkfifo(tmp_path / "fifo.csv")
    for path in (tmp_path, tmp_path / "fifo.csv"):
        with pytest.raises(UserError, match=f"^cannot read {path}: it is not a regular file; expected a CSV"):
            header(path)


def test_a_file_that_shrank_since_it_was_cut_is_refused(path: Path) -> None:
    path.write_text("x,y\n1,2\n3,4\n")
    columns, cuts = header(path), blocks(path, 4)
    path.write_text("x,y\n1,2\n")
    with pytest.raises(UserError, match="shrank"):
        read_block(path, *cuts[1], columns)
