"""JSON files: a broken one is named, a new one appears as a whole."""

import re
from datetime import date
from pathlib import Path
from types import MappingProxyType

import pytest

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.json import read_json, write_json


def test_what_is_written_is_read_again_with_dates_as_text(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state.json"
    write_json(path, {"day": date(2026, 1, 2), "versions": MappingProxyType({"interactions": 3})})
    assert read_json(path) == {"day": "2026-01-02", "versions": {"interactions": 3}}
    assert path.read_text().endswith("\n}\n")


def test_a_file_that_was_cut_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text('{"day": ')
    text = f"{path} is not JSON (Expecting value: line 1 column 9 (char 8)); restore it from a copy, or remove it"
    with pytest.raises(UserError, match=f"^{re.escape(text)}$"):
        read_json(path)


def test_a_value_that_json_cannot_hold_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_json(path, 1)
    with pytest.raises(TypeError, match=r"^\{1\} is set, which JSON cannot hold$"):
        write_json(path, {1})
    assert read_json(path) == 1
    assert list(tmp_path.iterdir()) == [path]
