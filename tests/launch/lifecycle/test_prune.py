"""Old days are removed, unless a live model needs them; the reason is printed for each day that stays."""

import json
import shutil
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tensorflow as tf
from absl import flags

from tests.launch import small
from tutelage.launch import commands, locks, steps
from tutelage.launch.actions.console import print_left_out
from tutelage.launch.actions.forget import forget as forget_command
from tutelage.launch.actions.materialize import materialize
from tutelage.launch.actions.prune import prune as prune_command
from tutelage.launch.actions.rollback import rollback as rollback_command
from tutelage.launch.actions.status import status
from tutelage.launch.commands import COMMANDS
from tutelage.launch.lifecycle import prune, rollback
from tutelage.launch.report.data import day_counts
from tutelage.launch.session import Session
from tutelage.launch.workspace import reset_student
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.json import read_json
from tutelage.trainers.checkpoints import Checkpoints, State

DAYS = small.DAYS


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train all models on five days; the control's third version was rejected, its first retired."""
    workdir = tmp_path_factory.mktemp("made") / "w"
    session = small.materialize(workdir)
    for state in small.train(session, "teacher", DAYS):
        small.publish(session, "teacher", state)
    for state in small.train(session, "control", DAYS):
        small.publish(session, "control", state, rejected=state.day == DAYS[2])
    session.versions("control").retire(keep=3)
    small.train(session, "auxiliary", DAYS)
    small.train(session, "late", DAYS[3:])
    return workdir


@pytest.fixture
def workdir(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "w")
    return tmp_path / "w"


def _open(workdir: Path) -> Session:
    return small.open_session(workdir)


def _prune(workdir: Path, keep_days: int = 3) -> None:
    prune_command(small.open_session(workdir), keep_days=keep_days)


def _days(workdir: Path, table: str) -> list[date]:
    return sorted(pl.read_delta(str(workdir / "lake" / table))["day"].unique())


def _variables(workdir: Path, model: str) -> list[str]:
    return sorted(path.parent.name for path in _open(workdir).run.folder(model).rglob("variables.index"))


def test_old_days_are_removed_from_all_tables_with_their_files(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _prune(workdir)
    for table in ("interactions", "histories", "soft_labels"):
        assert _days(workdir, table) == DAYS[2:]
        found = {path.parent.name for path in (workdir / "lake" / table).rglob("day=*/*.parquet")}
        assert found == {f"day={day}" for day in DAYS[2:]}
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if not line.startswith("removing: ")] == []
    assert "removing: 80 rows of lake/soft_labels, teacher/pre_update/2026-01-01 to 2026-01-02" in printed


def test_of_old_days_a_model_keeps_where_it_stood_and_its_newest_variables(workdir: Path) -> None:
    before = [state.step for state in _open(workdir).run.checkpoints("control").states()]
    _prune(workdir, 1)
    states = _open(workdir).run.checkpoints("control").states()
    assert [state.step for state in states] == before == [3, 6, 9, 12, 15]
    assert [state.pruned for state in states] == [True] * 4 + [False]
    assert _variables(workdir, "control") == _variables(workdir, "teacher") == ["2026-01-05"]


def test_what_is_served_stays_and_of_the_rest_the_old_versions_go(workdir: Path) -> None:
    versions = _open(workdir).versions("control")
    _prune(workdir, 1)
    assert [version.number for version in versions.published()] == [2026010201, 2026010401, 2026010501]
    assert list(versions.rejected.glob("2*")) == []
    assert list(versions.retired.glob("2*")) == []
    # No server has the teacher's: the newest is left, for the labeler.
    assert [v.number for v in _open(workdir).versions("teacher").published()] == [2026010501]
    assert {"2026010101", "2026010301"} <= versions.used()


def test_the_newest_version_of_a_model_stays_though_it_was_rejected(workdir: Path) -> None:
    session = _open(workdir)
    shutil.rmtree(session.versions("late").folder, ignore_errors=True)
    states = session.run.checkpoints("late").states()
    for state in states:
        small.publish(session, "late", state, rejected=True)
    small.train(session, "late", [date(2026, 1, 6)])
    _prune(workdir, 1)
    assert [path.name for path in session.versions("late").rejected.glob("2*")] == ["2026010501"]


def test_a_second_prune_finds_nothing_and_a_pruned_day_is_neither_materialised_nor_trained_on_nor_exported_again(
    workdir: Path,
) -> None:
    _prune(workdir)
    session = _open(workdir)
    assert session.pruned == {*DAYS[:2]}
    assert steps.to_materialize(session) == []
    assert not any(session.days_to_train(model) for model in session.models)
    assert not any(session.to_export(model) for model in ("teacher", "control"))
    again = [step.what for step in prune.plan(session, 3).actions]
    tables = ("soft_labels", "histories", "statistics", "interactions")
    assert again == [f"old files of lake/{table}" for table in tables]


def test_rows_in_are_kept_and_dropped_ones_in_what_is_left_and_status_names_the_pruned_days(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _prune(workdir)
    counts = day_counts(_open(workdir)).select("day", "rows_in", "kept").rows()
    assert counts == [(day, 40, 40) for day in DAYS[2:]]
    of = _open(workdir).run.lake.interactions.counts()["2026-01-01"]
    assert (of["rows_in"], of["kept"], of["dropped"]) == (40, 0, {"pruned": 40})
    capsys.readouterr()
    status(small.open_session(workdir))
    printed = capsys.readouterr().out
    assert "\nPruned: 2026-01-01 to 2026-01-02\n" in printed
    assert "\nTo materialise: nothing\n" in printed


def test_days_that_a_model_is_to_be_trained_on_stay_with_all_that_they_are_built_from(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = _open(workdir)
    shutil.rmtree(session.run.checkpoints("auxiliary").folder / "2026-01-05")
    shutil.rmtree(session.run.checkpoints("auxiliary").folder / "2026-01-04")
    _prune(workdir, 1)
    assert capsys.readouterr().out.splitlines()[:2] == [
        "kept: 2026-01-02 to 2026-01-03: the histories of 2026-01-04 are built from it",
        "kept: 2026-01-04: auxiliary is still to be trained on it",
    ]
    for table in ("interactions", "histories", "soft_labels"):
        assert _days(workdir, table) == DAYS[1:]
    assert _open(workdir).days_to_train("auxiliary") == DAYS[3:]


def test_an_untrained_model_needs_all_days_from_its_first_one(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = _open(workdir)
    reset_student(session.run, session.experiment.student("late"))
    _prune(workdir, 1)
    assert capsys.readouterr().out.splitlines()[:2] == [
        "kept: 2026-01-02 to 2026-01-03: the histories of 2026-01-04 are built from it",
        "kept: 2026-01-04: late is still to be trained on it",
    ]
    reset_student(session.run, session.experiment.student("control"))
    _prune(workdir, 1)
    assert _days(workdir, "interactions") == DAYS[1:]


def test_days_that_the_next_days_histories_look_back_to_stay(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _prune(workdir, 1)
    assert capsys.readouterr().out.splitlines()[0] == (
        "kept: 2026-01-04: the histories of 2026-01-06 are built from it"
    )
    assert _days(workdir, "interactions") == DAYS[3:]


def test_the_days_that_a_student_lacks_after_a_prune_are_printed(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _prune(workdir)
    session = _open(workdir)
    reset_student(session.run, session.experiment.student("control"))
    assert session.days_to_train("control") == DAYS[2:]
    capsys.readouterr()
    print_left_out(session, "control")
    print_left_out(session, "late")
    assert capsys.readouterr().out.splitlines() == [
        "control: 2026-01-01 to 2026-01-02 were pruned, so it starts without them; "
        "tutelage-materialize for these days alone makes them again"
    ]


def test_pruned_days_are_materialised_again_only_when_they_alone_are_asked_for(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small.write_events(workdir.parent / "raw")
    _prune(workdir)
    capsys.readouterr()
    materialize(small.open_session(workdir, start_day="2026-01-02", end_day="2026-01-03"))
    assert capsys.readouterr().out.splitlines()[0] == (
        "2026-01-02 were pruned and are left out; tutelage-materialize for these days alone makes them again"
    )
    assert _days(workdir, "interactions") == DAYS[2:]
    materialize(small.open_session(workdir, end_day="2026-01-02"))
    assert _days(workdir, "interactions") == DAYS
    assert _open(workdir).pruned == frozenset()


def test_killed_before_any_action_it_goes_on_with_that_one_when_it_is_run_again(workdir: Path) -> None:
    planned = prune.plan(_open(workdir), 2).actions
    assert len(planned) == 19
    for number, step in enumerate(planned):
        session = _open(workdir)
        left = [step.what for step in prune.plan(session, 2).actions]
        # Old files are looked for each time.
        assert left == [s.what for i, s in enumerate(planned) if i >= number or s.what.startswith("old")]
        # Nothing that went half is taken for something to do.
        assert not session.to_export("control")
        assert not any(session.days_to_train(model) for model in session.models)
        step.apply()
    for table in ("interactions", "histories", "soft_labels"):
        assert _days(workdir, table) == DAYS[3:]


def test_what_a_successor_starts_from_stays_with_the_days_that_it_is_to_be_trained_on(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = small.open_session(workdir, config=small.BESIDE)
    prune_command(asked, keep_days=1)
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("kept: ")] == [
        "kept: 2026-01-01 to 2026-01-02: the histories of 2026-01-03 are built from it",
        "kept: 2026-01-03 to 2026-01-04: teacher-wide is still to be trained on it",
        "kept: checkpoint of teacher, 2026-01-02: teacher-wide starts from it",
    ]
    session = asked.reopened()
    assert session.days_to_train("teacher-wide") == DAYS[2:]
    assert _variables(workdir, "teacher") == ["2026-01-02", "2026-01-05"]
    small.train(session, "teacher-wide", DAYS[2:])
    prune_command(asked.reopened(), keep_days=1)
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("kept: ")] == [
        "kept: 2026-01-04: the histories of 2026-01-06 are built from it"
    ]
    assert _variables(workdir, "teacher") == _variables(workdir, "teacher-wide") == ["2026-01-05"]


def test_an_empty_workdir_has_nothing_to_prune(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _prune(tmp_path / "w")
    assert capsys.readouterr().out == ""


def test_the_teacher_is_not_rolled_back_to_a_day_whose_checkpoint_was_pruned(workdir: Path) -> None:
    _prune(workdir)
    with pytest.raises(UserError) as error:
        rollback.plan(_open(workdir), DAYS[1])
    assert str(error.value) == (
        "--to_day=2026-01-02: the teacher's checkpoint of it was pruned; give 2026-01-03"
    )
    assert rollback.plan(_open(workdir), DAYS[2])


def test_no_student_is_rolled_back_to_a_day_whose_checkpoint_was_pruned(workdir: Path) -> None:
    session = _open(workdir)
    # It was never trained on the fourth day, so a rollback to that day leaves it at the third.
    shutil.rmtree(session.run.checkpoints("auxiliary").folder / "2026-01-04")
    _prune(workdir, 2)
    with pytest.raises(UserError) as error:
        rollback.plan(_open(workdir), DAYS[3])
    assert str(error.value) == (
        "--to_day=2026-01-04: auxiliary would go back to 2026-01-03, and its checkpoint of that day was pruned; "
        "give a later day, or train it from scratch with tutelage-student --student=auxiliary --reset"
    )


def test_a_pruned_checkpoint_cannot_be_restored_and_a_damaged_one_after_it_does_not_take_it_along(
    tmp_path: Path,
) -> None:
    checkpoints = Checkpoints(tmp_path)
    variable = tf.Variable(np.ones(3, np.float32))
    checkpoint = tf.train.Checkpoint(variable=variable)
    for step, day in enumerate(DAYS[:3], 1):
        checkpoints.save(checkpoint, State(day=day, step=step, examples=step, rows=1))
    checkpoints.prune(DAYS[1])
    (data,) = (tmp_path / str(DAYS[2])).glob("variables.data*")
    data.write_bytes(b"")
    assert checkpoints.set_damaged_aside() == {DAYS[2]: "is damaged"}
    assert [state.step for state in checkpoints.states()] == [1, 2]
    with pytest.raises(UserError) as error:
        checkpoints.restore(checkpoint, DAYS[1])
    assert str(error.value) == (
        f"the checkpoint of 2026-01-02 in {tmp_path} was pruned; put its folder back from a copy, or train the "
        "model from scratch"
    )
    assert read_json(tmp_path / "2026-01-02/state.json")["pruned"]


def test_a_prune_of_a_checkpoint_that_was_killed_is_gone_on_with(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for day in DAYS[:2]:
        folder = tmp_path / str(day)
        folder.mkdir()
        (folder / "variables.data").touch()
        state = {"day": str(day), "step": 1, "examples": 1, "rows": 1, "pruned": day == DAYS[0]}
        (folder / "state.json").write_text(json.dumps(state))
    assert checkpoints.to_prune(DAYS[1]) == [DAYS[0]]
    checkpoints.prune(DAYS[0])
    assert checkpoints.to_prune(DAYS[2]) == []
    assert [path.name for path in (tmp_path / "2026-01-01").iterdir()] == ["state.json"]


@pytest.mark.parametrize(
    "where",
    [
        "lake",
        "lake/interactions",
        "lake/interactions/day=2026-01-01",
        "lake/metrics",
        "lake/.staging",
        "teacher/checkpoints",
        "students/control/checkpoints/2026-01-01",
    ],
)
def test_nothing_is_deleted_through_a_link(workdir: Path, tmp_path: Path, where: str) -> None:
    kept = tmp_path / "kept"
    (workdir / where).mkdir(exist_ok=True)
    shutil.move(workdir / where, kept)
    (workdir / where).symlink_to(kept)
    (kept / "20260101 letters").mkdir()
    (kept / "20260101 letters/dear.txt").write_text("dear")
    before = sorted(path for path in tmp_path.rglob("*") if path.name != ".lock")
    commands = [
        lambda: _prune(workdir, keep_days=1),
        lambda: forget_command(_open(workdir), user_id="7"),
        lambda: rollback_command(_open(workdir), to_day=str(DAYS[1])),
    ]
    for command in commands:
        with pytest.raises(UserError, match=rf"{where} is a link, and nothing is deleted through a link"):
            command()
    assert sorted(path for path in tmp_path.rglob("*") if path.name != ".lock") == before


def _content(workdir: Path) -> dict[Path, tuple[int, bytes]]:
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in workdir.rglob("*")
    }


@pytest.mark.parametrize(
    ("name", "asked"),
    [("prune", "--keep_days=1"), ("rollback", "--to_day=2026-01-02"), ("forget", "--user_id=3")],
)
def test_a_dry_run_writes_nothing_and_does_not_wait_for_a_run(
    name: str, asked: str, workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    session = _open(workdir)
    given = [f"--config={small.CONFIG}", f"--workdir={workdir}", f"--raw_dir={workdir.parent / 'raw'}"]
    monkeypatch.setattr(commands, "FLAGS", values := flags.FlagValues())
    for flag in COMMANDS[name].all_flags:
        flag(flag_values=values)
    values([name, *given, asked, "--dry_run"])
    monkeypatch.setattr(commands, "silence", lambda verbose, how: None)
    with locks.alone(session.run):
        before = _content(workdir)
        commands._act(COMMANDS[name], [name])
        assert _content(workdir) == before
    assert "would remove: " in capsys.readouterr().out
