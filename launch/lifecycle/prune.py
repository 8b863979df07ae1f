"""Remove old days from a workdir, with their checkpoints and versions, unless a live model needs them."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial

import polars as pl

from tutelage.export.versions import Version, Versions, versions_in
from tutelage.launch.lifecycle.invalidation import Action, check_links
from tutelage.launch.session import Session
from tutelage.pipeline import commit_day
from tutelage.pipeline.days import spans
from tutelage.pipeline.io.atomic import remove
from tutelage.pipeline.soft_labels import SNAPSHOT
from tutelage.pipeline.table import PRUNED, Table, add_dropped
from tutelage.trainers.run import is_teacher

_TOGETHER = 100
"""Days of a table that are removed in one commit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to remove, in order, and what stays although it is old."""

    actions: list[Action]
    kept: list[str]
    """A line for each old day, or days in a row, with the reason."""


def plan(session: Session, keep_days: int) -> Plan:
    """Return what to remove so that the workdir holds its newest `keep_days` days, and what live models need besides.

    A checkpoint's variables go before the versions that were made of it, or it would be exported again.
    Metrics stay, and so does each model's state after each day. Raises UserError where a link would be followed.
    """
    check_links(session)
    lake = session.run.lake
    days = lake.interactions.partitions()["day"].to_list()
    if not days:
        return Plan(actions=[], kept=[])
    before = max(days) - timedelta(days=keep_days - 1)
    todo = {model: _days_to_train(session, model, days) for model in session.models}
    needed = _needed(session, days, todo)
    to_label = days_to_label(session)
    actions = []
    for model in session.all_models:
        actions += _model(session, model, before, needed, to_label)
    for table in lake.by_day:
        actions += _days(session, table, before, needed)
        what = f"old files of {table.path.relative_to(session.run.root)}"
        actions.append(Action(what=what, apply=table.vacuum))
    for day in lake.quarantine.days():
        if day < before:
            actions += [
                Action(what=f"rows of {day} in quarantine", apply=partial(commit_day.forget, lake, day)),
                Action(what=f"quarantine of {day}", apply=partial(lake.quarantine.remove, day)),
            ]
    kept = _reasons([(day, needed[day]) for day in days if day < before and day in needed], session)
    teacher = session.run.teacher_model
    if (found := base(session, teacher)) in session.run.checkpoints(teacher).to_prune(before):
        kept.append(f"checkpoint of {teacher}, {found}: {session.teachers[-1]} starts from it")
    return Plan(actions=actions, kept=kept)


def _days_to_train(session: Session, model: str, days: Sequence[date]) -> list[date]:
    """Return the days of the table that the model is still to be trained on, or may be asked to be, next."""
    trained = session.run.checkpoints(model).states()
    if trained:
        return [day for day in days if day > trained[-1].day]
    first = session.first_day(model)
    return [day for day in days if first is None or day >= first]


def _needed(session: Session, days: Sequence[date], todo: dict[str, list[date]]) -> dict[date, str]:
    """Return the days that must stay, each with a reason."""
    needed: dict[date, str] = {}
    for model, left in todo.items():
        for day in left:
            needed.setdefault(day, f"{model} is still to be trained on it")
    coming = max(days) + timedelta(days=session.run.schema.slice_days)
    if session.run.schema.histories:
        for day in sorted({*needed, coming}):
            for source in session.run.lake.history_days(day):
                needed.setdefault(source, f"the histories of {day} are built from it")
    for model in todo:
        for state in session.run.checkpoints(model).states()[-1:]:
            needed.setdefault(state.day, f"{model} was trained on it last")
    return needed


def days_to_label(session: Session) -> list[date]:
    """Return the days that a snapshot of a teacher is still to label."""
    days = session.run.lake.interactions.partitions()["day"].to_list()
    readers = [s.name for s in session.experiment.students if s.producer == SNAPSHOT and s.distillation]
    return sorted({day for name in readers for day in _days_to_train(session, name, days)})


def _model(
    session: Session, model: str, before: date, needed: Iterable[date], to_label: Sequence[date]
) -> list[Action]:
    """Return the removal of a model's variables, records, and versions that no server has, of days before `before`."""
    checkpoints, quarantine = session.run.checkpoints(model), session.run.quarantine(model)
    actions = [
        Action(what=f"checkpoint of {model}, {day}", apply=partial(checkpoints.prune, day))
        for day in checkpoints.to_prune(before)
        if day != base(session, model)
    ]
    actions += [
        Action(what=f"damaged checkpoint of {model}, {path.name[-10:]}", apply=partial(remove, path))
        for path in sorted(checkpoints.folder.glob(".damaged-*"))
        if path.name[-10:] < str(before)
    ]
    versions = session.versions(model)
    alive = {state.id for state in checkpoints.states()[-1:]}
    idle = idle_versions(versions, model, to_label)
    numbers = sorted(v.number for v in idle if v.day < before and v.checkpoint not in alive)
    if numbers:
        what = f"versions {', '.join(map(str, numbers))} of {model}"
        actions.append(Action(what=what, apply=partial(versions.remove, numbers)))
    actions += [
        Action(what=f"quarantine of {model}, {day}", apply=partial(quarantine.remove, day))
        for day in quarantine.days()
        if day < before and day not in needed
    ]
    return actions


def idle_versions(versions: Versions, model: str, to_label: Sequence[date]) -> list[Version]:
    """Return the versions that no server has, without the model's newest, pinned ones, and those that label."""
    idle = [*versions_in(versions.rejected), *versions_in(versions.retired)]
    served = versions.published()
    stay = {max((version.number for version in [*idle, *served]), default=0), *versions.pinned()}
    if is_teacher(model):  # No server has it: the labeler takes the newest version from before a day.
        days = [version.day for version in served]  # In order, as the numbers are.
        stay |= {served[n - 1].number for day in to_label if (n := bisect_left(days, day))}
        idle += served
    return [version for version in idle if version.number not in stay]


def base(session: Session, model: str) -> date | None:
    """Return the day of the teacher's checkpoint that an untrained successor will start from."""
    successor = session.successor
    if model != session.run.teacher_model or not successor or not successor.first_day:
        return None
    if session.run.checkpoints(session.teachers[-1]).states():
        return None
    days = [state.day for state in session.run.checkpoints(model).states()]
    return max((day for day in days if day < successor.first_day), default=None)


def _days(session: Session, table: Table, before: date, needed: Iterable[date]) -> list[Action]:
    """Return the removal of a table's partitions from before `before` that are not needed."""
    old = table.partitions().filter(pl.col("day") < before, ~pl.col("day").is_in(list(needed))).sort("day")
    counts = table.counts()
    path, length = table.path.relative_to(session.run.root), session.run.schema.slice_days
    others = [name for name in table.partition_by if name != "day"]
    groups = old.partition_by(others, as_dict=True).items() if others else [((), old)]
    actions = []
    for values, of_group in groups:
        for some in of_group.iter_slices(_TOGETHER):
            parts = [
                (row, add_dropped(counts.get(table.key(row), {}), row["rows"], PRUNED))
                for row in some.iter_rows(named=True)
            ]
            which = "/".join([*map(str, values), spans(some["day"].to_list(), slice_days=length)])
            what = f"{some['rows'].sum():,} rows of {path}, {which}"
            actions.append(Action(what=what, apply=partial(table.delete_partitions, parts)))
    return actions


def _reasons(kept: Sequence[tuple[date, str]], session: Session) -> list[str]:
    days: dict[str, list[date]] = {}
    for day, reason in kept:
        days.setdefault(reason, []).append(day)
    length = session.run.schema.slice_days
    return [f"{spans(each, slice_days=length)}: {reason}" for reason, each in days.items()]
