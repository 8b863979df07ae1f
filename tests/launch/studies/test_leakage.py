"""Leakage: 0 for a student that took over nothing, 1 for one that took over all of its teacher's error."""

import dataclasses
import math
from datetime import date
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from tutelage.launch.studies.leakage import calibration_sums, leakage
from tutelage.launch.studies.statistics import Arm
from tutelage.pipeline.schema import Downsampling, Feature, Schema, Task

DAY, NEXT = date(2024, 5, 1), date(2024, 5, 2)
ARMS = [
    Arm(study="1 s", name="none", baseline=None),
    Arm(study="1 s", name="kd", baseline="none"),
    Arm(study="1 s", name="kd", baseline="other"),
]
SCHEMA = Schema(
    features=(Feature(name="user_id", dtype="int64", capacity=8),),
    tasks=(Task(name="click", label="click"), Task(name="watch", label="seconds", kind="log1p")),
    key=("user_id",),
    user="user_id",
)


def _sums(arm: str, seed: int = 1, day: date = DAY, **columns: Any) -> pl.DataFrame:
    """Return the sums of an arm, a bucket per element of the columns; all that is not given is 1."""
    buckets = max(np.size(values) for values in columns.values())
    given = dict.fromkeys(("rows", "predicted", "predicted_teacher", "observed"), 1.0) | columns
    frame = {name: np.broadcast_to(np.asarray(values, float), buckets) for name, values in given.items()}
    key = {"arm": arm, "seed": seed, "task": "click", "day": day, "cut": "activity"}
    return pl.DataFrame({"bucket": range(buckets), **frame}).with_columns(
        **{name: pl.lit(value) for name, value in key.items()}
    )


def _values(*sums: pl.DataFrame) -> dict[str, float]:
    found = leakage(pl.concat(sums), ARMS[:2], seed=1)
    assert set(found.select("arm", "task").iter_rows()) <= {("kd", "click")}
    return dict(found.select("metric", "value").iter_rows())


def test_the_slope_is_weighted_by_the_rows_of_the_buckets() -> None:
    # The teacher's log calibration is 1 and -1, the arm's lead over its baseline 1 and 1:
    # (3 · 1 · 1 + 1 · -1 · 1) / (3 · 1 + 1 · 1) = 1/2
    kd = _sums("kd", rows=[3, 1], predicted=math.e, predicted_teacher=[math.e, 1 / math.e])
    assert _values(_sums("none", predicted=[1, 1]), kd) == {"leakage": pytest.approx(0.5)}


def test_it_is_1_for_a_calibrated_student_that_becomes_its_teacher_and_0_for_one_that_stays_as_it_is() -> (
    None
):
    observed, teacher = np.array([2.0, 5.0, 4.0]), np.array([3.0, 5.5, 8.0])
    none = _sums("none", predicted=observed)
    for predicted, expected in ((teacher, 1.0), (observed, 0.0)):
        kd = _sums("kd", predicted=predicted, predicted_teacher=teacher, observed=observed)
        assert _values(none, kd) == {"leakage": pytest.approx(expected)}


def test_a_placebo_has_none_although_all_models_are_off_where_labels_happen_to_be_rare() -> None:
    random = np.random.default_rng(0)
    frames, arms, old = [], [], []
    for i in range(200):
        observed = random.poisson(100, 20)
        for seed in range(5):
            teacher, none, placebo = 100 * np.exp(0.02 * random.standard_normal((3, 20)))
            shared = {"predicted_teacher": teacher, "observed": observed}
            frames.append(_sums(f"none{i}", seed, predicted=none, **shared))
            frames.append(_sums(f"kd{i}", seed, predicted=placebo, **shared))
            x, y = np.log(teacher / observed), np.log(placebo / observed)
            old.append(np.sum(x * y) / np.sum(x * x))
        arms.append(Arm(study="1 s", name=f"kd{i}", baseline=f"none{i}"))
    found = leakage(pl.concat(frames), arms, seed=1).pivot(on="metric", index="arm", values="value")
    # The errors of student and teacher agree: comparing them without the baseline would look like leakage.
    assert np.mean(old) > 0.9
    assert abs(found["leakage"].mean()) < 0.01  # type: ignore[operator, arg-type]
    covered = ((found["leakage_low"] < 0) & (found["leakage_high"] > 0)).mean()
    assert 0.91 <= covered <= 0.985  # type: ignore[operator]  # of 200 cases, 95 % ± 1.5 % (one standard deviation)


def test_the_interval_is_student_s_t_over_seeds() -> None:
    slopes = [0.1, 0.3, 0.2, 0.6, 0.3]
    frames = []
    for seed, slope in enumerate(slopes):
        kd = {"predicted": math.exp(slope), "predicted_teacher": math.e}
        frames += [_sums("none", seed, predicted=[1, 1]), _sums("kd", seed, rows=[1, 1], **kd)]
    found = _values(*frames)
    assert found["leakage"] == pytest.approx(0.3)
    low, high = stats.t.interval(0.95, 4, loc=0.3, scale=stats.sem(slopes))
    assert [found["leakage_low"], found["leakage_high"]] == pytest.approx([low, high], abs=0.05)


def test_buckets_are_summed_over_the_days_that_the_teacher_labelled() -> None:
    # Of the second day the arm has no sums, as its teacher made no labels then.
    none = [_sums("none", predicted=[1.0]), _sums("none", day=NEXT, predicted=[77.0])]
    kd = _sums("kd", predicted=[math.e], predicted_teacher=math.e)
    assert _values(*none, kd) == {"leakage": pytest.approx(1.0)}
    both = [_sums("kd", day=NEXT, predicted=[77.0], predicted_teacher=7.0), kd]
    # y = log((e + 77) / 78), x = log((e + 7) / 2)
    expected = math.log((math.e + 77) / 78) / math.log((math.e + 7) / 2)
    assert _values(*none, *both) == {"leakage": pytest.approx(expected)}


def test_a_bucket_without_a_ratio_is_left_out_and_a_teacher_that_is_nowhere_off_has_no_leakage() -> None:
    none = _sums("none", predicted=[1, 1])
    kd = _sums("kd", predicted=math.e, predicted_teacher=[math.e, 2.0], observed=[1.0, 0.0])
    assert _values(none, kd) == {"leakage": pytest.approx(1.0)}
    assert _values(none, _sums("kd", predicted=[2, 3])) == {}


def test_an_arm_with_two_baselines_is_compared_with_the_first() -> None:
    kd = _sums("kd", predicted=[math.e], predicted_teacher=math.e)
    sums = pl.concat([_sums("none", predicted=[1.0]), _sums("other", predicted=[math.e]), kd])
    assert leakage(sums, ARMS, seed=1)["value"].to_list() == [pytest.approx(1.0)]


ROWS = pl.DataFrame(
    {
        "example_id": [1, 2, 3, 4],
        "day": [DAY, DAY, DAY, NEXT],
        "user_id": [1, 1, 2, 2],
        "click": [1, 0, 1, 0],
        "activity_bucket": [0, 0, 1, 1],
        "popularity_bucket": [5, 6, 6, 6],
    }
)


def test_sums_are_of_the_arm_and_of_its_teacher_by_day_and_bucket() -> None:
    # In another order than the rows: p of the arm is 1/2, 3/4, 1/2, 1/2; the teacher's is 3/4, 1/4, 3/4.
    own = pl.DataFrame({"example_id": [4, 3, 2, 1], "click_logit": [0.0, 0.0, math.log(3), 0.0]})
    teacher = pl.DataFrame({"example_id": [3, 2, 1], "click_logit": [math.log(3), -math.log(3), math.log(3)]})
    found = calibration_sums(ROWS, predictions=own, teacher=teacher, schema=SCHEMA)
    assert set(found.select("task", "day").iter_rows()) == {
        ("click", DAY)
    }  # The teacher scored no other day.
    numbers = found.select("cut", "bucket", "rows", "predicted", "predicted_teacher", "observed")
    assert [row[:2] for row in numbers.rows()] == [
        ("activity", 0),
        ("activity", 1),
        ("popularity", 5),
        ("popularity", 6),
    ]
    np.testing.assert_allclose(
        [row[2:] for row in numbers.rows()],
        [(2, 1.25, 1.0, 1), (1, 0.5, 0.75, 1), (1, 0.5, 0.75, 1), (2, 1.25, 1.0, 1)],
        rtol=1e-6,
    )


def test_a_row_of_a_downsampled_table_has_the_weight_of_the_rows_it_represents() -> None:
    schema = dataclasses.replace(SCHEMA, downsampling=Downsampling(task="click"))
    rows = ROWS.with_columns(sampling_rate=pl.Series([None, 0.5, None, 0.25]))
    scores = pl.DataFrame({"example_id": [1, 2, 3, 4], "click_logit": [0.0, math.log(3), 0.0, 0.0]})
    found = calibration_sums(rows, predictions=scores, teacher=scores, schema=schema)
    assert found.filter(day=NEXT).select("rows", "predicted", "predicted_teacher").row(0) == (4, 2, 2)


def test_there_are_no_sums_where_the_teacher_scored_nothing() -> None:
    scores = pl.DataFrame({"example_id": [1, 2, 3, 4], "click_logit": [0.0, 0.0, 0.0, 0.0]})
    found = calibration_sums(ROWS, predictions=scores, teacher=scores.clear(), schema=SCHEMA)
    assert found.is_empty()
    assert found.columns == [
        "task",
        "day",
        "cut",
        "bucket",
        "rows",
        "predicted",
        "predicted_teacher",
        "observed",
    ]
