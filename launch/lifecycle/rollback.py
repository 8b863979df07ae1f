"""Take models back to a day, and everything along that was built on their later days."""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from pathlib import Path

from tutelage.launch.session import Session
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.soft_labels import LabelPartition
from tutelage.trainers.handover import TakeOver, write_takeovers
from tutelage.trainers.run import Run, is_teacher, successor_model


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """Something that goes."""

    what: str
    apply: Callable[[], object]


def plan(session: Session, to_day: date) -> list[Action]:
    """What goes so that the teacher has learnt `to_day` last, with all that was built on its later days.

    Raises UserError where the teacher has not learnt `to_day`, or was another then and the config has moved on.
    """
    teacher = teacher_at(session.run, to_day)
    checkpoints = session.run.checkpoints(teacher)
    invalidation = Invalidation.of(session, {teacher: to_day + timedelta(days=1)})
    if held := invalidation.held(session):
        raise UserError(f"--to_day={to_day}: {held}")
    trained = [state.day for state in checkpoints.states()]
    if to_day not in trained:
        have = f"{trained[0]} to {trained[-1]}" if trained else "no day"
        raise UserError(f"--to_day={to_day}: the teacher has learnt {have}; give one of its days")
    for model, last in invalidation.cut_off(session).items():
        if is_teacher(model):
            left = next(state.day for state in session.run.checkpoints(model).states() if not state.pruned)
            whose = "the teacher's" if model == teacher else f"{model}'s"
            raise UserError(
                f"--to_day={to_day}: {whose} checkpoint of it was pruned; give {left} or a later day"
            )
        raise UserError(
            f"--to_day={to_day}: {model} would stand at {last}, and its checkpoint of that day was pruned; "
            f"give a later day, or train it anew with tutelage-student --student={model} --reset"
        )
    return invalidation.steps(session, reason=f"the teacher was taken back to {to_day}")


def teacher_at(run: Run, day: date) -> str:
    """Whose place no other had taken, by what was known when `day` was learnt."""
    return next(
        (change.before.model for change in run.takeovers if change.judged[-1] > day), run.teacher_model
    )


def teachers(session: Session) -> dict[str, str]:
    """The names in `soft_labels` of the former teachers, the teacher and its successor, by model, in this order."""
    former = {change.before.model: change.before.name for change in session.run.takeovers}
    return former | {model: session.run_of(model).teacher.name for model in session.teachers}


@dataclass(frozen=True, slots=True, kw_only=True)
class Invalidation:
    """All that falls with some days of some models."""

    since: Mapping[str, date]
    """The first day that goes, of each model that loses any."""
    labels: Sequence[LabelPartition]
    takeovers: Sequence[TakeOver]
    """Changes of teacher that were decided by days which go."""

    @classmethod
    def of(
        cls, session: Session, since: Mapping[str, date], labels: Iterable[LabelPartition] = ()
    ) -> "Invalidation":
        """What goes with each model's days from the one in `since` on, and with `labels`.

        Of a teacher these are the labels that it made in them or after them, its successors' days, as they may have
        started from one that goes, and a change of teacher that was decided by them; of labels, and of a change,
        the days in which a student learnt from them and those after. Other students stay as they are.
        """
        run, since, gone = session.run, dict(since), set(labels)
        names = teachers(session)
        first = date.max
        for model, name in names.items():
            first = min(first, since.get(model, date.max))
            if first < date.max:
                since[model] = first
                gone |= run.lake.soft_labels.trained_since(name, first)
        changes = [change for change in run.takeovers if _decided_by(change, since)]
        for student in session.experiment.students:
            if student.distillation:
                read = [
                    day
                    for name, producer, day in gone
                    if (name, producer) == (run.labeller(day).name, student.producer)
                ]
                read += [change.from_day for change in changes]
                start = min([since.get(student.name, date.max), *read])
                start = _with_skipped(session, student.name, start, first)
                if start < date.max:
                    since[student.name] = start
        return cls(since=since, labels=sorted(gone), takeovers=changes)

    def held(self, session: Session) -> str:
        """Why a change of teacher cannot be taken back, and what to do; empty: it can, or none has to be."""
        if not self.takeovers:
            return ""
        change = self.takeovers[-1]
        if self.takeovers[1:]:
            return (
                "the teacher has changed more than once since then; go back to "
                f"{session.run.takeovers[-2].judged[-1]} first"
            )
        if session.experiment.teacher.name == change.name:
            return (
                f"{change.before.name!r} was the teacher then; give {change.name!r} back its place as the config's "
                f"successor and {change.before.name!r} that as its teacher"
            )
        return ""

    def days(self, session: Session, model: str) -> list[date]:
        """Those that the model has learnt."""
        trained = [state.day for state in session.run.checkpoints(model).states()]
        return [day for day in trained if day >= self.since.get(model, date.max)]

    def cut_off(self, session: Session) -> dict[str, date]:
        """The models that would stand at a day whose checkpoint was pruned, and that day."""
        found = {}
        for model, since in self.since.items():
            kept = [state for state in session.run.checkpoints(model).states() if state.day < since]
            if kept and kept[-1].pruned and self.days(session, model):
                found[model] = kept[-1].day
        return found

    def steps(self, session: Session, *, reason: str) -> list[Action]:
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
                    Action(
                        what=f"versions {', '.join(map(str, numbers))} of {model}",
                        apply=partial(versions.withdraw, numbers, reason),
                    )
                )
            rows = run.lake.metrics.scan(model=model, run=run.name)
            steps += [
                Action(
                    what=f"metrics of {model}, {day}",
                    apply=partial(run.lake.metrics.clear, {"model": model}, day=day, run=run.name),
                )
                for day in rows.select("day").unique().collect()["day"].sort()
                if day in days
            ]
        for model in self.since:
            if not is_teacher(model):
                steps += self._trained(session, model)
        for change in reversed(self.takeovers):
            steps.append(
                Action(
                    what=f"that {change.name} took over from {change.before.name} on {change.from_day}",
                    apply=partial(write_takeovers, run.root, run.takeovers[: run.takeovers.index(change)]),
                )
            )
        several = len(teachers(session)) > 1
        for partition in self.labels:
            whose = f"{partition.producer} labels of {partition.day}"
            whose += f" by {partition.teacher}" if several else ""
            steps.append(Action(what=whose, apply=partial(run.lake.soft_labels.withdraw, partition)))
        # A successor's before those of the teacher that it may have started from.
        for model in reversed(teachers(session)):
            steps += self._trained(session, model)
        return steps

    def verdicts(self, session: Session, model: str) -> list[date]:
        """Days whose verdict says nothing any more, be they kept or not: they are to be learnt anew."""
        first = self.since.get(model, date.max)
        return [day for day in session.run.quarantine(model).days() if day >= first]

    def _trained(self, session: Session, model: str) -> list[Action]:
        """The newest first: the days that are left have no gap. A day that was skipped tells, until it goes, what
        the days after it lack."""
        folder, quarantine = session.run.checkpoints(model).folder, session.run.quarantine(model)
        return [
            Action(what=f"checkpoint {folder / str(day)}", apply=partial(_remove, folder, day))
            for day in reversed(self.days(session, model))
        ] + [
            Action(what=f"quarantine of {model}, {day}", apply=partial(quarantine.remove, day))
            for day in reversed(self.verdicts(session, model))
        ]


def _decided_by(change: TakeOver, since: Mapping[str, date]) -> bool:
    both = change.before.model, successor_model(change.name)
    return min(since.get(model, date.max) for model in both) <= change.judged[-1]


def _with_skipped(session: Session, model: str, start: date, teacher: date) -> date:
    """`start`, or the first of the days right before it, and not before `teacher`, that the model skipped: one that
    had no labels, as its data was in quarantine, may be there now."""
    trained = [state.day for state in session.run.checkpoints(model).states()]
    # None of the days that it learnt lies between such a day and the start.
    after = max((day for day in trained if day < start), default=date.min)
    return min(
        [start, *(day for day in session.run.quarantine(model).skipped() if max(teacher, after) <= day)]
    )


def _remove(folder: Path, day: date) -> None:
    # Renamed first: half a checkpoint must not look like one. The next save clears such names away.
    aside = folder / f".partial-gone-{day}"
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(folder / str(day), aside)
    shutil.rmtree(aside)
