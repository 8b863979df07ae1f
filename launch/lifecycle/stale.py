"""What was built on rows or labels that have been made again since, and what goes with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from tutelage.launch.lifecycle.invalidation import Action, Invalidation, teachers
from tutelage.launch.session import Session
from tutelage.pipeline.io.printable import counted
from tutelage.pipeline.soft_labels import SNAPSHOT, LabelPartition
from tutelage.trainers.run import is_teacher


@dataclass(frozen=True, slots=True, kw_only=True)
class Stale:
    """What has to be made again."""

    why: list[str]
    """The inputs that have changed, as in `interactions of 2026-01-02`."""
    invalidation: Invalidation
    unrecoverable_days: list[date]
    """Days that would have to be trained on again and cannot be: they were not asked for, they are no longer in
    `interactions`, or all checkpoints before them were pruned."""

    def describe(self, session: Session) -> str:
        """Return one line on what is stale and why."""
        parts = []
        for model, since in self.invalidation.since.items():
            if days := self.invalidation.days(session, model):
                parts.append(f"{model} from {days[0]} on ({counted(len(days), 'day')})")
            elif self.invalidation.verdicts(session, model):
                parts.append(f"the verdict on {model}, {since}")
        parts += [
            f"{producer} labels of {day}"
            for _, producer, day in self.invalidation.labels
            if producer == SNAPSHOT
        ]
        parts += [f"that {each.name} took over on {each.from_day}" for each in self.invalidation.takeovers]
        others = f"{', '.join(self.why[:3])}{f' and {len(self.why) - 3} more' if self.why[3:] else ''}"
        return f"{', '.join(parts)}: made from other {others}"

    def actions(self, session: Session) -> list[Action]:
        return self.invalidation.actions(session, reason=f"made from other {self.why[0]}")


def find(session: Session) -> Stale | None:
    """Return what is stale; None where everything was made from what is there.

    A day that is no longer there, or whose inputs were trained on before their versions were recorded, makes
    nothing stale.
    """
    # A teacher whose place was taken may have been trained on later days, of which nothing was made.
    until = {change.before.model: change.from_day for change in session.run.takeovers}
    recorded = {
        model: {
            day: made for day, made in _recorded(session, model).items() if day < until.get(model, date.max)
        }
        for model in [*teachers(session), *session.students]
    }
    since, why = _changed(session, recorded)
    labels = _stale_labels(session)
    if not since and not labels:
        return None
    why |= {(day, "rows") for _, _, day in labels if all(day != other for other, _ in why)}
    invalidation = Invalidation.of(session, since, labels).from_checkpoints(session)
    again = {day for model in invalidation.since for day in invalidation.days(session, model)}
    there = set(session.days) & set(session.run.lake.interactions.partitions()["day"])
    return Stale(
        why=[f"{name} of {day}" for day, name in sorted(why)],
        invalidation=invalidation,
        unrecoverable_days=sorted((again - there) | set(invalidation.cut_off(session).values())),
    )


def _changed(
    session: Session, recorded: Mapping[str, Mapping[date, Mapping[str, int]]]
) -> tuple[dict[str, date], set[tuple[date, str]]]:
    """Return each model's first day whose inputs have changed, and all changed inputs as (day, name)."""
    days = sorted({day for input_versions in recorded.values() for day in input_versions})
    now: dict[str | None, dict[date, dict[str, int]]] = {}
    since: dict[str, date] = {}
    why: set[tuple[date, str]] = set()
    for model, input_versions in recorded.items():
        producer = None if is_teacher(model) else session.experiment.student(model).producer
        if producer not in now:
            now[producer] = _versions_now(session, days, producer)
        changed = {
            (day, name)
            for day, versions in input_versions.items()
            for name, version in versions.items()
            if now[producer][day].get(name, version) != version
        }
        if changed:
            since[model] = min(changed)[0]
            why |= changed
    return since, why


def _recorded(session: Session, model: str) -> dict[date, Mapping[str, int]]:
    """Return the versions of the inputs that each day was trained on, kept or skipped."""
    verdicts = session.run.quarantine(model).days().items()
    skipped = {day: record.get("made_of", {}) for day, record in verdicts if record["outcome"] == "skipped"}
    return skipped | {state.day: state.input_versions for state in session.run.checkpoints(model).states()}


def _versions_now(session: Session, days: Sequence[date], producer: str | None) -> dict[date, dict[str, int]]:
    """Return the versions of each day's inputs by now, including the labels of a `producer` that a student reads."""
    lake = session.run.lake
    if producer is None:
        return lake.input_versions(days, histories=True)
    found: dict[date, dict[str, int]] = {}
    by = {day: session.run.labeller(day).name for day in days}
    for teacher in set(by.values()):
        own = [day for day in days if by[day] == teacher]
        found |= lake.input_versions(own, histories=True, labels=(teacher, producer))
    return found


def _stale_labels(session: Session) -> list[LabelPartition]:
    """Return the labels of rows, or histories, that have changed since."""
    lake = session.run.lake
    known = set(teachers(session).values())
    recorded = {labels: n for labels, n in lake.soft_labels.sources().items() if labels.teacher in known}
    now = lake.label_sources([labels.day for labels in recorded])
    return [labels for labels, source in recorded.items() if now.get(labels.day, source) != source]
