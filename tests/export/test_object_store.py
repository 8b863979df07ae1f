"""Versions in an object store, on a real S3 server: whole or not there, and one promise through every move."""

import contextlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.stored import names
from tutelage.export import card, golden, warmup
from tutelage.export.forget import forget
from tutelage.export.remote import mirror
from tutelage.export.versions import CARD, DIGESTS, GRAPH, Versions, damage
from tutelage.export.versions import store as versions_store
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.paths import StorePath, as_path
from tutelage.pipeline.io.scratch import ScratchLost, local_copy
from tutelage.trainers.checkpoints import State

DAYS = [date(2026, 1, day) for day in (1, 2, 3)]
NUMBERS = [2026010101, 2026010201, 2026010301]


def _write(path: str) -> None:
    (Path(path) / "variables").mkdir(parents=True)
    (Path(path) / "variables/variables.index").write_bytes(b"index")
    (Path(path) / GRAPH).write_bytes(b"graph")


def _publish(versions: Versions, *days: date) -> list[int]:
    states = (State(day=day, step=7, examples=1, rows=1, id=f"{day}") for day in days)
    return [versions.publish(versions.stage(state, _write)).number for state in states]


def _versions(url: str) -> Versions:
    return Versions(as_path(url) / "export" / "wide")


def _served(versions: Versions) -> list[int]:
    return [version.number for version in versions.published()]


def test_a_version_is_uploaded_whole_served_moved_and_removed(s3: str) -> None:
    versions = _versions(s3)
    assert _publish(versions, *DAYS) == NUMBERS == _served(versions)
    assert [damage(version.path, contents=True) for version in versions.published()] == ["", "", ""]
    assert versions.rollback("slow") == NUMBERS[2:]
    assert _served(versions) == NUMBERS[:2]
    assert versions.promote(NUMBERS[2]) == []
    versions.pin(NUMBERS[0], "kept")
    assert versions.retire(keep=1) == NUMBERS[1:2]
    assert (_served(versions), versions.pinned()) == ([NUMBERS[0], NUMBERS[2]], {NUMBERS[0]: "kept"})
    versions.remove(NUMBERS[1:2])
    assert not versions.retired.exists()
    assert _publish(versions, DAYS[1]) == [2026010202]  # Its number stays used.
    staged = versions.stage(State(day=DAYS[2], step=8, examples=1, rows=1), _write)
    assert versions.reject(staged).path == versions.rejected / "2026010302"
    with pytest.raises(UserError, match="was rejected"):
        versions.promote(2026010302)
    log = [json.loads(line) for line in versions.log.read_text().splitlines()]
    assert [(each["action"], each["version"], each["done"]) for each in log] == [
        ("rollback", NUMBERS[1], True),
        ("promote", NUMBERS[2], True),
        ("pin", NUMBERS[0], True),
    ]


def test_what_is_missing_is_told_at_once_and_what_has_changed_where_contents_are_read(s3: str) -> None:
    versions = _versions(s3)
    _publish(versions, *DAYS[:2])
    first, second = (version.path for version in versions.published())
    (first / "variables/variables.index").unlink()
    (second / "variables/variables.index").write_bytes(b"INDEX")
    assert damage(first) == f"{first}/variables/variables.index is missing"
    assert damage(second) == ""
    assert damage(second, contents=True) == f"{second}/variables/variables.index is not what was uploaded"
    assert versions.newest_sound() == versions.published()[1]
    with pytest.raises(UserError, match="is damaged"):
        versions.promote(NUMBERS[0])


def test_a_mirror_on_the_disk_and_one_in_a_bucket_show_what_a_bucket_serves(
    s3: str, s3_endpoint: str, tmp_path: Path
) -> None:
    versions = _versions(f"{s3}/w")
    _publish(versions, *DAYS)
    mirror(versions.folder, f"{s3}/copy")
    versions.retire(keep=2)
    for target in (f"{s3}/copy", f"file://{tmp_path}/copy"):
        mirror(versions.folder, target)
        mirror(versions.folder, target)
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["2026010201", "2026010301"]
    assert damage(tmp_path / "copy/2026010301") == ""
    files = [path for path in (tmp_path / "copy").rglob("*") if path.is_file()]
    found = sorted(str(path.relative_to(tmp_path / "copy")) for path in files)
    assert sorted(names(s3_endpoint, f"{s3}/copy")) == found


def test_a_card_is_changed_and_a_user_forgotten_and_copies_are_still_checked(s3: str) -> None:
    versions = _versions(s3)
    staged = versions.stage(State(day=DAYS[0], step=7, examples=1, rows=1), _write)
    frame = pl.DataFrame({"user_id": [1, 2, 1]}, schema_overrides={"user_id": pl.Int64})
    golden.write_golden(staged / golden.PATH, frame, {"score": frame["user_id"].to_numpy() / 2})
    warmup.write_warmup(staged / warmup.PATH, "wide", golden.read_golden(staged / golden.PATH).features)
    card.write_card(
        staged,
        card.Facts(
            model="wide", day=DAYS[0], first_day=DAYS[0], rows=3, config={}, judged_day=DAYS[0],
            judged_rows=0, holdout=0.02, verdict="", parameters=0, ops=0,
        ),
    )  # fmt: skip
    path = versions.publish(staged).path
    card.record_override(path, "a sale")
    assert forget(path, "wide", pl.col("user_id") == 1) == 2
    assert forget(path, "wide", pl.col("user_id") == 1) == 0
    assert damage(path, contents=True) == ""
    with local_copy(path) as copy:
        assert golden.read_golden(copy / golden.PATH).frame["user_id"].to_list() == [2]
        assert json.loads((copy / f"{card.PATH}.json").read_text())["override"] == "a sale"
        assert json.loads((copy / f"{card.PATH}.json").read_text())["sha256"] == card.sha256(copy)


class Killed(BaseException):
    pass


@contextlib.contextmanager
def _killed_after(writes: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Let this process write so often to the store, and then not at all; yields a list of the write that it died at."""
    done: list[str] = []
    died: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        act = getattr(StorePath, name)

        def write(path: StorePath, *args: Any, **kwargs: Any) -> Any:
            if len(done) == writes:
                died.append(f"{name} {path}")
                raise Killed
            done.append(f"{name} {path}")
            return act(path, *args, **kwargs)

        return write

    with monkeypatch.context() as patch:
        for name in ("_put", "copy_to", "remove", "unlink"):
            patch.setattr(StorePath, name, counted(name))
        with contextlib.suppress(Killed):
            yield died


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("act", "after"),
    [
        (lambda versions: _publish_if_new(versions, DAYS[2]), NUMBERS),
        (lambda versions: versions.rollback("slow"), NUMBERS[:1]),
        (lambda versions: versions.promote(NUMBERS[0], "sound"), NUMBERS[:1]),
        (lambda versions: versions.retire(keep=1), NUMBERS[1:2]),
        (lambda versions: versions.set_damaged_aside(NUMBERS[0]), NUMBERS[1:2]),
    ],
    ids=["publish", "rollback", "promote", "retire", "set aside"],
)
def test_an_operation_killed_at_every_write_and_done_again_ends_the_same(
    s3: str,
    s3_endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[Versions], object],
    after: list[int],
) -> None:
    # The lease of this process would outlive it, as it is not really killed.
    monkeypatch.setattr(versions_store, "locked", lambda *_, **__: contextlib.nullcontext())
    ends: set[tuple[str, ...]] = set()
    for writes in range(60):
        url = f"{s3}/{uuid.uuid4().hex}"
        _publish(_versions(url), *DAYS[:2])
        with _killed_after(writes, monkeypatch) as died:
            act(_versions(url))
        served = _served(_versions(url))
        assert served[-1] in (NUMBERS[1], after[-1])
        assert not any(damage(version.path, contents=True) for version in _versions(url).published())
        if died:
            act(_versions(url))
        assert _served(_versions(url)) == after
        ends.add(tuple(sorted(names(s3_endpoint, url))))
        if not died:
            break
    assert not died
    assert len(ends) == 1


def _publish_if_new(versions: Versions, day: date) -> None:
    if versions.unpublished([State(day=day, step=7, examples=1, rows=1, id=f"{day}")]):
        _publish(versions, day)


def test_an_export_that_was_never_finished_is_no_version_and_is_cleared_up(s3: str, s3_endpoint: str) -> None:
    versions = _versions(s3 + "/w")
    _publish(versions, DAYS[0])
    half = versions.folder / "2026010201"
    (half / CARD).write_text("{}")
    assert _served(versions) == NUMBERS[:1]
    _publish(versions, DAYS[2])
    assert not half.exists()
    assert {CARD, DIGESTS, GRAPH} < {name[11:] for name in names(s3_endpoint, f"{s3}/w/export/wide")}


def test_scratch_that_vanishes_while_a_version_is_made_is_told_and_nothing_of_it_is_there(s3: str) -> None:
    versions = _versions(s3)
    state = State(day=DAYS[0], step=7, examples=1, rows=1)

    def lose(path: str) -> None:
        shutil.rmtree(Path(path).parent)
        (Path(path) / GRAPH).read_bytes()

    with pytest.raises(ScratchLost, match="was removed while it was in use"):
        versions.stage(state, lose)
    staged = versions.stage(state, _write)
    shutil.rmtree(staged.parent)
    with pytest.raises(ScratchLost, match="was removed while it was in use"):
        versions.publish(staged)
    assert not versions.folder.exists()
    assert _publish(versions, DAYS[0]) == NUMBERS[:1]
