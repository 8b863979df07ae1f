"""Folders written in local scratch go to an object store and back as they were, the named file last."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.s3 import client
from tutelage.pipeline.io.paths import as_path, remote
from tutelage.pipeline.io.scratch import TornUpload, download, local_copy, scratch, upload


def _model(folder: Path) -> Path:
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables/data").write_bytes(b"weights")
    return folder


def test_a_folder_comes_back_as_it_was(s3: str, tmp_path: Path) -> None:
    target = remote(as_path(s3) / "export" / "7")
    assert target
    digests = upload(_model(tmp_path / "made"), target, last="saved_model.pb")
    assert sorted(digests) == ["saved_model.pb", "variables/data"]
    shutil.rmtree(tmp_path / "made")  # What was uploaded does not need scratch.
    download(target, tmp_path / "back")
    assert (tmp_path / "back/saved_model.pb").read_bytes() == b"graph"
    assert (tmp_path / "back/variables/data").read_bytes() == b"weights"


def test_the_named_file_is_uploaded_after_all_others(s3: str, s3_endpoint: str, tmp_path: Path) -> None:
    bucket = as_path(s3)
    target = remote(bucket / "1")
    assert target
    made = _model(tmp_path / "made")
    (made / "zz").symlink_to("nonesuch")  # No file: left out.
    (made / "variables/empty").write_bytes(b"")
    upload(made, target, last="saved_model.pb")
    times = {
        found["Key"]: found["LastModified"]
        for found in client(s3_endpoint).list_objects_v2(Bucket=s3[5:])["Contents"]
    }
    assert max(times.values()) == times["1/saved_model.pb"]


def test_an_upload_that_failed_leaves_no_named_file(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = remote(as_path(s3) / "1")
    assert target
    made = _model(tmp_path / "made")
    real = type(target).upload

    def fail(path: object, source: Path) -> None:
        if source.name == "data":
            raise OSError("scratch vanished")
        real(path, source)  # type: ignore[arg-type]

    monkeypatch.setattr(type(target), "upload", fail)
    with pytest.raises(OSError, match="scratch vanished"):
        upload(made, target, last="saved_model.pb")
    assert not (target / "saved_model.pb").exists()


@pytest.mark.parametrize("how", ["changed", "missing"])
def test_a_file_that_is_not_what_was_uploaded_is_told(s3: str, tmp_path: Path, how: str) -> None:
    target = remote(as_path(s3) / "1")
    assert target
    upload(_model(tmp_path / "made"), target)
    data = target / "variables/data"
    if how == "changed":
        data.write_bytes(b"weightz")
    else:
        data.unlink()
    why = "is not what was uploaded" if how == "changed" else "is missing"
    with pytest.raises(TornUpload, match=f"variables/data {why}; restore it from a backup, or remove s3://"):
        download(target, tmp_path / "back")


def test_a_local_folder_is_used_where_it_is_and_a_remote_one_is_copied(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    made = _model(tmp_path / "made")
    with local_copy(made) as copy:
        assert copy == made
    target = remote(as_path(s3) / "1")
    assert target
    upload(made, target)
    with local_copy(as_path(s3) / "1") as copy:
        assert (copy / "variables/data").read_bytes() == b"weights"
    assert list((tmp_path / "scratch").iterdir()) == []
    assert json.loads((target / ".digests.json").read_bytes()).keys() == {"saved_model.pb", "variables/data"}
    with scratch() as folder:
        shutil.rmtree(folder)  # It may vanish at any instant.
