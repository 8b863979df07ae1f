"""What a run removes in the end: old checkpoints by the config's `keep`, and versions that go with them.

What may be removed is as `tutelage-prune` has it, except that the rows of all days stay. Nothing is removed that is
served or pinned, that a successor will start from, or that days without labels are still to be scored with.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from pathlib import Path

from tutelage.launch.experiment import KeepConfig
from tutelage.launch.lifecycle import prune, rollback
from tutelage.launch.lifecycle.invalidation import Action, teachers
from tutelage.launch.session import Session
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


def size(path: Path) -> int:
    """Return the bytes of all files below a folder; 0 where there is none."""
    return sum(
        os.lstat(os.path.join(folder, name)).st_size for folder, _, files in os.walk(path) for name in files
    )


def reach(session: Session) -> Iterator[str]:
    """Yield how far back a rollback and the rebuild of a day that was made again may go, if a model is trained."""
    run = session.run
    states = {model: run.checkpoints(model).states() for model in {*teachers(session), *session.models}}
    if not states[run.teacher_model]:
        return
    readers = [student.name for student in session.experiment.students if student.distillation]
    follow = [states[model] for model in [*session.teachers[1:], *readers]]
    days = sorted(
        state.day
        for model in teachers(session)
        for state in states[model]
        if not state.pruned and rollback.teacher_at(run, state.day) == model
    )
    days = [day for day in days if all(_reached(own, day) for own in follow)]
    every = days[-1:]
    trained = sorted({state.day for model in teachers(session) for state in states[model]})
    while every and (before := [day for day in trained if day < every[0]]) and before[-1] in days:
        every = before[-1:]
    first = min(own[0].day for own in states.values() if own)
    pruned = [_first_kept(own) for own in states.values() if own and own[0].pruned]
    rebuilt = max(pruned) + timedelta(days=run.schema.slice_days) if pruned else first
    if days:
        some = "" if days[0] == every[0] else f", to every day from {every[0]} on"
        yield f"a rollback goes back to {days[0]} at most{some}"
    yield f"a day that is made again is rebuilt from {rebuilt} on"


def _first_kept(states: Sequence[State]) -> date:
    return next(state.day for state in states if not state.pruned)


def _reached(states: Sequence[State], day: date) -> bool:
    """Return whether a model can go back to `day`: to an earlier checkpoint, or to before its first day."""
    return not states or day < states[0].day or day >= _first_kept(states)
