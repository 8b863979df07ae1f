"""The data gate: what passes, what fails, and that a failure says by how much, on how many rows, and what to change."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from tutelage.pipeline.alarms import AlarmBudget
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.quality import FIELDS, QualityConfig, judge, scalars
from tutelage.pipeline.schema import STATISTICS, Feature, Schema, Task
from tutelage.pipeline.verdict import Verdict

SCHEMA = Schema(
    features=(Feature(name="user", dtype="int64", capacity=10), Feature(name="age", dtype="float32")),
    tasks=(Task(name="click", label="click"), Task(name="watch", label="seconds", kind="log1p")),
    key=("user",),
)
FIRST = date(2026, 1, 5)  # A Monday.
ROWS = 10_000
GOOD: dict[str, dict[str, object]] = {
    "user": {"nulls": 0, "distinct": 900, "drift": 0.1, "drift_rest": 0.1, "new_ids": 0.2, "mix": 1e-4},
    "age": {"nulls": 500, "not_finite": 0, "absurd": 0, "mean": 40.0, "sd": 10.0, "drift": 0.01},
    "click": {"nulls": 0, "not_finite": 0, "mean": 0.1, "sd": 0.3, "drift": 0.001},
    "seconds": {"nulls": 0, "not_finite": 0, "mean": 20.0, "sd": 30.0, "drift": 0.02},
}
CONFIG = QualityConfig()
# With 27 tests of a year's false alarm, 4.7 standard errors are chance where the days do not differ: their errors are
# known. Of so many rows, that is .0042 of a rate of .1, .141 of the seconds.
WITHIN = 4.7


def _day(rows: int = ROWS, **changes: Mapping[str, object]) -> pl.DataFrame:
    values = [
        {"column": c, "rows": rows, "repeats": 0.01, **row, **changes.get(c, {})} for c, row in GOOD.items()
    ]
    return pl.DataFrame(values, schema=pl.DataFrame(STATISTICS.empty_table()).schema, strict=False)


def _judge(
    day: pl.DataFrame,
    before: Sequence[pl.DataFrame],
    config: QualityConfig = CONFIG,
    *,
    slice_days: int = 1,
    accepted: Collection[int] = (),
    differences: Sequence[str] = (),
) -> Verdict:
    days = [FIRST + timedelta(days=slice_days * n) for n in range(len(before) + 1)]
    schema = replace(SCHEMA, slice_days=slice_days)
    return judge(
        schema,
        (days[-1], scalars(SCHEMA, day)),
        {day: scalars(SCHEMA, frame) for day, frame in zip(days, before, strict=False)},
        config,
        alarms=AlarmBudget(per_year=1.0, slice_days=slice_days),
        accepted=[days[n] for n in accepted],
        differences=differences,
    )


def _failed(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.checks if not check.passed]


WEEK = [_day()] * 8


@pytest.mark.parametrize(
    "day",
    [
        _day(),
        _day(20_000),
        _day(5_001),
        _day(age={"nulls": 1_490}),
        # Odds of .1 are .111; twice that is a rate of .182, half of that .053.
        _day(click={"mean": 0.18}),
        _day(click={"mean": 0.055}),
        _day(seconds={"mean": 39.0}),
        _day(user={"new_ids": 0.44, "drift_rest": 0.29}),
        _day(age={"drift": 0.24}),
        _day(age={"mean": None, "drift": None}, click={"mean": None}),
    ],
)
def test_a_day_within_the_smallest_change_that_matters_passes(day: pl.DataFrame) -> None:
    assert _judge(day, WEEK).verdict == "pass"


@pytest.mark.parametrize(
    ("day", "message"),
    [
        (_day(20_010), "rows: 20010 on 20,010 rows, 10000 is expected and 20000 the bound: "),
        (_day(4_990), "rows: 4990 on 4,990 rows, 10000 is expected and 5000 the bound: "),
        (_day(user={"nulls": ROWS}), "nulls of user: 1 on 10,000 rows, 0 is expected and 0.1 the bound: "),
        (_day(age={"nulls": 1_501}), "nulls of age: 0.1501 on 10,000 rows, 0.05 is expected and 0.15 the"),
        (_day(click={"mean": 0.19}), "mean of click: 0.19 on 10,000 rows, 0.1 is expected and 0.181818 the"),
        (_day(click={"mean": 0.05}), "mean of click: 0.05 on 10,000 rows, 0.1 is expected and 0.0526316 the"),
        (_day(seconds={"mean": 41.0}), "mean of seconds: 41 on 10,000 rows, 20 is expected and 40 the bound"),
        (_day(user={"new_ids": 0.46}), "new ids of user: 0.46 on 10,000 rows, 0.2 is expected and 0.45 the"),
        (_day(user={"drift_rest": 0.31}), "drift of user but for one value: 0.31 on 10,000 rows, 0.1 is"),
        (
            _day(age={"drift": 0.26}),
            "drift of age: 0.26 on 9,500 rows, 0.01 is expected and 0.25 the bound: ",
        ),
        (_day(seconds={"drift": 0.26}), "drift of seconds: 0.26 on 10,000 rows, 0.02 is expected and 0.25"),
        (_day(user={"distinct": 1}), "values of user: one in all 10,000 rows, of which at least 899 are"),
        (
            _day(click={"mean": 0.0, "sd": 0.0}),
            "values of click: one in all 10,000 rows, of which at least 1",
        ),
    ],
)
def test_a_day_past_a_bound_fails_with_what_was_expected(day: pl.DataFrame, message: str) -> None:
    said = str(_judge(day, WEEK))
    assert said.startswith("fail; ")
    assert message in said


def test_a_failure_says_by_how_many_standard_errors_and_which_field_to_change() -> None:
    # The error of a rate is the larger of that of .5 and that of .1: sqrt(.5 · .5 / 10,000) = .005.
    said = str(_judge(_day(click={"mean": 0.5, "sd": 0.5}), WEEK))
    assert said == (
        "fail; mean of click: 0.5 on 10,000 rows, 0.1 is expected and 0.181818 the bound: 80.0 standard errors "
        "(quality.rate_ratio)"
    )


def test_what_so_few_rows_may_do_by_chance_passes() -> None:
    # Two clicks of 500 rows are expected, and nine are three times their own error away.
    few = {"mean": 0.004, "sd": 0.063}
    before = [_day(500, click=few)] * 8
    assert _judge(_day(500, click={"mean": 0.018, "sd": 0.133}), before).verdict == "pass"
    assert _failed(_judge(_day(500, click={"mean": 0.4, "sd": 0.49}), before)) == ["mean of click"]
    # The same rates of 50,000 rows are no chance.
    before = [_day(50_000, click=few)] * 8
    assert _failed(_judge(_day(50_000, click={"mean": 0.018, "sd": 0.133}), before)) == ["mean of click"]


def test_a_column_that_differs_from_day_to_day_has_more_room() -> None:
    rates = (0.05, 0.15, 0.08, 0.2, 0.06, 0.12, 0.18, 0.1)
    before = [_day(click={"mean": rate}) for rate in rates]
    # Their median is .11; they are .05 from it, and 6.5 times that is chance where eight days tell the spread.
    assert _judge(_day(click={"mean": 0.4, "sd": 0.49}), before).verdict == "pass"
    assert _failed(_judge(_day(click={"mean": 0.99, "sd": 0.1}), before)) == ["mean of click"]


def _weekly(days: int, saturday: int = 5) -> list[pl.DataFrame]:
    return [_day(ROWS * (saturday if n % 7 == 5 else 1)) for n in range(days)]


@pytest.mark.parametrize("days", range(3, 40))
def test_a_weekly_rhythm_gives_no_false_stop_from_the_first_week_on(days: int) -> None:
    *before, day = _weekly(days + 1)
    assert _judge(day, before).verdict == "pass"


def test_a_weekday_is_compared_with_its_like_once_there_are_three() -> None:
    before = _weekly(26)  # The next day is the fourth Saturday.
    assert _failed(_judge(_day(2 * ROWS), before)) == ["rows"]
    # The day after it is a Sunday.
    assert _failed(_judge(_day(5 * ROWS), _weekly(27))) == ["rows"]
    # Of two Saturdays nothing is known yet.
    assert _judge(_day(2 * ROWS), _weekly(19)).verdict == "pass"


def test_slices_of_a_week_have_no_weekday() -> None:
    assert _failed(_judge(_day(2 * ROWS + 10), WEEK, slice_days=7)) == ["rows"]
    assert _failed(_judge(_day(2 * ROWS + 10), WEEK[:3], slice_days=7)) == ["rows"]


def test_one_odd_day_among_four_weeks_hides_nothing() -> None:
    before = [_day(click={"mean": 0.9 if n == 20 else 0.1}) for n in range(28)]
    assert _failed(_judge(_day(click={"mean": 0.4, "sd": 0.49}), before)) == ["mean of click"]


def test_the_first_days_are_only_judged_by_their_columns_nulls_and_numbers() -> None:
    wild = _day(9, click={"mean": 1.0}, user={"drift": 0.9, "new_ids": 1.0}, age={"nulls": 8})
    assert _judge(wild, WEEK[:2]).verdict == "first"
    assert str(_judge(_day(age={"nulls": ROWS}), [])) == (
        "fail; nulls of age: all 10,000 rows (quality.nulls_rise)"
    )
    assert _judge(_day(age={"not_finite": 10}), []).verdict == "first"
    differs = ["age of part 3 is missing, expected Float32"]
    assert str(_judge(_day(), [], differences=differs)) == f"fail; columns that differ: {differs[0]}"
    # Rates are compared before there is a week.
    assert _failed(_judge(_day(click={"mean": 0.9, "sd": 0.3}), WEEK[:3])) == ["mean of click"]
    assert _judge(_day(5 * ROWS, user={"drift_rest": 0.9, "new_ids": 1.0}), WEEK[:3]).verdict == "pass"


def test_numbers_that_count_as_missing_fail_past_a_share_with_an_example() -> None:
    absurd = {"absurd": 11, "min": -3e38, "max": 40.0}
    assert str(_judge(_day(age=absurd), WEEK)) == (
        "fail; share of age that is beyond ±1e+06: 0.0011, 11, such as -3e+38, of 10,000 rows, and 0.001 is the bound "
        "(quality.not_finite)"
    )
    assert str(_judge(_day(age={"not_finite": 11}), [])) == (
        "fail; share of age that is not finite: 0.0011, 11 of 10,000 rows, and 0.001 is the bound (quality.not_finite)"
    )
    assert _judge(_day(age={"not_finite": 10, "absurd": 10}), WEEK).verdict == "pass"


def test_events_that_arrive_twice_are_found_where_few_rows_are_alike() -> None:
    def day(repeats: float) -> pl.DataFrame:
        return _day().with_columns(repeats=pl.lit(repeats))

    assert _failed(_judge(day(0.505), WEEK)) == ["rows that repeat another but for the key"]
    # Where nine of ten rows repeat another in any case, twice the events are .95.
    assert _judge(day(0.95), [day(0.9)] * 8).verdict == "pass"


def test_one_video_that_everybody_watches_excuses_what_depends_on_it_and_no_id_column() -> None:
    viral: dict[str, object] = {"mix": 0.5, "drift": 0.6, "drift_rest": 0.15, "new_ids": 0.25}
    ages = [_day(age={"drift": 0.01 * (1 + n % 3)}) for n in range(21)]
    assert _judge(_day(user=viral, age={"drift": 1.5}), ages).verdict == "pass"
    assert _failed(_judge(_day(age={"drift": 1.5}), ages)) == ["drift of age"]
    swapped = {**viral, "mix": 0.02, "drift_rest": 0.8, "new_ids": 1.0}
    assert _failed(_judge(_day(user=swapped), WEEK)) == ["new ids of user", "drift of user but for one value"]


def test_a_drift_may_be_twice_what_is_expected() -> None:
    before = [_day(user={"drift_rest": 0.4})] * 8
    assert _judge(_day(user={"drift_rest": 0.79}), before).verdict == "pass"
    assert _failed(_judge(_day(user={"drift_rest": 0.81}), before)) == ["drift of user but for one value"]


def test_what_an_accepted_day_had_may_come_again() -> None:
    sale = _day(click={"mean": 0.4, "sd": 0.49})
    before = [*[_day()] * 27, sale]
    assert _failed(_judge(sale, before)) == ["mean of click"]
    assert _judge(sale, before, accepted=[27]).verdict == "pass"
    assert _failed(_judge(_day(click={"mean": 0.9, "sd": 0.3}), before, accepted=[27])) == ["mean of click"]


def _drifting(days: int, *, since: int, step: float, column: str, start: float) -> list[pl.DataFrame]:
    """Days with a little noise, of which the mean of a column moves by `step` a day after `since` days."""
    noise = np.random.default_rng(5).normal(scale=abs(step) / 4, size=days)
    means = [start + step * max(0, n + 1 - since) + noise[n] for n in range(days)]
    return [_day(**{column: {"mean": mean}}) for mean in means]


@pytest.mark.parametrize(
    ("column", "start", "step", "latest"),
    [("age", 40.0, 1.0, 9), ("age", 40.0, -0.5, 16), ("click", 0.1, 0.01, 13)],
)
def test_a_slow_drift_is_found_though_no_day_differs_much_from_the_one_before(
    column: str, start: float, step: float, latest: int
) -> None:
    days = _drifting(60, since=30, step=step, column=column, start=start)
    failed = [_failed(_judge(days[n], days[:n])) for n in range(30 + latest + 1)]
    first = next(n for n, names in enumerate(failed) if names)
    assert 30 < first <= 30 + latest
    assert all(name.startswith(f"weekly mean of {column} over ") for name in failed[first])


def test_a_slow_drift_starts_anew_with_an_accepted_day() -> None:
    days = _drifting(60, since=30, step=1.0, column="age", start=40.0)
    assert _failed(_judge(days[40], days[:40]))
    assert _judge(days[41], days[:41], accepted=[40]).verdict == "pass"


@pytest.mark.parametrize("step", [0.2, 2.0])
def test_a_trend_that_was_always_there_is_no_slow_drift(step: float) -> None:
    days = _drifting(60, since=0, step=step, column="age", start=40.0)
    assert all(_judge(days[n], days[:n]).blessed for n in range(60))


def test_nulls_that_rise_slowly_are_found() -> None:
    days = [_day(age={"nulls": 500 + 100 * max(0, n - 30)}) for n in range(60)]
    first = next(n for n in range(60) if not _judge(days[n], days[:n]).blessed)
    assert _failed(_judge(days[first], days[:first])) == ["weekly nulls of age over 14 days"]
    # Nulls rose by .01 a day from day 31 on, so that a week's mean has risen by .12 on day 45, and by .11 on day 44:
    # chance and the smallest change that matters lie between.
    assert first == 45


def test_a_column_that_has_always_been_all_null_may_stay_so() -> None:
    empty = _day(age={"nulls": ROWS, "mean": None, "sd": None, "drift": None})
    assert _judge(empty, [empty] * 8).verdict == "pass"


def test_a_column_or_a_field_that_the_days_before_lack_is_not_compared() -> None:
    before = [day.filter(pl.col("column") != "age") for day in WEEK]
    assert _judge(_day(age={"nulls": 9_000, "drift": None}), before).verdict == "pass"
    old = [day.drop("repeats", "mix", "absurd", "drift_rest") for day in WEEK]
    assert _judge(_day().with_columns(repeats=pl.lit(0.9)), old).verdict == "pass"


def test_a_check_states_what_it_compares_with() -> None:
    checks = {check.name: check for check in _judge(_day(4_000), WEEK).checks}
    assert (checks["rows"].value, checks["rows"].reference) == pytest.approx((4_000, 10_000))
    assert checks["rows"].bound == pytest.approx(5_000)
    assert checks["mean of click"].passed


def test_scalars_follow_the_schema_and_not_the_table() -> None:
    found = scalars(SCHEMA, _day().reverse())
    assert found.shape == (len(FIELDS), 4)
    assert found[FIELDS.index("mean")].tolist() == pytest.approx([np.nan, 40.0, 0.1, 20.0], nan_ok=True)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"trailing_days": 0}, "quality: trailing_days is 0, expected at least 1"),
        ({"min_days": 8}, "quality: min_days is 8, expected at most trailing_days, 7"),
        ({"rate_ratio": 0.5}, "quality: rate_ratio is 0.5, expected a number of at least 1"),
        ({"nulls_rise": -0.1}, "quality: nulls_rise is -0.1, expected a number of at least 0"),
        ({"repeats_rise": -0.1}, "quality: repeats_rise is -0.1, expected a number of at least 0"),
        ({"id_drift": float("nan")}, "quality: id_drift is nan, expected a number of at least 0"),
    ],
)
def test_a_threshold_out_of_range_is_refused(fields: dict[str, float], says: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(says)}$"):
        QualityConfig(**fields)  # type: ignore[arg-type]
