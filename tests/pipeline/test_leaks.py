"""Columns that give a label away are named, and so are constants and ids that are met once; sound columns are not."""

import time

import numpy as np
import polars as pl
import pytest

from tutelage.pipeline.leaks import Suspicion, leaks, suspicious
from tutelage.pipeline.schema import Feature, Schema, Task

SCHEMA = Schema(
    features=(
        Feature(name="user", dtype="int64", capacity=10),
        Feature(name="tags", dtype="string", capacity=10, length=3),
        Feature(name="age", dtype="float32"),
    ),
    tasks=(Task(name="click", label="click"), Task(name="watch", label="seconds", kind="log1p")),
    key=("user",),
)


def _day(*, rate: float = 0.2, rows: int = 6_000, seed: int = 3) -> pl.DataFrame:
    """Sound rows: what is known before the event tells a little of the label."""
    draw = np.random.default_rng(seed)
    age = draw.normal(size=rows)
    user = draw.integers(0, 300, rows)
    odds = 1.5 * age + np.where(user % 3 == 0, 1.0, -0.5)
    click = odds + draw.logistic(size=rows) > np.quantile(odds + draw.logistic(size=rows), 1 - rate)
    return pl.DataFrame(
        {
            "user": user,
            "tags": pl.Series(draw.choice(["a", "b"], [rows, 2]).tolist()),
            "age": pl.Series(np.where(draw.random(rows) < 0.3, np.nan, age), dtype=pl.Float32).fill_nan(None),
            "click": click.astype(np.int8),
            "seconds": draw.exponential(size=rows),
        }
    )


@pytest.mark.parametrize("rate", [0.005, 0.2, 0.5])
@pytest.mark.parametrize("seed", [1, 2])
def test_sound_columns_are_not_suspicious(rate: float, seed: int) -> None:
    assert suspicious(_day(rate=rate, seed=seed), SCHEMA) == []


@pytest.mark.parametrize("rate", [0.01, 0.2, 0.5])
def test_a_number_that_follows_from_the_label_is_a_leak_whatever_its_direction(rate: float) -> None:
    frame = _day(rate=rate).with_columns(age=pl.lit(5.0) - pl.col("click") + pl.col("age").fill_null(0) / 100)
    (found,) = suspicious(frame, SCHEMA)
    assert (found.column, found.kind, found.label) == ("age", "leak", "click")
    assert found.auc is not None
    assert found.auc >= 0.99
    assert found.describe().startswith("age alone ranks click with an AUC of ")
    assert found.describe().endswith("; take it out of the features if it is known only after the event")


def test_a_number_with_positives_at_both_ends_is_a_leak() -> None:
    side = pl.when(pl.int_range(pl.len()) % 2 == 0).then(1).otherwise(-1)
    frame = _day().with_columns(age=(pl.col("click") * 10 + 1) * side)
    assert [found.column for found in leaks(frame, SCHEMA)] == ["age"]


def test_a_column_null_on_one_side_only_is_a_leak_even_if_it_is_seldom_null() -> None:
    some = pl.int_range(pl.len()) % 10 == 0
    frame = _day().with_columns(age=pl.when(some & (pl.col("click") == 0)).then(None).otherwise(1.0))
    (found,) = leaks(frame, SCHEMA)
    assert found.describe() == (
        "age is null on negatives of click only (10% of them), so it gives click away; "
        "take it out of the features if it is known only after the event"
    )
    # One null is as likely on either side.
    one = _day().with_columns(age=pl.when(pl.int_range(pl.len()) > 0).then(pl.col("age").fill_null(0.0)))
    assert leaks(one, SCHEMA) == []


def test_an_id_and_the_items_of_a_list_may_give_a_label_away() -> None:
    user = _day().with_columns(user=pl.col("click").cast(pl.Int64) * 1_000 + pl.col("user"))
    tags = _day().with_columns(tags=pl.when(pl.col("click") == 1).then(pl.lit(["seen"])).otherwise("tags"))
    assert [found.column for found in leaks(user, SCHEMA)] == ["user"]
    assert [found.column for found in leaks(tags, SCHEMA)] == ["tags"]


def test_an_id_met_once_tells_nothing_of_the_label_and_is_named_for_that() -> None:
    frame = _day().with_columns(user=pl.int_range(pl.len()))
    assert leaks(frame, SCHEMA) == []
    assert suspicious(frame, SCHEMA) == [
        Suspicion(
            column="user",
            kind="met once",
            said="has 6,000 ids in 6,000 rows, so nothing is known of an id when it is met again; "
            "take it out of the features",
        )
    ]


@pytest.mark.parametrize(("value", "what"), [(None, "is null"), (2.5, "has the same value")])
def test_a_constant_is_named(value: float | None, what: str) -> None:
    (found,) = suspicious(_day().with_columns(age=pl.lit(value, pl.Float32)), SCHEMA)
    assert (found.column, found.kind) == ("age", "constant")
    assert found.said == f"{what} in all 6,000 rows; take it out of the features, or mend its column"


def test_a_label_that_is_all_null_or_all_one_value_is_not_judged() -> None:
    for click in (pl.lit(None, pl.Int8), pl.lit(1, pl.Int8)):
        assert leaks(_day().with_columns(click=click, age=click.cast(pl.Float32)), SCHEMA) == []


def test_a_large_day_costs_no_more_than_a_sample() -> None:
    frame = _day(rows=2_000_000)
    leaks(frame[:20_000], SCHEMA)
    started = time.perf_counter()
    assert leaks(frame, SCHEMA) == []
    assert time.perf_counter() - started < 1.0
