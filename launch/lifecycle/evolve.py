"""A schema that grows in a workdir: what is new becomes a column, of which the days that are there have none."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.json import read_json, write_json
from tutelage.trainers.config import TeacherConfig
from tutelage.trainers.handover import write_takeovers
from tutelage.trainers.run import TEACHER, Run

KINDS = ("features", "tasks", "histories")
"""Of a schema: what may be added to in a workdir."""


def added(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Names that the schema of an experiment's identity has now and had not before."""
    return [
        item["name"]
        for kind in KINDS
        for item in now["schema"][kind]
        if item["name"] not in [old["name"] for old in before["schema"].get(kind, [])]
    ]


def without(identity: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The identity of the same experiment whose schema never had `names`."""
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
        if key == "renamed":  # Pairs of a column and its raw name, a source's.
            return [pair for pair in node if pair[0] not in columns]
        return node

    whole: dict[str, Any] = reduced(identity)
    return whole


def evolve(run: Run, names: list[str], teachers: Mapping[str, TeacherConfig]) -> None:
    """Give the tables the columns of `names`, null for the days that are there, and let the models that have
    learnt days stay without them. Killed anywhere and done again it ends the same.

    `teachers`: the config's, by their models. Raises UserError where one of them has learnt days and its model
    takes one of the names.
    """
    for model, teacher in teachers.items():
        taken = [name for name in names if name not in teacher.model.without]
        if taken and run.checkpoints(model).states():
            whose = "the teacher" if model == run.teacher_model else model
            raise UserError(
                f"{', '.join(taken)}: new in the schema, and {whose} has learnt days without: put "
                f"{'it' if len(taken) == 1 else 'them'} into its model's `without` (new students may take what is "
                "new), or give another --workdir"
            )
    run.lake.create()
    for table in run.lake.by_day:
        table.add_columns()
    for path in sorted((run.root / "students").glob("*/config.json")):
        if run.checkpoints(path.parent.name).states():
            made = read_json(path)
            write(path, without_too(made, names))
    own = {teacher.name: list(teacher.model.without) for teacher in teachers.values()}
    for path in sorted(run.root.glob(f"{TEACHER}-*/config.json")):
        if run.checkpoints(path.parent.name).states():
            made = read_json(path)
            write(path, {**made, "teacher": without_too(made["teacher"], names, own)})
    if run.takeovers:
        changes = [replace(each, teacher=without_too(each.teacher, names, own)) for each in run.takeovers]
        write_takeovers(run.root, changes)


def without_too(
    made: Mapping[str, Any], names: Iterable[str], own: Mapping[str, list[str]] = MappingProxyType({})
) -> dict[str, Any]:
    """A model's config with these names too in its `without`; in the order of the config's `own`, by name."""
    old = made["model"].get("without", [])
    without = own.get(made["name"], [*old, *(name for name in names if name not in old)])
    return {**made, "model": {**made["model"], "without": without}}


def write(path: Path, content: dict[str, Any]) -> None:
    write_json(path, content)
