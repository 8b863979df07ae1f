"""A copy of the served folder in a store without renames: saved_model.pb marks what is whole."""

import re
import shutil
import sys
import threading
import uuid
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tutelage.export.remote import mirror
from tutelage.export.versions import CARD, Versions
from tutelage.pipeline.errors import UserError
from tutelage.trainers.checkpoints import State

DAY = date(2026, 1, 31)
FIRST, SECOND, THIRD = 2026013101, 2026020101, 2026020201
DATA = "variables/variables.data-00000-of-00001"
FILES = ("saved_model.pb", DATA, "variables/variables.index", "assets/ids")


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    """Two versions of two days."""
    versions = Versions(tmp_path / "work" / "export" / "wide")
    for day in (DAY, DAY + timedelta(days=1)):
        _publish(versions, day)
    return versions


@pytest.fixture(params=["file", "memory"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "file":
        yield f"file://{tmp_path}/copy"
    else:
        yield f"memory://{uuid.uuid4().hex}/models/wide"
        MemoryFileSystem.store.clear()
        MemoryFileSystem.pseudo_dirs[:] = [""]


def _bytes(name: str, day: date) -> bytes:
    """Write files that differ by day, so that a mixture of two versions would be noticed."""
    return f"{name} {day}".encode() * 1000


def _publish(versions: Versions, day: date) -> int:
    def write(path: str) -> None:
        for name in FILES:
            (Path(path) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(path) / name).write_bytes(_bytes(name, day))

    return versions.publish(versions.stage(State(day=day, step=1, examples=1, rows=1), write)).number


def _local(versions: Versions) -> dict[str, bytes]:
    files = (path for v in versions.published() for path in v.path.rglob("*") if path.is_file())
    return {path.relative_to(versions.folder).as_posix(): path.read_bytes() for path in files}


def _remote(target: str) -> dict[str, bytes]:
    fs, root = fsspec.url_to_fs(target)
    return {path[len(root) + 1 :]: fs.cat_file(path) for path in fs.find(root)}


def _refused(says: str, versions: Versions, target: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(says)}$"):
        mirror(versions.folder, target)


def test_the_copy_holds_the_bytes_of_the_versions_and_nothing_else(versions: Versions, target: str) -> None:
    mirror(versions.folder, target)
    assert len(_local(versions)) == 2 * 6
    assert _remote(target) == _local(versions)


def test_the_copy_follows_publications_retirements_and_promotions(versions: Versions, target: str) -> None:
    mirror(versions.folder, target)
    _publish(versions, DAY + timedelta(days=2))
    assert versions.retire(keep=2) == [FIRST]
    mirror(versions.folder, target)
    assert {name.split("/")[0] for name in _remote(target)} == {str(SECOND), str(THIRD)}
    assert _remote(target) == _local(versions)
    assert versions.promote(FIRST) == [SECOND, THIRD]
    mirror(versions.folder, target)
    assert {name.split("/")[0] for name in _remote(target)} == {str(FIRST)}
    assert _remote(target) == _local(versions)


def test_files_that_were_copied_are_not_copied_again(versions: Versions, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    mirror(versions.folder, str(copy))
    written = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
    # A copy that was cut short: one file of the first version is partial, another is missing.
    version = copy / str(FIRST)
    (version / "saved_model.pb").unlink()
    (version / "assets/ids").unlink()
    (version / DATA).write_bytes((version / DATA).read_bytes()[:-1])
    mirror(versions.folder, str(copy))
    assert _remote(f"file://{copy}") == _local(versions)
    again = {path for path, when in written.items() if path.stat().st_mtime_ns != when}
    assert again == {version / "saved_model.pb", version / "assets/ids", version / DATA}


@pytest.mark.parametrize("card", ["another's", "in part", "none"])
def test_a_partial_copy_of_another_version_is_not_reused(versions: Versions, target: str, card: str) -> None:
    mirror(versions.folder, target)
    fs, root = fsspec.url_to_fs(target)
    fs.rm_file(f"{root}/{FIRST}/saved_model.pb")
    # Of the same size, like the files of two trainings of one model.
    size = fs.info(f"{root}/{FIRST}/{DATA}")["size"]
    fs.pipe_file(f"{root}/{FIRST}/{DATA}", b"x" * size)
    sound = fs.cat_file(f"{root}/{FIRST}/{CARD}")
    fs.rm_file(f"{root}/{FIRST}/{CARD}")
    if card != "none":
        text = sound[:-1] if card == "in part" else sound.replace(b'"step": 1', b'"step": 2')
        fs.pipe_file(f"{root}/{FIRST}/{CARD}", text)
    mirror(versions.folder, target)
    assert _remote(target) == _local(versions)


def test_another_models_folder_is_refused_and_left_alone(
    versions: Versions, target: str, tmp_path: Path
) -> None:
    mirror(versions.folder, target)
    before = _remote(target)
    other = Versions(tmp_path / "other" / "export" / "wide")
    number = _publish(other, DAY)
    assert number == FIRST  # the same number, but made from another checkpoint
    _publish(other, DAY + timedelta(days=1))
    path = other.folder / str(SECOND)
    _refused(f"{target} holds a {SECOND} that is not {path}; give an empty folder", other, target)
    assert _remote(target) == before


def test_a_version_that_was_never_ours_is_refused_and_not_removed(versions: Versions, target: str) -> None:
    fs, root = fsspec.url_to_fs(target)
    fs.makedirs(f"{root}/2025123101")
    fs.pipe_file(f"{root}/2025123101/saved_model.pb", b"graph")
    before = _remote(target)
    says = f"{target} holds 2025123101, which was never a version of wide; give an empty folder"
    _refused(says, versions, target)
    assert _remote(target) == before


def test_other_files_beside_the_versions_stay(versions: Versions, target: str) -> None:
    fs, root = fsspec.url_to_fs(target)
    fs.makedirs(root, exist_ok=True)
    fs.pipe_file(f"{root}/models.config", b"config")
    mirror(versions.folder, target)
    assert _remote(target) == _local(versions) | {"models.config": b"config"}


def test_a_folder_with_a_link_is_not_copied(versions: Versions, target: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("not to be served")
    (versions.folder / str(SECOND) / "assets/vocabulary").symlink_to(secret)
    mirror(versions.folder, target)
    assert {name.split("/")[0] for name in _remote(target)} == {str(FIRST)}


def test_copying_nothing_is_refused_and_leaves_the_copy_alone(versions: Versions, target: str) -> None:
    mirror(versions.folder, target)
    before = _remote(target)
    shutil.rmtree(versions.folder)
    _refused(f"{versions.folder} has no version to copy to {target}; export one first", versions, target)
    assert _remote(target) == before


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("nonesuch://bucket/x", "Protocol not known: nonesuch"),
        ("uninstalled://bucket/x", "install it to copy there"),
    ],
)
def test_an_invalid_url_is_refused(versions: Versions, url: str, why: str) -> None:
    fsspec.register_implementation(
        "uninstalled", "not_installed.Store", clobber=True, errtxt="install it to copy there"
    )
    _refused(f"{url}: {why}; give a URL like s3://bucket/models/wide", versions, url)


@pytest.mark.parametrize("url", ["zip://::/none.zip", "foo://me:pw@x", "reference://x", "cached://x"])
def test_a_url_that_no_store_can_open_is_refused_in_one_line(versions: Versions, url: str) -> None:
    with pytest.raises(UserError) as error:
        mirror(versions.folder, url)
    text = str(error.value)
    assert url in text
    assert "\n" not in text


class Forbidden(Exception):
    """What the library of a store raises. It is no OSError."""


@pytest.mark.parametrize("method", ["makedirs", "ls", "put_file", "rm_file"])
def test_a_store_that_refuses_is_explained_in_one_line(
    versions: Versions, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    target = f"memory://{uuid.uuid4().hex}/models/wide"
    mirror(versions.folder, target)
    _publish(versions, DAY + timedelta(days=2))
    versions.retire(keep=1)

    def refuse(self: Any, *args: Any, **options: Any) -> None:
        raise Forbidden("403: access denied\nfor this key")

    monkeypatch.setattr(MemoryFileSystem, method, refuse)
    why = "(403: access denied for this key); fix that and copy again"
    _refused(f"{versions.folder} is not fully copied to {target} {why}", versions, target)


def test_a_folder_that_cannot_be_written_to_is_refused(versions: Versions, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    target = f"file://{tmp_path}/file/copy"
    why = f"[Errno 20] Not a directory: '{tmp_path}/file/copy'"
    says = f"{versions.folder} is not fully copied to {target} ({why}); fix that and copy again"
    _refused(says, versions, target)


def test_a_version_that_is_retired_while_it_is_copied_fails_the_copy_and_the_next_copy_repairs_it(
    versions: Versions, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    class_ = type(fsspec.url_to_fs(target)[0])
    put_file = class_.put_file

    def put_then_retire(self: Any, local: str, remote: str, **options: Any) -> None:
        put_file(self, local, remote, **options)
        if local.endswith("ids"):
            versions.rollback()

    monkeypatch.setattr(class_, "put_file", put_then_retire)
    why = f"{versions.folder / str(SECOND)} was retired in the meantime"
    says = f"{versions.folder} is not fully copied to {target} ({why}); fix that and copy again"
    _refused(says, versions, target)
    assert f"{SECOND}/saved_model.pb" not in _remote(target)
    monkeypatch.undo()
    mirror(versions.folder, target)
    assert _remote(target) == _local(versions)
    assert {name.split("/")[0] for name in _remote(target)} == {str(FIRST)}


def test_a_reader_that_looks_for_saved_model_pb_always_sees_whole_versions(
    versions: Versions, target: str
) -> None:
    days = [DAY + timedelta(days=n) for n in range(12)]
    mirror(versions.folder, target)
    fs, root = fsspec.url_to_fs(target)
    wrong: list[str] = []
    served: list[date] = []
    done = threading.Event()

    def read(day: date, name: str) -> bytes | None:
        try:
            return bytes(fs.cat_file(f"{root}/{day:%Y%m%d}01/{name}"))
        except FileNotFoundError:
            return None

    def watch() -> None:
        while not done.is_set():
            there = [day for day in days if read(day, "saved_model.pb") is not None]
            served.extend(there[-1:] if there[-1:] != served[-1:] else [])
            if not there:
                wrong.append("there was nothing")
            for day in there:
                unlike = [name for name in FILES if read(day, name) != _bytes(name, day)]
                # Without saved_model.pb it is being removed, and a removed version does not come back in this test.
                if unlike and read(day, "saved_model.pb") is not None:
                    wrong.append(f"{day} without {unlike}")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        for day in days[2:]:
            _publish(versions, day)
            versions.retire(keep=1)
            mirror(versions.folder, target)
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert not wrong
    assert len(served) > 2
    assert served == sorted(served)
