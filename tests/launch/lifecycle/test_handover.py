"""A change of teacher in a workdir: which teacher it accepts, what is reported, what a rollback takes back."""

import dataclasses
import io
import json
import signal
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from tutelage.launch import locks, pool, steps
from tutelage.launch import run as nightly
from tutelage.launch.actions import train as train_actions
from tutelage.launch.config import load
from tutelage.launch.experiment import Experiment
from tutelage.launch.lifecycle.invalidation import Invalidation
from tutelage.launch.lifecycle.rollback import plan
from tutelage.launch.report.data import gather
from tutelage.launch.report.page import write_report
from tutelage.launch.report.status import print_status
from tutelage.launch.session import Session
from tutelage.launch.workspace import claim_successor, open_workdir
from tutelage.models.backbones.mlp import MLP
from tutelage.models.config import ModelConfig
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import METRICS
from tutelage.pipeline.soft_labels import LabelPartition
from tutelage.trainers import handover
from tutelage.trainers.checkpoints import State
from tutelage.trainers.config import SuccessorConfig, TeacherConfig
from tutelage.trainers.handover import read_takeovers
from tutelage.trainers.preemption import Preempted

DAYS = [date(2026, 1, 1) + timedelta(days=n) for n in range(5)]
WIDE = TeacherConfig(name="wide", model=ModelConfig(embedding_dim=2, backbone=MLP(hidden=(9,))))
WIDER = TeacherConfig(name="wider", model=ModelConfig(embedding_dim=2, backbone=MLP(hidden=(10,))))
BASE = load("synthetic", smoke=True)
LOSSES = {"click": "log_loss", "long_view": "log_loss", "watch": "ltv_loss"}


def _experiment(
    teacher: TeacherConfig, successor: TeacherConfig | None = None, **fields: object
) -> Experiment:
    beside = successor and SuccessorConfig(teacher=successor, judged_days=2, **fields)  # type: ignore[arg-type]
    return dataclasses.replace(BASE, teacher=teacher, successor=beside)


OLD = BASE.teacher
BESIDE = _experiment(OLD, WIDE)


def _session(root: Path, experiment: Experiment = BESIDE) -> Session:
    run = open_workdir(str(root), experiment)
    return Session(experiment=experiment, run=run, days=DAYS)


def _record(session: Session, model: str, *days: date, loss: float = 0.5) -> None:
    """Write the states and losses of a model that was trained on these days, without its variables."""
    for n, day in enumerate(days, 1):
        folder = session.run.checkpoints(model).folder / str(day)
        folder.mkdir(parents=True)
        state = dataclasses.asdict(State(day=day, step=10 * n, examples=5_000 * n, rows=5_000, holdout=0.02))
        (folder / "state.json").write_text(json.dumps({**state, "day": str(day)}))
    rows = [
        {
            "run": session.run.name,
            "day": day,
            "task": task,
            "metric": metric,
            "slice": "",
            "basis": "day_ahead",
        }
        | {"value": loss, "rows": 5_000}
        for day in days
        for task, metric in LOSSES.items()
    ]
    session.run.lake.metrics.replace(pl.DataFrame(rows, schema=dict(pl.Schema(METRICS))), {"model": model})


def _label(session: Session, teacher: str, producer: str, day: date, snapshot: date | None) -> None:
    store = session.run.lake.soft_labels
    row = dict.fromkeys(store.outputs, 0.0)
    row |= {"example_id": 1, "snapshot_day": snapshot, "teacher_step": 1, "trained_step": 2}  # type: ignore[dict-item]
    store.write(LabelPartition(teacher, producer, day), pl.DataFrame([row]))


@pytest.fixture
def ready(tmp_path: Path) -> Session:
    """The teacher was trained on five days, its successor on four, and it is better; no student was trained."""
    session = _session(tmp_path)
    _record(session, "teacher", *DAYS, loss=0.5)
    _record(session, "teacher-wide", *DAYS[1:], loss=0.4)
    return session


@pytest.fixture
def succeeded(ready: Session) -> Session:
    """The successor has taken over: its days but the first are compared by two, so that the fifth day is its own."""
    assert steps.take_over(ready)
    return _session(ready.run.root)


def test_a_successor_is_trained_beside_the_teacher_until_it_takes_over(ready: Session) -> None:
    assert ready.teachers == ["teacher", "teacher-wide"]
    assert ready.models == ["teacher", "teacher-wide", *ready.students]
    assert ready.model("teacher-wide") == WIDE.model
    assert ready.run.folder("teacher-wide") == ready.run.root / "teacher-wide"
    assert {ready.run.labeller(day).name for day in DAYS} == {"teacher"}
    change = steps.take_over(ready)
    assert change
    assert (change.judged, change.from_day) == (DAYS[2:4], DAYS[4])
    after = _session(ready.run.root)
    assert (after.successor, after.teachers, after.run.teacher) == (None, ["teacher-wide"], WIDE)
    assert [after.run.labeller(day).name for day in DAYS] == [*["teacher"] * 4, "wide"]
    assert after.run.labeller(DAYS[0]).min_examples == OLD.min_examples


def test_days_that_students_were_trained_on_with_the_old_labels_are_not_decided_again(ready: Session) -> None:
    control, auxiliary = (s.name for s in BESIDE.students if s.name in ("control", "auxiliary"))
    _record(ready, control, *DAYS)
    found = handover.compare(ready.run, ready.successor, BESIDE.students)  # type: ignore[arg-type]
    assert found
    assert found.days == DAYS[2:4]
    _record(ready, auxiliary, *DAYS)
    change = steps.take_over(ready)
    assert change
    assert change.from_day == DAYS[4] + timedelta(days=1)


def test_no_student_is_trained_while_it_is_decided_from_which_day_on_it_reads_other_labels(
    ready: Session,
) -> None:
    with locks.on_model(ready.run, "auxiliary"), pytest.raises(UserError, match="is working on auxiliary"):
        steps.take_over(ready)
    assert read_takeovers(ready.run.root) == ()


def test_a_change_that_another_process_has_decided_meanwhile_is_not_decided_again(
    ready: Session,
) -> None:
    assert steps.take_over(ready)
    decided = read_takeovers(ready.run.root)
    _record(ready, "auxiliary", *DAYS)  # the last of them from the new labels
    assert steps.take_over(ready) is None
    assert read_takeovers(ready.run.root) == decided


def test_a_successor_that_is_not_as_good_leaves_the_labelling_to_the_teacher(tmp_path: Path) -> None:
    session = _session(tmp_path)
    _record(session, "teacher", *DAYS, loss=0.5)
    assert steps.describe_teachers(session) == [
        "wide is trained beside teacher, which labels (not compared yet: that takes 2 days that both were trained on)"
    ]
    _record(session, "teacher-wide", *DAYS[1:], loss=0.6)
    assert steps.take_over(session) is None
    assert steps.describe_teachers(session) == [
        "wide is trained beside teacher, which labels (not as good: click log_loss 0.6000 against 0.5000, up to 0.5000 "
        "passes, long_view log_loss 0.6000 against 0.5000, up to 0.5000 passes, watch ltv_loss 0.6000 against "
        "0.5000, up to 0.5000 passes; mean of 2 days to 2026-01-05)"
    ]
    assert _session(tmp_path).run.labeller(DAYS[4]).name == "teacher"


def test_status_and_report_show_who_took_over_with_both_losses(succeeded: Session, tmp_path: Path) -> None:
    (line,) = steps.describe_teachers(succeeded)
    assert line.startswith(
        "wide took over from teacher: students read its labels from 2026-01-05 on (click log_loss 0.4000 against "
        "0.5000, up to 0.5000 passes, "
    )
    console = Console(file=io.StringIO(), width=400)
    print_status(succeeded, console)
    assert f"Teacher: {line}\n" in console.file.getvalue()  # type: ignore[attr-defined]
    page = tmp_path / "index.html"
    write_report(page, gather(succeeded))
    assert f'<li class="ok">Teacher: {line}.</li>' in page.read_text().replace("\n", "")


def test_a_line_describes_what_a_successor_started_with(ready: Session) -> None:
    assert handover.describe_start(ready.run, "teacher-wide") is None
    anew = [
        {"name": "embeddings/topic", "shape": [256, 2], "teacher": None},
        {"name": "shared/0/kernel", "shape": [19, 9], "teacher": [17, 9]},
    ]
    found = {"teacher": "teacher", "day": "2026-01-01", "taken": ["a", "b"], "anew": anew}
    ready.run.warm_start("teacher-wide").write_text(json.dumps(found))
    assert handover.describe_start(ready.run, "teacher-wide") == (
        "teacher-wide: starts with 2 variables of teacher's after 2026-01-01; from scratch: embeddings/topic [256, 2], "
        "shared/0/kernel [19, 9] (there [17, 9])"
    )


def test_the_new_teacher_may_become_the_config_s_and_the_old_one_may_not_stay_alone(
    succeeded: Session,
) -> None:
    root = succeeded.run.root
    moved = _session(root, _experiment(WIDE))
    assert (moved.teachers, moved.run.teacher, moved.successor) == (["teacher-wide"], WIDE, None)
    assert moved.run.labeller(DAYS[0]) == succeeded.run.labeller(DAYS[0])
    another = dataclasses.replace(WIDE, min_examples=7)
    for experiment, says in (
        (_experiment(OLD), "teacher.model.embedding_dim was 2 and is 32"),
        (_experiment(another), "teacher.min_examples was 0 and is 7"),
        (_experiment(OLD, WIDER), "teacher.model.embedding_dim was 2 and is 32"),
    ):
        with pytest.raises(UserError) as error:
            open_workdir(str(root), experiment)
        assert says in str(error.value)
        assert str(error.value).endswith(
            "; 'wide' is the teacher since 2026-01-05: make it the config's, or give another --workdir"
        )
    with pytest.raises(
        UserError, match=r"^successor 'wide' was made with another config: teacher.min_examples"
    ):
        open_workdir(str(root), _experiment(OLD, another))


def test_the_next_successor_has_a_new_name(succeeded: Session) -> None:
    root = succeeded.run.root
    again = _session(root, _experiment(WIDE, WIDER))
    assert again.teachers == ["teacher-wide", "teacher-wider"]
    _record(again, "teacher-wider", *DAYS, loss=0.3)
    assert steps.take_over(again)
    assert _session(root, _experiment(WIDE, WIDER)).teachers == ["teacher-wider"]
    third = _session(root, _experiment(WIDER))
    assert (third.run.takeovers[1].judged, third.run.takeovers[1].before.model) == (DAYS[3:], "teacher-wide")
    days = [*DAYS[3:], DAYS[4] + timedelta(days=1)]
    assert [third.run.labeller(day).name for day in days] == ["teacher", "wide", "wider"]
    back = _experiment(WIDER, OLD)
    with pytest.raises(
        UserError, match=r"^successor 'teacher': that was a teacher of .* give it a new name$"
    ):
        claim_successor(open_workdir(str(root), back), back.successor)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^successor 'wide': that is the teacher's name; give the successor"):
        _experiment(WIDE, WIDE)


def test_a_successor_may_be_added_and_its_margin_changed_but_not_its_model(tmp_path: Path) -> None:
    open_workdir(str(tmp_path), _experiment(OLD))
    session = _session(tmp_path)
    assert session.successor
    claim_successor(session.run, session.successor)
    _record(session, "teacher-wide", DAYS[0])
    looser = _experiment(OLD, WIDE, margin=0.1).successor
    claim_successor(session.run, looser)  # type: ignore[arg-type]
    for changed, says in (
        (_experiment(OLD, WIDE, first_day=DAYS[1]), 'first_day was null and is "2026-01-02"'),
        (_experiment(OLD, dataclasses.replace(WIDE, min_examples=3)), "teacher.min_examples was 0 and is 3"),
    ):
        with pytest.raises(UserError) as error:
            claim_successor(session.run, changed.successor)  # type: ignore[arg-type]
        assert str(error.value) == (
            f"successor 'wide' was made with another config: {says}; give the changed one a new name"
        )


def test_a_successor_is_not_trained_on_days_before_its_first_even_as_the_teacher(tmp_path: Path) -> None:
    beside = _experiment(OLD, WIDE, first_day=DAYS[1])
    session = _session(tmp_path, beside)
    assert session.days_to_train("teacher-wide") == DAYS[1:]
    _record(session, "teacher", *DAYS)
    _record(session, "teacher-wide", *DAYS[1:4], loss=0.4)
    assert steps.take_over(session)
    for experiment in (beside, _experiment(WIDE)):
        assert _session(tmp_path, experiment).days_to_train("teacher-wide") == DAYS[4:]


def test_snapshot_labels_of_a_day_are_made_by_the_teacher_of_its_time(succeeded: Session) -> None:
    for model in ("teacher", "teacher-wide"):
        for state in succeeded.run.checkpoints(model).states():
            card = succeeded.run.root / f"export/{model}/{state.day:%Y%m%d}01/assets.extra/tutelage.json"
            card.parent.mkdir(parents=True)
            values = {"day": str(state.day), "step": state.step, "checkpoint": state.id}
            card.write_text(json.dumps(values))
    found = {day: Path(snapshot.path).parts[-2:] for day, snapshot in steps.to_label(succeeded).items()}
    assert found == {
        DAYS[1]: ("teacher", "2026010101"),
        DAYS[2]: ("teacher", "2026010201"),
        DAYS[3]: ("teacher", "2026010301"),
        DAYS[4]: ("teacher-wide", "2026010401"),
    }
    _label(succeeded, "wide", "snapshot", DAYS[1], DAYS[0])
    _label(succeeded, "wide", "snapshot", DAYS[4], DAYS[3])
    assert list(steps.to_label(succeeded)) == DAYS[1:4]


def test_a_successor_that_has_taken_over_is_trained_as_the_teacher(
    succeeded: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    train_actions.teach(succeeded, successor=True)
    assert capsys.readouterr().out == (
        "Nothing to do: wide is the teacher by now; tutelage-teach without --successor trains it.\n"
    )
    moved = _session(succeeded.run.root, _experiment(WIDE))
    with pytest.raises(UserError, match=r"^--successor: the config has none; leave the flag out$"):
        train_actions.teach(moved, successor=True)


def test_a_rollback_before_the_decision_takes_it_back_after_the_students_and_before_the_labels(
    succeeded: Session,
) -> None:
    _record(succeeded, "auxiliary", *DAYS)
    for day in DAYS:
        for teacher in ("teacher", "wide"):
            _label(succeeded, teacher, "pre_update", day, day - timedelta(days=1))
    steps_ = plan(succeeded, DAYS[3])
    assert not any("took over" in step.what for step in steps_)
    assert {step.what for step in steps_ if "checkpoint" in step.what} == {
        f"checkpoint {succeeded.run.root}/{model}/checkpoints/2026-01-05"
        for model in ("teacher-wide", "students/auxiliary")
    }
    message = [step.what for step in plan(succeeded, DAYS[2])]
    place = message.index("that wide took over from teacher on 2026-01-05")
    assert message[place - 2 :] == [
        f"checkpoint {succeeded.run.root}/students/auxiliary/checkpoints/2026-01-05",
        f"checkpoint {succeeded.run.root}/students/auxiliary/checkpoints/2026-01-04",
        "that wide took over from teacher on 2026-01-05",
        "pre_update labels of 2026-01-04 by teacher",
        "pre_update labels of 2026-01-05 by teacher",
        "pre_update labels of 2026-01-04 by wide",
        "pre_update labels of 2026-01-05 by wide",
        f"checkpoint {succeeded.run.root}/teacher-wide/checkpoints/2026-01-05",
        f"checkpoint {succeeded.run.root}/teacher-wide/checkpoints/2026-01-04",
        f"checkpoint {succeeded.run.root}/teacher/checkpoints/2026-01-05",
        f"checkpoint {succeeded.run.root}/teacher/checkpoints/2026-01-04",
    ]
    moved = _session(succeeded.run.root, _experiment(WIDE))
    with pytest.raises(UserError) as error:
        plan(moved, DAYS[2])
    assert str(error.value) == (
        "--to_day=2026-01-03: 'teacher' was the teacher then; make 'wide' the config's successor and 'teacher' "
        "its teacher again"
    )
    for step in plan(succeeded, DAYS[2]):
        step.apply()
    again = _session(succeeded.run.root)
    assert (again.teachers, plan(again, DAYS[2])) == (["teacher", "teacher-wide"], [])


def test_a_rollback_that_is_killed_anywhere_continues_with_what_is_left(succeeded: Session) -> None:
    _record(succeeded, "auxiliary", *DAYS)
    for day in DAYS:
        for teacher in ("teacher", "wide"):
            _label(succeeded, teacher, "pre_update", day, day - timedelta(days=1))
    planned, taken = [step.what for step in plan(succeeded, DAYS[2])], []
    while left := plan(_session(succeeded.run.root), DAYS[2]):
        left[0].apply()
        taken.append(left[0].what)
    assert taken == planned


def test_two_changes_are_taken_back_one_after_the_other(succeeded: Session) -> None:
    again = _session(succeeded.run.root, _experiment(WIDE, WIDER))
    _record(again, "teacher-wider", *DAYS, loss=0.3)
    assert steps.take_over(again)
    both = _session(succeeded.run.root, _experiment(WIDE, WIDER))
    with pytest.raises(UserError) as error:
        plan(both, DAYS[2])
    assert str(error.value) == (
        "--to_day=2026-01-03: the teacher has changed more than once since then; go back to 2026-01-04 first"
    )


CONFIG = """
from dataclasses import replace
from tutelage.launch.configs import synthetic
from tutelage.trainers.config import SuccessorConfig

def experiment(*, smoke):
    base = synthetic.experiment(smoke=True)
    return replace(base, successor=SuccessorConfig(teacher=replace(base.teacher, name="wide")))
"""


@pytest.mark.parametrize(
    "failure", [UserError("wide fell over"), Preempted("stopped by SIGTERM", signal.SIGTERM)]
)
def test_a_successor_that_fails_does_not_hold_up_students_and_is_reported_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: UserError
) -> None:
    (tmp_path / "my.py").write_text(CONFIG)
    asked = f"{DAYS[0]}"
    session = Session.open(
        config=str(tmp_path / "my.py"), workdir=str(tmp_path / "w"), start_day=asked, end_day=asked
    )
    table = session.run.lake.interactions
    row = pl.DataFrame({"example_id": [1]}, schema={"example_id": pl.Int64})
    columns = [name for name in table.schema.names if name not in ("day", "example_id")]
    table.replace(row.with_columns(pl.lit(None).alias(name) for name in columns), {"day": DAYS[0]})
    trained: list[str] = []

    def train(session: Session, models: Sequence[str]) -> list[pool.Outcome]:
        if "teacher-wide" in models:
            if isinstance(failure, Preempted):
                raise failure
            return [pool.Outcome(model="teacher-wide", failure=failure)]
        trained.extend(models)
        return [pool.Outcome(model=model) for model in models]

    # Processes that train are slow, and end_to_end/test_successor.py has them.
    for module in (nightly, train_actions):
        monkeypatch.setattr(module, "train_and_export", train)
    with pytest.raises(UserError) as error:
        nightly.run(session)
    assert error.value is failure
    students = [] if isinstance(failure, Preempted) else [student.name for student in BASE.students]
    assert trained == ["teacher", *students]


def test_stale_days_take_a_change_back_only_where_they_decided_it(succeeded: Session) -> None:
    _record(succeeded, "auxiliary", *DAYS)
    _label(succeeded, "teacher", "pre_update", DAYS[3], DAYS[2])
    for day in DAYS[3:]:
        _label(succeeded, "wide", "pre_update", day, day - timedelta(days=1))
    decided = Invalidation.of(succeeded, {"teacher-wide": DAYS[3]})
    assert decided.since == {"teacher-wide": DAYS[3], **dict.fromkeys(_distilled(), DAYS[4])}
    assert decided.labels == [("wide", "pre_update", day) for day in DAYS[3:]]
    assert [change.name for change in decided.takeovers] == ["wide"]
    assert decided.held(succeeded) == ""
    later = Invalidation.of(succeeded, {"teacher-wide": DAYS[4]})
    assert (later.takeovers, later.labels) == ([], [("wide", "pre_update", DAYS[4])])
    assert later.since["auxiliary"] == DAYS[4]
    former = Invalidation.of(succeeded, {"teacher": DAYS[3]})
    assert former.since["teacher-wide"] == DAYS[3]
    assert former.since["auxiliary"] == DAYS[3]
    moved = Invalidation.of(_session(succeeded.run.root, _experiment(WIDE)), {"teacher-wide": DAYS[3]})
    assert "'teacher' was the teacher then" in moved.held(_session(succeeded.run.root, _experiment(WIDE)))


def test_forgetting_and_pruning_look_at_every_teacher(succeeded: Session) -> None:
    assert {"teacher", "teacher-wide"} <= set(succeeded.all_models)


def _distilled() -> list[str]:
    return [student.name for student in BESIDE.students if student.distillation]
