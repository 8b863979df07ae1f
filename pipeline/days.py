"""Days and slices of days: the slice of an event, and the slices between two days."""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl

from tutelage.pipeline.errors import UserError

_EPOCH = date(1970, 1, 1)
_UNITS = {"h": "hours", "d": "days"}


def slice_of(day: date, *, slice_days: int, offset: int = 0) -> date:
    """Return the first day of the slice that holds `day`. Slices are counted from 1970-01-01.

    Example:
        >>> slice_of(date(2026, 1, 1), slice_days=7)
        datetime.date(2026, 1, 1)
        >>> slice_of(date(2026, 1, 7), slice_days=7)
        datetime.date(2026, 1, 1)
    """
    return day - timedelta(days=((day - _EPOCH).days - offset) % slice_days)


def slice_expr(event_time_us: str, *, time_zone: str, slice_days: int, offset: int = 0) -> pl.Expr:
    """Return `slice_of` for a column of microseconds since 1970 in UTC, by the wall clock of `time_zone`."""
    local = pl.from_epoch(pl.col(event_time_us), time_unit="us").dt.replace_time_zone("UTC")
    number = local.dt.convert_time_zone(time_zone).dt.date().to_physical()
    return (number - (number - offset) % slice_days).cast(pl.Date)


def slices_between(start: date, end: date, *, slice_days: int, offset: int = 0) -> list[date]:
    """Return every slice that lies entirely between `start` and `end`, both included.

    Raises UserError where there is none. Models are never trained on an unfinished slice, because they could not be
    trained on it again.
    """
    if end < start:
        raise UserError(f"end_day {end} is before start_day {start}; give an end_day on or after it")
    day = slice_of(start + timedelta(days=slice_days - 1), slice_days=slice_days, offset=offset)
    slices = []
    while day + timedelta(days=slice_days - 1) <= end:
        slices.append(day)
        day += timedelta(days=slice_days)
    if not slices:
        raise UserError(
            f"no whole slice of {slice_days} days lies between {start} and {end}; widen the range"
        )
    return slices


def describe_moves(start: date, end: date, slices: Sequence[date], *, slice_days: int) -> str:
    """Return one line that says how `slices_between` moved `start` and `end`; empty where it did not.

    Example:
        >>> describe_moves(date(2026, 1, 5), date(2026, 1, 14), [date(2026, 1, 8)], slice_days=7)
        'slices of 7 days: start_day moves from 2026-01-05 to 2026-01-08'
    """
    first, last = slices[0], slices[-1] + timedelta(days=slice_days - 1)
    ends = [("start_day", start, first), ("end_day", end, last)]
    moves = [f"{name} moves from {asked} to {whole}" for name, asked, whole in ends if asked != whole]
    return f"slices of {slice_days} days: {', '.join(moves)}" if moves else ""


def duration(text: str, what: str) -> timedelta:
    """Return the duration of `6h` or `3d` (days of 24 hours), zero for an empty text.

    Raises UserError, naming `what`, for anything else.

    Example:
        >>> duration("3d", "release_after")
        datetime.timedelta(days=3)
    """
    found = re.fullmatch(r"(\d{1,4})([hd])|", text)
    if not found:
        raise UserError(f"{what} is {text!r}, expected hours or days, as in '6h' or '3d'")
    return timedelta(**{_UNITS[found[2]]: int(found[1])}) if text else timedelta()


def released_at(day: date, *, time_zone: str, slice_days: int, wait: timedelta, late_days: int) -> datetime:
    """Return when a slice is over, its labels have had `wait` to mature and late events `late_days` days to arrive."""
    zone = ZoneInfo(time_zone)
    end = datetime.combine(day, datetime.min.time(), zone) + timedelta(days=slice_days)  # By the clock.
    # `wait` is added in UTC, where an hour always lasts an hour.
    return max(end.astimezone(UTC) + wait, end + timedelta(days=late_days)).astimezone(zone)


def spans(days: Sequence[date], *, slice_days: int) -> str:
    """Return slices, given in order, as text.

    Example:
        >>> spans([date(2026, 1, 1), date(2026, 1, 2), date(2026, 1, 5)], slice_days=1)
        '2026-01-01 to 2026-01-02, 2026-01-05'
    """
    runs: list[list[date]] = []
    for day in days:
        if runs and day == runs[-1][-1] + timedelta(days=slice_days):
            runs[-1].append(day)
        else:
            runs.append([day])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def parse_day(text: str, *, time_zone: str, now: Callable[[ZoneInfo], datetime] = datetime.now) -> date:
    """Return the day of `YYYY-MM-DD`, `today`, `yesterday` or `today-N`, by the clock of `time_zone`.

    Raises UserError for anything else.
    """
    relative = re.fullmatch(r"(yesterday)|today(?:-(\d{1,5}))?", text)
    if relative:
        back = 1 if relative[1] else int(relative[2] or 0)
        return now(ZoneInfo(time_zone)).date() - timedelta(days=back)
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        raise UserError(f"day {text!r} is neither YYYY-MM-DD nor today, yesterday or today-N") from None
