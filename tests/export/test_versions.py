"""Versions: their numbers are never reused, their folders are whole, and the right one is served."""

import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from tests.recording import record_disk
from tutelage.export.versions import CARD, DIGESTS, Version, Versions
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.json import unsealed
from tutelage.pipeline.io.locks import locked
from tutelage.trainers.checkpoints import State

DAY, NEXT = date(2026, 1, 31), date(2026, 2, 1)
FIRST, AGAIN, LAST = 2026013101, 2026013102, 2026020101


class Killed(Exception):
    pass


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    return Versions(tmp_path / "export" / "wide")


def _write(path: str) -> None:
    Path(path).mkdir()
    (Path(path) / "saved_model.pb").write_bytes(b"graph")


def _write_half(path: str) -> None:
    _write(path)
    raise Killed


def _state(day: date = DAY, *, step: int = 7) -> State:
    return State(day=day, step=step, examples=100, rows=100)


def _publish(versions: Versions, *days: date) -> list[int]:
    return [versions.publish(versions.stage(_state(day), _write)).number for day in days]


def _reject(versions: Versions, day: date) -> int:
    return versions.reject(versions.stage(_state(day), _write)).number


def _numbers(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.glob("[0-9]*"))


def _files(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _log(versions: Versions) -> list[dict[str, object]]:
    """Return the logged decisions without user and time."""
    records = [unsealed(json.loads(line)) for line in versions.log.read_text().splitlines()]
    return [{key: value for key, value in r.items() if key not in ("time", "who")} for r in records]


def _refused(says: str, action: Callable[[], object]) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(says)}$"):
        action()


def test_a_number_is_the_day_and_how_often_it_was_exported(versions: Versions) -> None:
    assert _publish(versions, DAY, DAY, NEXT, DAY) == [FIRST, AGAIN, LAST, 2026013103]


def test_a_published_version_names_its_checkpoint(versions: Versions, tmp_path: Path) -> None:
    state = _state(step=12)
    version = versions.publish(versions.stage(state, _write))
    path = tmp_path / "export" / "wide" / "2026013101"
    assert version == Version(path=path, number=FIRST, day=DAY, step=12, checkpoint=state.id)
    assert (path / "saved_model.pb").read_bytes() == b"graph"
    assert versions.published() == [version]


def test_a_version_is_on_the_disk_before_a_server_can_see_it(
    versions: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = _state()
    staged = versions.stage(state, _write)
    done = record_disk(monkeypatch, tmp_path)
    versions.publish(staged)
    staging = f"publication/wide/staging/{state.id}"
    served = done.index(f"rename {staging} export/wide/{FIRST}")
    for name in ("", "/saved_model.pb", "/assets.extra", f"/{CARD}"):
        assert f"fsync {staging}{name}" in done[:served]
    assert done[served + 1] == "fsync export/wide"


def test_a_rejected_version_has_a_number_and_is_not_served(versions: Versions, tmp_path: Path) -> None:
    _publish(versions, DAY)
    state = _state()
    version = versions.reject(versions.stage(state, _write))
    path = tmp_path / "rejected" / "wide" / "2026013102"
    assert version == Version(path=path, number=AGAIN, day=DAY, step=7, checkpoint=state.id)
    assert (path / "saved_model.pb").read_bytes() == b"graph"
    assert _numbers(versions.folder) == [FIRST]
    assert _publish(versions, DAY) == [2026013103]


def test_published_versions_are_in_the_order_of_their_numbers(versions: Versions) -> None:
    _publish(versions, NEXT, DAY, DAY)
    assert [version.number for version in versions.published()] == [FIRST, AGAIN, LAST]


@pytest.mark.parametrize("folder", ["export", "rejected", "retired"])
@pytest.mark.parametrize("gone", [FIRST, AGAIN])
def test_a_number_is_not_reused_after_its_folder_was_removed(
    versions: Versions, tmp_path: Path, folder: str, gone: int
) -> None:
    for _ in range(2):
        _reject(versions, DAY) if folder == "rejected" else _publish(versions, DAY)
    if folder == "retired":
        _publish(versions, NEXT)
        assert versions.retire(keep=1) == [FIRST, AGAIN]
    shutil.rmtree(tmp_path / folder / "wide" / str(gone))
    assert _publish(versions, DAY) == [2026013103]


def test_a_killed_write_publishes_nothing_uses_no_number_and_is_removed(versions: Versions) -> None:
    with pytest.raises(Killed):
        versions.stage(_state(), _write_half)
    assert versions.published() == []
    assert len(list(versions.staging.iterdir())) == 1
    assert _publish(versions, DAY) == [FIRST]
    assert {path.name for path in versions.folder.iterdir()} == {"2026013101", "numbers.txt"}
    assert list(versions.staging.iterdir()) == []


def test_a_staged_version_is_not_in_the_served_folder(versions: Versions) -> None:
    staging = versions.stage(_state(), _write)
    assert json.loads((staging / CARD).read_text())["day"] == "2026-01-31"
    assert not versions.folder.exists()


def test_a_number_counts_as_used_if_the_process_was_killed_before_it_wrote_it_down(
    versions: Versions,
) -> None:
    _publish(versions, DAY)
    versions.ledger.unlink()
    assert _publish(versions, DAY) == [AGAIN]
    assert versions.ledger.read_text().split()[:-1] == ["2026013101", "2026013102"]


def test_a_day_is_exported_99_times_at_most(versions: Versions) -> None:
    versions.folder.mkdir(parents=True)
    versions.ledger.write_text("2026013198\n")
    assert _publish(versions, DAY) == [2026013199]
    says = (
        f"{versions.folder}: 2026-01-31 was exported 99 times, so no version number is left for it; "
        "export another day"
    )
    _refused(says, lambda: _publish(versions, DAY))
    assert _publish(versions, NEXT) == [LAST]


def test_a_checkpoint_is_unpublished_until_a_version_was_made_from_it(versions: Versions) -> None:
    states = [_state(), _state(NEXT), _state(NEXT + timedelta(days=1))]
    assert versions.unpublished(states) == states
    versions.publish(versions.stage(states[0], _write))
    assert versions.unpublished(states) == states[1:]
    versions.reject(versions.stage(states[1], _write))
    assert versions.unpublished(states) == states[2:]
    versions.publish(versions.stage(states[2], _write))
    versions.retire(keep=1)
    assert _numbers(versions.retired) == [FIRST]
    assert versions.unpublished(states) == []
    # Another checkpoint of the same day, step and rows.
    again = _state()
    assert versions.unpublished([states[0], again]) == [again]


def test_the_newest_are_kept_and_the_others_retired(versions: Versions) -> None:
    numbers = _publish(versions, *(DAY + timedelta(days=n) for n in range(4)))
    assert versions.retire(keep=3) == numbers[:1]
    assert versions.retire(keep=3) == []
    assert versions.retire(keep=1) == numbers[1:3]
    assert _numbers(versions.folder) == numbers[3:]
    assert _numbers(versions.retired) == numbers[:3]


def test_a_pinned_version_is_kept_beside_the_newest_until_it_is_unpinned(versions: Versions) -> None:
    numbers = _publish(versions, *(DAY + timedelta(days=n) for n in range(4)))
    versions.pin(numbers[1], "the one of the audit")
    assert versions.pinned() == {numbers[1]: "the one of the audit"}
    assert versions.retire(keep=2) == numbers[:1]
    assert _numbers(versions.folder) == numbers[1:]
    versions.unpin(numbers[1])
    assert versions.pinned() == {}
    assert versions.retire(keep=2) == [numbers[1]]


def test_only_served_versions_are_pinned_and_only_pinned_ones_unpinned(versions: Versions) -> None:
    _publish(versions, DAY)
    _refused(
        f"wide has no version 2026020101 in {versions.folder}; pin one that is there",
        lambda: versions.pin(LAST),
    )
    _refused("wide 2026013101 is not pinned; pinned versions: none", lambda: versions.unpin(FIRST))
    versions.pin(FIRST)
    _refused("wide 2026020101 is not pinned; pinned versions: 2026013101", lambda: versions.unpin(LAST))


def test_a_rollback_serves_the_bytes_of_the_version_before(versions: Versions) -> None:
    _publish(versions, DAY)
    before = _files(versions.folder / str(FIRST))
    _publish(versions, NEXT)
    assert versions.rollback("spoiled") == [LAST]
    assert _numbers(versions.folder) == [FIRST]
    assert _files(versions.folder / str(FIRST)) == before
    assert before.keys() == {"saved_model.pb", CARD, DIGESTS}
    assert _numbers(versions.retired) == [LAST]
    # The next version is served as usual.
    assert _publish(versions, NEXT) == [2026020102]


@pytest.mark.parametrize(("published", "has"), [(0, "0 versions"), (1, "1 version")])
def test_a_rollback_needs_a_version_to_go_back_to(versions: Versions, published: int, has: str) -> None:
    _publish(versions, *[DAY] * published)
    says = (
        f"wide has {has} in {versions.folder}, but a rollback needs two; "
        f"--promote=VERSION brings one back from {versions.retired} or {versions.rejected}"
    )
    _refused(says, versions.rollback)
    assert _numbers(versions.folder) == [FIRST] * published


def test_a_promotion_serves_the_version_and_retires_newer_ones(versions: Versions) -> None:
    first, second, third, fourth = _publish(versions, *(DAY + timedelta(days=n) for n in range(4)))
    assert versions.promote(second) == [third, fourth]  # served, but not the newest
    assert _numbers(versions.folder) == [first, second]
    assert versions.promote(fourth) == []  # from the retired ones
    assert _numbers(versions.folder) == [first, second, fourth]
    assert versions.promote(third) == [fourth]
    assert _numbers(versions.folder) == [first, second, third]
    assert _numbers(versions.retired) == [fourth]


def test_a_rejected_version_is_promoted_only_with_a_reason(versions: Versions) -> None:
    _publish(versions, DAY)
    rejected = _reject(versions, NEXT)
    says = (
        f"wide 2026020101 was rejected (see {versions.rejected / '2026020101/assets.extra'}); "
        "give a --reason to serve it anyway"
    )
    _refused(says, lambda: versions.promote(rejected))
    assert not versions.log.exists()
    assert versions.promote(rejected, "the labels were late, the model is sound") == []
    assert _numbers(versions.folder) == [FIRST, rejected]
    assert _numbers(versions.rejected) == []


def test_promoting_the_served_version_changes_and_logs_nothing(versions: Versions) -> None:
    _publish(versions, DAY, NEXT)
    assert versions.promote(LAST) == []
    assert not versions.log.exists()


def test_a_version_that_does_not_exist_is_not_promoted(versions: Versions) -> None:
    _publish(versions, DAY)
    folders = f"{versions.folder}, {versions.retired} or {versions.rejected}"
    _refused(f"wide has no version 2026020101 in {folders}", lambda: versions.promote(LAST))


def test_neither_a_promotion_nor_a_rollback_retires_a_pinned_version(versions: Versions) -> None:
    _publish(versions, DAY, DAY, NEXT)
    versions.pin(LAST, "for the A/B test")
    says = "wide 2026020101 is pinned (for the A/B test) and would be retired; --unpin=2026020101 first"
    _refused(says, versions.rollback)
    _refused(says, lambda: versions.promote(FIRST))
    versions.pin(AGAIN)
    _refused(
        "wide 2026013102 is pinned and would be retired; --unpin=2026013102 first",
        lambda: versions.promote(FIRST),
    )
    assert _numbers(versions.folder) == [FIRST, AGAIN, LAST]
    assert [record["action"] for record in _log(versions)] == ["pin", "pin"]


def test_a_withdrawal_retires_versions_even_if_none_is_left(versions: Versions) -> None:
    _publish(versions, DAY, DAY, NEXT)
    versions.pin(AGAIN)
    _refused(
        f"wide {AGAIN} is pinned and would be retired; --unpin={AGAIN} first",
        lambda: versions.withdraw([FIRST, AGAIN], "spoiled"),
    )
    versions.unpin(AGAIN)
    versions.withdraw([LAST, FIRST, AGAIN], "spoiled")
    assert _numbers(versions.folder) == []
    assert _numbers(versions.retired) == [FIRST, AGAIN, LAST]
    assert _log(versions)[-1] == {
        "action": "withdraw",
        "version": LAST,
        "retires": [LAST, FIRST, AGAIN],
        "reason": "spoiled",
        "done": True,
    }


def test_every_decision_is_logged_with_who_when_and_why(
    versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    _publish(versions, DAY, DAY)
    rejected = _reject(versions, NEXT)
    versions.promote(rejected, "late labels")
    versions.rollback("it was not sound")
    versions.pin(AGAIN, "audit")
    versions.unpin(AGAIN)
    assert _log(versions) == [
        {"action": "promote", "version": LAST, "retires": [], "reason": "late labels", "done": True},
        {
            "action": "rollback",
            "version": AGAIN,
            "retires": [LAST],
            "reason": "it was not sound",
            "done": True,
        },
        {"action": "pin", "version": AGAIN, "retires": [], "reason": "audit", "done": True},
        {"action": "unpin", "version": AGAIN, "retires": [], "reason": "", "done": True},
    ]
    for line in versions.log.read_text().splitlines():
        record = unsealed(json.loads(line))
        assert record["who"] == "ada"
        assert datetime.now(UTC) - datetime.fromisoformat(record["time"]) < timedelta(minutes=1)


def _undone(versions: Versions) -> None:
    """Leave the log as a process does that was killed before its last decision was done."""
    records = [unsealed(json.loads(line)) for line in versions.log.read_text().splitlines()]
    records[-1]["done"] = False
    versions.log.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_a_user_without_a_name_is_logged_by_user_id(
    versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr("getpass.getuser", nameless)
    _publish(versions, DAY)
    versions.pin(FIRST)
    assert json.loads(versions.log.read_text())["who"] == str(os.getuid())


def test_a_rollback_that_was_killed_after_it_took_effect_is_not_repeated(versions: Versions) -> None:
    _publish(versions, DAY, DAY, NEXT)
    versions.rollback("spoiled")
    # The log as a process leaves it that is killed before it logs the end.
    _undone(versions)
    assert versions.rollback() == [LAST]
    assert _numbers(versions.folder) == [FIRST, AGAIN]
    assert [(r["reason"], r["done"]) for r in _log(versions)] == [("spoiled", True)]
    assert versions.rollback() == [AGAIN]
    assert _numbers(versions.folder) == [FIRST]


def test_a_newer_version_is_rolled_back_even_after_a_killed_rollback(versions: Versions) -> None:
    _publish(versions, DAY, DAY)
    versions.rollback()
    _undone(versions)
    _publish(versions, NEXT)
    assert versions.rollback() == [AGAIN, LAST]
    assert _numbers(versions.folder) == [FIRST]


def test_moves_wait_for_the_lock(versions: Versions) -> None:
    _publish(versions, DAY, NEXT)
    with locked(versions.log.with_name(".lock"), ""):
        thread = threading.Thread(target=versions.rollback)
        thread.start()
        time.sleep(0.1)
        assert _numbers(versions.folder) == [FIRST, LAST]
    thread.join()
    assert _numbers(versions.folder) == [FIRST]


def _card(path: Path, text: str) -> None:
    (path / CARD).parent.mkdir(parents=True)
    (path / CARD).write_text(text)


SOUND = '{"day": "2026-01-31", "step": 7, "checkpoint": "c"}'


@pytest.mark.parametrize(
    ("torn", "left"), [((), 3), ((0,), 2), ((0, 1), 1), ((2,), 2), ((0, 1, 2), 0), (None, 0)]
)
def test_a_repair_removes_the_torn_lines_of_the_log_and_keeps_what_it_was(
    versions: Versions, torn: tuple[int, ...] | None, left: int
) -> None:
    _publish(versions, DAY)
    for reason in ("one", "two", "three"):
        versions.pin(FIRST, reason)
    lines = versions.log.read_bytes().splitlines(keepends=True)
    content = b"" if torn is None else b"".join(b"{" * (n in torn) + line for n, line in enumerate(lines))
    versions.log.write_bytes(content)
    found = versions.torn_records()
    assert len(found) == (1 if torn is None else len(torn))
    for _, _, mend in found:
        mend()
    assert versions.torn_records() == []
    assert versions.log.exists() == bool(left)
    assert not left or len(versions.log.read_bytes().splitlines()) == left
    aside = versions.log.with_name(".torn-log.jsonl")
    assert not torn or aside.read_bytes() == content
    versions.unpin(FIRST)


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("2026013105", None),
        ("2026013105", "{"),
        ("2026013105", "[]"),
        ("2026013105", '{"day": 1, "step": 7, "checkpoint": "c"}'),
        ("2026013105", '{"day": "2026-01-32", "step": 7, "checkpoint": "c"}'),
        ("2026013105", '{"day": "2026-01-31", "checkpoint": "c"}'),
        ("2026013105", '{"day": "2026-01-31", "step": "seven", "checkpoint": "c"}'),
        ("2026020105", SOUND),  # its name is of another day
        ("2026993105", SOUND),  # not a day
        ("20260131", SOUND),
        ("020260131055", SOUND),
        ("٢٠٢٦٠١٣١٠٥", SOUND),  # digits of another script
    ],
)
def test_a_folder_that_no_export_made_is_not_a_version_and_blocks_decisions(
    versions: Versions, name: str, card: str | None
) -> None:
    _publish(versions, DAY, NEXT)
    _write(str(versions.folder / name))
    if card:
        _card(versions.folder / name, card)
    assert [version.number for version in versions.published()] == [FIRST, LAST]
    # A server would load it, so nobody knows which version is served until it is removed.
    path = re.escape(str(versions.folder / name))
    mend = f"remove it|restore it from a backup, or remove {path}: its day is exported again"
    for decide in (versions.rollback, lambda: versions.promote(FIRST)):
        with pytest.raises(UserError, match=rf"^{path}[ /].*; ({mend})$"):
            decide()
    assert len(versions.published()) == 2


def test_the_number_of_a_foreign_folder_counts_as_used(versions: Versions) -> None:
    _write(str(versions.folder.parent))
    versions.folder.mkdir()
    _write(str(versions.folder / "2026013105"))
    assert _publish(versions, DAY) == [2026013106]


def _link_itself(path: Path, elsewhere: Path) -> str:
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    return ""


def _link_a_file(path: Path, elsewhere: Path) -> str:
    (path / "saved_model.pb").rename(elsewhere)
    (path / "saved_model.pb").symlink_to(elsewhere)
    return "saved_model.pb"


def _link_the_card(path: Path, elsewhere: Path) -> str:
    (path / CARD).rename(elsewhere)
    (path / CARD).symlink_to(elsewhere)
    return CARD


def _link_a_folder(path: Path, elsewhere: Path) -> str:
    elsewhere.mkdir()
    (path / "variables").symlink_to(elsewhere)
    return "variables"


def _link_to_nothing(path: Path, elsewhere: Path) -> str:
    (path / "assets.extra" / "vocabulary").symlink_to("../../../../../etc/nothing")
    return "assets.extra/vocabulary"


LINKS = [_link_itself, _link_a_file, _link_the_card, _link_a_folder, _link_to_nothing]


@pytest.mark.parametrize("link", LINKS)
def test_a_folder_with_a_link_is_not_a_version_and_not_promoted(
    versions: Versions, tmp_path: Path, link: Callable[[Path, Path], str]
) -> None:
    _publish(versions, DAY, NEXT)
    versions.rollback()
    path = versions.retired / str(LAST)
    inside = link(path, tmp_path / "elsewhere")
    says = f"{path / inside} is a link, but a version is made of plain files; remove {path}"
    _refused(says, lambda: versions.promote(LAST))
    os.rename(path, versions.folder / str(LAST))
    assert [version.number for version in versions.published()] == [FIRST]


@pytest.mark.parametrize("link", LINKS)
def test_a_staged_folder_with_a_link_is_neither_published_nor_rejected(
    versions: Versions, tmp_path: Path, link: Callable[[Path, Path], str]
) -> None:
    staging = versions.stage(_state(), _write)
    inside = link(staging, tmp_path / "elsewhere")
    says = f"{staging / inside} is a link, but a version is made of plain files; remove {staging}"
    _refused(says, lambda: versions.publish(staging))
    _refused(says, lambda: versions.reject(staging))
    assert _numbers(versions.folder) == _numbers(versions.rejected) == []
