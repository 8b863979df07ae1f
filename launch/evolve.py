"""A schema that grows in a workdir: what is new becomes a column, of which the days that are there have none."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.whole import replacing
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


def evolve(run: Run, names: list[str]) -> None:
    """Give the tables the columns of `names`, null for the days that are there, and let the students that have
    learnt days stay without them. Killed anywhere and done again it ends the same.

    Raises UserError where the teacher has learnt days and its model takes one of them.
    """
    taken = [name for name in names if name not in run.teacher.model.without]
    if taken and run.checkpoints(TEACHER).states():
        raise UserError(
            f"{', '.join(taken)}: new in the schema, and the teacher has learnt days without: put "
            f"{'it' if len(taken) == 1 else 'them'} into its model's `without` (new students may take what is "
            "new), or give another --workdir"
        )
    run.lake.create()
    for table in (run.lake.interactions, run.lake.soft_labels, run.lake.histories):
        if table:
            table.add_columns()
    for path in sorted((run.root / "students").glob("*/config.json")):
        if run.checkpoints(path.parent.name).states():
            made = json.loads(path.read_text())
            old = made["model"].get("without", [])
            made["model"]["without"] = [*old, *(name for name in names if name not in old)]
            write(path, made)


def write(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n")
