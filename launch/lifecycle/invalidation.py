"""What depends on what in a workdir: the one place that knows what a day of a model takes with it when it goes.

A teacher's day takes the labels that it made and the days of its successor, which may have started from it. Labels
take the days of the students that read them. Any day takes its versions, metrics and verdicts.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial

from tutelage.launch.session import Session
from tutelage.pipeline.io.links import refuse_links
from tutelage.pipeline.soft_labels import LabelPartition
from tutelage.trainers.handover import TakeOver, write_takeovers
from tutelage.trainers.run import is_teacher, successor_model


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """Something that is removed."""

    what: str
    apply: Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Invalidation:
    """Everything that goes with some days of some models."""

    since: Mapping[str, date]
    """Model → the first of its days that goes, for each model that loses any."""
    labels: Sequence[LabelPartition]
    takeovers: Sequence[TakeOver]
    """Changes of teacher that were decided by days which go."""

    @classmethod
    def of(
        cls, session: Session, since: Mapping[str, date], labels: Iterable[LabelPartition] = ()
    ) -> "Invalidation":
        """Return what goes with each model's days from the one in `since` on, and with `labels`.

        With a teacher's days go the labels that it made on or after them, its successors' days, as they may have
        started from one that goes, and a change of teacher that was decided by them. With labels, and with a change
        of teacher, go the days on which a student read them and those after. Other students stay as they are.
        """
        run, since, gone = session.run, dict(since), set(labels)
        first = date.max
        for model, name in teachers(session).items():
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
        """Return why a change of teacher cannot be taken back, and the remedy; empty where nothing prevents it."""
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
                f"{change.before.name!r} was the teacher then; make {change.name!r} the config's successor and "
                f"{change.before.name!r} its teacher again"
            )
        return ""

    def days(self, session: Session, model: str) -> list[date]:
        """Return the trained days that the model loses."""
        trained = [state.day for state in session.run.checkpoints(model).states()]
        return [day for day in trained if day >= self.since.get(model, date.max)]

    def verdicts(self, session: Session, model: str) -> list[date]:
        """Return the days whose verdict, for or against, no longer holds: they are to be trained on again."""
        first = self.since.get(model, date.max)
        return [day for day in session.run.quarantine(model).days() if day >= first]

    def cut_off(self, session: Session) -> dict[str, date]:
        """Return the models that would go back to a day whose checkpoint was pruned, and that day."""
        found = {}
        for model, since in self.since.items():
            kept = [state for state in session.run.checkpoints(model).states() if state.day < since]
            if kept and kept[-1].pruned and self.days(session, model):
                found[model] = kept[-1].day
        return found

    def from_checkpoints(self, session: Session) -> "Invalidation":
        """Return the same, with a model that is cut off back at its newest checkpoint before.

        The days since that checkpoint are trained on again. A model that has none stays cut off.
        """
        further = {}
        for model, day in self.cut_off(session).items():
            states = session.run.checkpoints(model).states()
            if kept := [state.day for state in states if state.day < day and not state.pruned]:
                further[model] = kept[-1] + timedelta(days=1)
        if not further:
            return self
        return Invalidation.of(session, {**self.since, **further}, self.labels).from_checkpoints(session)

    def check_pins(self, session: Session) -> None:
        """Raise UserError if a version that goes is pinned."""
        for model in self.since:
            session.versions(model).check_unpinned(self._versions(session, model))

    def actions(self, session: Session, *, reason: str) -> list[Action]:
        """Return what to remove, in order.

        Whatever was made of something goes before it: a command that was killed finds, when it is run again, the
        rest of the same plan. `reason` is recorded with the versions that are withdrawn.
        """
        models = list(self.since)
        actions = [each for model in models for each in self._outputs(session, model, reason)]
        for model in models:
            if not is_teacher(model):
                actions += self._trained(session, model)
        actions += self._takeovers(session)
        actions += self._label_partitions(session)
        # A successor goes before the teacher that it may have started from.
        for model in reversed(teachers(session)):
            actions += self._trained(session, model)
        return actions

    def _outputs(self, session: Session, model: str, reason: str) -> Iterator[Action]:
        """Yield the removal of a model's versions and metrics."""
        run, days = session.run, self._gone(session, model)
        if numbers := self._versions(session, model):
            yield Action(
                what=f"versions {', '.join(map(str, numbers))} of {model}",
                apply=partial(session.versions(model).withdraw, numbers, reason),
            )
        metrics = run.lake.metrics.scan(model=model, run=run.name)
        for day in metrics.select("day").unique().collect()["day"].sort():
            if day in days:
                yield Action(
                    what=f"metrics of {model}, {day}",
                    apply=partial(run.lake.metrics.clear, {"model": model}, day=day, run=run.name),
                )

    def _gone(self, session: Session, model: str) -> set[date]:
        """Return the days whose outputs go."""
        return {*self.days(session, model), *self.verdicts(session, model)}

    def _versions(self, session: Session, model: str) -> list[int]:
        """Return the served versions that go."""
        days = self._gone(session, model)
        return [version.number for version in session.versions(model).published() if version.day in days]

    def _takeovers(self, session: Session) -> Iterator[Action]:
        run = session.run
        for change in reversed(self.takeovers):
            yield Action(
                what=f"that {change.name} took over from {change.before.name} on {change.from_day}",
                apply=partial(write_takeovers, run.root, run.takeovers[: run.takeovers.index(change)]),
            )

    def _label_partitions(self, session: Session) -> Iterator[Action]:
        several = len(teachers(session)) > 1
        for partition in self.labels:
            what = f"{partition.producer} labels of {partition.day}"
            what += f" by {partition.teacher}" if several else ""
            yield Action(what=what, apply=partial(session.run.lake.soft_labels.withdraw, partition))

    def _trained(self, session: Session, model: str) -> Iterator[Action]:
        """Yield the removal of checkpoints and verdicts, the newest first, so that the days left have no gap.

        The verdict on a skipped day goes last, because it tells what the days after it lack.
        """
        checkpoints, quarantine = session.run.checkpoints(model), session.run.quarantine(model)
        for day in reversed(self.days(session, model)):
            what = f"checkpoint {checkpoints.folder / str(day)}"
            yield Action(what=what, apply=partial(checkpoints.remove_day, day))
        for day in reversed(self.verdicts(session, model)):
            yield Action(what=f"quarantine of {model}, {day}", apply=partial(quarantine.remove, day))


def check_links(session: Session) -> None:
    """Raise UserError where a folder that files are deleted from is or holds a link."""
    run = session.run
    for folder in (run.root / "lake", *map(run.folder, session.all_models)):
        refuse_links(folder)


def teachers(session: Session) -> dict[str, str]:
    """Return model → name in `soft_labels` of the former teachers, the teacher and its successor, in this order."""
    former = {change.before.model: change.before.name for change in session.run.takeovers}
    return former | {model: session.run_of(model).teacher.name for model in session.teachers}


def _decided_by(change: TakeOver, since: Mapping[str, date]) -> bool:
    both = change.before.model, successor_model(change.name)
    return min(since.get(model, date.max) for model in both) <= change.judged[-1]


def _with_skipped(session: Session, model: str, start: date, teacher: date) -> date:
    """Return `start`, or the first of the days right before it that the model skipped, not before `teacher`.

    A day without labels, because its data was in quarantine, may have labels now.
    """
    trained = [state.day for state in session.run.checkpoints(model).states()]
    # No day that the model was trained on lies between such a day and the start.
    after = max((day for day in trained if day < start), default=date.min)
    return min(
        [start, *(day for day in session.run.quarantine(model).skipped() if max(teacher, after) <= day)]
    )
