"""The second record of a table's commits: whatever the log loses or the disk changes is seen, and restored from it."""

from collections.abc import Callable
from datetime import date
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from tutelage.pipeline.commits import FILE
from tutelage.pipeline.io.json import TornFile
from tutelage.pipeline.table import Table

DAYS = [date(2026, 1, day) for day in (1, 2, 3)]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Three days, a commit each."""
    table = Table(tmp_path / "t", pa.schema([("x", pa.int64())]), partition_by={"day": pa.date32()})
    table.create()
    for number, day in enumerate(DAYS, 1):
        file = table.write_file(pl.DataFrame({"x": range(number)}), {"day": day}, name="part")
        table.commit([file], {"day": day}, attempt=number, metadata={})
    return table


def _entry(table: Table, version: int) -> Path:
    return table.path / f"_delta_log/{version:020}.json"


def _zero(path: Path) -> None:
    path.write_bytes(b"")


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


TEARS = pytest.mark.parametrize("tear", [_zero, _half, _flip, Path.unlink])


def test_a_sound_table_has_nothing_torn(table: Table) -> None:
    assert table.commits.torn(since_checkpoint=False) == []
    assert table.commits.unrecorded() == 0
    assert table.damaged() == {}


@TEARS
@pytest.mark.parametrize("version", [1, 3])
def test_a_torn_entry_of_the_log_is_restored_byte_for_byte(
    table: Table, version: int, tear: Callable[[Path], None]
) -> None:
    path = _entry(table, version)
    before = path.read_bytes()
    tear(path)
    (found,) = table.commits.torn()
    assert found.path == path
    found.mend()
    assert path.read_bytes() == before
    assert table.scan().collect().height == 6


@pytest.mark.parametrize("tear", [_zero, _half])
def test_a_last_entry_whose_writer_was_killed_is_removed(table: Table, tear: Callable[[Path], None]) -> None:
    lines = (table.path / FILE).read_bytes().splitlines(keepends=True)
    (table.path / FILE).write_bytes(b"".join(lines[:-1]))
    tear(_entry(table, 3))
    (found,) = table.commits.torn()
    assert found.content == b""
    found.mend()
    assert table.version == 2
    assert table.partitions()["day"].to_list() == DAYS[:2]


def test_an_entry_without_a_line_is_taken_as_it_is_and_a_torn_one_has_no_remedy(table: Table) -> None:
    (table.path / FILE).unlink()
    assert table.commits.torn() == []
    _half(_entry(table, 1))
    (found,) = table.commits.torn()
    assert found.content is None
    assert "restore it from a backup" in found.remedy


def test_a_commit_whose_writer_was_killed_before_it_wrote_the_line_is_recorded(table: Table) -> None:
    path = table.path / FILE
    before = path.read_bytes()
    path.write_bytes(b"".join(before.splitlines(keepends=True)[:-1]))
    assert table.commits.unrecorded() == 1
    table.commits.complete()
    assert path.read_bytes() == before


def test_a_line_that_is_torn_counts_as_missing_and_is_written_again(table: Table) -> None:
    path = table.path / FILE
    before = path.read_bytes()
    path.write_bytes(before[:-10])
    assert table.commits.unrecorded() == 1
    file = table.write_file(pl.DataFrame({"x": [7]}), {"day": DAYS[0]}, name="part")
    table.commit([file], {"day": DAYS[0]}, attempt=9, metadata={})
    assert table.commits.unrecorded() == 1  # The line after the torn one is whole.
    table.commits.rewrite()
    assert table.commits.unrecorded() == 0
    assert path.read_bytes().startswith(before)


@pytest.mark.parametrize(
    ("tear", "says"),
    [
        (_zero, "is empty"),
        (_half, " bytes, expected "),
        (_flip, "is not what was written"),
        (Path.unlink, "is missing"),
    ],
)
def test_a_damaged_data_file_is_named_by_whoever_reads_its_partition(
    table: Table, tear: Callable[[Path], None], says: str
) -> None:
    (file,) = table.files(day=DAYS[2])
    tear(Path(file))
    ((path, why),) = table.damaged().items()
    assert str(table.path / path) == file
    assert says in why
    for read in (lambda: table.scan(day=DAYS[2]), table.check):
        with pytest.raises(TornFile, match=r"; tutelage-verify says what mends it$"):
            read()
    assert table.scan(day=DAYS[1]).collect().height == 2


def test_a_damaged_checkpoint_of_the_log_is_removed_and_the_entries_are_read(table: Table) -> None:
    from deltalake import DeltaTable

    DeltaTable(table.path).create_checkpoint()
    table.commits.rewrite()
    (checkpoint,) = (table.path / "_delta_log").glob("*.checkpoint.parquet")
    _flip(checkpoint)
    while torn := table.commits.torn():
        for entry in torn:
            entry.mend()
    assert not checkpoint.exists()
    assert table.scan().collect().height == 6


def test_a_file_that_is_dropped_leaves_the_table_and_stays_on_the_disk(table: Table) -> None:
    (file,) = table.files(day=DAYS[0])
    table.drop_files([str(Path(file).relative_to(table.path))])
    assert table.partitions()["day"].to_list() == DAYS[1:]
    assert Path(file).exists()


def test_what_a_clean_up_removes_is_not_the_record(table: Table) -> None:
    table.vacuum()
    assert (table.path / FILE).exists()
