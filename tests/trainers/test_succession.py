"""Whether a successor is as good as the teacher, by days whose losses are given."""

import json
import math
from dataclasses import asdict, replace
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from tests.tiny import MODEL, make_run
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import METRICS
from tutelage.trainers.checkpoints import State
from tutelage.trainers.config import SuccessorConfig, TeacherConfig
from tutelage.trainers.run import Run
from tutelage.trainers.succession import Judged, judge

DAYS = [date(2026, 1, 1) + timedelta(days=n) for n in range(5)]
WIDE = SuccessorConfig(teacher=TeacherConfig(name="wide", model=MODEL), judged_days=2)
NAN = math.nan


def _learn(run: Run, model: str, click: list[float], watch: list[float], *, first: int = 0) -> None:
    """Leave what a model that has learnt these days leaves: states, and its losses ahead of them."""
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


def _judged(run: Run, *, since: date | None = None, **changed: float) -> Judged | None:
    return judge(run, replace(WIDE, **changed), since=since)  # type: ignore[arg-type]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The teacher has learnt five days, with a loss of .6 for clicks and 2 for the time."""
    run = make_run(tmp_path)
    _learn(run, "teacher", [9, 0.6, 0.6, 0.6, 0.6], [9, 2, 2, 2, 2])
    return run


def test_it_takes_over_after_the_first_days_on_which_no_task_is_worse(run: Run) -> None:
    # Means of two days: .65, .6, .55 of the clicks; 2, 2, 2 of the time. Its own first day is not among them.
    _learn(run, "teacher-wide", [0.1, 0.7, 0.6, 0.6, 0.5], [0.1, 2, 2, 2, 2])
    judged = _judged(run)
    assert judged
    assert (judged.days, judged.verdict.verdict) == (DAYS[2:4], "pass")
    found = {check.name: (check.value, check.reference, check.bound) for check in judged.verdict.checks}
    assert found["click log_loss"] == pytest.approx((0.6, 0.6, 0.6))
    assert found["watch ltv_loss"] == (2, 2, 2)


def test_the_days_before_it_was_asked_are_over(run: Run) -> None:
    _learn(run, "teacher-wide", [0.1, 0.5, 0.5, 0.5, 0.5], [0.1, 1, 1, 1, 1])
    assert _judged(run).days == DAYS[1:3]  # type: ignore[union-attr]
    assert _judged(run, since=DAYS[3]).days == DAYS[2:4]  # type: ignore[union-attr]


def test_one_task_that_is_worse_by_more_than_the_margin_is_enough_to_refuse_it(run: Run) -> None:
    _learn(run, "teacher-wide", [0.1, 0.5, 0.5, 0.5, 0.5], [0.1, 2.1, 2.1, 2.1, 2.1])
    judged = _judged(run, margin=0.04)
    assert judged
    assert (judged.days, judged.verdict.verdict) == (DAYS[3:], "fail")
    assert str(judged.verdict) == "fail; watch ltv_loss is 2.1, 2.08 is the bound"
    assert _judged(run, margin=0.06).verdict.blessed  # type: ignore[union-attr]


def test_below_0_the_margin_asks_for_a_gain(run: Run) -> None:
    _learn(run, "teacher-wide", [0.1, 0.57, 0.57], [0.1, 1.9, 1.9])
    assert _judged(run, margin=-0.04).verdict.blessed  # type: ignore[union-attr]
    assert not _judged(run, margin=-0.06).verdict.blessed  # type: ignore[union-attr]


def test_a_loss_that_is_no_number_is_not_as_good(run: Run) -> None:
    _learn(run, "teacher-wide", [0.1, 0.5, NAN], [0.1, 2, 2])
    assert not _judged(run).verdict.blessed  # type: ignore[union-attr]


def test_only_days_that_both_have_learnt_count(run: Run) -> None:
    _learn(run, "teacher-wide", [0.1, 0.5], [0.1, 2], first=3)
    assert _judged(run) is None
    assert _judged(run, judged_days=1).days == DAYS[4:]  # type: ignore[union-attr]


def test_a_teacher_s_first_day_is_no_measure(run: Run) -> None:
    # It started a day after the successor, and its loss then was 9.
    for path in sorted(run.checkpoints("teacher").folder.glob("*"))[:3]:
        (path / "state.json").unlink()
    _learn(run, "teacher-wide", [0.1, 8, 8, 8, 8], [0.1, 2, 2, 2, 2])
    judged = _judged(run, judged_days=1)
    assert judged
    assert (judged.days, judged.verdict.blessed) == (DAYS[4:], False)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"judged_days": 0}, "successor: judged_days is 0, expected at least 1"),
        ({"margin": -1.0}, "successor: margin is -1.0, expected a share above -1, as in 0.01"),
        ({"margin": math.inf}, "successor: margin is inf, expected a share above -1, as in 0.01"),
    ],
)
def test_a_successor_that_could_not_be_judged_is_refused(fields: dict[str, float], says: str) -> None:
    with pytest.raises(UserError) as error:
        replace(WIDE, **fields)  # type: ignore[arg-type]
    assert str(error.value) == says
