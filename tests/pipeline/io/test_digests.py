"""A digest inside a JSON file: one byte that changes is seen, and a file of an older release is read as it is."""

import json
from pathlib import Path

import pytest

from tutelage.pipeline.errors import TransientError
from tutelage.pipeline.io.json import TornFile, read_json, write_json
from tutelage.pipeline.io.store import FILES

VALUE = {"day": "2026-01-02", "counts": {"rows": 3}, "shares": [0.5, None]}


@pytest.mark.parametrize("value", [VALUE, [VALUE, {"day": "2026-01-03"}]])
def test_no_byte_of_a_file_changes_unseen_unless_its_content_stays(tmp_path: Path, value: object) -> None:
    path = tmp_path / "record.json"
    write_json(path, value)
    content = path.read_bytes()
    seen = 0
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        try:
            read = read_json(path)
        except TornFile:
            seen += 1
        else:
            assert read == value, at
    assert seen > len(content) * 0.8  # The rest is white space.


def test_a_file_without_a_digest_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(VALUE))
    assert read_json(path) == VALUE


def test_a_change_on_purpose_is_taken_once_the_digest_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_json(path, VALUE)
    changed = {**json.loads(path.read_text()), "day": "2026-01-05"}
    path.write_text(json.dumps(changed))
    with pytest.raises(
        TornFile, match="its digest is another; where somebody has changed it on purpose, remove"
    ):
        read_json(path)
    del changed["content_digest"]
    path.write_text(json.dumps(changed))
    assert read_json(path)["day"] == "2026-01-05"


def test_a_file_that_another_process_has_changed_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "log"
    FILES.put(path, b"one")
    tag = FILES.tag(FILES.read(path))
    FILES.put(path, b"two")
    with pytest.raises(TransientError, match="another process has just changed"):
        FILES.replace_if(path, b"three", tag)
    assert FILES.read(path) == b"two"
