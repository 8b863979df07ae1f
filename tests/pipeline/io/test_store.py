"""One contract for the small files of a workdir, on a local disk and in an object store."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.s3 import client
from tutelage.pipeline.errors import TransientError
from tutelage.pipeline.io import atomic
from tutelage.pipeline.io.json import read_json, write_json
from tutelage.pipeline.io.paths import as_path
from tutelage.pipeline.io.store import FILES


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path if request.param == "local" else as_path(request.getfixturevalue("s3")) / "work dir"


def test_what_is_written_is_read_back_and_replaced_as_a_whole(root: Path) -> None:
    path = root / "a" / "record"
    with pytest.raises(FileNotFoundError):
        FILES.read(path)
    FILES.put(path, b"one")
    FILES.put(path, b"two")
    assert FILES.read(path) == b"two"
    write_json(path, {"day": "2026-01-02"})
    assert read_json(path) == {"day": "2026-01-02"}


def test_a_folder_lists_its_own_files_in_order(root: Path) -> None:
    assert FILES.list(root / "nothing here") == []
    for name in ("b", "a", ".hidden", "c.json", "below/d"):
        FILES.put(root / name, b"")
    assert [path.name for path in FILES.list(root)] == ["a", "b", "c.json"]
    assert [path.name for path in FILES.list(root, "*.json")] == ["c.json"]
    FILES.delete(root / "a")
    FILES.delete(root / "a")
    assert [path.name for path in FILES.list(root)] == ["b", "c.json"]


def test_of_several_writers_at_once_one_creates(root: Path) -> None:
    path = root / "record"
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda n: FILES.put_if_absent(path, b"%d" % n), range(8)))
    assert sum(created) == 1
    assert FILES.read(path) == b"%d" % created.index(True)


def test_of_several_writers_at_once_one_replaces_and_the_others_are_told(root: Path) -> None:
    path = root / "record"
    FILES.put(path, b"before")
    tag = FILES.tag(b"before")
    barrier = threading.Barrier(6)

    def replace(number: int) -> str:
        barrier.wait()
        try:
            FILES.replace_if(path, b"%d" % number, tag)
        except TransientError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(replace, range(6)))
    assert said.count("") == 1
    assert {text for text in said if text} == {f"another process has just changed {path}; run again"}
    assert FILES.read(path) == b"%d" % said.index("")


def test_a_file_that_must_be_absent_is_created_by_its_empty_tag(root: Path) -> None:
    path = root / "record"
    FILES.replace_if(path, b"one", FILES.tag(None))
    with pytest.raises(TransientError):
        FILES.replace_if(path, b"two", FILES.tag(None))
    assert FILES.read(path) == b"one"


def test_an_atomic_write_appears_when_its_block_ends_and_not_when_it_fails(root: Path) -> None:
    path = root / "a" / "report.txt"
    with atomic.atomic_write(path) as partial:
        partial.write_text("done")
        assert partial.suffix == ".txt"
        assert not path.exists()
    with pytest.raises(ZeroDivisionError), atomic.atomic_write(path) as partial:
        partial.write_text(f"half {1 / 0}")
    assert path.read_text() == "done"
    assert [found.name for found in path.parent.iterdir()] == ["report.txt"]


def test_a_folder_is_moved_and_removed_with_everything_in_it(root: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    (made / "variables").mkdir(parents=True)
    (made / "saved_model.pb").write_bytes(b"graph")
    (made / "variables/data").write_bytes(b"weights")
    atomic.make_folder(root)
    atomic.move_new(made, root / "1", last="saved_model.pb")
    assert not made.exists()
    atomic.move(root / "1", root / "2", last="saved_model.pb")
    assert not (root / "1").exists()
    assert (root / "2/saved_model.pb").read_bytes() == b"graph"
    assert (root / "2/variables/data").read_bytes() == b"weights"
    atomic.move(root / "2/variables/data", root / "data")
    assert (root / "data").read_bytes() == b"weights"
    atomic.remove(root / "2", first="saved_model.pb")
    atomic.remove(root / "2")
    assert [path.name for path in root.iterdir() if path != made] == ["data"]


def test_a_path_has_the_methods_of_a_local_one(root: Path) -> None:
    for name in ("day=1/a.txt", "day=1/b.json", "day=2/c.txt"):
        FILES.put(root / name, b"1234")
    path = root / "day=1" / "a.txt"
    assert (path.name, path.stem, path.suffix, path.parent.name) == ("a.txt", "a", ".txt", "day=1")
    assert path.parents[1] == root
    assert str(path.relative_to(root)) == "day=1/a.txt"
    assert path.is_relative_to(root)
    assert not root.is_relative_to(path)
    assert (path.parent / ".." / "day=2").resolve().name == "day=2"
    assert (root.is_dir(), root.is_file(), path.is_file(), path.is_dir(), path.exists()) == (
        True,
        False,
        True,
        False,
        True,
    )
    assert not (root / "day").exists()  # A prefix of a name is no folder.
    assert path.stat().st_size == 4
    assert sorted(found.name for found in root.iterdir()) == ["day=1", "day=2"]
    assert sorted(found.name for found in root.glob("*=1")) == ["day=1"]
    assert sorted(found.name for found in root.glob("*/*.txt")) == ["a.txt", "c.txt"]
    FILES.put(root / "teacher=a/day=1/d.txt", b"")
    below = ["day=1/a.txt", "day=2/c.txt", "teacher=a/day=1/d.txt"]
    assert sorted(str(found.relative_to(root)) for found in root.glob("*=*/**/*.txt")) == below
    assert [str(found.relative_to(root)) for found in root.glob("teacher=a/*/d.txt")] == below[2:]
    atomic.remove(root / "teacher=a")
    assert sorted(found.name for found in root.rglob("*.txt")) == ["a.txt", "c.txt"]
    assert sorted(found.name for found in root.rglob("*")) == [
        "a.txt",
        "b.json",
        "c.txt",
        "day=1",
        "day=2",
    ]
    assert list((root / "nothing").glob("*")) == []
    with path.open("rb") as file:
        file.seek(1)
        assert file.read(2) == b"23"
    with pytest.raises(FileNotFoundError):
        (root / "nothing").stat()
    with pytest.raises(FileNotFoundError):
        (root / "nothing").unlink()
    assert path.with_name("b.json").exists()
    assert as_path(str(path)) == path


def test_the_server_enforces_create_if_absent_and_compare_and_swap(s3: str, s3_endpoint: str) -> None:
    """What the other tests rely on, asked by another client; a multipart upload is completed if absent too."""
    from botocore.exceptions import ClientError

    sdk, where = client(s3_endpoint), {"Bucket": s3.removeprefix("s3://"), "Key": "record"}
    first = sdk.put_object(**where, Body=b"one", IfNoneMatch="*")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        sdk.put_object(**where, Body=b"two", IfNoneMatch="*")
    sdk.put_object(**where, Body=b"three", IfMatch=first["ETag"])
    with pytest.raises(ClientError, match="PreconditionFailed"):
        sdk.put_object(**where, Body=b"four", IfMatch=first["ETag"])
    upload = {**where, "UploadId": sdk.create_multipart_upload(**where)["UploadId"]}
    part = sdk.upload_part(**upload, PartNumber=1, Body=b"five")
    parts = {"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]}
    with pytest.raises(ClientError, match="PreconditionFailed"):
        sdk.complete_multipart_upload(**upload, MultipartUpload=parts, IfNoneMatch="*")
    assert sdk.get_object(**where)["Body"].read() == b"three"


def test_a_large_file_is_uploaded_in_parts_and_is_equal(s3: str, tmp_path: Path) -> None:
    content = b"0123456789abcdef" * (1 << 20)  # 16 MiB: more than one part.
    local, back = tmp_path / "local", tmp_path / "back"
    local.write_bytes(content)
    path = as_path(s3) / "large"
    path.upload(local)  # type: ignore[attr-defined]
    assert path.stat().etag.endswith('-4"')  # type: ignore[attr-defined]
    path.download(back)  # type: ignore[attr-defined]
    assert back.read_bytes() == content


def test_the_record_is_equal_from_another_process_and_no_credential_is_in_a_pickle(s3: str) -> None:
    import pickle

    path = as_path(s3) / "record"
    FILES.put(path, b"one")
    pickled = pickle.dumps(path)
    assert b"no-secret" not in pickled
    assert pickle.loads(pickled) == path
    code = f"from tutelage.pipeline.io.paths import as_path; print(as_path({str(path)!r}).read_text())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "one\n"
