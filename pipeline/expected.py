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
_RECENT = (WEEKDAYS, 2 * WEEKDAYS)
"""A slow change is looked for in so many last days; whole weeks, so that their rhythm does not count."""
_BASELINE = 3 * WEEKDAYS
"""Days before them that are needed."""


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
            freedom = np.nan_to_num(dof * (variance / (spread + of_median)) ** 2, nan=np.inf)
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
    """What the mean of the last days is, and what is expected of it: arrays [columns]."""

    days: int
    value: np.ndarray
    ends: tuple[np.ndarray, np.ndarray]
    """The lower and the higher of two forecasts from the days before: that all stays, that the trend goes on."""
    error: np.ndarray
    limit: np.ndarray


def slow_changes(
    values: np.ndarray, sampling: np.ndarray, days: Sequence[date], bound: Callable[[float], float]
) -> list[Slow]:
    """Return how far the last week, and the last two, are from where the weeks before them lead; [] with too few days.

    It is the cumulative sum of the deviations since a change one or two weeks ago (a window-limited CUSUM, Lai 1995),
    divided by its own standard error, which holds the error of a line through the weeks before and the correlation of
    neighbouring days. So a change that is too slow to be seen from one day to the next is found, and a trend that was
    always there is none, whether it goes on or levels off.

    Args:
        values: of the earlier days and, last, of the day that is judged: [days, columns].
        sampling: their variances that come from the number of rows, [days, columns].
        days: the dates.
        bound: as for `expect`.
    """
    at = np.array([day.toordinal() for day in days], float)
    found = []
    for recent in _RECENT:
        base, last = values[:-recent], values[-recent:]
        if len(base) < _BASELINE:
            continue
        # A line by least squares: time from its mean, the slope, what is left.
        time = at[:-recent] - at[:-recent].mean()
        ahead = at[-recent:].mean() - at[:-recent].mean()
        square = (time**2).sum()
        slope = time @ base / square
        left = base - base.mean(axis=0) - np.outer(time, slope)
        dof = len(base) - 2
        with np.errstate(divide="ignore", invalid="ignore"):
            correlation = (left[1:] * left[:-1]).sum(axis=0) / (left**2).sum(axis=0)
        correlation = np.clip(np.nan_to_num(correlation), 0.0, 0.9)
        longer = (1 + correlation) / (1 - correlation)
        of_line = (left**2).sum(axis=0) / dof * longer * (1 / recent + 1 / len(base) + ahead**2 / square)
        error = np.sqrt(np.maximum(of_line, sampling[-recent:].mean(axis=0) / recent))
        freedom = np.maximum(dof / longer, 1.0)
        limit = error * [bound(each) for each in freedom.tolist()]
        forecasts = base.mean(axis=0) + slope * ahead, base[-WEEKDAYS:].mean(axis=0)
        ends = np.minimum(*forecasts), np.maximum(*forecasts)
        found.append(Slow(days=recent, value=last.mean(axis=0), ends=ends, error=error, limit=limit))
    return found


def median(values: np.ndarray) -> np.ndarray:
    """Return the medians of the columns, without NaN; NaN for a column that has nothing else."""
    if np.isfinite(values).all() or not len(values):
        return np.median(values, axis=0) if len(values) else np.full(values.shape[1:], np.nan)
    there = np.isfinite(values).any(axis=0)
    result = np.full(values.shape[1], np.nan)
    result[there] = np.nanmedian(values[:, there], axis=0)
    return result
