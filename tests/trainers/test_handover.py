"""Whether a successor is as good as the teacher, by losses that are given for each day."""

import json
import math
import shutil
from dataclasses import asdict, replace
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from tests.tiny import AUXILIARY, MODEL, make_run
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import METRICS
from tutelage.trainers.checkpoints import State
from tutelage.trainers.config import StudentConfig, SuccessorConfig, TeacherConfig
from tutelage.trainers.handover import Comparison, compare
from tutelage.trainers.run import Run

DAYS = [date(2026, 1, 1) + timedelta(days=n) for n in range(5)]
WIDE = SuccessorConfig(teacher=TeacherConfig(name="wide", model=MODEL), judged_days=2)
NAN = math.nan


def _record(run: Run, model: str, click: list[float], watch: list[float], *, first: int = 0) -> None:
    """Write the states of a model that was trained on these days, and its losses ahead of them."""
    days = DAYS[first : first + len(click)]
    for n, day in enumerate(days, 1):
        folder = run.checkpoints(model).folder / str(day)
        folder.mkdir(parents=True)
        state = asdict(State(day=day, step=4 * n, examples=60 * n, rows=60))
        (folder / "state.json").write_text(json.dumps({**state, "day": str(day)}))
    rows = [
        {"run": run.name, "day": day, "task": task, "metric": metric, "slice": part, "basis": basis}
        | {"value": value if (basis, part) == ("day_ahead", "") else 99.0, "rows": 60}
        for task, metric, values in (("click", "log_loss", click), ("watch", "ltv_loss", watch))
        for day, value in zip(days, values, strict=True)
        for basis, part in (("day_ahead", ""), ("day_ahead", "topic=news"), ("pre_update", ""))
    ]
    run.lake.metrics.replace(pl.DataFrame(rows, schema=dict(pl.Schema(METRICS))), {"model": model})


def _compared(run: Run, *students: StudentConfig, **changed: float) -> Comparison | None:
    return compare(run, replace(WIDE, **changed), students)  # type: ignore[arg-type]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The teacher was trained on five days, with a loss of .6 for clicks and 2 for the time."""
    run = make_run(tmp_path)
    _record(run, "teacher", [9, 0.6, 0.6, 0.6, 0.6], [9, 2, 2, 2, 2])
    return run


def test_it_takes_over_after_the_first_days_on_which_no_task_is_worse(run: Run) -> None:
    # Means of two days: .65, .6, .55 of the clicks; 2, 2, 2 of the time. Its own first day is not among them.
    _record(run, "teacher-wide", [0.1, 0.7, 0.6, 0.6, 0.5], [0.1, 2, 2, 2, 2])
    found = _compared(run)
    assert found
    assert (found.days, found.verdict.verdict) == (DAYS[2:4], "pass")
    checks = {check.name: (check.value, check.reference, check.bound) for check in found.verdict.checks}
    assert checks["click log_loss"] == pytest.approx((0.6, 0.6, 0.6))
    assert checks["watch ltv_loss"] == (2, 2, 2)


def test_days_that_students_were_trained_on_are_not_decided_again(run: Run) -> None:
    _record(run, "teacher-wide", [0.1, 0.5, 0.5, 0.5, 0.5], [0.1, 1, 1, 1, 1])
    assert _compared(run).days == DAYS[1:3]  # type: ignore[union-attr]
    # A student was trained on its labels up to the fourth day. One that reads none does not count.
    _record(run, AUXILIARY.name, [0.6] * 4, [2] * 4)
    _record(run, "control", [0.6] * 5, [2] * 5)
    control = StudentConfig(name="control", model=MODEL)
    assert _compared(run, AUXILIARY, control).days == DAYS[2:4]  # type: ignore[union-attr]


def test_one_task_that_is_worse_by_more_than_the_margin_is_enough_to_refuse_it(run: Run) -> None:
    _record(run, "teacher-wide", [0.1, 0.5, 0.5, 0.5, 0.5], [0.1, 2.1, 2.1, 2.1, 2.1])
    found = _compared(run, margin=0.04)
    assert found
    assert (found.days, found.verdict.verdict) == (DAYS[3:], "fail")
    assert str(found.verdict) == "fail; watch ltv_loss is 2.1, 2.08 is the bound"
    assert _compared(run, margin=0.06).verdict.blessed  # type: ignore[union-attr]


def test_a_margin_below_0_asks_for_a_gain(run: Run) -> None:
    _record(run, "teacher-wide", [0.1, 0.57, 0.57], [0.1, 1.9, 1.9])
    assert _compared(run, margin=-0.04).verdict.blessed  # type: ignore[union-attr]
    assert not _compared(run, margin=-0.06).verdict.blessed  # type: ignore[union-attr]


def test_a_loss_that_is_not_finite_is_not_as_good(run: Run) -> None:
    _record(run, "teacher-wide", [0.1, 0.5, NAN], [0.1, 2, 2])
    assert not _compared(run).verdict.blessed  # type: ignore[union-attr]


def test_only_days_that_both_were_trained_on_count(run: Run) -> None:
    _record(run, "teacher-wide", [0.1, 0.5], [0.1, 2], first=3)
    assert _compared(run) is None
    assert _compared(run, judged_days=1).days == DAYS[4:]  # type: ignore[union-attr]


def test_a_teacher_s_first_day_is_no_measure(run: Run) -> None:
    # It started a day after the successor, and its loss then was 9.
    for path in sorted(run.checkpoints("teacher").folder.glob("*"))[:3]:
        shutil.rmtree(path)
    _record(run, "teacher-wide", [0.1, 8, 8, 8, 8], [0.1, 2, 2, 2, 2])
    found = _compared(run, judged_days=1)
    assert found
    assert (found.days, found.verdict.blessed) == (DAYS[4:], False)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"judged_days": 0}, "successor: judged_days is 0, expected at least 1"),
        ({"margin": -1.0}, "successor: margin is -1.0, expected a share above -1, as in 0.01"),
        ({"margin": math.inf}, "successor: margin is inf, expected a share above -1, as in 0.01"),
    ],
)
def test_a_successor_config_that_cannot_be_compared_is_refused(fields: dict[str, float], says: str) -> None:
    with pytest.raises(UserError) as error:
        replace(WIDE, **fields)  # type: ignore[arg-type]
    assert str(error.value) == says
