"""The gate of a day of training: what it must show before it is kept, and what was found."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from tutelage.models.metrics import Weight, mean
from tutelage.models.task_kinds import Quality, kind_of
from tutelage.pipeline.schema import Schema
from tutelage.pipeline.verdict import Check, Verdict
from tutelage.trainers.config import GateConfig

BASIS = "day_gate"
"""Of its values in `metrics`; what they are compared with is under `day_gate_reference`."""


def quality(name: str, metric: Quality, value: float | None, reference: float | None, margin: float) -> Check:
    """Check a metric against its reference; one that is missing or not a finite number fails."""
    if value is None or not math.isfinite(value):
        return Check(name=name, value=value, reference=reference, passed=False)
    if reference is None or not math.isfinite(reference):
        return Check(name=name, value=value, passed=True)
    if metric.better == "higher":
        bound = reference - margin
        passed = value >= bound
    elif metric.better == "one":
        away = abs(reference - 1) + margin
        bound = 1 + math.copysign(away, value - 1)
        passed = abs(value - 1) <= away
    else:
        bound = reference + margin * abs(reference)
        passed = value <= bound
    return Check(name=name, value=value, reference=reference, bound=bound, passed=passed)


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


def judge(
    schema: Schema,
    metrics: Sequence[Mapping[str, object]],
    outputs: Mapping[str, np.ndarray],
    before: Sequence[Mapping[str, float]],
    config: GateConfig,
    *,
    weight: Weight = None,
) -> Verdict:
    """Judge a day by its rows of `metrics` and its raw outputs [examples] of each batch before its update.

    `before` holds the values (see `values`) of the days that it is compared with. `weight` is the examples' weight.
    An exception in here becomes the verdict `error`, so that no day is kept because judging it failed.
    """
    try:
        now = values(metrics, outputs, weight)
        compared = len(before) >= config.min_days
        checks: list[Check] = []
        for basis in ("day_ahead", "pre_update"):
            for task in schema.tasks:
                for metric in kind_of(task).qualities:
                    name = f"{basis} {task.name} {metric.metric}"
                    if task.name in schema.masked and not math.isfinite(now.get(name, math.nan)):
                        continue  # a day may be released without its labels
                    margin = getattr(config, metric.margin)
                    checks.append(
                        quality(name, metric, now.get(name), _mean(before, name, metric), margin)
                        if compared
                        else Check(name=name, value=now.get(name), passed=True)
                    )
        for name in outputs:
            checks += _drift(name, now, before if compared else (), config)
    except Exception as error:
        return Verdict(
            verdict="error", reason=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        )
    if not all(check.passed for check in checks):
        return Verdict(verdict="fail", checks=tuple(checks))
    return Verdict(verdict="pass" if compared else "first", checks=tuple(checks))


def values(
    metrics: Sequence[Mapping[str, object]], outputs: Mapping[str, np.ndarray], weight: Weight = None
) -> dict[str, float]:
    """Return what a day is judged by: its metrics of all examples, and the mean and deviation of each output."""
    found = {
        f"{row['basis']} {row['task']} {row['metric']}": float(row["value"])  # type: ignore[arg-type]
        for row in metrics
        if not row["slice"]
    }
    for name, output in outputs.items():
        output = output.astype(np.float64)
        found[f"{name} mean"] = mean(output, weight)
        found[f"{name} sd"] = math.sqrt(mean(np.square(output - found[f"{name} mean"]), weight))
    return found


def rows(verdict: Verdict, *, rates: float, size: int) -> list[dict[str, object]]:
    """Return rows of the `metrics` table: the values, what they are compared with, the factor of the learning rates,
    and `blessed`, 1 or 0."""
    found = {
        BASIS: {"blessed": float(verdict.blessed), "rates": rates}
        | {c.name: c.value for c in verdict.checks if c.value is not None},
        f"{BASIS}_reference": {c.name: c.reference for c in verdict.checks if c.reference is not None},
    }
    return [
        {"task": "", "metric": name, "slice": "", "basis": basis, "value": value, "rows": size}
        for basis, metrics in found.items()
        for name, value in metrics.items()
    ]


def trailing(metrics: pl.DataFrame, config: GateConfig) -> list[dict[str, float]]:
    """Return the values by name of each of the last kept days, from a model's rows of `metrics`.

    Its first day is not among them, because an untrained model made its scores.
    """
    judged = metrics.filter(basis=BASIS)
    days = judged["day"].unique().sort().to_list()[1:][-config.trailing_days :]
    return [dict(judged.filter(day=day).select("metric", "value").iter_rows()) for day in days]


def _mean(before: Sequence[Mapping[str, float]], name: str, metric: Quality | None = None) -> float | None:
    """The mean over the days; of calibration, as far above 1 as the days were from 1."""
    found = [day[name] for day in before if math.isfinite(day.get(name, math.nan))]
    if not found:
        return None
    if metric and metric.better == "one":
        return 1 + float(np.mean(np.abs(np.subtract(found, 1))))
    return float(np.mean(found))


def _drift(
    name: str, now: Mapping[str, float], before: Sequence[Mapping[str, float]], config: GateConfig
) -> list[Check]:
    """Check how far an output's mean and standard deviation have moved from those of the days before."""
    mean, sd = now[f"{name} mean"], now[f"{name} sd"]
    center, spread = _mean(before, f"{name} mean"), _mean(before, f"{name} sd")
    if center is None or not spread:
        return [
            Check(name=f"{name} mean", value=mean, passed=True),
            Check(name=f"{name} sd", value=sd, passed=True),
        ]
    far = config.logit_shift * spread
    bound = spread * config.logit_spread if sd > spread else spread / config.logit_spread
    return [
        Check(
            name=f"{name} mean",
            value=mean,
            reference=center,
            bound=center + math.copysign(far, mean - center),
            passed=abs(mean - center) <= far,
        ),
        Check(
            name=f"{name} sd",
            value=sd,
            reference=spread,
            bound=bound,
            passed=spread / config.logit_spread <= sd <= spread * config.logit_spread,
        ),
    ]
