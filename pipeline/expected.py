"""What is expected of a value of this day, and how far it may be from that by chance.

A value is expected to be the median of the days before it: of the last four of the same weekday once there are three,
of the last `trailing_days` before. It differs from that by chance for two reasons: so many rows have a sampling error,
and days differ from one another. All arrays have a column for each value that is judged, such as the share of nulls of
each feature.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np

WEEKDAYS = 7
_OF_EACH = 4
"""The last days of each weekday that are compared with one another."""
_NEEDED = 3
"""Days of a weekday that are needed to compare with them alone."""
MEMORY = 8 * WEEKDAYS
"""Days before a day that are remembered."""
_BEGAN = (WEEKDAYS, 2 * WEEKDAYS, 4 * WEEKDAYS)
"""How many days ago a slow change may have begun."""
_BASELINE = 3 * WEEKDAYS
"""Days before that are needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """Which of the earlier days a day is compared with, as indices."""

    reference: np.ndarray
    """The days whose median is expected."""
    groups: Sequence[np.ndarray]
    """The days that are compared with one another: of a weekday, or all."""
    by_weekday: bool


def choose(days: Sequence[date], day: date, *, trailing_days: int, slice_days: int) -> Past:
    """Return which of `days`, in order, the next day `day` is compared with."""
    if slice_days == 1:
        weekdays = np.array([other.weekday() for other in days])
        groups = [np.flatnonzero(weekdays == weekday)[-_OF_EACH:] for weekday in range(WEEKDAYS)]
        if len(groups[day.weekday()]) >= _NEEDED:
            several = [group for group in groups if len(group) > 1]
            return Past(reference=groups[day.weekday()], groups=several, by_weekday=True)
    every = np.arange(len(days))
    return Past(
        reference=every[-trailing_days:], groups=[every[-_OF_EACH * trailing_days :]], by_weekday=False
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What is expected of each value: arrays [columns], NaN where no earlier day has a value."""

    value: np.ndarray
    error: np.ndarray
    """Its standard error: of the sample that the day is, of the days' differences, and of the median."""
    limit: np.ndarray
    """By how much a value may differ by chance: some standard errors, as the budget of false alarms says."""


def expect(
    values: np.ndarray,
    sampling: np.ndarray,
    past: Past,
    bound: Callable[[float], float],
    *,
    weights: np.ndarray | None = None,
) -> Expected:
    """Return what is expected of a day.

    The spread of days includes their sampling errors, and so tells what the rows of a user, who is not independent of
    himself, add to them. With it, the sampling error counts once or twice: the rule that leaves less room for chance
    holds on its own, so the smaller of both limits is taken. Degrees of freedom are those of Satterthwaite (1946).

    Args:
        values: of the earlier days, [days, columns], NaN where a day has none.
        sampling: the variance of this day's values that comes from its number of rows, [columns].
        past: which days count.
        bound: the number of standard errors that chance may take, by degrees of freedom (`AlarmBudget.bound`).
        weights: of the earlier days and, last, of this day, [days + 1]: how the variance between days goes up and down
            with them; None: all alike. The spread is that of an ordinary day, or of this day if that has more.
    """
    reference = values[past.reference]
    relative, more = np.ones(len(values)), 1.0
    if weights is not None:
        # On a day with less than the usual, the other reasons for which days differ remain.
        *before, more = np.maximum(weights / np.median(weights[past.reference]), 1.0)
        relative = np.array(before)
    squares = np.concatenate(
        [(values[group] - median(values[group])) ** 2 / relative[group, None] for group in past.groups]
    )
    known = np.isfinite(squares)
    squares = np.where(known, squares, 0.0)
    if past.by_weekday:
        # One odd day among the weeks, which somebody accepted, counts no more than the oddest of the others.
        top = np.partition(squares, -2, axis=0)[-2:]
        spread = squares.sum(axis=0) - (top[1] - top[0])
        dof = known.sum(axis=0) - len(past.groups)
    else:
        spread, dof = squares.sum(axis=0), known.sum(axis=0) - 1
    dof = np.maximum(dof, 1)
    spread = spread / dof * more
    of_median = np.pi / 2 * spread / np.maximum(np.isfinite(reference).sum(axis=0), 1)
    limits, errors = [], []
    for variance in (np.maximum(sampling, spread) + of_median, sampling + spread + of_median):
        with np.errstate(divide="ignore", invalid="ignore"):
            freedom = dof * (variance / (spread + of_median)) ** 2
            freedom = np.where(np.isnan(freedom), np.inf, freedom)
        errors.append(np.sqrt(variance))
        limits.append(errors[-1] * [bound(each) for each in freedom.tolist()])
    first = limits[0] <= limits[1]
    return Expected(
        value=median(reference),
        error=np.where(first, *errors),
        limit=np.where(first, *limits),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Slow:
    """The mean of the last seven days, and what is expected of it: arrays [columns]."""

    days: int
    """How many days ago the days end that tell what is expected."""
    value: np.ndarray
    ends: tuple[np.ndarray, np.ndarray]
    """The lower and the higher of two forecasts: that all stays as it was, that its trend goes on."""
    error: np.ndarray
    limit: np.ndarray


def slow_changes(
    values: np.ndarray, sampling: np.ndarray, days: Sequence[date], bound: Callable[[float], float]
) -> list[Slow]:
    """Return how far the last week is from where the days lead that end one, two and four weeks ago.

    So a change is found that is too slow to be seen from one day to the next, and a trend that was always there is
    none, whether it goes on or levels off. It is a moving sum of the residuals of a line through the earlier days
    (MOSUM, Bauer and Hackl 1978, a relative of CUSUM that stays in whole weeks, whose rhythm cancels), divided by its
    standard error, which holds the error of the line and the correlation of neighbouring days. There are none with too
    few days.

    Args:
        values: of the earlier days and, last, of the day that is judged: [days, columns].
        sampling: their variances that come from the number of rows, [days, columns].
        days: the dates.
        bound: as for `expect`.
    """
    at = np.array([day.toordinal() for day in days], float)
    last, ordinary = values[-WEEKDAYS:], sampling[-WEEKDAYS:].mean(axis=0) / WEEKDAYS
    found = []
    for ago in _BEGAN:
        base = values[:-ago]
        if len(base) < _BASELINE:
            continue
        # A line by least squares: time from its mean, the slope, what is left.
        time = at[:-ago] - at[:-ago].mean()
        ahead = at[-WEEKDAYS:].mean() - at[:-ago].mean()
        square = (time**2).sum()
        slope = time @ base / square
        left = base - base.mean(axis=0) - np.outer(time, slope)
        dof = len(base) - 2
        correlation = (left[1:] * left[:-1]).sum(axis=0) / (left**2).sum(axis=0)
        correlation = np.clip(np.where(np.isnan(correlation), 0.0, correlation), 0.0, 0.9)
        longer = (1 + correlation) / (1 - correlation)
        of_line = (left**2).sum(axis=0) / dof * longer * (1 / WEEKDAYS + 1 / len(base) + ahead**2 / square)
        error = np.sqrt(np.maximum(of_line, ordinary))
        limit = error * [bound(each) for each in np.maximum(dof / longer, 1.0).tolist()]
        forecasts = base.mean(axis=0) + slope * ahead, base[-WEEKDAYS:].mean(axis=0)
        ends = np.minimum(*forecasts), np.maximum(*forecasts)
        found.append(Slow(days=ago, value=last.mean(axis=0), ends=ends, error=error, limit=limit))
    return found


def median(values: np.ndarray) -> np.ndarray:
    """Return the medians of the columns, without NaN; NaN for a column that has nothing else."""
    if not len(values):
        return np.full(values.shape[1:], np.nan)
    # NaN is sorted to the end. NumPy's own medians take ten times as long for so few values.
    ascending, known = np.sort(values, axis=0), np.isfinite(values).sum(axis=0)
    columns = np.arange(values.shape[1])
    middle = ascending[np.maximum(known - 1, 0) // 2, columns], ascending[known // 2, columns]
    return np.asarray((middle[0] + middle[1]) / 2)
