"""Days that did not pass a gate: which day comes next, what is reported, and what a rollback removes."""

import dataclasses
import io
import json
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from tutelage.launch import steps
from tutelage.launch.actions.materialize import materialize
from tutelage.launch.actions.train import teach
from tutelage.launch.lifecycle.rollback import plan
from tutelage.launch.report.data import gather, quarantined
from tutelage.launch.report.page import write_report
from tutelage.launch.report.status import print_status
from tutelage.launch.report.summary import Results
from tutelage.launch.session import Session
from tutelage.pipeline.alarms import AlarmBudget
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.soft_labels import LabelPartition
from tutelage.trainers.checkpoints import State
from tutelage.trainers.run import TEACHER

DAYS = [date(2026, 1, 1), date(2026, 1, 2), date(2026, 1, 3)]
ATTEMPT = {"rates": 1.0, "said": "fail; click auc is 0.5, 0.6 is the bound"}


def _open(workdir: Path, *overrides: str) -> Session:
    return Session.open(
        config="synthetic",
        workdir=str(workdir),
        overrides=(f"start_day={DAYS[0]}", f"end_day={DAYS[2]}", *overrides),
    )


def _train(session: Session, *days: date, model: str = TEACHER) -> None:
    """Leave the states of finished days of a model as a trainer does, without variables."""
    for n, day in enumerate(days, 1):
        folder = session.run.checkpoints(model).folder / str(day)
        folder.mkdir(parents=True)
        state = dataclasses.asdict(State(day=day, step=10 * n, examples=5_000 * n, rows=5_000, holdout=0.02))
        (folder / "state.json").write_text(json.dumps({**state, "day": str(day)}))


@pytest.fixture
def skipped(tmp_path: Path) -> Session:
    """Return a session whose teacher was trained on the first day and skipped the second."""
    session = _open(tmp_path)
    _train(session, DAYS[0])
    session.run.quarantine(TEACHER).write(DAYS[1], "skipped", [ATTEMPT])
    return session


def test_the_day_after_a_skipped_day_comes_next(skipped: Session) -> None:
    assert skipped.days_to_train(TEACHER) == DAYS[2:]
    assert skipped.days_to_train(TEACHER, accept=DAYS[1]) == DAYS[1:]
    # A day that stopped the teacher is still to be trained on.
    skipped.run.quarantine(TEACHER).write(DAYS[1], "stopped", [ATTEMPT])
    assert skipped.days_to_train(TEACHER) == DAYS[1:]


def test_a_skipped_day_that_later_ones_followed_is_not_accepted(skipped: Session) -> None:
    _train(skipped, DAYS[2])
    with pytest.raises(UserError, match="so 2026-01-04 comes next, not 2026-01-02"):
        skipped.days_to_train(TEACHER, accept=DAYS[1])


def test_a_day_is_accepted_for_a_reason(tmp_path: Path) -> None:
    for given in ({"accept_day": "2026-01-02"}, {"reason": "a holiday"}):
        with pytest.raises(UserError, match=r"^--accept_day and --reason go together; give both$"):
            teach(_open(tmp_path), **given)


def test_status_and_report_name_the_days_in_quarantine(skipped: Session, tmp_path: Path) -> None:
    line = "teacher: 2026-01-02 skipped (fail; click auc is 0.5, 0.6 is the bound)"
    console = Console(file=io.StringIO(), width=200)
    print_status(skipped, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"Quarantine: {line}\n" in text
    (teacher,) = (row for row in text.splitlines() if row.startswith("teacher "))
    assert teacher.split()[-1] == "1"  # The third day is to be trained on.
    page = tmp_path / "index.html"
    write_report(page, gather(skipped))
    assert f'<li class="error">Quarantine: {line}.</li>' in page.read_text().replace("\n", "")
    skipped.run.quarantine(TEACHER).write(DAYS[1], "passed", [ATTEMPT])
    assert quarantined(skipped) == []


def _quarantine(session: Session, day: date) -> None:
    """Put a day of data into quarantine as the data plane does, without its rows."""
    session.run.lake.quarantine.write(day, "skipped", [{"said": "fail; rows is 1, 9 is the bound"}])


def test_a_quarantined_day_of_data_is_not_materialised_again_and_all_models_go_on_without_it(
    tmp_path: Path,
) -> None:
    session = _open(tmp_path)
    _train(session, DAYS[0])
    _quarantine(session, DAYS[1])
    assert steps.to_materialize(session) == [DAYS[0], DAYS[2]]
    assert session.days_to_train(TEACHER) == DAYS[2:]
    # A later quarantined day does not hide the days that come next.
    session.run.lake.quarantine.remove(DAYS[1])
    _quarantine(session, DAYS[2])
    assert session.days_to_train(TEACHER) == DAYS[1:2]


def test_status_counts_skipped_days_and_names_once_the_models_that_skipped_them(tmp_path: Path) -> None:
    session = _open(tmp_path)
    _train(session, DAYS[0])
    _quarantine(session, DAYS[1])
    for model in (TEACHER, "control"):
        session.run.quarantine(model).write(DAYS[1], "skipped", [{"said": "its data is in quarantine"}])
    console = Console(file=io.StringIO(), width=200)
    print_status(session, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Quarantine: data: 2026-01-02 skipped (fail; rows is 1, 9 is the bound)\n" in text
    assert "Quarantine: teacher, control: 2026-01-02 skipped (its data is in quarantine)\n" in text
    (teacher,) = (row for row in text.splitlines() if row.startswith("teacher "))
    assert teacher.split()[-2:] == ["1", "1"]  # skipped, to train
    assert "\nTo materialise: 2026-01-01, 2026-01-03\n" in text


def test_a_day_of_data_is_accepted_for_a_reason(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--accept_day and --reason go together; give both$"):
        materialize(_open(tmp_path), accept_day="2026-01-02")
    with pytest.raises(UserError, match=r"^--accept_day=2026-01-02: no such day of data is in quarantine"):
        materialize(_open(tmp_path), accept_day="2026-01-02", reason="a holiday")


def test_after_a_rollback_a_student_is_trained_on_a_day_whose_data_came_later(tmp_path: Path) -> None:
    session = _open(tmp_path)
    for model in (TEACHER, "auxiliary"):
        _train(session, DAYS[0], DAYS[2], model=model)
        session.run.quarantine(model).write(DAYS[1], "skipped", [{"said": "its data is in quarantine"}])
    labels = pl.DataFrame(
        {
            "example_id": [1],
            **{name: [0.5] for name in session.run.schema.outputs},
            "snapshot_day": [DAYS[0]],
            "teacher_step": [1],
            "trained_step": [2],
        }
    )
    partition = LabelPartition(session.run.teacher.name, "pre_update", DAYS[2])
    session.run.lake.soft_labels.write(partition, labels)
    gone = [step.what for step in plan(session, DAYS[0])]
    assert "quarantine of auxiliary, 2026-01-02" in gone
    assert "quarantine of teacher, 2026-01-02" in gone


def test_quality_may_change_in_a_workdir(tmp_path: Path) -> None:
    _open(tmp_path)
    session = _open(tmp_path, "quality.rows_ratio=9", "quality.min_days=1")
    assert session.experiment.quality.rows_ratio == 9


def test_the_data_gate_has_its_share_of_the_experiment_s_false_alarms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = _open(tmp_path, "false_alarms_per_year=16")
    monkeypatch.setattr("tutelage.pipeline.materialize.materialize", lambda *args, **fields: fields["alarms"])
    # One gate for data, and one for each of the teacher and six students.
    assert steps.materialize(session, DAYS) == AlarmBudget(per_year=2.0)  # type: ignore[comparison-overlap]


def test_a_day_with_nothing_but_a_verdict_was_not_trained_on() -> None:
    row = {
        "run": "r",
        "task": "",
        "metric": "blessed",
        "slice": "",
        "value": 1.0,
        "rows": 9,
        "model": TEACHER,
    }
    rows = [
        {**row, "day": DAYS[0], "basis": "day_gate"},
        {**row, "day": DAYS[0], "basis": "day_ahead", "task": "click", "metric": "auc"},
        {**row, "day": DAYS[1], "basis": "day_gate", "value": 0.0},
    ]
    assert Results.of(pl.DataFrame(rows), {}).trained == {TEACHER: DAYS[:1]}


def test_a_rollback_removes_the_verdicts_on_later_days(skipped: Session) -> None:
    quarantine = skipped.run.quarantine(TEACHER)
    quarantine.write(DAYS[0], "accepted", [ATTEMPT], reason="a holiday")
    (step,) = plan(skipped, DAYS[0])
    assert step.what == "quarantine of teacher, 2026-01-02"
    step.apply()
    assert list(quarantine.days()) == DAYS[:1]
    assert skipped.days_to_train(TEACHER) == DAYS[1:]


def test_a_gate_and_the_name_of_a_unit_may_change_in_a_workdir(tmp_path: Path) -> None:
    _open(tmp_path)
    changed = (
        "teacher.gate.on_failure=skip",
        "teacher.gate.auc_drop=0.2",
        "training.checkpoint_minutes=None",
        "schema.tasks.watch.unit=minutes",
    )
    session = _open(tmp_path, *changed)
    assert session.run.schema.tasks[-1].unit == "minutes"
    assert session.run.teacher.gate.on_failure == "skip"
    assert session.run.training.checkpoint_minutes is None
