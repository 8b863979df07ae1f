"""A schema that grows in a workdir: a new name becomes a column, which is null for the days that are there."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.json import json_object, read_json, write_json
from tutelage.pipeline.schema import Schema
from tutelage.trainers.config import TeacherConfig
from tutelage.trainers.handover import write_takeovers
from tutelage.trainers.run import TEACHER, Run

KINDS = ("features", "tasks", "histories")
"""The parts of a schema that may grow in a workdir."""


def added(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the names that the schema of an identity has `now` and did not have `before`."""
    return [
        item["name"]
        for kind in KINDS
        for item in now["schema"][kind]
        if item["name"] not in [old["name"] for old in before["schema"].get(kind, [])]
    ]


def schema_without(schema: Schema, names: Collection[str]) -> Schema:
    """Return the schema as it was before it had `names`."""
    parts: dict[str, Any] = {
        kind: tuple(item for item in getattr(schema, kind) if item.name not in names) for kind in KINDS
    }
    return replace(schema, **parts) if names else schema


def without(identity: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the identity of the same experiment with a schema that never had `names`."""
    names = list(names)
    tasks = identity["schema"]["tasks"]
    labels = {task["label"] for task in tasks if task["name"] in names}
    columns = {*names, *labels} - {task["label"] for task in tasks if task["name"] not in names}

    def reduced(node: Any, key: str = "") -> Any:
        if isinstance(node, dict):
            return {name: reduced(value, name) for name, value in node.items()}
        if key in KINDS:
            return [item for item in node if item["name"] not in names]
        if key == "without":
            return [name for name in node if name not in names]
        if key == "renamed":  # A source's pairs of a column and its raw name.
            return [pair for pair in node if pair[0] not in columns]
        return node

    whole: dict[str, Any] = reduced(identity)
    return whole


def evolve(run: Run, names: list[str], teachers: Mapping[str, TeacherConfig]) -> None:
    """Add columns for `names` to the tables, and let the models that were trained before stay without them.

    A killed call that is repeated ends the same. `teachers` are the config's, by model.
    Raises UserError where one of them was trained before and its model takes one of the names.
    """
    for model, teacher in teachers.items():
        taken = [name for name in names if name not in teacher.model.without]
        if taken and run.checkpoints(model).states():
            whose = "the teacher" if model == run.teacher_model else model
            raise UserError(
                f"{', '.join(taken)}: new in the schema, and {whose} was trained without: put "
                f"{'it' if len(taken) == 1 else 'them'} into its model's `without` (new students may take what is "
                "new), or give another --workdir"
            )
    run.lake.create()
    for table in run.lake.by_day:
        table.add_columns()
    for path in sorted((run.root / "students").glob("*/config.json")):
        if run.checkpoints(path.parent.name).states():
            made = read_json(path, json_object)
            write(path, without_too(made, names))
    own = {teacher.name: list(teacher.model.without) for teacher in teachers.values()}
    for path in sorted(run.root.glob(f"{TEACHER}-*/config.json")):
        if run.checkpoints(path.parent.name).states():
            made = read_json(path, json_object)
            write(path, {**made, "teacher": without_too(made["teacher"], names, own)})
    if run.takeovers:
        changes = [replace(each, teacher=without_too(each.teacher, names, own)) for each in run.takeovers]
        write_takeovers(run.root, changes)


def without_too(
    made: Mapping[str, Any], names: Iterable[str], own: Mapping[str, list[str]] = MappingProxyType({})
) -> dict[str, Any]:
    """Return a model's recorded config with `names` added to its `without`.

    `own` gives the `without` of the models that the config has, in its order, by the model's name.
    """
    old = made["model"].get("without", [])
    left_out = own.get(made["name"], [*old, *(name for name in names if name not in old)])
    return {**made, "model": {**made["model"], "without": left_out}}


def write(path: Path, content: dict[str, Any]) -> None:
    write_json(path, content)
