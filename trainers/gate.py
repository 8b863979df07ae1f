"""The gate of a day of training: what it must show before it is kept, and what was found.

Each value of the day is compared with what is expected of this day (`expected.py`). It fails where it is worse by more
than the margin in `GateConfig`, the smallest change that matters, and by more than chance explains: by so many standard
errors that, over all values of all models, no more false alarms are given than the config wants in a year. There is no
other limit: one that fits all data, such as an AUC of at least 0.5, fits no model in its first days.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Literal

import numpy as np
import polars as pl

from tutelage.models import standard_errors as se
from tutelage.models.metrics import Weight, mean
from tutelage.models.task_kinds import Quality, kind_of
from tutelage.pipeline.alarms import AlarmBudget
from tutelage.pipeline.schema import Schema
from tutelage.pipeline.verdict import Check, Verdict
from tutelage.trainers.config import GateConfig
from tutelage.trainers.expected import Expected, Past, drifted, expected_today, unsettled
from tutelage.trainers.metrics import raw_outputs

BASIS = "day_gate"
"""Of its values in `metrics`; what is expected is under `day_gate_reference`, their errors under `day_gate_error`."""
SETTLING = "settling"
"""The metric under `BASIS` that counts the values without a bound."""
_NO_BOUND = 20.0
"""Standard errors from which on a bound is none, because it comes of too few days."""
_OVER_WEEKS = " over weeks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """A value of a day that the gate judges."""

    value: float
    error: float = math.nan
    """Its standard error, as `TaskKind.standard_errors` returns it. NaN: it is not known. Infinite: the rows are too
    few to say anything."""
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptDay:
    """What the gate recorded of a day that was kept."""

    day: date
    values: Mapping[str, float]
    errors: Mapping[str, float]
    """Empty for a day of a release that recorded none."""
    rows: int
    accepted: bool = False
    """A person kept it although it failed."""


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
            for metric in kind_of(task).qualities:
                value, rows = values[basis, task.name, metric.metric]
                name, error = f"{basis} {task.name} {metric.metric}", errors.get(metric.metric, math.nan)
                found[name] = Observed(value=value, error=error, rows=rows)
    for name, output in scores.get("pre_update", {}).items():
        found |= _moments(name, output.astype(np.float64), groups, weight)
    return found


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
        judged = _Judge(schema, now, before, config, alarms, day)
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


@dataclass(frozen=True, slots=True)
class _Measure:
    """A value that is judged, and how."""

    name: str
    better: Literal["higher", "lower", "one", "mean", "sd"]
    """As in `Quality`; `mean` and `sd` of an output may move neither way."""
    margin: str
    """The field of `GateConfig`."""

    @property
    def sides(self) -> int:
        return 1 if self.better in ("higher", "lower") else 2

    @property
    def worse(self) -> int:
        return -1 if self.better == "higher" else 1

    def scaled(self, value: float) -> float:
        """Return the value on the scale on which its error does not depend on its size.

        Observed over predicted, not the reverse, is a number of events over a number that is known: few events then
        give wide bounds, and none at all give 0.
        """
        if self.better == "one":
            return 0.0 if math.isnan(value) else 1 / value if value else math.inf
        return math.log(max(value, 1e-12)) if self.better == "sd" else value

    def unscaled(self, value: float) -> float:
        if self.better == "one":
            return 1 / value if value > 0 else math.inf
        return _exp(value) if self.better == "sd" else value

    def scaled_error(self, value: float, error: float) -> float:
        return error / max(value, 1e-12) if self.better == "sd" else error


def _exp(value: float) -> float:
    """Return the exponential, infinite where a float holds it no more."""
    return math.exp(value) if value < 700 else math.inf


class _Judge:
    """The checks of one day."""

    def __init__(
        self,
        schema: Schema,
        now: Mapping[str, Observed],
        before: Sequence[KeptDay],
        config: GateConfig,
        alarms: AlarmBudget,
        day: date,
    ):
        self.now, self.before, self.config, self.alarms = now, before, config, alarms
        self.weekday = day.weekday() if schema.slice_days == 1 else None
        self.settling: list[str] = []
        self.measures = [
            _Measure(f"{basis} {task.name} {metric.metric}", metric.better, metric.margin)
            for basis in ("day_ahead", "pre_update")
            for task in schema.tasks
            for metric in kind_of(task).qualities
            # A day may be released without its labels.
            if not (task.name in schema.masked and self._missing(f"{basis} {task.name} {metric.metric}"))
        ]
        for output in schema.outputs:
            if f"{output} mean" in now:
                self.measures.append(_Measure(f"{output} mean", "mean", "logit_shift"))
                self.measures.append(_Measure(f"{output} sd", "sd", "logit_spread"))
        self.tests = sum(measure.sides + (measure.sides == 1) for measure in self.measures)

    def _missing(self, name: str) -> bool:
        return name not in self.now or not math.isfinite(self.now[name].value)

    def checks(self, measure: _Measure) -> list[Check]:
        """Return the check of a value against this day, and that of its drift over weeks."""
        name, now = measure.name, self.now.get(measure.name)
        if now is not None and math.isinf(now.error):
            detail = f"not judged, {now.rows:,} rows hold too few of one class"
            return [Check(name=name, value=None, detail=detail, passed=True)]
        nothing_observed = measure.better == "one" and now is not None and math.isnan(now.value)
        if now is None or not (math.isfinite(now.value) or nothing_observed):
            return [Check(name=name, value=None if now is None else now.value, passed=False)]
        past = self._past(measure, now)
        margin = self._scaled_margin(measure, past)
        if len(past) < self.config.min_days or self._unsettled(measure, past, margin):
            self.settling.append(name)
            return [Check(name=name, value=now.value, passed=True)]
        error = self._error(measure, now)
        level = self.config.trailing_days
        expected = expected_today(past, error=error, weekday=self.weekday, level_days=level)
        limit = self.alarms.bound(self.tests, dof=expected.dof)
        if limit > _NO_BOUND:
            self.settling.append(name)
            reference = measure.unscaled(expected.centre)
            return [Check(name=name, value=now.value, reference=reference, passed=True)]
        found = [self._check(measure, now, expected, limit)]
        if measure.sides == 1:
            drift = drifted(past, error=error, weekday=self.weekday, worse=measure.worse)
            if drift:
                room = drift.room(self.alarms.cusum(self.tests))
                since = [day.day for day in self.before[-drift.days - 1 :]] if drift.days else []
                found.append(self._check(measure, now, drift.expected, room, since=since, over=_OVER_WEEKS))
        return found

    def _past(self, measure: _Measure, now: Observed) -> Past:
        """Return the value on the days before; those that had too few rows to say anything are left out."""
        values, errors, days = [], [], []
        for day in self.before:
            value = day.values.get(measure.name, math.inf)
            error = day.errors.get(measure.name, math.nan)
            if math.isinf(error) or not (
                math.isfinite(value) or (measure.better == "one" and value != value)
            ):
                continue
            if math.isnan(error):  # of a release that recorded none: as today's, by the rows
                error = now.error * math.sqrt(now.rows / max(day.rows, 1))
            values.append(measure.scaled(value))
            errors.append(measure.scaled_error(value, np.nan_to_num(error)))
            days.append(day)
        weekdays = None if self.weekday is None else np.array([d.day.weekday() for d in days], np.int64)
        accepted = np.array([day.accepted for day in days], bool)
        return Past(values=np.array(values), errors=np.array(errors), weekdays=weekdays, accepted=accepted)

    def _error(self, measure: _Measure, now: Observed) -> float:
        return float(measure.scaled_error(now.value, np.nan_to_num(now.error)))

    def _output_spread(self, measure: _Measure) -> float:
        """Return the output's standard deviation on the last days, the unit of `logit_shift`."""
        name = f"{measure.name.removesuffix(' mean')} sd"
        last = [day.values[name] for day in self.before[-self.config.trailing_days :] if name in day.values]
        return float(np.median(last)) if last else 0.0

    def _scaled_margin(self, measure: _Measure, past: Past) -> float:
        """Return about how much a change must be to matter, on the scale of `past`."""
        margin = float(getattr(self.config, measure.margin))
        if measure.better == "mean":
            return margin * self._output_spread(measure)
        if measure.better == "sd":
            return math.log(margin)
        return (
            margin * abs(float(np.median(past.values))) if measure.better == "lower" and len(past) else margin
        )

    def _unsettled(self, measure: _Measure, past: Past, margin: float) -> bool:
        if measure.better == "one":  # it improves where it comes nearer to 1
            off = np.abs(np.log(np.maximum(past.values, 1e-12)))
            return unsettled(replace(past, values=off), margin, better=-1)
        return unsettled(past, margin, better=-measure.worse if measure.sides == 1 else 0)

    def _check(
        self,
        measure: _Measure,
        now: Observed,
        expected: Expected,
        limit: float,
        *,
        since: Sequence[date] = (),
        over: str = "",
    ) -> Check:
        """Check a value that may be off by `limit` standard errors or by the margin, whichever is more.

        `since` holds the last day before a drift, and the days of it.
        """
        noise = limit * expected.error if expected.error else 0.0
        low, high = self._bounds(measure, expected, noise)
        reference = measure.unscaled(expected.centre)
        passed = low <= now.value <= high or (math.isnan(now.value) and high == math.inf)
        upper = (measure.sides == 1 and measure.worse > 0) or (
            measure.sides == 2 and not now.value < reference
        )
        return Check(
            name=f"{measure.name}{over}",
            value=now.value,
            reference=reference,
            bound=high if upper else low,
            detail="" if passed else self._describe(measure, now, expected, (low, high)[upper], since),
            passed=passed,
        )

    def _bounds(self, measure: _Measure, expected: Expected, noise: float) -> tuple[float, float]:
        """Return the lowest and the highest value that pass."""
        margin = float(getattr(self.config, measure.margin))
        low, high = expected.low, expected.high
        if measure.better == "higher":
            return low - max(noise, margin), math.inf
        if measure.better == "lower":
            return -math.inf, high + max(noise, margin * abs(high))
        if measure.better == "one":  # 1 is right, and what a model was before is no worse than it was
            low, high = min(low, 1.0), max(high, 1.0)
            return (
                min(measure.unscaled(high + noise), measure.unscaled(high) - margin),
                max(measure.unscaled(low - noise), measure.unscaled(low) + margin),
            )
        if measure.better == "mean":
            far = max(noise, margin * self._output_spread(measure))
            return low - far, high + far
        far = max(noise, math.log(margin))
        return _exp(low - far), _exp(high + far)

    def _describe(
        self, measure: _Measure, now: Observed, expected: Expected, bound: float, since: Sequence[date]
    ) -> str:
        """Return in one line what failed, by how much, on how many rows, and which field would let it pass."""
        value, low, high = measure.scaled(now.value), expected.low, expected.high
        if measure.better == "one":
            low, high = min(low, 1.0), max(high, 1.0)
        edge = low if value < low else high
        off = abs(value - edge) / expected.error if expected.error else math.inf
        seen = "nothing observed" if math.isnan(now.value) else f"{now.value:.4g}"
        drift = ""
        if since:
            drift = f", a drift since {since[1]} (tutelage-rollback --to_day={since[0]} takes it back)"
        needed = self._needed(measure, now.value, measure.unscaled(edge))
        return (
            f"{seen} on {now.rows:,} rows, where {measure.unscaled(expected.centre):.4g} is expected and {bound:.4g} "
            f"is the bound; {off:.1f} standard errors off{drift} (gate.{measure.margin}"
            + (f"={needed:.2g} would keep it)" if math.isfinite(needed) else ")")
        )

    def _needed(self, measure: _Measure, value: float, edge: float) -> float:
        """Return a margin that would let the value pass, rounded up to two digits; NaN where there is none."""
        unit = {"lower": abs(edge), "mean": self._output_spread(measure)}.get(measure.better, 1.0)
        needed = abs(value - edge) / unit if unit else math.nan
        if measure.better == "sd":
            needed = max(value / edge, edge / value) if value and edge else math.nan
        if not (math.isfinite(needed) and needed > 0):
            return math.nan
        digit = 10.0 ** (math.floor(math.log10(needed)) - 1)
        return math.ceil(needed / digit * (1 + 1e-9)) * digit


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
        *(
            (BASIS, n, v, now[n].rows if n in now else size)
            for n, v in judged.items()
            if _OVER_WEEKS not in n
        ),
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
