"""Delete a user from a workdir: from its tables, and from the files beside them and beside exported models."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from io import BytesIO
from pathlib import Path

import polars as pl

from tutelage.export.versions import versions_in
from tutelage.launch.lifecycle.invalidation import Action, check_links, teachers
from tutelage.launch.lifecycle.rollback import teacher_at
from tutelage.launch.logging_setup import import_tensorflow
from tutelage.launch.session import Session
from tutelage.pipeline import beam_job
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.atomic import atomic_write
from tutelage.pipeline.io.json import json_object, read_json
from tutelage.pipeline.io.paths import remote
from tutelage.pipeline.schema import Schema, interaction_columns
from tutelage.pipeline.table import FORGOTTEN, Table, add_dropped
from tutelage.trainers.partial import find_partial
from tutelage.trainers.run import is_teacher

ELSEWHERE = (
    "Raw data, mirrors and copies elsewhere are not searched: a day that is materialised again from raw data "
    "with the user holds the user again."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to remove, in order, and the models that stay although they were trained on it."""

    rows: int
    """How many rows of `interactions` belong to the user."""
    days: list[date]
    """The days of these rows."""
    actions: list[Action]
    trained: list[str]
    """A line for each model that was trained on the user's rows, or on labels that depend on them."""


def parse_user(schema: Schema, text: str) -> int | str:
    """Return `text` as a value of the schema's user. Raises UserError where it cannot be one."""
    if schema.user is None:
        raise UserError(
            f"--user_id={text}: the schema names no `user`; say in the config which feature it is"
        )
    (feature,) = (feature for feature in schema.features if feature.name == schema.user)
    if feature.dtype == "string":
        return text
    try:
        value = int(text)
    except ValueError:
        value = 2**63
    if not -(2**63) <= value < 2**63:
        raise UserError(f"--user_id={text}: {schema.user} is an int64; give a whole number")
    return value


def plan(session: Session, user: int | str) -> Plan:
    """Return what to remove so that no Parquet file of the workdir holds the user, whatever was removed before.

    What is found through the user's rows goes before these rows, the newest day first: a command that was killed
    still finds the rest, and the first day on which a model was trained on the user. Raises UserError where a link
    would be followed.
    """
    check_links(session)
    run = session.run
    assert run.schema.user
    whose = pl.col(run.schema.user) == user
    rows = run.lake.interactions.scan().filter(whose).select("day", "example_id").collect()
    days = sorted(rows["day"].unique())
    its_rows = pl.col("example_id").is_in(rows["example_id"].implode())
    interactions = run.lake.interactions.path
    everything = sorted(run.root.rglob("*"))
    tables = [Table.open(path.parent) for path in everything if path.name == "_delta_log"]
    columns = {table.path: set(table.schema.names) for table in tables}
    by_id = [t for t in tables if "example_id" in columns[t.path] and run.schema.user not in columns[t.path]]
    by_user = [t for t in tables if run.schema.user in columns[t.path] and t.path != interactions]
    files = [path for path in everything if path.suffix == ".parquet"]
    files = [path for path in files if not any(table in path.parents for table in columns)]
    actions = list(_files(session, files, user, its_rows))
    actions += _partial(session, days)
    lake_root = interactions.parent
    if beam_job.left_over(lake_root):
        actions.append(Action(what="what killed jobs have left", apply=partial(beam_job.sweep, lake_root)))
    slice_of = pl.col("slice") == f"{run.schema.user}={user}"
    order = (
        (by_id, its_rows),
        (by_user, whose),
        ([run.lake.metrics], slice_of),
        ([run.lake.interactions], whose),
    )
    for found, gone in order:
        for table in found:
            actions += _rows(run.root, table, gone)
            # Also where no row is left: a command that was killed may have left the files.
            what = f"old files of {table.path.relative_to(run.root)}"
            actions.append(Action(what=what, apply=table.vacuum))
    return Plan(rows=rows.height, days=days, actions=actions, trained=_trained(session, days))


def _rows(root: Path, table: Table, gone: pl.Expr) -> list[Action]:
    """Return the removal of a table's rows for which `gone` holds, the newest day first."""
    found = table.scan().filter(gone).group_by(table.partition_by).len().collect()
    counts = table.counts()
    actions = []
    for row in found.sort(table.partition_by, descending=True).iter_rows(named=True):
        number = row.pop("len")
        key = "/".join(map(str, row.values()))
        metadata = add_dropped(counts[key], number, FORGOTTEN) if key in counts else None
        actions.append(
            Action(
                what=f"{number:,} rows of {table.path.relative_to(root)}, {key}",
                apply=partial(table.delete_rows, row, gone, metadata=metadata),
            )
        )
    return actions


def _files(session: Session, files: Sequence[Path], user: int | str, its_rows: pl.Expr) -> Iterator[Action]:
    """Yield the removal from Parquet files outside of tables: golden batches, predictions, a study's sums."""
    root, schema = session.run.root, session.run.schema
    dtype = pl.Schema(interaction_columns(schema))[schema.user or ""]
    for path in files:
        source = BytesIO(path.read_bytes()) if remote(path) else path
        columns = pl.read_parquet_schema(source)
        name = "user" if path.is_relative_to(root / "study") else schema.user or ""
        has_user = columns.get(name) == dtype
        if not has_user and "example_id" not in columns:
            continue
        gone = pl.col(name) == user if has_user else its_rows
        number = pl.scan_parquet(source).filter(gone).select(pl.len()).collect().item()
        if number:
            beside = path.parent.name == "assets.extra"
            golden = partial(_golden, path.parents[1], gone, verbose=session.verbose)
            apply = golden if beside else partial(_file, path, gone)
            yield Action(what=f"{number:,} rows of {path.relative_to(root)}", apply=apply)


def _golden(folder: Path, gone: pl.Expr, *, verbose: bool) -> None:
    import_tensorflow(verbose=verbose)
    from tutelage.export.forget import forget

    forget(folder, folder.parent.name, gone)


def _file(path: Path, gone: pl.Expr) -> None:
    with atomic_write(path) as partial_:
        rows = pl.read_parquet(BytesIO(path.read_bytes()) if remote(path) else path)
        rows.filter(~gone.fill_null(False)).write_parquet(partial_)


def _partial(session: Session, days: Sequence[date]) -> Iterator[Action]:
    """Yield the removal of partial checkpoints within `days`: they could not be resumed, as the day's rows change.

    Rows that a killed trainer has left on the disk are removed too.
    """
    for model in session.all_models:
        if (scratch := session.run.scratch(model)).exists():
            yield Action(
                what=f"rows that a killed trainer of {model} left", apply=partial(shutil.rmtree, scratch)
            )
        checkpoints = session.run.checkpoints(model)
        if (found := find_partial(checkpoints)) and found.day in days:
            yield Action(what=f"checkpoint of {model} within {found.day}", apply=checkpoints.discard_partial)


def _trained(session: Session, days: Sequence[date]) -> list[str]:
    """Return a line for each model that was trained on the user: the checkpoints and versions since then.

    A model is affected by the user's rows on its own days, or by labels of a teacher that was affected before.
    """
    students = {student.name: student for student in session.experiment.students}
    taught = _taught(session, days)
    lines = []
    for model in session.all_models:
        trained = [state.day for state in session.run.checkpoints(model).states()]
        distilled = model in students and bool(students[model].distillation)
        met = [
            day
            for day in trained
            if day in days
            or day >= taught.get(model, date.max)
            or (distilled and day > taught.get(session.run.labeller(day).model, date.max))
        ]
        if not met:
            continue
        versions = session.versions(model)
        made = [
            str(version.number)
            for where in (versions.folder, versions.rejected, versions.retired)
            for version in versions_in(where)
            if version.day >= met[0]
        ]
        of = [str(day) for day in trained if day >= met[0]]
        lines.append(f"{model}: checkpoints {', '.join(of)}; versions {', '.join(sorted(made)) or 'none'}")
    return lines


def _taught(session: Session, days: Sequence[date]) -> dict[str, date]:
    """Return the first affected day of each teacher that was trained on the user, or started from such a teacher."""
    run, models = session.run, {name: model for model, name in teachers(session).items()}
    first: dict[str, date] = {}
    for model in dict.fromkeys([*models.values(), *filter(is_teacher, session.all_models)]):
        trained = [state.day for state in run.checkpoints(model).states()]
        met = [day for day in trained if day in days]
        if trained and (start := run.warm_start(model)).exists():
            base = read_json(start, json_object)
            if date.fromisoformat(base["day"]) >= first.get(models.get(base["teacher"], ""), date.max):
                met = trained
        if met:
            first[model] = met[0]
    return first


def unlearn(session: Session, days: Sequence[date]) -> str:
    """Return what to do about the models that were trained on the user on `days`."""
    teacher = teacher_at(session.run, min(days, default=date.max) - timedelta(days=1))
    trained = [state.day for state in session.run.checkpoints(teacher).states()]
    met = [day for day in trained if day in days]
    before = [day for day in trained if met and day < met[0]]
    if before:
        how = (
            f"tutelage-rollback --to_day={before[-1]} takes the teacher back, with the students that were trained on "
            "its labels; "
        )
    elif met:
        how = "the teacher was trained on it on its first day: train everything from scratch in another workdir; "
    else:
        how = ""
    return f"A model cannot unlearn: {how}tutelage-student --reset trains a student from scratch."
