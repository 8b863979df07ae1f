"""Take the teacher back to a day, and everything along that was built on its later days."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from pathlib import Path

import polars as pl

from tutelage.launch.session import Session
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.lake import Table
from tutelage.trainers.run import TEACHER


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something that goes."""

    what: str
    take: Callable[[], object]


def plan(session: Session, to_day: date) -> list[Step]:
    """What goes so that the teacher has learnt `to_day` last, in the order in which it has to go.

    Besides its later days these are the labels that it made in them or after them, the days in which a
    student learnt from such labels and those after them, and the versions and metrics of all these days.
    Students without distillation stay as they are.

    What is made of something goes before that: a rollback that was killed finds, when it is run again,
    what is left of the same plan. Raises UserError where the teacher has not learnt `to_day`.
    """
    run = session.run
    learnt = {model: [state.day for state in run.checkpoints(model).states()] for model in session.models}
    if to_day not in learnt[TEACHER]:
        have = f"{learnt[TEACHER][0]} to {learnt[TEACHER][-1]}" if learnt[TEACHER] else "no day"
        raise UserError(f"--to_day={to_day}: the teacher has learnt {have}; give one of its days")
    pruned = {
        model: [state.day for state in run.checkpoints(model).states() if state.pruned]
        for model in session.models
    }
    if to_day in pruned[TEACHER]:
        left = next(day for day in learnt[TEACHER] if day not in pruned[TEACHER])
        raise UserError(
            f"--to_day={to_day}: the teacher's checkpoint of it was pruned; give {left} or a later day"
        )
    labels = _labels(session, to_day)
    gone = {TEACHER: [day for day in learnt[TEACHER] if day > to_day]}
    for student in session.experiment.students:
        first = min((day for producer, day in labels if producer == student.producer), default=date.max)
        if student.distillation:
            gone[student.name] = [day for day in learnt[student.name] if day >= first]
    for model, days in gone.items():
        last = max((day for day in learnt[model] if day not in days), default=None)
        if days and last in pruned[model]:
            raise UserError(
                f"--to_day={to_day}: {model} would stand at {last}, and its checkpoint of that day was pruned; "
                f"give a later day, or train it anew with tutelage-student --student={model} --reset"
            )
    steps = []
    for model, days in gone.items():
        # A verdict on a day that is to be learnt anew, kept or not, says nothing of it.
        first = (
            min(days, default=to_day + timedelta(days=1)) if model != TEACHER else to_day + timedelta(days=1)
        )
        judged = [day for day in run.quarantine(model).days() if day >= first]
        steps += [
            Step(what=f"quarantine of {model}, {day}", take=partial(run.quarantine(model).remove, day))
            for day in judged
        ]
        days = [*days, *judged]
        versions = session.versions(model)
        numbers = [version.number for version in versions.published() if version.day in days]
        if numbers:
            reason = f"the teacher was taken back to {to_day}"
            steps.append(
                Step(
                    what=f"versions {', '.join(map(str, numbers))} of {model}",
                    take=partial(versions.withdraw, numbers, reason),
                )
            )
        rows = run.lake.metrics.scan(model=model, run=run.name).select("day").unique().collect()["day"].sort()
        steps += [
            Step(
                what=f"metrics of {model}, {day}",
                take=partial(_forget, run.lake.metrics, {"model": model}, day=day, run=run.name),
            )
            for day in rows
            if day in days
        ]
    students = [name for name in gone if name != TEACHER]
    steps += [step for name in students for step in _checkpoints(run.checkpoints(name).folder, gone[name])]
    for producer, day in labels:
        where: dict[str, str | date] = {"teacher": run.teacher.name, "producer": producer, "day": day}
        steps.append(
            Step(what=f"{producer} labels of {day}", take=partial(_forget, run.lake.soft_labels, where))
        )
    return steps + _checkpoints(run.checkpoints(TEACHER).folder, gone[TEACHER])


def _labels(session: Session, to_day: date) -> list[tuple[str, date]]:
    """(producer, day) of the teacher's labels that come from what it learnt after `to_day`."""
    table = session.run.lake.soft_labels
    newest = (
        table.scan(teacher=session.run.teacher.name)
        .filter(pl.col("day") > to_day)
        .group_by("producer", "day")
        .agg(pl.col("snapshot_day").max())
        .sort("producer", "day")
        .collect()
    )
    # The forward passes of a day have learnt the batches before them.
    return [
        (producer, day)
        for producer, day, snapshot in newest.iter_rows()
        if (day if producer == "pre_update" else snapshot) > to_day
    ]


def _checkpoints(folder: Path, days: Sequence[date]) -> list[Step]:
    """The newest first: the days that are left have no gap."""
    return [
        Step(what=f"checkpoint {folder / str(day)}", take=partial(_remove, folder, day))
        for day in reversed(days)
    ]


def _remove(folder: Path, day: date) -> None:
    # Renamed first: half a checkpoint must not look like one. The next save clears such names away.
    aside = folder / f".partial-gone-{day}"
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(folder / str(day), aside)
    shutil.rmtree(aside)


def _forget(table: Table, partition: dict[str, str | date], **where: str | date) -> None:
    table.replace(table.scan().limit(0).collect(), partition, **where)
