"""The judgement on an attempt at a day: its metrics, and the verdict of the model's gate."""

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import polars as pl
import tensorflow as tf

from tutelage.pipeline.schema import Schema
from tutelage.pipeline.verdict import Check, Verdict
from tutelage.trainers import by_part, gate
from tutelage.trainers.day import Day, JudgedRows
from tutelage.trainers.day_checks import KeptDay, Observed
from tutelage.trainers.day_pass import Attempt
from tutelage.trainers.expected import MEMORY
from tutelage.trainers.metrics import day_metrics
from tutelage.trainers.role import Role
from tutelage.trainers.trainer import SCORE_BATCH, Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedAttempt:
    """A finished attempt at a day, with what the gate found."""

    attempt: Attempt
    rows: list[dict[str, object]]
    """Rows of the `metrics` table. None where something is not finite: such a day would spoil all later ones."""
    verdict: Verdict
    observed: Mapping[str, Observed] = field(default_factory=dict)
    """What it was judged by."""

    @property
    def record(self) -> dict[str, object]:
        """What the quarantine keeps of it; `said` is the verdict in one line."""
        return {"rates": self.attempt.rates, "said": str(self.verdict), **asdict(self.verdict)}


def judge_attempt(role: Role, trainer: Trainer, day: Day, attempt: Attempt) -> JudgedAttempt:
    """Compute the day's metrics, and judge them by the role's gate against the days that it kept before."""
    checks = _finite_checks(trainer, day, attempt)
    if not all(check.passed for check in checks):
        return JudgedAttempt(attempt=attempt, rows=[], verdict=Verdict(verdict="fail", checks=checks))
    schema = trainer.ranker.schema
    merged = by_part.Merged(schema)
    scores = {"day_ahead": attempt.ahead, "pre_update": attempt.trained.outputs}
    for judged, of_part in by_part.parts(schema, day, scores):
        merged.add(judged, of_part, *_judged(schema, judged, of_part))
    rows, observed = merged.metrics(), merged.observed()
    before = _kept_before(role)
    verdict = gate.judge(schema, observed, before, role.gate, role.run.alarms, day=day.day)
    verdict = replace(verdict, checks=(*checks, *verdict.checks))
    return JudgedAttempt(attempt=attempt, rows=rows + _counts(day), verdict=verdict, observed=observed)


def _judged(
    schema: Schema, judged: JudgedRows, scores: by_part.Scores
) -> tuple[list[dict[str, object]], dict[str, Observed]]:
    """Return the rows of `metrics` for these rows of a day, and what the gate judges of them."""
    groups, weight = judged.users, judged.weight
    rows = [
        row
        for basis, outputs in scores.items()
        for row in day_metrics(
            schema,
            judged.targets,
            outputs,
            basis=basis,
            slices=judged.slices,
            groups=groups,
            weight=weight,
        )
    ]
    return rows, gate.observe(schema, rows, judged.targets, scores, groups=groups, weight=weight)


def _kept_before(role: Role) -> list[KeptDay]:
    """Return the last kept days. The model's first is not among them: an untrained model made its scores."""
    days = [state.day for state in role.checkpoints.states()][1:][-MEMORY:]
    if not days:
        return []
    own = role.run.lake.metrics.scan(model=role.model, run=role.run.name)
    return gate.kept_days(own.filter(pl.col("day") >= days[0]).collect(), days)


def _finite_checks(trainer: Trainer, day: Day, attempt: Attempt) -> tuple[Check, ...]:
    """Check the losses, the outputs and the weights; the first detail names the step from which losses are bad."""
    bad = ~np.isfinite(attempt.trained.losses)
    step = (trainer.state.step if trainer.state else 0) + int(np.argmax(bad))
    outputs = sum(
        int(np.sum(~np.isfinite(output)))
        for _, (outputs,) in day.pieces(attempt.trained.outputs)
        for output in outputs.values()
    )
    return (
        gate.finite("losses", int(bad.sum()), f"{int(bad.sum())} of {len(bad)}, from step {step} on"),
        gate.finite("outputs", outputs),
        gate.finite("weights", _weights_not_finite(trainer, day)),
    )


def _weights_not_finite(trainer: Trainer, day: Day) -> int:
    """Count the weights that are not finite: the dense ones, and the day's embeddings as often as they occur.

    The rest of the table is not looked at: the cost follows the day, not the vocabulary. Of a day of several chunks,
    which would have to be read again, all of the table is, as when it is saved.
    """
    (table,) = trainer.sparse
    if day.is_one_chunk:
        rows = day.whole.tensors.rows
        looked_at = (rows[start : start + SCORE_BATCH] for start in range(0, day.size, SCORE_BATCH))
    else:
        size = table.shape[0]
        looked_at = (tf.range(start, min(start + SCORE_BATCH, size)) for start in range(0, size, SCORE_BATCH))
    touched = (tf.gather(table, tf.maximum(indices, 0)) for indices in looked_at)
    parts = itertools.chain(trainer.dense, touched)
    return sum(int(tf.math.count_nonzero(~tf.math.is_finite(part))) for part in parts)


def _counts(day: Day) -> list[dict[str, object]]:
    """Return rows of `metrics`: counts of soft labels, and of each growing feature's ids (the feature as a slice)."""
    values = {name: float(count) for name, count in day.counts.items()}
    if values:
        values["label_coverage"] = values["labels_used"] / day.size
    return [
        {"task": "", "metric": name, "slice": part, "basis": "pre_update", "value": value, "rows": day.size}
        for part, counts in {"": values, **(day.day_ids.counts if day.day_ids else {})}.items()
        for name, value in counts.items()
    ]
