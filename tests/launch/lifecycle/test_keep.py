"""A run removes old checkpoints, and with them idle versions, but nothing that a later command needs."""

import io
import os
import shutil
from datetime import date, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from tests.launch import small
from tutelage.launch import locks, steps
from tutelage.launch.actions import console as actions_console
from tutelage.launch.actions.prune import remove_old
from tutelage.launch.experiment import KeepConfig
from tutelage.launch.lifecycle import keep, rollback, stale
from tutelage.launch.report.status import print_status
from tutelage.launch.session import Session
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.json import json_object, read_json, write_json

DAYS = [date(2026, 1, 1) + timedelta(days=i) for i in range(16)]
END = "2026-01-16"
# January 3 and 10 are the last days of a seven.
KEPT = {
    "teacher": [DAYS[2], DAYS[9], DAYS[12], *DAYS[13:]],
    "auxiliary": [DAYS[2], DAYS[9], DAYS[12], *DAYS[13:]],
    "late": [DAYS[3], DAYS[9], DAYS[12], *DAYS[13:]],
}
KEEP = ("keep.newest=3", "keep.older=3")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train the teacher, a reader and a late student on sixteen days; the teacher has a version of each."""
    workdir = tmp_path_factory.mktemp("made") / "w"
    small.write_events(workdir.parent / "raw", DAYS)
    session = small.open_session(workdir, end_day=END)
    steps.materialize(session, session.days)
    for state in small.train(session, "teacher", DAYS):
        small.publish(session, "teacher", state)
    for state in small.train(session, "auxiliary", DAYS):
        if state.day in (DAYS[0], DAYS[1], DAYS[2], DAYS[3], DAYS[14]):
            small.publish(session, "auxiliary", state, rejected=state.day == DAYS[1])
    versions = session.versions("auxiliary")
    versions.pin(2026010101)
    versions.retire(keep=1)
    small.train(session, "late", DAYS[3:])
    return workdir


@pytest.fixture
def workdir(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "w")
    return tmp_path / "w"


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr(actions_console, "out", Console(file=text, soft_wrap=True, highlight=False))
    return text


def _open(workdir: Path, *overrides: str) -> Session:
    return small.open_session(workdir, end_day=END, overrides=overrides or KEEP)


def _kept(session: Session) -> dict[str, list[date]]:
    return {
        model: [state.day for state in session.run.checkpoints(model).states() if not state.pruned]
        for model in ("teacher", "auxiliary", "late")
    }


def _numbers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("2*"))


def test_slices_are_counted_in_sevens_too() -> None:
    weeks = [date(2026, 1, 1) + timedelta(days=7 * i) for i in range(20)]
    kept = sorted(keep.days_kept(weeks, KeepConfig(newest=2, older=9), slice_days=7))
    # A seven ends where the number of the week since 0001-01-01 is 6 modulo 7.
    ends = [day for day in weeks[:-2] if day.toordinal() // 7 % 7 == 6]
    assert len(ends) == 2
    assert kept == sorted({weeks[0], *ends, *weeks[-3:]})
    assert keep.days_kept(weeks, KeepConfig(newest=None), slice_days=7) == {*weeks}
    assert keep.days_kept(weeks, KeepConfig(newest=1, older=0), slice_days=7) == {weeks[-1]}
    assert keep.days_kept(weeks[:2], KeepConfig(newest=7), slice_days=7) == {*weeks[:2]}


@pytest.mark.parametrize("fields", [{"newest": 0}, {"older": -1}])
def test_a_budget_that_keeps_nothing_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(UserError, match=r"^keep: newest is "):
        KeepConfig(**fields)


def test_the_newest_checkpoints_stay_and_the_last_of_each_seven_before(
    workdir: Path, printed: io.StringIO
) -> None:
    session = _open(workdir)
    before = session.run.lake.interactions.partitions()
    remove_old(session)
    assert _kept(session) == KEPT
    assert session.run.lake.interactions.partitions().equals(before)
    (line,) = printed.getvalue().splitlines()
    assert line == (
        "keep: removed 27 old checkpoints and 12 versions out of service, 0 MB; those of the newest 3 days stay, and "
        "3 older ones (--set=keep.newest=None keeps all)"
    )
    # Nothing is trained on or exported again, and the next run finds nothing to remove.
    assert [session.days_to_train(model) for model in KEPT] == [[], [], []]
    assert session.to_export("teacher") == []
    assert session.to_export("late") == session.run.checkpoints("late").states()[-1:]
    assert stale.find(session) is None
    remove_old(_open(workdir))
    assert printed.getvalue().count("\n") == 1


def test_versions_that_are_served_pinned_or_of_a_kept_checkpoint_stay(
    workdir: Path, printed: io.StringIO
) -> None:
    session = _open(workdir)
    versions = session.versions("auxiliary")
    assert _numbers(versions.retired) == ["2026010301", "2026010401"]
    remove_old(session)
    assert _numbers(versions.folder) == ["2026010101", "2026011501"]
    assert _numbers(versions.retired) == ["2026010301"]
    assert _numbers(versions.rejected) == []
    assert _numbers(session.versions("teacher").folder) == [f"{day:%Y%m%d}01" for day in KEPT["teacher"]]


def test_by_default_sixteen_days_leave_the_first_two_older_ones_and_a_week(
    workdir: Path, printed: io.StringIO
) -> None:
    session = small.open_session(workdir, end_day=END)
    remove_old(session)
    assert _kept(session)["teacher"] == [DAYS[0], DAYS[2], DAYS[8], *DAYS[9:]]
    remove_old(_open(workdir, "keep.newest=None"))
    assert printed.getvalue().count("\n") == 1


def test_snapshots_stay_that_a_late_student_is_still_to_be_labelled_with(
    workdir: Path, printed: io.StringIO
) -> None:
    label = "students.auxiliary.producer=snapshot"
    session = _open(workdir, *KEEP, label)
    shutil.rmtree(session.run.folder("auxiliary") / "checkpoints")
    wanted = steps.to_label(session)
    assert list(wanted) == DAYS[1:]
    remove_old(session)
    assert {day: s.day for day, s in steps.to_label(session).items()} == {
        day: s.day for day, s in wanted.items()
    }


def test_what_is_killed_between_any_two_removals_is_completed_by_the_next_run(
    workdir: Path, printed: io.StringIO
) -> None:
    while actions := keep.plan(_open(workdir)).actions:
        actions[0].apply()
        session = _open(workdir)
        assert not session.to_export("teacher")
    assert _kept(_open(workdir)) == KEPT
    # Killed within a removal: the record says that the variables are gone, and they are not yet.
    folder = session.run.checkpoints("teacher").folder / str(DAYS[0])
    (folder / "variables.index").write_bytes(b"left")
    remove_old(_open(workdir))
    assert os.listdir(folder) == ["state.json"]


def test_while_others_work_on_the_workdir_all_is_left_and_told(workdir: Path, printed: io.StringIO) -> None:
    session = _open(workdir)
    with locks.on_model(session.run, "late"):
        remove_old(session)
    assert len(_kept(session)["teacher"]) == 16
    assert printed.getvalue() == (
        f"keep: no old checkpoint was removed: another process is working on late in {session.run.root}; wait for it, "
        "or stop it\n"
    )


def test_nothing_is_removed_through_a_link(workdir: Path, tmp_path: Path, printed: io.StringIO) -> None:
    session = _open(workdir)
    folder = session.run.folder("teacher")
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    remove_old(session)
    assert printed.getvalue().startswith(
        f"keep: no old checkpoint was removed: {folder} is a link, and nothing is"
    )
    assert len(_kept(session)["auxiliary"]) == 16


def _reach(session: Session) -> list[str]:
    console = Console(file=io.StringIO(), width=300)
    print_status(session, console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return [line.removeprefix("Reach: ") for line in lines if line.startswith("Reach: ")]


def test_status_says_how_far_back_a_rollback_and_a_rebuild_go_and_so_it_is(
    workdir: Path, printed: io.StringIO
) -> None:
    session = _open(workdir)
    assert _reach(session) == [
        "a rollback goes back to 2026-01-01 at most",
        "a day that is made again is rebuilt from 2026-01-01 on",
    ]
    remove_old(session)
    assert _reach(session) == [
        "a rollback goes back to 2026-01-03 at most, to every day from 2026-01-13 on",
        "a day that is made again is rebuilt from 2026-01-04 on",
    ]

    for day in DAYS:
        if day in KEPT["teacher"]:
            assert rollback.plan(session, day) or day == DAYS[-1]
        else:
            with pytest.raises(UserError, match=r"the teacher's checkpoint of it was pruned; give 2026-01-"):
                rollback.plan(session, day)


def test_a_day_that_was_made_again_is_rebuilt_from_the_checkpoint_before_it(
    workdir: Path, printed: io.StringIO
) -> None:
    session = _open(workdir)
    versions = session.run.lake.input_versions(DAYS, histories=True)
    remove_old(session)
    for day, since in ((DAYS[6], [DAYS[3], DAYS[3], DAYS[4]]), (DAYS[13], [DAYS[13]] * 3)):
        made = {**versions[day], "interactions": 1}
        for model in ("teacher", "late"):
            _record(session, model, day, made)
        found = stale.find(session)
        assert found
        assert found.unrecoverable_days == []
        assert [found.invalidation.days(session, model)[0] for model in KEPT] == since
        for model in ("teacher", "late"):
            _record(session, model, day, {})
    _record(session, "teacher", DAYS[2], {**versions[DAYS[2]], "interactions": 1})
    found = stale.find(session)
    assert found
    assert found.unrecoverable_days == [DAYS[1]]


def _record(session: Session, model: str, day: date, made_of: dict[str, int]) -> None:
    """Let a model have been trained on a day as it was before."""
    path = session.run.checkpoints(model).folder / str(day) / "state.json"
    write_json(path, {**read_json(path, json_object), "made_of": made_of})
