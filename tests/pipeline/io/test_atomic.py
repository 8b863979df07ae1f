"""A file that is replaced whole."""

from pathlib import Path

import pytest

from tutelage.pipeline.io.atomic import atomic_write


def test_a_file_is_made_in_a_new_folder_and_replaced_when_all_of_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    for text in ("old", "new"):
        with atomic_write(path) as partial:
            partial.write_text(text)
            assert not path.exists() or path.read_text() == "old"
        assert path.read_text() == text
        assert list(path.parent.iterdir()) == [path]


def test_what_is_broken_off_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_text("old")

    def broken_off() -> None:
        with atomic_write(path) as partial:
            partial.write_text("half")
            assert partial.suffix == ".json"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken_off()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
