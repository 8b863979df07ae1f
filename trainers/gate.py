"""The gate of a day of training: what it must show before it is kept, and what was found.

Each value of the day is compared with what is expected of this day (`expected.py`). It fails where it is worse by more
than the margin in `GateConfig`, the smallest change that matters, and by more than chance explains: by so many standard
errors that, over all values of all models, no more false alarms are given than the config wants in a year. There is no
other limit: one that fits all data, such as an AUC of at least 0.5, fits no model in its first days.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date

import numpy as np
import polars as pl

from tutelage.models import standard_errors as se
from tutelage.models.metrics import Weight, mean
from tutelage.models.task_kinds import kind_of
from tutelage.pipeline.alarms import AlarmBudget
from tutelage.pipeline.schema import Schema
from tutelage.pipeline.verdict import Check, Verdict
from tutelage.trainers.config import GateConfig
from tutelage.trainers.day_checks import OVER_WEEKS, DayChecks, KeptDay, Observed
from tutelage.trainers.metrics import raw_outputs

BASIS = "day_gate"
"""Of its values in `metrics`; what is expected is under `day_gate_reference`, their errors under `day_gate_error`."""
FEWEST_USERS = 5
"""Effective users, (Σ n)² / Σ n² of their rows n, below which nothing is judged: three say nothing of others."""
SETTLING = "settling"
"""The metric under `BASIS` that counts the values without a bound."""


def finite(name: str, bad: int, detail: str = "") -> Check:
    """Check that none is not finite; `bad` is how many are not.

    >>> finite("losses", 2, "2 of 4, from step 6 on").describe()
    'losses that are not finite: 2 of 4, from step 6 on'
    """
    return Check(
        name=f"{name} that are not finite",
        value=float(bad),
        bound=0.0,
        detail=detail if bad else "",
        passed=not bad,
    )


def observe(
    schema: Schema,
    metrics: Sequence[Mapping[str, object]],
    targets: np.ndarray,
    scores: Mapping[str, Mapping[str, np.ndarray]],
    *,
    groups: np.ndarray | None = None,
    weight: Weight = None,
) -> dict[str, Observed]:
    """Return by name what a day is judged by: the qualities of each task, and the mean and deviation of each output.

    Args:
        schema: that of the model.
        metrics: the day's rows of `metrics`.
        targets: hard targets [rows, tasks]; NaN where there is none.
        scores: the raw outputs [rows] by basis and name. Mean and deviation are those of the basis `pre_update`.
        groups: the users' numbers [rows].
        weight: the examples' weight [rows].
    """
    values = {
        (row["basis"], row["task"], row["metric"]): (float(str(row["value"])), int(str(row["rows"])))
        for row in metrics
        if not row["slice"]
    }
    found: dict[str, Observed] = {}
    for basis, outputs in scores.items():
        for i, task in enumerate(schema.tasks):
            known = ~np.isnan(targets[:, i])
            if not known.any():
                continue
            errors = kind_of(task).standard_errors(
                targets[known, i],
                raw_outputs(task, outputs)[known],
                groups=None if groups is None else groups[known],
                weight=None if weight is None else weight[known],
            )
            few = groups is not None and _few(groups[known])
            for metric in kind_of(task).qualities:
                value, rows = values[basis, task.name, metric.metric]
                name = f"{basis} {task.name} {metric.metric}"
                error = math.inf if few else errors.get(metric.metric, math.nan)
                found[name] = Observed(value=value, error=error, rows=rows)
    few = groups is not None and _few(groups)
    for name, output in scores.get("pre_update", {}).items():
        moments = _moments(name, output.astype(np.float64), groups, weight)
        found |= {n: replace(each, error=math.inf) for n, each in moments.items()} if few else moments
    return found


def _few(users: np.ndarray) -> bool:
    """Return whether rows of these users [rows] tell no more than fewer than `FEWEST_USERS` would."""
    rows = np.bincount(users)
    return bool(len(users) ** 2 < FEWEST_USERS * np.sum(np.square(rows)))


def _moments(name: str, output: np.ndarray, groups: np.ndarray | None, weight: Weight) -> dict[str, Observed]:
    """Return the mean and the standard deviation of an output [rows]."""
    centre = mean(output, weight)
    squares = np.square(output - centre)
    deviation = math.sqrt(mean(squares, weight))
    spread = se.clustered(se.of_mean(squares, weight), groups)
    return {
        f"{name} mean": Observed(
            value=centre, error=se.clustered(se.of_mean(output, weight), groups), rows=len(output)
        ),
        f"{name} sd": Observed(
            value=deviation, error=spread / (2 * deviation) if deviation else 0.0, rows=len(output)
        ),
    }


def judge(
    schema: Schema,
    now: Mapping[str, Observed],
    before: Sequence[KeptDay],
    config: GateConfig,
    alarms: AlarmBudget,
    *,
    day: date,
) -> Verdict:
    """Judge `day` by its values (see `observe`) against the kept days before it, oldest first.

    `alarms` are the false alarms that this gate may give. An exception in here becomes the verdict `error`, so that no
    day is kept because judging it failed.
    """
    try:
        judged = DayChecks(schema, now, before, config, alarms, day)
        checks = [check for measure in judged.measures for check in judged.checks(measure)]
    except Exception as error:
        return Verdict(
            verdict="error", reason=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        )
    if not all(check.passed for check in checks):
        return Verdict(verdict="fail", checks=tuple(checks))
    reason = ""
    if settling := judged.settling:
        reason = f"still settling: {len(settling)} of {len(judged.measures)} values have no bound yet"
    compared = len(settling) < len(judged.measures)
    return Verdict(verdict="pass" if compared else "first", checks=tuple(checks), reason=reason)


def rows(
    verdict: Verdict, now: Mapping[str, Observed], *, rates: float, size: int
) -> list[dict[str, object]]:
    """Return rows of the `metrics` table: the values, their standard errors, what was expected, the factor of the
    learning rates, how many values have no bound yet (`settling`), and `blessed`, 1 or 0."""
    checks = {check.name: check for check in verdict.checks}
    judged = {name: check.value for name, check in checks.items() if check.value is not None}
    settling = sum(c.passed and c.bound is None and not c.detail for c in verdict.checks)
    found: list[tuple[str, str, float, int]] = [
        (BASIS, "blessed", float(verdict.blessed), size),
        (BASIS, "rates", rates, size),
        (BASIS, SETTLING, float(settling), size),
        *((BASIS, n, v, now[n].rows if n in now else size) for n, v in judged.items() if OVER_WEEKS not in n),
        *(
            (f"{BASIS}_error", name, one.error, one.rows)
            for name, one in now.items()
            if one.error == one.error
        ),
        *((f"{BASIS}_reference", n, c.reference, size) for n, c in checks.items() if c.reference is not None),
    ]
    return [
        {"task": "", "metric": name, "slice": "", "basis": basis, "value": value, "rows": count}
        for basis, name, value, count in found
    ]


def kept_days(metrics: pl.DataFrame, days: Sequence[date]) -> list[KeptDay]:
    """Return what the gate recorded of each of `days` that has a record, from a model's rows of `metrics`."""
    bases = [BASIS, f"{BASIS}_error"]
    judged = metrics.filter(pl.col("basis").is_in(bases), pl.col("day").is_in(list(days)))
    found = []
    for (day,), of_day in sorted(judged.partition_by("day", as_dict=True).items()):
        values = dict(of_day.filter(basis=BASIS).select("metric", "value").iter_rows())
        errors = dict(of_day.filter(basis=f"{BASIS}_error").select("metric", "value").iter_rows())
        found.append(
            KeptDay(
                day=day,
                values=values,
                errors=errors,
                rows=int(of_day["rows"].max() or 0),  # type: ignore[arg-type]
                accepted=values.get("blessed") == 0,
            )
        )
    return found
