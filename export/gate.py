"""The gate: the checks that a version must pass before it is served, and the record of its verdict."""

import statistics
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import tensorflow as tf

from tutelage.export import golden, inspect
from tutelage.export.comparison import Comparison, Scores, compare
from tutelage.export.config import ServingConfig
from tutelage.export.judged import judged_rows, served_scores
from tutelage.export.versions import Version, damage
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.json import warn_once
from tutelage.pipeline.io.paths import StoreError
from tutelage.pipeline.io.scratch import local_copy
from tutelage.pipeline.schema import Schema
from tutelage.pipeline.verdict import Check, Verdict
from tutelage.trainers.checkpoints import State
from tutelage.trainers.run import Run

PARITY = 1e-5
"""Largest relative difference between a served score and the trainer's own: the precision of float32."""
_CALLS, _ROWS = 20, 100
_INTERVAL = ("worse", "low", "high")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A staged version, and the rows that it is judged on."""

    model: str
    folder: Path
    schema: Schema
    """As the model sees it: its own tasks."""
    size: int
    """Bytes of the folder."""
    day: date
    """The day of the rows."""
    frame: pl.DataFrame
    """Raw rows that neither it nor the served version was trained on (`judged.read_frame`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What a candidate is compared with: the newest served version that can be read."""

    version: Version | None = None
    """None: no version that can be read is served."""
    scores: Scores | None = None
    """Its scores of the judged rows."""
    batch: golden.Golden | None = None
    """Its golden batch."""
    damage: str = ""
    """Why newer versions are not compared with, and what is damaged of this one."""


def find_reference(run: Run, candidate: Candidate, served: Sequence[Version]) -> Reference:
    """Return the newest of the `served` versions that can be read, and log why newer ones cannot.

    Where only its golden batch is damaged, which a version of an older release has no digest of, its scores are used.
    """
    damages: list[str] = []
    reference = Reference()
    for version in reversed(served):
        found: list[str] = []
        if (scores := _scores_of(version, candidate, run.schema, found)) is not None:
            reference = Reference(version=version, scores=scores, batch=_golden_of(version, found))
        if found:
            damages.append(f"the served version {version.number} of {version.day}: {found[0]}")
        if scores is not None:
            break
    if not damages:
        return reference
    last = reference.version
    told = f"{'; '.join(damages)}; judged {f'against {last.number}' if last else 'without it'}"
    warn_once(f"{candidate.model}: {told}")
    return replace(reference, damage=told)


def judge(
    run: Run,
    candidate: Candidate,
    reference: Reference,
    serving: ServingConfig,
    *,
    new_signature: bool = False,
) -> Verdict:
    """Judge a student's staged version against the served one.

    With `new_signature` it may have other inputs or outputs than that one. An exception in a check gives the verdict
    "error", so no version is served because its judge failed.
    """
    try:
        # Loaded as a server does. The variables live as long as `loaded`.
        loaded = tf.saved_model.load(str(candidate.folder))
        signature = loaded.signatures["serving_default"]
        scores = served_scores(signature, candidate.frame, run.schema)
        batch = reference.batch
        compared = _compare(run, candidate, scores, reference.scores, serving)
        checks = [
            *compared,
            _at_most("judged scores that are not finite", _not_finite(scores), 0),
            *_behaviour(run.schema, candidate.folder, signature, serving),
            _at_most("bytes", candidate.size, serving.max_bytes),
            *([] if batch is None else _compatibility(signature, batch, new_signature=new_signature)),
        ]
    except Exception as error:
        return Verdict(
            verdict="error", reason=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        )
    return _verdict(checks, compared, reference, serving)


def _verdict(
    checks: Sequence[Check], compared: Sequence[Comparison], reference: Reference, serving: ServingConfig
) -> Verdict:
    told = reference.damage
    if not all(check.passed for check in checks):
        return Verdict(verdict="fail", checks=tuple(checks), reason=told)
    if reference.scores is None:
        return Verdict(verdict="pass" if told else "first", checks=tuple(checks), reason=told)
    # A slice has few rows. It may show that a version is worse, and need not show that it is not.
    undecided = [each for each in compared if each.undecided and not each.slice]
    if not undecided:
        return Verdict(verdict="pass", checks=tuple(checks), reason=told)
    names = ", ".join(each.name for each in undecided)
    rows = max(undecided, key=lambda each: each.rows).where
    reason = f"not shown to be worse: {rows} are too few to tell for {names}"
    if serving.undecided == "wait":
        reason += " (serving.undecided is 'wait'; a larger training.holdout gives more rows)"
    return Verdict(
        verdict="wait" if serving.undecided == "wait" else "pass",
        checks=tuple(checks),
        reason="; ".join([reason, told] if told else [reason]),
    )


def _scores_of(version: Version, candidate: Candidate, schema: Schema, damages: list[str]) -> Scores | None:
    """Return a served version's scores of the judged rows, or None and why not in `damages`."""
    try:
        if why := damage(version.path):
            damages.append(why)
            return None
        with local_copy(version.path) as copy:
            loaded = tf.saved_model.load(str(copy))
            scores = served_scores(loaded.signatures["serving_default"], candidate.frame, schema)
        if strange := _not_finite(scores):
            raise UserError(f"{strange} of its scores are not finite")
    except StoreError:
        raise
    except UserError as error:
        damages.append(str(error))
        return None
    except Exception as error:
        damages.append(f"its SavedModel cannot be read ({_short(error)})")
        return None
    return scores


def _golden_of(version: Version, damages: list[str]) -> golden.Golden | None:
    try:
        with local_copy(version.path / golden.PATH) as copy:
            return golden.read_golden(copy)
    except StoreError:
        raise
    except Exception as error:
        damages.append(f"its {golden.PATH} cannot be read ({_short(error)})")
        return None


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def _compare(
    run: Run, candidate: Candidate, scores: Scores, before: Scores | None, serving: ServingConfig
) -> list[Comparison]:
    rows = judged_rows(candidate.frame, candidate.day, run.schema, candidate.schema, run.slice_by)
    # The same rows give the same verdict, whenever and wherever they are judged.
    seed = zlib.crc32(f"{candidate.model};{candidate.day}".encode())
    return compare(candidate.schema.tasks, rows, scores, before, serving, seed=seed)


def record(run: Run, model: str, state: State, verdict: Verdict) -> None:
    """Write the verdict into `metrics`.

    The values of the checks have the basis `gate`, as do `blessed`, 1 or 0, and `days_later`, the days from the
    version's own day to that of the rows which it is judged on. Those of the served version on the same rows have the
    basis `gate_reference`. How much worse the candidate is, as in "click auc worse", and the ends of the interval, as
    in "click auc low" and "click auc high", have the basis `gate_interval`.
    """
    compared = [check for check in verdict.checks if isinstance(check, Comparison)]
    found: dict[str, dict[str, float | None]] = {
        "gate": {
            "blessed": float(verdict.blessed),
            **({"days_later": float((compared[0].day - state.day).days)} if compared else {}),
            **{check.name: check.value for check in verdict.checks},
        },
        "gate_reference": {check.name: check.reference for check in verdict.checks},
        "gate_interval": {f"{c.name} {end}": getattr(c, end) for c in compared for end in _INTERVAL},
    }
    rows = {f"{c.name}{end}": c.rows for c in compared for end in ("", *(f" {end}" for end in _INTERVAL))}
    for basis, values in found.items():
        known = {name: value for name, value in values.items() if value is not None}
        run.lake.metrics.replace(
            _frame(run, state.day, basis, known, rows={name: rows.get(name, state.rows) for name in known}),
            {"model": model},
            day=state.day,
            run=run.name,
            basis=basis,
        )


def record_override(run: Run, model: str, day: date) -> None:
    """Write into `metrics` that the day's version is served despite its verdict. Its card says why."""
    frame = _frame(run, day, "gate", {"override": 1.0}, rows={"override": 0})
    run.lake.metrics.replace(frame, {"model": model}, day=day, run=run.name, metric="override")


def _frame(
    run: Run, day: date, basis: str, metrics: Mapping[str, float], *, rows: Mapping[str, int]
) -> pl.DataFrame:
    """Return rows of `metrics` by the schema of that table, without the model."""
    columns = {
        "metric": list(metrics),
        "value": list(metrics.values()),
        "rows": [rows[name] for name in metrics],
    }
    schema = {"metric": pl.String, "value": pl.Float64, "rows": pl.Int64}
    return pl.DataFrame(columns, schema=schema).with_columns(
        run=pl.lit(run.name),
        day=pl.lit(day),
        task=pl.lit(""),
        slice=pl.lit(""),
        basis=pl.lit(basis),
    )


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
    strange = _not_finite(signature(**{name: tf.constant(absurd[name]) for name in rows}))
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


def _compatibility(signature: Any, batch: golden.Golden, *, new_signature: bool) -> list[Check]:
    """Return the checks that the golden requests of the served version, `batch`, fit the new version."""
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
    strange = _not_finite(signature(**{name: tf.constant(batch.features[name]) for name in takes}))
    return [_at_most("scores of the last golden batch that are not finite", strange, 0)]


def _not_finite(scores: Mapping[str, Any]) -> int:
    return sum(int(np.sum(~np.isfinite(score))) for score in scores.values())


def _kind(tensor: Any) -> str:
    """Return the dtype, such as int64, with the length of a list, such as int64[20]."""
    return tensor.dtype.name + "".join(f"[{length}]" for length in tensor.shape[1:])


def _at_most(name: str, value: float, bound: float) -> Check:
    return Check(name=name, value=float(value), bound=float(bound), passed=bool(value <= bound))
