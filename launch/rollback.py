"""Take models back to a day, and everything along that was built on their later days."""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    """What goes so that the teacher has learnt `to_day` last, with all that was built on its later days.

    Raises UserError where the teacher has not learnt `to_day`.
    """
    learnt = [state.day for state in session.run.checkpoints(TEACHER).states()]
    if to_day not in learnt:
        have = f"{learnt[0]} to {learnt[-1]}" if learnt else "no day"
        raise UserError(f"--to_day={to_day}: the teacher has learnt {have}; give one of its days")
    fall = Fall.of(session, {TEACHER: to_day + timedelta(days=1)})
    for model, last in fall.cut_off(session).items():
        if model == TEACHER:
            left = next(state.day for state in session.run.checkpoints(TEACHER).states() if not state.pruned)
            raise UserError(
                f"--to_day={to_day}: the teacher's checkpoint of it was pruned; give {left} or a later day"
            )
        raise UserError(
            f"--to_day={to_day}: {model} would stand at {last}, and its checkpoint of that day was pruned; "
            f"give a later day, or train it anew with tutelage-student --student={model} --reset"
        )
    return fall.steps(session, reason=f"the teacher was taken back to {to_day}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fall:
    """All that falls with some days of some models."""

    since: Mapping[str, date]
    """The first day that goes, of each model that loses any."""
    labels: Sequence[tuple[str, date]]
    """(producer, day) of the teacher's soft labels."""

    @classmethod
    def of(
        cls, session: Session, since: Mapping[str, date], labels: Iterable[tuple[str, date]] = ()
    ) -> "Fall":
        """What goes with each model's days from the one in `since` on, and with `labels`.

        Of the teacher these are the labels that it made in them or after them; of labels, the days in which
        a student learnt from them and those after. Other students stay as they are.
        """
        since, gone = dict(since), set(labels)
        if TEACHER in since:
            gone |= _labels(session, since[TEACHER])
        for student in session.experiment.students:
            if student.distillation:
                read = [day for producer, day in gone if producer == student.producer]
                start = min([*read, *filter(None, [since.get(student.name)])], default=None)
                if TEACHER in since:
                    start = _with_skipped(session, student.name, start, since[TEACHER])
                if start:
                    since[student.name] = start
        return cls(since=since, labels=sorted(gone))

    def days(self, session: Session, model: str) -> list[date]:
        """Those that the model has learnt."""
        learnt = [state.day for state in session.run.checkpoints(model).states()]
        return [day for day in learnt if day >= self.since.get(model, date.max)]

    def cut_off(self, session: Session) -> dict[str, date]:
        """The models that would stand at a day whose checkpoint was pruned, and that day."""
        found = {}
        for model, since in self.since.items():
            kept = [state for state in session.run.checkpoints(model).states() if state.day < since]
            if kept and kept[-1].pruned and self.days(session, model):
                found[model] = kept[-1].day
        return found

    def steps(self, session: Session, *, reason: str) -> list[Step]:
        """In the order in which it has to go, with the versions and metrics of these days.

        What is made of something goes before that: a job that was killed finds, when it is run again, what is
        left of the same plan.
        """
        run = session.run
        steps = []
        for model in self.since:
            verdicts = self.verdicts(session, model)
            days = [*self.days(session, model), *verdicts]
            versions = session.versions(model)
            numbers = [version.number for version in versions.published() if version.day in days]
            if numbers:
                steps.append(
                    Step(
                        what=f"versions {', '.join(map(str, numbers))} of {model}",
                        take=partial(versions.withdraw, numbers, reason),
                    )
                )
            rows = run.lake.metrics.scan(model=model, run=run.name)
            steps += [
                Step(
                    what=f"metrics of {model}, {day}",
                    take=partial(_forget, run.lake.metrics, {"model": model}, day=day, run=run.name),
                )
                for day in rows.select("day").unique().collect()["day"].sort()
                if day in days
            ]
        for model in self.since:
            if model != TEACHER:
                steps += self._learnt(session, model)
        for producer, day in self.labels:
            where: dict[str, str | date] = {"teacher": run.teacher.name, "producer": producer, "day": day}
            steps.append(
                Step(what=f"{producer} labels of {day}", take=partial(_forget, run.lake.soft_labels, where))
            )
        return steps + self._learnt(session, TEACHER)

    def verdicts(self, session: Session, model: str) -> list[date]:
        """Days whose verdict says nothing any more, be they kept or not: they are to be learnt anew."""
        first = self.since.get(model, date.max)
        return [day for day in session.run.quarantine(model).days() if day >= first]

    def _learnt(self, session: Session, model: str) -> list[Step]:
        """The newest first: the days that are left have no gap. A day that was skipped tells, until it goes, what
        the days after it lack."""
        folder, quarantine = session.run.checkpoints(model).folder, session.run.quarantine(model)
        return [
            Step(what=f"checkpoint {folder / str(day)}", take=partial(_remove, folder, day))
            for day in reversed(self.days(session, model))
        ] + [
            Step(what=f"quarantine of {model}, {day}", take=partial(quarantine.remove, day))
            for day in reversed(self.verdicts(session, model))
        ]


def _with_skipped(session: Session, model: str, start: date | None, teacher: date) -> date | None:
    """`start`, or the first of the days right before it (None: at the end of all), and not before `teacher`, that the
    model skipped: one that had no labels, as its data was in quarantine, may be there now."""
    learnt = [state.day for state in session.run.checkpoints(model).states()]
    # None of the days that it learnt lies between such a day and the start.
    after = max((day for day in learnt if start is None or day < start), default=date.min)
    before = [day for day in session.run.quarantine(model).skipped() if max(teacher, after) <= day]
    return min([*before, *filter(None, [start])], default=None)


def _labels(session: Session, since: date) -> set[tuple[str, date]]:
    """(producer, day) of the teacher's labels that come from what it learnt on `since` or later."""
    table = session.run.lake.soft_labels
    newest = (
        table.scan(teacher=session.run.teacher.name)
        .filter(pl.col("day") >= since)
        .group_by("producer", "day")
        .agg(pl.col("snapshot_day").max())
        .collect()
    )
    # The forward passes of a day have learnt the batches before them.
    return {
        (producer, day)
        for producer, day, snapshot in newest.iter_rows()
        if (day if producer == "pre_update" else snapshot) >= since
    }


def _remove(folder: Path, day: date) -> None:
    # Renamed first: half a checkpoint must not look like one. The next save clears such names away.
    aside = folder / f".partial-gone-{day}"
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(folder / str(day), aside)
    shutil.rmtree(aside)


def _forget(table: Table, partition: dict[str, str | date], **where: str | date) -> None:
    table.replace(table.scan().limit(0).collect(), partition, **where)
