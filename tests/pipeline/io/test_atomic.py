"""A file is replaced as a whole."""

from pathlib import Path

import pytest

from tutelage.pipeline.io.atomic import atomic_write


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
