"""What a run removes in the end: old checkpoints by the config's `keep`, and versions that go with them.

What may be removed is as `tutelage-prune` has it, except that the rows of all days stay. Nothing is removed that is
served or pinned, that a successor will start from, or that days without labels are still to be scored with.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial

from tutelage.launch.experiment import KeepConfig
from tutelage.launch.lifecycle import prune, rollback
from tutelage.launch.lifecycle.invalidation import Action, teachers
from tutelage.launch.session import Session
from tutelage.pipeline.io.folders import size
from tutelage.pipeline.io.links import refuse_links
from tutelage.trainers.checkpoints import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to remove, in order, with its size."""

    actions: list[Action]
    checkpoints: int
    versions: int
    bytes: int


def plan(session: Session) -> Plan:
    """Return what is past the config's `keep`. Raises UserError where a link would be followed.

    A checkpoint's variables go before the versions that were made of it, or it would be exported again.
    """
    found = Plan(actions=[], checkpoints=0, versions=0, bytes=0)
    if session.experiment.keep.newest is None:
        return found
    to_label = prune.days_to_label(session)
    for model in session.all_models:
        one = _of_model(session, model, to_label)
        found = Plan(
            actions=found.actions + one.actions,
            checkpoints=found.checkpoints + one.checkpoints,
            versions=found.versions + one.versions,
            bytes=found.bytes + one.bytes,
        )
    return found


def _of_model(session: Session, model: str, to_label: Sequence[date]) -> Plan:
    checkpoints, versions = session.run.checkpoints(model), session.versions(model)
    days = [state.day for state in checkpoints.states() if not state.pruned]
    if not days:
        return Plan(actions=[], checkpoints=0, versions=0, bytes=0)
    keep = session.experiment.keep
    assert keep.newest
    stay = {*days_kept(days, keep, session.run.schema.slice_days), prune.base(session, model)}
    old = [day for day in checkpoints.to_prune(date.max) if day not in stay]
    past = [v for v in prune.idle_versions(versions, model, to_label) if v.day < days[-keep.newest :][0]]
    idle = [version for version in past if version.day not in stay]
    if old:
        refuse_links(session.run.folder(model))
    actions = [
        Action(what=f"checkpoint of {model}, {day}", apply=partial(checkpoints.prune, day)) for day in old
    ]
    if idle:
        numbers = sorted(version.number for version in idle)
        what = f"versions {', '.join(map(str, numbers))} of {model}"
        actions.append(Action(what=what, apply=partial(versions.remove, numbers)))
    paths = [*(checkpoints.folder / str(day) for day in old), *(version.path for version in idle)]
    return Plan(actions=actions, checkpoints=len(old), versions=len(idle), bytes=sum(map(size, paths)))


def days_kept(days: Sequence[date], keep: KeepConfig, slice_days: int) -> set[date]:
    """Return those of `days`, in order, whose checkpoint stays: the newest, and the last of each seven before them.

    Sevens are those of the calendar, so that all models keep the same days; of single days they end on Saturdays. A
    model's first day is one of the older ones as long as there are few: after it all days can be rebuilt.

    >>> days = [date(2026, 1, day) for day in range(1, 21)]
    >>> kept = days_kept(days, KeepConfig(newest=2, older=3), slice_days=1)
    >>> [day.day for day in sorted(kept)]
    [10, 17, 18, 19, 20]
    """
    if keep.newest is None:
        return set(days)
    last: dict[int, date] = {}
    for day in days[: -keep.newest]:
        last[day.toordinal() // (7 * slice_days)] = day
    older = sorted({*days[:1], *last.values()})
    return {*older[max(0, len(older) - keep.older) :], *days[-keep.newest :]}


def reach(session: Session) -> Iterator[str]:
    """Yield how far back a rollback and the rebuild of a day that was made again may go, if a model is trained."""
    run = session.run
    states = {model: run.checkpoints(model).states() for model in {*teachers(session), *session.models}}
    if not states[run.teacher_model]:
        return
    readers = [student.name for student in session.experiment.students if student.distillation]
    follow = [_span(own) for model in [*session.teachers[1:], *readers] if (own := states[model])]
    of_teacher = {
        state.day: not state.pruned and all(state.day < first or state.day >= kept for first, kept in follow)
        for model in teachers(session)
        for state in states[model]
        if rollback.teacher_at(run, state.day) == model
    }
    if days := sorted(day for day, possible in of_teacher.items() if possible):
        newest = (day for day in sorted(of_teacher, reverse=True) if day <= days[-1])
        *_, every = itertools.takewhile(of_teacher.__getitem__, newest)
        some = "" if days[0] == every else f", to every day from {every} on"
        yield f"a rollback goes back to {days[0]} at most{some}"
    spans = [_span(own) for own in states.values() if own]
    cut = [kept + timedelta(days=run.schema.slice_days) for first, kept in spans if kept > first]
    yield f"a day that is made again is rebuilt from {max(cut, default=min(first for first, _ in spans))} on"


def _span(states: Sequence[State]) -> tuple[date, date]:
    """Return a model's first day, and the first of its days whose checkpoint is there."""
    return states[0].day, next((state.day for state in states if not state.pruned), states[-1].day)
