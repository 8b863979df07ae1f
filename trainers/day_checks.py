"""The checks of a day of training: each of its values, and whether it is worse than what is expected of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Literal

import numpy as np

from tutelage.models.task_kinds import kind_of
from tutelage.pipeline.alarms import AlarmBudget
from tutelage.pipeline.schema import Schema
from tutelage.pipeline.verdict import Check
from tutelage.trainers.config import GateConfig
from tutelage.trainers.expected import Expected, Past, drifted, expected_today, unsettled

_NO_BOUND = 20.0
"""Standard errors from which on a bound is none, because it comes of too few days."""
OVER_WEEKS = " over weeks"
"""What the name of a drift's check ends in."""


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


@dataclass(frozen=True, slots=True)
class Measure:
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


class DayChecks:
    """The checks of one day. `settling` names the values that had no bound, once `checks` was called for each."""

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
            Measure(f"{basis} {task.name} {metric.metric}", metric.better, metric.margin)
            for basis in ("day_ahead", "pre_update")
            for task in schema.tasks
            for metric in kind_of(task).qualities
            # A day may be released without its labels.
            if not (task.name in schema.masked and self._missing(f"{basis} {task.name} {metric.metric}"))
        ]
        for output in schema.outputs:
            if f"{output} mean" in now:
                self.measures.append(Measure(f"{output} mean", "mean", "logit_shift"))
                self.measures.append(Measure(f"{output} sd", "sd", "logit_spread"))
        self.tests = sum(measure.sides + (measure.sides == 1) for measure in self.measures)

    def _missing(self, name: str) -> bool:
        return name not in self.now or not math.isfinite(self.now[name].value)

    def checks(self, measure: Measure) -> list[Check]:
        """Return the check of a value against this day, and that of its drift over weeks."""
        name, now = measure.name, self.now.get(measure.name)
        if now is not None and math.isinf(now.error):
            detail = f"not judged, {now.rows:,} rows hold too few users, or too few of one class"
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
                found.append(self._check(measure, now, drift.expected, room, since=since, over=OVER_WEEKS))
        return found

    def _past(self, measure: Measure, now: Observed) -> Past:
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

    def _error(self, measure: Measure, now: Observed) -> float:
        return float(measure.scaled_error(now.value, np.nan_to_num(now.error)))

    def _output_spread(self, measure: Measure) -> float:
        """Return the output's standard deviation on the last days, the unit of `logit_shift`."""
        name = f"{measure.name.removesuffix(' mean')} sd"
        last = [day.values[name] for day in self.before[-self.config.trailing_days :] if name in day.values]
        return float(np.median(last)) if last else 0.0

    def _scaled_margin(self, measure: Measure, past: Past) -> float:
        """Return about how much a change must be to matter, on the scale of `past`."""
        margin = float(getattr(self.config, measure.margin))
        if measure.better == "mean":
            return margin * self._output_spread(measure)
        if measure.better == "sd":
            return math.log(margin)
        return (
            margin * abs(float(np.median(past.values))) if measure.better == "lower" and len(past) else margin
        )

    def _unsettled(self, measure: Measure, past: Past, margin: float) -> bool:
        if measure.better == "one":  # it improves where it comes nearer to 1
            off = np.abs(np.log(np.maximum(past.values, 1e-12)))
            return unsettled(replace(past, values=off), margin, better=-1)
        return unsettled(past, margin, better=-measure.worse if measure.sides == 1 else 0)

    def _check(
        self,
        measure: Measure,
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

    def _bounds(self, measure: Measure, expected: Expected, noise: float) -> tuple[float, float]:
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
        self, measure: Measure, now: Observed, expected: Expected, bound: float, since: Sequence[date]
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

    def _needed(self, measure: Measure, value: float, edge: float) -> float:
        """Return a margin that would let the value pass, rounded up to two digits; NaN where there is none."""
        unit = {"lower": abs(edge), "mean": self._output_spread(measure)}.get(measure.better, 1.0)
        needed = abs(value - edge) / unit if unit else math.nan
        if measure.better == "sd":
            needed = max(value / edge, edge / value) if value and edge else math.nan
        if not (math.isfinite(needed) and needed > 0):
            return math.nan
        digit = 10.0 ** (math.floor(math.log10(needed)) - 1)
        return math.ceil(needed / digit * (1 + 1e-9)) * digit
