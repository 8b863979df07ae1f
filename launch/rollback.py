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
from tutelage.trainers import takeovers
from tutelage.trainers.run import successor_model


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something that goes."""

    what: str
    take: Callable[[], object]


def plan(session: Session, to_day: date) -> list[Step]:
    """What goes so that the teacher has learnt `to_day` last, in the order in which it has to go.

    A successor goes back with it, and the other way round; so does a change of teacher that was decided by later
    days. Besides their later days these are the labels that they made in them or after them, the days in which a
    student learnt from such labels and those after them, and the versions and metrics of all these days.
    Students without distillation stay as they are.

    What is made of something goes before that: a rollback that was killed finds, when it is run again,
    what is left of the same plan. Raises UserError where the teacher has not learnt `to_day`, or was another
    then and the config has moved on.
    """
    run = session.run
    teachers = {model: session.run_of(model).teacher.name for model in session.teachers}
    change = run.takeovers[-1] if run.takeovers and run.takeovers[-1].judged[-1] > to_day else None
    if change:
        if any(other.judged[-1] > to_day for other in run.takeovers[:-1]):
            raise UserError(
                f"--to_day={to_day}: the teacher has changed more than once since then; go back to "
                f"{run.takeovers[-2].judged[-1]} first"
            )
        if session.experiment.teacher.name == change.name:
            raise UserError(
                f"--to_day={to_day}: {change.before.name!r} was the teacher then; give {change.name!r} back its place "
                f"as the config's successor and {change.before.name!r} that as its teacher"
            )
        teachers = {change.before.model: change.before.name, successor_model(change.name): change.name}
    teacher = next(iter(teachers))
    learnt = {
        model: [state.day for state in run.checkpoints(model).states()]
        for model in (*teachers, *session.students)
    }
    if to_day not in learnt[teacher]:
        have = f"{learnt[teacher][0]} to {learnt[teacher][-1]}" if learnt[teacher] else "no day"
        raise UserError(f"--to_day={to_day}: the teacher has learnt {have}; give one of its days")
    labels = [(name, *each) for name in teachers.values() for each in _labels(session, name, to_day)]
    gone = {model: [day for day in learnt[model] if day > to_day] for model in teachers}
    for student in session.experiment.students:
        read = (day for name, p, day in labels if (name, p) == (run.labeller(day).name, student.producer))
        first = min(read, default=date.max)
        if student.distillation:
            gone[student.name] = [day for day in learnt[student.name] if day >= first]
    steps = []
    for model, days in gone.items():
        # A verdict on a day that is to be learnt anew, kept or not, says nothing of it.
        after = to_day + timedelta(days=1)
        first = after if model in teachers else min(days, default=after)
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
    students = [name for name in gone if name not in teachers]
    steps += [step for name in students for step in _checkpoints(run.checkpoints(name).folder, gone[name])]
    if change:
        steps.append(
            Step(
                what=f"that {change.name} took over from {change.before.name} on {change.from_day}",
                take=partial(takeovers.write, run.root, run.takeovers[:-1]),
            )
        )
    for name, producer, day in labels:
        where: dict[str, str | date] = {"teacher": name, "producer": producer, "day": day}
        whose = f"{producer} labels of {day}" + (f" by {name}" if len(teachers) > 1 else "")
        steps.append(Step(what=whose, take=partial(_forget, run.lake.soft_labels, where)))
    return steps + [
        step for model in teachers for step in _checkpoints(run.checkpoints(model).folder, gone[model])
    ]


def _labels(session: Session, teacher: str, to_day: date) -> list[tuple[str, date]]:
    """(producer, day) of a teacher's labels that come from what it learnt after `to_day`."""
    table = session.run.lake.soft_labels
    newest = (
        table.scan(teacher=teacher)
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
