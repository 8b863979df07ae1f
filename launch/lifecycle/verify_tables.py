"""Whether the tables of a workdir hold what was committed to them."""

import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path

from tutelage.launch import locks, steps
from tutelage.launch.lifecycle.findings import Finding
from tutelage.launch.lifecycle.invalidation import Invalidation, teachers
from tutelage.launch.session import Session
from tutelage.pipeline import commit_day
from tutelage.pipeline.commits import FILE, added
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.soft_labels import PRE_UPDATE, LabelPartition
from tutelage.pipeline.table import Table


def find(session: Session, *, fast: bool) -> Iterator[Finding]:
    """Yield what is wrong with the tables: with `fast`, the sizes of all files and the digests of those to be read."""
    lake = session.run.lake
    for table in own_tables(lake, session.run.root):
        torn = table.damaged(digests=not fast)
        if fast:
            if days := _to_read(session, lake, table):
                torn |= table.damaged(days=days)
        else:
            yield from _log(session, table)
            yield from _orphans(session, table)
        by_partition: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
        for path, why in torn.items():
            by_partition.setdefault(tuple(_values(path).items()), {})[path] = why
        for values, files in by_partition.items():
            yield _damaged(session, lake, table, dict(values), files)
    if not fast:
        yield from _missing(session)


def check(session: Session) -> None:
    """Raise TornFile where a data file of a table is not what was written. All of them are read."""
    for table in own_tables(session.run.lake, session.run.root):
        table.check()


def own_tables(lake: Lake, root: Path) -> list[Table]:
    """Return the tables in the workdir `root`, first what the others are made from. A study has another's rows."""
    tables = [*reversed(lake.by_day), lake.metrics]
    return [table for table in tables if table.path.is_relative_to(root.resolve())]


def _values(path: str) -> dict[str, str]:
    """Return the values of the partition columns of a data file."""
    pairs = (part.partition("=") for part in Path(path).parts[:-1])
    return {name: urllib.parse.unquote(value) for name, _, value in pairs}


def _to_read(session: Session, lake: Lake, table: Table) -> list[date]:
    """Return the days that the models will be trained on next, and those that their histories are made from."""
    days = {day for model in session.models for day in _left(session, model)}
    if table is lake.interactions and session.run.schema.histories:
        days |= {before for day in days for before in lake.history_days(day)}
    return sorted(days) if table in (lake.interactions, lake.histories, lake.soft_labels.table) else []


def _left(session: Session, model: str) -> Sequence[date]:
    done = {*(state.day for state in session.run.checkpoints(model).states()), *session.run.skipped(model)}
    return [day for day in session.days_of(model) if day not in done]


def _log(session: Session, table: Table) -> Iterator[Finding]:
    """Yield what is wrong with a table's log. The newest entries were mended when the workdir was opened."""
    where = table.path.relative_to(session.run.root)
    for entry in table.commits.torn(since_checkpoint=False):
        yield Finding(
            kind="damaged",
            what=f"{entry.path.relative_to(session.run.root)} {entry.why}",
            remedy=entry.remedy,
            by="hand" if entry.content is None else "repair",
            mend=None if entry.content is None else entry.mend,
        )
    if commits := table.commits.unrecorded():
        yield Finding(
            kind="missing",
            what=f"{where / FILE} lacks {commits} of the commits, or what it has of them is damaged",
            remedy="they are taken as they are in the log; --repair records them, with the files as they are now",
            by="repair",
            mend=table.commits.rewrite,
        )


def _orphans(session: Session, table: Table) -> Iterator[Finding]:
    """Yield the data files that no commit ever named: a job that was killed has left them."""
    named = {name for entry in (table.path / "_delta_log").glob("[0-9]*.json") for name in _named(entry)}
    files = {str(path.relative_to(table.path)) for path in table.path.glob("*=*/**/*.parquet")}
    left = sorted(files - named)
    if left:
        more = f" and {len(left) - 1} more" if left[1:] else ""

        def remove() -> None:
            with locks.on_tables(session.run):
                for name in left:
                    (table.path / name).unlink(missing_ok=True)

        yield Finding(
            kind="orphaned",
            what=f"{(table.path / left[0]).relative_to(session.run.root)}{more}: no commit names them",
            remedy="a job that was killed has left them, or one is at work; --repair removes them",
            by="repair",
            mend=remove,
        )


def _named(entry: Path) -> list[str]:
    try:
        return list(added(entry.read_bytes()))
    except (ValueError, KeyError, TypeError, AttributeError):  # It is torn, which is another finding.
        return []


def _damaged(
    session: Session, lake: Lake, table: Table, values: Mapping[str, str], files: Mapping[str, str]
) -> Finding:
    """Return the finding about the damaged files of a partition."""
    path, why = next(iter(files.items()))
    more = f" and {len(files) - 1} more files" if len(files) > 1 else ""
    what = f"{(table.path / path).relative_to(session.run.root)} {why}{more}"
    found = partial(Finding, kind="damaged", what=what)
    if table is lake.metrics:
        since = min((day for day in table.first_days(files).values() if day), default=date.min)
        return _trained_again(session, found, values["model"], since, partial(table.drop_files, list(files)))
    day = date.fromisoformat(values["day"])
    if table is lake.interactions:
        return found(
            remedy=f"{day} is made again from the raw data",
            by="run",
            mend=partial(steps.materialize, session, [day]),
        )
    if table is lake.statistics:
        trailing = session.experiment.quality.trailing_days
        return found(
            remedy=f"the statistics of {day} are computed again",
            by="run",
            mend=partial(commit_day.measure_again, lake, day, trailing_days=trailing),
        )
    if table is lake.histories:

        def build() -> None:
            table.commit([], {"day": day}, attempt=0, metadata={})
            steps.build_histories(session)

        return found(remedy=f"the histories of {day} are built again", by="run", mend=build)
    labels = LabelPartition(values["teacher"], values["producer"], day)
    withdraw = partial(lake.soft_labels.withdraw, labels)
    if labels.producer != PRE_UPDATE:
        return found(
            remedy="they are withdrawn, and tutelage-run scores the day again", by="run", mend=withdraw
        )
    models = {name: model for model, name in teachers(session).items()}
    return _trained_again(session, found, models.get(labels.teacher, ""), day, withdraw)


def _trained_again(
    session: Session, found: Callable[..., Finding], model: str, since: date, drop: Callable[[], object]
) -> Finding:
    """Return the finding about what only the training of `model` makes: its days from `since` on are to be repeated.

    `drop` takes the damaged files out of their table.
    """
    trained = [state.day for state in session.run.checkpoints(model).states()] if model else []
    days = [day for day in trained if day >= since]
    if model not in session.models or not days:
        return found(remedy="nothing needs it; --repair takes it out of the table", by="repair", mend=drop)
    plan = Invalidation.of(session, {model: days[0]})
    if why := plan.held(session):
        return found(remedy=f"restore it from a backup: {why}", by="hand")
    if pruned := plan.cut_off(session):
        name, day = next(iter(pruned.items()))
        return found(
            remedy=f"restore it from a backup: {name} cannot go back to {day}, whose checkpoint was pruned",
            by="hand",
        )
    before = [day for day in trained if day < days[0]]
    rollback = (
        f", as tutelage-rollback --to_day={before[-1]} does"
        if before and model == session.run.teacher_model
        else ""
    )
    others = ", ".join(plan.since)

    def mend() -> None:
        # Before anything is dropped: a plan that cannot be carried out must not lose what is whole of the files.
        plan.check_pins(session)
        drop()
        for action in plan.actions(session, reason=f"what {model} left of {days[0]} was damaged"):
            action.apply()

    return found(
        remedy=f"--repair takes {others} back to the day before {days[0]}{rollback}, and tutelage-run trains on "
        f"{len(days)} days again",
        by="repair",
        mend=mend,
    )


def _missing(session: Session) -> Iterator[Finding]:
    """Yield the trained days of which the tables lack what the training wrote."""
    run = session.run
    if run.lake.metrics.damaged():
        return  # Then more is missing than can be told.
    there = set(
        run.lake.metrics.scan().filter(run=run.name).select("model", "day").unique().collect().iter_rows()
    )
    labels = set(run.lake.soft_labels.partitions().drop("rows").iter_rows())
    kept = set(run.lake.interactions.partitions()["day"])
    by_teacher = teachers(session)
    for model in session.models:
        for state in run.checkpoints(model).states():
            what = [] if (model, state.day) in there else ["metrics"]
            if model in by_teacher and state.day in kept:
                what += [] if (by_teacher[model], PRE_UPDATE, state.day) in labels else ["soft labels"]
            if what:
                lost = f"{' and '.join(what)} of {model}, {state.day}, which it was trained on"
                found = partial(Finding, kind="missing", what=lost)
                yield _trained_again(session, found, model, state.day, lambda: None)
                break
