"""What is expected of a value on a day: from the days before, and from how many rows the day has.

A value is judged on a scale on which its error does not depend on its size: of calibration the inverse, of a standard
deviation the logarithm (`gate.py`). Arrays are [days], oldest first.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

MEMORY = 56
"""Days that a day is compared with at most: eight of each weekday."""
RECENT = 7
"""Days that a drift may have taken. The days before them are what the drift is seen against."""
BASELINE = 14
"""Days before the `RECENT` ones without which no drift is looked for."""
UNSETTLED = 21
"""Days after which a model is judged though its metrics have not settled."""
_PER_WEEKDAY = 3
"""Days of each weekday from which on the weekday counts."""
_ALLOWANCE = 1.0
"""Standard errors that each day of a drift may be off for nothing: a CUSUM is quickest for drifts of twice as much."""
_LEAST = 0.5
"""Degrees of freedom where there is nothing to tell how days differ: chance then explains anything."""
_MAD = 1.4826
"""The standard deviation of a normal distribution over its median absolute deviation."""
_MOST_CORRELATED = 0.9
_FAR = 4.0
"""Standard deviations at which a day's deviation is cut off, so that one bad day does not widen all later bounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """A value on the days before, and its standard errors."""

    values: np.ndarray
    errors: np.ndarray
    """What the rows of each day leave to chance; 0 where it is not known."""
    weekdays: np.ndarray | None = None
    """0 to 6; None where a slice is not a day."""
    accepted: np.ndarray
    """bool: a person kept the day although it failed. As bad a value is fine from then on."""

    def __len__(self) -> int:
        return len(self.values)

    def of(self, days: slice) -> "Past":
        """Return some of the days."""
        weekdays = None if self.weekdays is None else self.weekdays[days]
        return Past(
            values=self.values[days],
            errors=self.errors[days],
            weekdays=weekdays,
            accepted=self.accepted[days],
        )

    def without_weekdays(self, today: int | None) -> tuple["Past", float]:
        """Return the days as if they were of `today`'s weekday, and what that takes from their freedom.

        A weekday's effect is the median distance of its days from the median of the week around each. Before there
        are three of each weekday it is 0.
        """
        if self.weekdays is None or today is None or len(self) < 7 * _PER_WEEKDAY:
            return self, 1.0
        counts = np.bincount(self.weekdays, minlength=7)
        if counts.min() < _PER_WEEKDAY:
            return self, 1.0
        level = np.array([np.median(self.values[max(0, i - 3) : i + 4]) for i in range(len(self))])
        effects = np.array([np.median((self.values - level)[self.weekdays == k]) for k in range(7)])
        moved = self.values - effects[self.weekdays] + effects[today]
        # The effects were made of these very days, so that the days look nearer to one another than new ones will be.
        return replace(self, values=moved), math.sqrt(counts.mean() / (counts.mean() - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a value should be on a day."""

    centre: float
    low: float
    high: float
    """Between `low` and `high` nothing is amiss: so were days that a person accepted, or the same weekday before."""
    error: float
    """Standard error of the day's value around the centre: of its rows, and of how days differ."""
    dof: float
    """Degrees of freedom of `error`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How far a value has drifted from what it was for weeks, by the sum of its deviations (CUSUM, Page 1954)."""

    expected: Expected
    spent: float
    """The sum that the days before have come to, in standard errors."""
    days: int
    """How many of them it was made of: the drift began so many days before today."""

    def room(self, limit: float) -> float:
        """Return by how many standard errors today's value may be off, so that the sum stays within `limit`."""
        normal = limit + _ALLOWANCE - self.spent
        return float(special.stdtrit(min(self.expected.dof, 1e9), special.ndtr(normal)))


def expected_today(past: Past, *, error: float, weekday: int | None, level_days: int) -> Expected:
    """Return what to expect of a value whose rows give it the standard error `error`, from at least one day before.

    The centre is the median of the last `level_days` days. The spread is that of the errors which the same forecast
    made on the days before: it holds chance, trend, and how days differ. What the rows of those days explain of it is
    taken out, and what today's explain is put in, so that a small day has wide bounds.
    """
    days, factor = past.without_weekdays(weekday)
    values = days.values
    forecasts = [np.median(values[max(0, i - level_days) : i]) for i in range(1, len(values))]
    centre = float(np.median(values[-level_days:]))
    last = days.of(slice(-level_days, None))
    fine = [centre, *last.values[last.accepted]]
    expected = _expected(fine, factor * (values[1:] - forecasts), past.errors[1:], error)
    if days is past and past.weekdays is not None and len(past) < UNSETTLED:
        # It is too early for weekdays. A Sunday may well be as the one before; a first one may be as nothing before.
        same = past.values[past.weekdays == weekday][-1:]
        if not len(same):
            return replace(expected, dof=min(expected.dof, 1.0))
        return replace(expected, low=min(expected.low, same[0]), high=max(expected.high, same[0]))
    return expected


def drifted(past: Past, *, error: float, weekday: int | None, worse: int) -> Drift | None:
    """Return how far a value has drifted over the last days from the days before them; None with too few of them.

    `worse` is 1 where a higher value is worse and −1 where a lower one is. A drift is looked for that is faster than
    the days before differ among themselves. It starts anew after a day that a person accepted.
    """
    if len(past) < BASELINE + RECENT:
        return None
    days, factor = past.without_weekdays(weekday)
    before, recent = days.of(slice(None, -RECENT)), days.of(slice(-RECENT, None))
    centre = float(np.median(before.values))
    fine = [centre, *days.values[days.accepted]]
    deviations = factor * (before.values - centre)

    wander = _wander(deviations)

    def judged(error: float) -> Expected:
        expected = _expected(fine, deviations, before.errors, error)
        return replace(expected, error=wander * expected.error)

    spent, length = 0.0, 0
    for value, its_error, accepted in zip(recent.values, recent.errors, recent.accepted, strict=True):
        expected = judged(its_error)
        edge = expected.high if worse > 0 else expected.low
        off = worse * (value - edge) / expected.error if expected.error else 0.0
        # As a normal deviate: with few degrees of freedom, far is not so far.
        spent += float(special.ndtri(special.stdtr(min(expected.dof, 1e9), off))) - _ALLOWANCE
        length += 1
        if spent <= 0 or accepted:
            spent, length = 0.0, 0
    return Drift(expected=judged(error), spent=spent, days=length)


def unsettled(past: Past, margin: float, *, better: int) -> bool:
    """Return whether a value still improves by more than noise and more than the margin, so that no bound holds yet.

    `better` is 1 where a higher value is better, −1 where a lower one is, 0 where either direction shows that the
    model changes. After `UNSETTLED` days a value counts as settled whatever it does.
    """
    values = past.values
    if not 4 <= len(values) < UNSETTLED:
        return False  # with fewer, the degrees of freedom leave no bound
    half = min(3, len(values) // 2)
    moved = float(np.median(values[-half:]) - np.median(values[-2 * half : -half]))
    steps = np.diff(values)
    noise = _MAD * float(np.median(np.abs(steps - np.median(steps)))) / math.sqrt(2)
    noise = max(noise, float(np.median(past.errors)))
    return (abs(moved) if better == 0 else better * moved) > max(margin, 2 * noise)


def _wander(deviations: np.ndarray) -> float:
    """Return by how much a sum of deviations spreads wider than if each day were on its own.

    A value that wanders is off on the same side for days. Of a first-order autoregression with the correlation r from
    one day to the next, the long-run standard deviation is √((1 + r) / (1 − r)) times that of the days.
    """
    scale = _FAR * _MAD * float(np.median(np.abs(deviations)))
    cut = np.clip(deviations, -scale, scale)
    total = float(np.sum(np.square(cut)))
    if not total:
        return 1.0
    found = float(np.sum(cut[1:] * cut[:-1])) / total
    days = len(cut)
    # From so few days it looks smaller than it is (Kendall 1954).
    r = min(max((found * days + 1) / (days - 3), 0.0), _MOST_CORRELATED)
    return math.sqrt((1 + r) / (1 - r))


def _expected(fine: Sequence[float], deviations: np.ndarray, errors: np.ndarray, error: float) -> Expected:
    """Return the expectation of a value with the standard error `error`, from how days with `errors` deviated.

    The first of the values that are `fine` is the centre.
    """
    size = np.abs(deviations)
    if len(size) > RECENT:
        size = np.minimum(size, max(_FAR * _MAD * float(np.median(size)), float(np.median(errors))))
    spread = float(np.mean(np.square(size))) if len(size) else 0.0
    explained = float(np.mean(np.square(errors))) if len(errors) else 0.0
    variance = max(spread - explained, 0.0) + error**2
    # The variance is a known part and one that was estimated from so many days (Satterthwaite 1946).
    whole = max(spread, explained)
    share = variance / whole if whole else 1.0
    return Expected(
        centre=float(fine[0]),
        low=float(min(fine)),
        high=float(max(fine)),
        error=math.sqrt(variance),
        dof=max(len(size) * share**2, _LEAST),
    )
