"""Days and slices of days, against the standard library's calendar."""

import re
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.pipeline.days import describe_moves, parse_day, slice_expr, slice_of, slices_between, spans
from tutelage.pipeline.errors import UserError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ZONES = [
    "UTC",
    "Asia/Shanghai",
    "Asia/Kathmandu",  # 5:45 h ahead
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",  # Its summer time is half an hour.
    "Pacific/Apia",  # It had no 2011-12-30.
]


def _us(time: datetime) -> int:
    return (time - EPOCH) // timedelta(microseconds=1)


# Python knows summer time for ever, Polars until 2099.
TIMES = st.integers(_us(datetime(1900, 1, 1, tzinfo=UTC)), _us(datetime(2099, 12, 1, tzinfo=UTC)))


def _slices(times: list[int], *, time_zone: str, slice_days: int, offset: int = 0) -> list[date]:
    expr = slice_expr("t", time_zone=time_zone, slice_days=slice_days, offset=offset)
    return pl.DataFrame({"t": times}, schema={"t": pl.Int64}).select(expr)["t"].to_list()


@given(st.lists(TIMES, min_size=1), st.sampled_from(ZONES), st.integers(1, 30), st.integers(0, 6))
def test_a_column_is_sliced_by_the_wall_clock_as_single_days_are(
    times: list[int], zone: str, slice_days: int, offset: int
) -> None:
    walls = [(EPOCH + timedelta(microseconds=t)).astimezone(ZoneInfo(zone)) for t in times]
    expected = [slice_of(wall.date(), slice_days=slice_days, offset=offset) for wall in walls]
    assert _slices(times, time_zone=zone, slice_days=slice_days, offset=offset) == expected


@pytest.mark.parametrize(
    ("zone", "last"),
    [
        ("Asia/Shanghai", datetime(2024, 4, 8, 15, 59, 59, 999_999, tzinfo=UTC)),  # 8 h ahead
        ("America/New_York", datetime(2024, 3, 10, 4, 59, 59, 999_999, tzinfo=UTC)),  # winter: 5 h behind
        ("America/New_York", datetime(2024, 3, 11, 3, 59, 59, 999_999, tzinfo=UTC)),  # summer: 4 h behind
        ("UTC", datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
    ],
)
def test_a_day_ends_at_midnight_of_the_zone(zone: str, last: datetime) -> None:
    before, after = _slices([_us(last), _us(last) + 1], time_zone=zone, slice_days=1)
    assert after - before == timedelta(days=1)


def test_a_time_that_is_missing_is_in_no_slice() -> None:
    expr = slice_expr("t", time_zone="Asia/Shanghai", slice_days=7)
    frame = pl.DataFrame({"t": [None, 0]}, schema={"t": pl.Int64}).select(expr)
    assert frame["t"].to_list() == [None, date(1970, 1, 1)]
    assert frame["t"].dtype == pl.Date


@pytest.mark.parametrize(
    ("day", "first"),
    [
        (date(1970, 1, 1), date(1970, 1, 1)),
        (date(1970, 1, 7), date(1970, 1, 1)),
        (date(1970, 1, 8), date(1970, 1, 8)),
        (date(1969, 12, 31), date(1969, 12, 25)),  # day -1 is the last of the seven before the epoch
        (date(1969, 12, 24), date(1969, 12, 18)),
    ],
)
def test_slices_are_counted_from_1970_in_both_directions(day: date, first: date) -> None:
    assert slice_of(day, slice_days=7) == first


@pytest.mark.parametrize(
    ("start", "end", "slices"),
    [
        (date(1970, 1, 8), date(1970, 1, 21), [date(1970, 1, 8), date(1970, 1, 15)]),
        (date(1970, 1, 9), date(1970, 1, 21), [date(1970, 1, 15)]),  # The first slice is cut.
        (date(1970, 1, 8), date(1970, 1, 20), [date(1970, 1, 8)]),  # The last slice is cut.
        (date(1970, 1, 2), date(1970, 1, 20), [date(1970, 1, 8)]),  # Both are cut.
        (date(1969, 12, 25), date(1970, 1, 7), [date(1969, 12, 25), date(1970, 1, 1)]),
    ],
)
def test_only_slices_that_lie_entirely_in_the_range_are_returned(
    start: date, end: date, slices: list[date]
) -> None:
    assert slices_between(start, end, slice_days=7) == slices


def test_a_day_is_a_whole_slice_of_one_day() -> None:
    leap = [date(2024, 2, 28), date(2024, 2, 29), date(2024, 3, 1)]
    assert slices_between(leap[0], leap[-1], slice_days=1) == leap
    assert slices_between(leap[1], leap[1], slice_days=1) == leap[1:2]


def test_a_range_without_a_whole_slice_is_refused() -> None:
    text = "no whole slice of 7 days lies between 1970-01-02 and 1970-01-13; widen the range"
    with pytest.raises(UserError, match=f"^{text}$"):
        slices_between(date(1970, 1, 2), date(1970, 1, 13), slice_days=7)


def test_an_end_before_the_start_is_refused() -> None:
    text = "end_day 2024-01-01 is before start_day 2024-01-02; give an end_day on or after it"
    with pytest.raises(UserError, match=f"^{text}$"):
        slices_between(date(2024, 1, 2), date(2024, 1, 1), slice_days=1)


# 18:00 of 29 February in Los Angeles, 10:00 of 1 March in Shanghai.
NOW = datetime(2024, 3, 1, 2, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "west", "east"),
    [
        ("today", date(2024, 2, 29), date(2024, 3, 1)),
        ("yesterday", date(2024, 2, 28), date(2024, 2, 29)),
        ("today-0", date(2024, 2, 29), date(2024, 3, 1)),
        ("today-1", date(2024, 2, 28), date(2024, 2, 29)),
        ("today-60", date(2023, 12, 31), date(2024, 1, 1)),  # 29 + 31 days back; 1 + 29 + 30 back
        ("2024-02-29", date(2024, 2, 29), date(2024, 2, 29)),
    ],
)
def test_a_relative_day_is_by_the_clock_of_the_time_zone(text: str, west: date, east: date) -> None:
    assert parse_day(text, time_zone="America/Los_Angeles", now=NOW.astimezone) == west
    assert parse_day(text, time_zone="Asia/Shanghai", now=NOW.astimezone) == east


def test_today_is_by_the_clock_of_the_machine() -> None:
    # These zones are 25 hours apart (Pago Pago has UTC-11, Kiritimati UTC+14).
    assert parse_day("today", time_zone="Pacific/Pago_Pago") < parse_day(
        "today", time_zone="Pacific/Kiritimati"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tomorrow",
        "Today",
        "today-",
        "today--1",
        "today+1",
        "yesterday-1",
        "2023-02-29",
        "29.02.2024",
        "20240301",
        "2024-W09-5",
    ],
)
def test_a_text_that_is_not_a_day_is_refused(text: str) -> None:
    says = f"day {text!r} is neither YYYY-MM-DD nor today, yesterday or today-N"
    with pytest.raises(UserError, match=f"^{re.escape(says)}$"):
        parse_day(text, time_zone="UTC")


def test_consecutive_slices_are_named_as_a_span() -> None:
    days = [date(2026, 1, day) for day in (1, 2, 3, 5, 7, 8)]
    assert spans(days, slice_days=1) == "2026-01-01 to 2026-01-03, 2026-01-05, 2026-01-07 to 2026-01-08"
    assert spans([date(2026, 1, 1), date(2026, 1, 31)], slice_days=30) == "2026-01-01 to 2026-01-31"
    assert spans([], slice_days=1) == ""


def test_weeks_begin_on_thursday_unless_another_day_is_given() -> None:
    january = date(2026, 1, 1)  # A Thursday.
    end = date(2026, 1, 31)
    assert slices_between(january, end, slice_days=7)[0] == january
    mondays = slices_between(january, end, slice_days=7, offset=4)
    assert mondays == [date(2026, 1, 5), date(2026, 1, 12), date(2026, 1, 19)]
    assert slice_of(date(2026, 1, 4), slice_days=7, offset=4) == date(2025, 12, 29)
    assert slice_of(date(2026, 1, 5), slice_days=7, offset=4) == date(2026, 1, 5)


@pytest.mark.parametrize(
    ("start", "end", "says"),
    [
        ((2026, 1, 1), (2026, 1, 14), ""),
        ((2025, 12, 29), (2026, 1, 14), "start_day moves from 2025-12-29 to 2026-01-01"),
        ((2026, 1, 1), (2026, 1, 20), "end_day moves from 2026-01-20 to 2026-01-14"),
        (
            (2025, 12, 29),
            (2026, 1, 19),
            "start_day moves from 2025-12-29 to 2026-01-01, end_day moves from 2026-01-19 to 2026-01-14",
        ),
    ],
)
def test_a_day_that_is_moved_to_a_whole_slice_is_said(
    start: tuple[int, int, int], end: tuple[int, int, int], says: str
) -> None:
    slices = slices_between(date(*start), date(*end), slice_days=7)
    assert slices == [date(2026, 1, 1), date(2026, 1, 8)]
    said = describe_moves(date(*start), date(*end), slices, slice_days=7)
    assert said == (f"slices of 7 days: {says}" if says else "")


def test_single_days_are_never_moved() -> None:
    start, end = date(2026, 1, 1), date(2026, 1, 3)
    assert describe_moves(start, end, slices_between(start, end, slice_days=1), slice_days=1) == ""
