"""The gate: the checks that a version must pass before it is served, and the record of its verdict."""

import math
import statistics
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import tensorflow as tf

from tutelage.export import golden, inspect
from tutelage.export.config import ServingConfig
from tutelage.models.task_kinds import kind_of
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Schema, Task
from tutelage.pipeline.verdict import Check, Verdict
from tutelage.trainers.checkpoints import State
from tutelage.trainers.gate import quality
from tutelage.trainers.run import Run

PARITY = 1e-5
"""Largest relative difference between a served score and the trainer's own: the precision of float32."""
_CALLS, _ROWS = 20, 100

Metrics = Mapping[tuple[str, str, str], float]
"""Values by (task, metric, slice)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A version and the metrics of its day."""

    folder: Path
    metrics: Metrics


def judge(
    schema: Schema,
    candidate: Candidate,
    last: Candidate | None,
    *,
    size: int,
    serving: ServingConfig,
    new_signature: bool = False,
) -> Verdict:
    """Judge a student's staged version of `size` bytes against `last`, the version that is served.

    With `new_signature` it may have other inputs or outputs than `last`. An exception in a check gives the verdict
    "error", so no version is served because its judge failed.
    """
    try:
        # Loaded as a server does. The variables live as long as `loaded`.
        loaded = tf.saved_model.load(str(candidate.folder))
        signature = loaded.signatures["serving_default"]
        checks = [
            *compare(
                schema.tasks,
                candidate.metrics,
                None if last is None else last.metrics,
                serving,
                masked=schema.masked,
            ),
            *_behaviour(schema, candidate.folder, signature, serving),
            _at_most("bytes", size, serving.max_bytes),
            *([] if last is None else _compatibility(signature, last.folder, new_signature=new_signature)),
        ]
    except Exception as error:
        return Verdict(
            verdict="error", reason=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        )
    if not all(check.passed for check in checks):
        return Verdict(verdict="fail", checks=tuple(checks))
    return Verdict(verdict="first" if last is None else "pass", checks=tuple(checks))


def record(run: Run, model: str, state: State, verdict: Verdict) -> None:
    """Write the verdict into `metrics`.

    The values of the checks have the basis `gate`, as does `blessed`, 1 or 0; those of the last blessed version
    have the basis `gate_reference`.
    """
    values = {c.name: c.value for c in verdict.checks if c.value is not None}
    references = {c.name: c.reference for c in verdict.checks if c.reference is not None}
    found = {"gate": {"blessed": float(verdict.blessed), **values}, "gate_reference": references}
    for basis, values in found.items():
        run.lake.metrics.replace(
            _frame(run, state.day, basis, values, rows=state.rows),
            {"model": model},
            day=state.day,
            run=run.name,
            basis=basis,
        )


def record_override(run: Run, model: str, day: date) -> None:
    """Write into `metrics` that the day's version is served despite its verdict. Its card says why."""
    frame = _frame(run, day, "gate", {"override": 1.0}, rows=0)
    run.lake.metrics.replace(frame, {"model": model}, day=day, run=run.name, metric="override")


def _frame(run: Run, day: date, basis: str, metrics: Mapping[str, float], *, rows: int) -> pl.DataFrame:
    """Return rows of `metrics` by the schema of that table, without the model."""
    columns = {"metric": list(metrics), "value": list(metrics.values())}
    return pl.DataFrame(columns, schema={"metric": pl.String, "value": pl.Float64}).with_columns(
        run=pl.lit(run.name),
        day=pl.lit(day),
        task=pl.lit(""),
        slice=pl.lit(""),
        basis=pl.lit(basis),
        rows=pl.lit(rows, pl.Int64),
    )


def day_ahead(run: Run, model: str, day: date) -> dict[tuple[str, str, str], float]:
    """Return the metrics of a model's scores of a day before training on it, by (task, metric, slice)."""
    rows = run.lake.metrics.scan(model=model, run=run.name, day=day, basis="day_ahead").collect()
    return {
        (task, metric, part): value
        for task, metric, part, value in rows.select("task", "metric", "slice", "value").iter_rows()
    }


def compare(
    tasks: Sequence[Task],
    now: Metrics,
    before: Metrics | None,
    serving: ServingConfig,
    *,
    masked: Collection[str] = (),
) -> list[Check]:
    """Return a check per task and quality metric, for all rows and for each slice that both days have.

    A value that is missing or not finite fails, except for the `masked` tasks: a day may be released without
    their labels. Calibration is Σ predicted / Σ observed, and its distance from 1 is compared.
    """
    checks = []
    parts = sorted({part for _, _, part in now} & {part for _, _, part in before or {}} | {""})
    for task in tasks:
        for metric in kind_of(task).qualities:
            for part in parts:
                value = now.get((task.name, metric.metric, part))
                reference = None if before is None else before.get((task.name, metric.metric, part))
                if part and (value is None or reference is None):
                    continue
                if task.name in masked and not math.isfinite(math.nan if value is None else value):
                    continue
                name = f"{task.name} {metric.metric}" + (f", {part}" if part else "")
                margin = getattr(serving, metric.margin) * (serving.slice_margin if part else 1)
                checks.append(quality(name, metric, value, reference, margin))
    return checks


def adversarial(schema: Schema) -> dict[str, np.ndarray]:
    """Return raw rows such as a broken client sends: an array [rows] per input, [rows, length] for a list."""
    values: dict[str, list[Any]] = {
        "int64": [0, -1, 1, 2**53 + 1, 2**63 - 1, -(2**63), -1],
        "string": ["", " ", "\0", "é" * 1000, "a" * 65_536, "-1", "nan"],
        "float32": [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, 0.0],
    }
    kinds = {"int64": np.int64, "string": object, "float32": np.float32}
    # Rotated by one for each feature and each item, so that every row is bad in several ways.
    rotated = {
        f.name: [np.roll(np.array(values[f.dtype], kinds[f.dtype]), -i - k) for k in range(f.fields)]
        for i, f in enumerate(schema.inputs())
    }
    return {f.name: np.stack(rotated[f.name], axis=1).reshape([7, *f.shape]) for f in schema.inputs()}


def _behaviour(schema: Schema, folder: Path, signature: Any, serving: ServingConfig) -> list[Check]:
    """Return the checks of the artefact itself: contents, parity, absurd requests and latency."""
    batch = golden.read_golden(folder / golden.PATH)
    rows = {
        name: tf.constant(np.resize(values, [_ROWS, *values.shape[1:]]))
        for name, values in batch.features.items()
    }
    seconds = []
    for _ in range(_CALLS):
        started = time.perf_counter()
        signature(**rows)
        seconds.append(time.perf_counter() - started)
    absurd = adversarial(schema)
    scores = signature(**{name: tf.constant(absurd[name]) for name in rows})
    strange = sum(int(np.sum(~np.isfinite(score))) for score in scores.values())
    return [
        _contents(folder),
        _at_most("parity", golden.parity(signature, batch), PARITY),
        _at_most("adversarial scores that are not finite", strange, 0),
        _at_most("latency_ms", 1000 * statistics.median(seconds), serving.max_latency_ms),
    ]


def _contents(folder: Path) -> Check:
    try:
        inspect.check(folder)
    except UserError as error:
        return Check(name="contents", value=None, detail=str(error), passed=False)
    return Check(name="contents", value=None, detail="nothing that must not be served", passed=True)


def _compatibility(signature: Any, last: Path, *, new_signature: bool) -> list[Check]:
    """Return the checks that the last blessed version's golden requests fit the new version."""
    batch = golden.read_golden(last / golden.PATH)
    takes = {name: _kind(spec) for name, spec in signature.structured_input_signature[1].items()}
    sent = {name: _kind(tf.constant(values[:0])) for name, values in batch.features.items()}
    changes = [
        f"{name} was {sent.get(name, 'absent')} and is {takes.get(name, 'absent')}"
        for name in sorted({*takes, *sent})
        if takes.get(name) != sent.get(name)
    ]
    gives = set(signature.structured_outputs)
    changes += [
        f"output {name} is in only one of the two versions" for name in sorted(gives ^ {*batch.expected})
    ]
    if changes:
        detail = ", ".join(changes)
        return [Check(name="signature", value=None, detail=detail, passed=new_signature)]
    scores = signature(**{name: tf.constant(batch.features[name]) for name in takes})
    strange = sum(int(np.sum(~np.isfinite(score))) for score in scores.values())
    return [_at_most("scores of the last golden batch that are not finite", strange, 0)]


def _kind(tensor: Any) -> str:
    """Return the dtype, such as int64, with the length of a list, such as int64[20]."""
    return tensor.dtype.name + "".join(f"[{length}]" for length in tensor.shape[1:])


def _at_most(name: str, value: float, bound: float) -> Check:
    return Check(name=name, value=float(value), bound=float(bound), passed=bool(value <= bound))
