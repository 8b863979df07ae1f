"""A file or a folder is replaced as a whole, and is on the disk before it has its name."""

import errno
import os
from pathlib import Path

import pytest

from tests.recording import record_disk
from tutelage.pipeline.io import atomic
from tutelage.pipeline.io.atomic import atomic_write, make_folder, move, move_new, sync


def test_a_file_is_created_in_a_new_folder_and_replaced_once_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    for text in ("old", "new"):
        with atomic_write(path) as partial:
            partial.write_text(text)
            assert not path.exists() or path.read_text() == "old"
        assert path.read_text() == text
        assert list(path.parent.iterdir()) == [path]


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_text("old")

    def interrupted() -> None:
        with atomic_write(path) as partial:
            partial.write_text("half")
            assert partial.suffix == ".json"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = record_disk(monkeypatch, tmp_path)
    with atomic_write(tmp_path / "new" / "b.json") as partial:
        partial.write_text("text")
    temporary = f"new/.{os.getpid()}-b.json"
    assert done == ["fsync .", f"fsync {temporary}", f"rename {temporary} new/b.json", "fsync new"]


def test_a_folder_is_on_the_disk_with_everything_in_it_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "staged" / "variables").mkdir(parents=True)
    (tmp_path / "staged" / "graph").write_text("graph")
    (tmp_path / "staged" / "variables" / "data").write_text("data")
    done = record_disk(monkeypatch, tmp_path)
    move_new(tmp_path / "staged", tmp_path / "served")
    assert sorted(done[:4]) == [
        "fsync staged", "fsync staged/graph", "fsync staged/variables", "fsync staged/variables/data",
    ]  # fmt: skip
    assert done[4:] == ["rename staged served", "fsync ."]
    del done[:]
    make_folder(tmp_path / "a" / "b")
    move(tmp_path / "served", tmp_path / "a" / "b" / "c")
    assert sorted(done[:2]) == ["fsync .", "fsync a"]
    assert done[2:] == ["rename served a/b/c", "fsync a/b"]


def test_a_file_system_without_fsync_for_folders_is_used_without_and_any_other_error_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    error = errno.EINVAL

    def refuse(descriptor: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(atomic.os, "fsync", refuse)
    sync(tmp_path)
    with pytest.raises(OSError, match="Invalid argument"):
        sync(tmp_path / "file")
    error = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        sync(tmp_path)
