"""A day's metrics, from its targets and the network's raw outputs, and their table."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from types import MappingProxyType

import numpy as np
import polars as pl

from tutelage.models.metrics import Weight
from tutelage.models.task_kinds import kind_of
from tutelage.pipeline.schema import Schema, Task
from tutelage.pipeline.table import Table


def raw_outputs(task: Task, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the task's raw outputs [rows, k], in the order of `Task.outputs`, from arrays [rows] by name."""
    return np.stack([outputs[name] for name in task.outputs], axis=1)


def served_score(task: Task, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return what is served under `task.score`, float64 [rows], from raw outputs [rows] by name."""
    return kind_of(task).score(raw_outputs(task, outputs))


def task_metrics(
    task: Task,
    target: np.ndarray,
    outputs: Mapping[str, np.ndarray],
    *,
    groups: np.ndarray | None = None,
    weight: Weight = None,
) -> dict[str, float]:
    """Return the metrics of a task by name (`TaskKind.metrics`).

    Args:
        task: what is predicted.
        target: what the network is trained on (`TaskKind.target`), [rows].
        outputs: raw outputs [rows] by name.
        groups: the users' ids [rows], for the metrics that compare the rows of one user.
        weight: the weight of each row, [rows].
    """
    return kind_of(task).metrics(target, raw_outputs(task, outputs), groups=groups, weight=weight)


def day_metrics(
    schema: Schema,
    targets: np.ndarray,
    outputs: Mapping[str, np.ndarray],
    *,
    basis: str,
    slices: Mapping[str, np.ndarray] = MappingProxyType({}),
    groups: np.ndarray | None = None,
    weight: Weight = None,
) -> list[dict[str, object]]:
    """Return rows of the `metrics` table.

    A row whose target is NaN is left out of its task. A task without a row has no metrics.

    Args:
        schema: whose tasks are judged.
        targets: [rows, tasks], as `hard_targets` makes them.
        outputs: raw outputs [rows] by name.
        basis: which scores these are, as in `day_ahead`.
        slices: bool [rows] by name; each is judged on its own, after all rows (slice '').
        groups: the users' ids [rows], for the metrics that compare the rows of one user.
        weight: the weight of each row, [rows]; the column `rows` counts those that are there.
    """
    return [
        {
            "task": task.name,
            "metric": metric,
            "slice": name,
            "basis": basis,
            "value": value,
            "rows": int(inside.sum()),
        }
        for name, i, task, inside in by_slice(schema, targets, slices)
        for metric, value in task_metrics(
            task,
            targets[inside, i],
            {column: outputs[column][inside] for column in task.outputs},
            groups=None if groups is None else groups[inside],
            weight=None if weight is None else weight[inside],
        ).items()
    ]


def by_slice(
    schema: Schema, targets: np.ndarray, slices: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, int, Task, np.ndarray]]:
    """Yield the name of each slice, the number of each task, the task, and bool [rows]: those with its target.

    All rows (slice '') come first. A task without a row in a slice is left out.
    """
    for name, chosen in {"": np.ones(len(targets), bool), **slices}.items():
        for i, task in enumerate(schema.tasks):
            if (inside := chosen & ~np.isnan(targets[:, i])).any():
                yield name, i, task, inside


def write_metrics(
    table: Table, rows: Sequence[Mapping[str, object]], *, run: str, day: date, model: str
) -> None:
    """Replace what this model reported of this day."""
    frame = pl.DataFrame(rows).with_columns(run=pl.lit(run), day=pl.lit(day))
    table.replace(frame, {"model": model}, day=day, run=run)
