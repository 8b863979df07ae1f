"""The quality gate: what passes, what fails, and that a failure states both values."""

import re
from collections.abc import Mapping, Sequence

import polars as pl
import pytest

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.quality import QualityConfig, judge
from tutelage.pipeline.schema import STATISTICS, Feature, Schema, Task

SCHEMA = Schema(
    features=(Feature(name="user", dtype="int64", capacity=10), Feature(name="age", dtype="float32")),
    tasks=(Task(name="click", label="click"), Task(name="watch", label="seconds", kind="log1p")),
    key=("user",),
)
ROWS = 10_000
# 5 standard errors of the rate: 5 · .3 / √10,000 = .015; of the seconds: 5 · 30 / √10,000 = 1.5.
GOOD: dict[str, dict[str, object]] = {
    "user": {"nulls": 0, "drift": 0.1, "new_ids": 0.2},
    "age": {"nulls": 500, "not_finite": 0, "mean": 40.0, "sd": 10.0, "drift": 0.01},
    "click": {"nulls": 0, "not_finite": 0, "mean": 0.1, "sd": 0.3, "drift": 0.001},
    "seconds": {"nulls": 0, "not_finite": 0, "mean": 20.0, "sd": 30.0, "drift": 0.02},
}
CONFIG = QualityConfig(min_days=2)


def _day(rows: int = ROWS, **changes: Mapping[str, object]) -> pl.DataFrame:
    values = [{"column": c, "rows": rows, **row, **changes.get(c, {})} for c, row in GOOD.items()]
    return pl.DataFrame(values, schema=pl.DataFrame(STATISTICS.empty_table()).schema, strict=False)


# Rates of .1 and .12, as on the days of a week.
BEFORE = [_day(), _day(12_000, click={"mean": 0.12}, user={"new_ids": 0.3}, age={"nulls": 0})]


def _said(day: pl.DataFrame, before: Sequence[pl.DataFrame] = BEFORE, differences: Sequence[str] = ()) -> str:
    return str(judge(SCHEMA, day, before, CONFIG, differences=differences))


@pytest.mark.parametrize(
    "day",
    [
        _day(),
        _day(24_000),
        _day(5_000),
        _day(age={"nulls": 1_400}),
        _day(click={"mean": 0.25}),
        _day(click={"mean": 0.04}),
        _day(user={"new_ids": 0.54, "drift": 0.29}),
        _day(age={"drift": 0.24}),
        _day(age={"mean": None, "drift": None}, click={"mean": None}),
    ],
)
def test_a_day_within_the_margins_around_the_days_before_passes(day: pl.DataFrame) -> None:
    assert _said(day) == "pass"


@pytest.mark.parametrize(
    ("day", "message"),
    [
        (_day(24_001), "rows is 24001, 24000 is the bound"),
        (_day(4_999), "rows is 4999, 5000 is the bound"),
        (_day(user={"nulls": ROWS}), "nulls of user is 1, 0.1 is the bound"),
        (_day(age={"nulls": 1_501}), "nulls of age is 0.1501, 0.15 is the bound"),
        (_day(age={"not_finite": 11}), "share of age that is not finite is 0.0011, 0.001 is the bound"),
        # The bounds are twice .12 plus five standard errors, and half of .1 minus five.
        (_day(click={"mean": 1.0}), "mean of click is 1, 0.255 is the bound"),
        (_day(click={"mean": 0.0}), "mean of click is 0, 0.035 is the bound"),
        (_day(seconds={"mean": 42.0}), "mean of seconds is 42, 41.5 is the bound"),
        (_day(user={"new_ids": 0.56}), "new ids of user is 0.56, 0.55 is the bound"),
        (_day(user={"drift": 0.31}), "drift of user is 0.31, 0.3 is the bound"),
        (_day(age={"drift": 0.26}), "drift of age is 0.26, 0.25 is the bound"),
        (_day(seconds={"drift": 0.26}), "drift of seconds is 0.26, 0.25 is the bound"),
        (
            _day(age={"nulls": ROWS}, click={"mean": 1.0}),
            "nulls of age is 1, 0.15 is the bound; mean of click is 1, 0.255 is the bound",
        ),
    ],
)
def test_a_day_past_a_bound_fails_with_both_values(day: pl.DataFrame, message: str) -> None:
    assert _said(day) == f"fail; {message}"


def test_a_column_that_drifted_far_before_may_drift_twice_as_far() -> None:
    before = [_day(user={"drift": 0.4}), _day(user={"drift": 0.35})]
    assert _said(_day(user={"drift": 0.8}), before) == "pass"
    assert _said(_day(user={"drift": 0.81}), before) == "fail; drift of user is 0.81, 0.8 is the bound"


def test_the_first_days_are_only_judged_by_their_columns_nulls_and_finiteness() -> None:
    wild = _day(9, click={"mean": 1.0}, user={"drift": 0.9, "new_ids": 1.0}, age={"nulls": 8})
    assert _said(wild, BEFORE[:1]) == "first"
    assert _said(_day(age={"nulls": ROWS}), []) == "fail; nulls of age is 1, 0.9999 is the bound"
    assert _said(_day(age={"not_finite": 10}), []) == "first"
    assert _said(_day(age={"not_finite": 11}), []).startswith(
        "fail; share of age that is not finite is 0.0011"
    )
    differs = ["age of part 3 is missing, expected Float32"]
    assert _said(_day(), [], differs) == f"fail; columns that differ: {differs[0]}"


def test_a_column_that_has_always_been_all_null_may_stay_so() -> None:
    empty = _day(age={"nulls": ROWS})
    assert _said(empty, [empty, empty]) == "pass"


def test_a_check_states_what_it_compares_with() -> None:
    checks = {check.name: check for check in judge(SCHEMA, _day(4_000), BEFORE, CONFIG).checks}
    assert (checks["rows"].value, checks["rows"].reference, checks["rows"].bound) == (4_000, 10_000, 5_000)
    assert checks["mean of click"].passed


def test_a_column_that_the_days_before_lack_is_not_compared() -> None:
    before = [day.filter(pl.col("column") != "age") for day in BEFORE]
    assert _said(_day(age={"nulls": 9_000, "drift": None}), before) == "pass"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"trailing_days": 0}, "quality: trailing_days is 0, expected at least 1"),
        ({"min_days": 8}, "quality: min_days is 8, expected at most trailing_days, 7"),
        ({"rate_ratio": 0.5}, "quality: rate_ratio is 0.5, expected a number of at least 1"),
        ({"nulls_rise": -0.1}, "quality: nulls_rise is -0.1, expected a number of at least 0"),
        ({"id_drift": float("nan")}, "quality: id_drift is nan, expected a number of at least 0"),
    ],
)
def test_a_threshold_out_of_range_is_refused(fields: dict[str, float], says: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(says)}$"):
        QualityConfig(**fields)  # type: ignore[arg-type]
