"""A sample of a file is whole rows from all over it, below its own header."""

import gzip
from pathlib import Path

import polars as pl
import pytest

from tutelage.pipeline.sources.sample import PIECES, Sampled, evenly
from tutelage.pipeline.sources.store import File, find

ROWS = 10_000


def _file(folder: Path, name: str) -> File:
    (file,) = find(str(folder), name)
    return file


def _rows() -> pl.DataFrame:
    return pl.DataFrame({"row": range(ROWS), "text": [f"é{row:06}" for row in range(ROWS)]})


def test_items_are_evenly_spaced_and_the_ends_are_among_them() -> None:
    assert evenly(range(100), 4) == [0, 33, 66, 99]
    assert evenly([1, 2], 4) == [1, 2]
    assert evenly([1, 2], 1) == [1]
    assert evenly([], 3) == []


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_lines_are_whole_and_from_all_over_the_file(tmp_path: Path, kind: str) -> None:
    rows = _rows()
    (rows.write_csv if kind == "csv" else rows.write_ndjson)(tmp_path / f"a.{kind}")
    size = (tmp_path / f"a.{kind}").stat().st_size
    part = Sampled.of(_file(tmp_path, f"a.{kind}"), size // 10)
    read = (pl.read_csv if kind == "csv" else pl.read_ndjson)(part.content)
    assert read.height == pytest.approx(ROWS * part.share, rel=0.05)
    assert 0.08 < part.share <= 0.1
    assert read.join(rows, on=["row", "text"], how="semi").height == read.height
    assert (read["row"].min(), read["row"].max()) == (0, ROWS - 1)
    pieces = (read["row"].diff() > 1).sum() + 1
    assert pieces == PIECES
    assert part.stream().read() == part.content


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.csv.gz"])
def test_a_small_file_is_read_whole(tmp_path: Path, name: str) -> None:
    text = _rows().head(10).write_csv().encode()
    if name == "a.parquet":
        _rows().head(10).write_parquet(tmp_path / name)
        text = (tmp_path / name).read_bytes()
    else:
        (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    part = Sampled.of(_file(tmp_path, name), 1 << 20)
    assert (part.content, part.share) == (text, 1.0)


def test_the_beginning_of_a_compressed_file_is_read(tmp_path: Path) -> None:
    text = _rows().write_csv().encode()
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text))
    part = Sampled.of(_file(tmp_path, "a.csv.gz"), len(text) // 4)
    assert text.startswith(part.content)
    assert part.content.endswith(b"\n")
    assert len(part.content) == pytest.approx(len(text) / 4, abs=20)
    assert 0 < part.share <= 1


def test_row_groups_of_parquet_are_sampled_evenly_and_keep_their_types(tmp_path: Path) -> None:
    rows = _rows().with_columns(
        pl.from_epoch("row").alias("at"), pl.col("text").cast(pl.Categorical).alias("kind")
    )
    rows.write_parquet(tmp_path / "a.parquet", row_group_size=500)
    size = (tmp_path / "a.parquet").stat().st_size
    part = Sampled.of(_file(tmp_path, "a.parquet"), size // 10)
    read = pl.read_parquet(part.content)
    assert read.height == pytest.approx(ROWS / 10, rel=0.05)
    assert part.share == read.height / ROWS
    assert read["row"].min() == 0
    assert read["row"].max() >= ROWS - 500
    assert read["at"].dtype == rows["at"].dtype


def test_whole_records_of_a_tfrecord_file_are_read(tmp_path: Path) -> None:
    record = (
        (5).to_bytes(8, "little") + b"CRC1hello" + b"CRC2"
    )  # a length, its checksum, the data, their checksum
    (tmp_path / "a.tfrecord").write_bytes(record * 100)
    part = Sampled.of(_file(tmp_path, "a.tfrecord"), 250)
    assert part.content == record * 11  # of 21 bytes each
    assert part.share == pytest.approx(0.11)
