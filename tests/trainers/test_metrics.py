"""A day's metrics by task, slice and user, by hand."""

import math

import numpy as np
import pytest

from tutelage.pipeline.schema import Feature, Schema, Task
from tutelage.trainers import metrics

TAB = Feature(name="tab", dtype="int64", capacity=4)
CLICK = Task(name="click", label="click")
WATCH = Task(name="watch", label="seconds", kind="ziln")


def test_a_slice_is_judged_on_its_own_rows() -> None:
    schema = Schema(
        features=(TAB,),
        tasks=(Task(name="watch", label="seconds", kind="log1p"),),
        key=("tab",),
    )
    rows = metrics.day_metrics(
        schema,
        np.array([[1.0], [2.0], [4.0]]),
        {"watch_log1p": np.array([1.0, 3.0, 1.0])},
        basis="day_ahead",
        slices={"tab=1": np.array([True, True, False])},
    )
    # (0 + 1 + 9) / 3 of all rows, (0 + 1) / 2 of the slice's.
    # The variances of 1, 2, 4 and of 1, 2 are 14/9 and 1/4.
    expected = [
        ("ltv_loss", "", 10 / 3, 3),
        ("relative_squared_error", "", (10 / 3) / (14 / 9), 3),
        ("rmse", "", math.sqrt(10 / 3), 3),
        ("ltv_loss", "tab=1", 1 / 2, 2),
        ("relative_squared_error", "tab=1", 2.0, 2),
        ("rmse", "tab=1", math.sqrt(1 / 2), 2),
    ]
    assert rows == [
        {
            "task": "watch",
            "metric": metric,
            "slice": part,
            "basis": "day_ahead",
            "value": pytest.approx(value),
            "rows": count,
        }
        for metric, part, value, count in expected
    ]


def test_users_add_metrics_of_their_own_rows_in_each_slice() -> None:
    rows = metrics.day_metrics(
        Schema(features=(TAB,), tasks=(CLICK, WATCH), key=("tab",)),
        np.array([[1.0, 0.0], [0.0, 5.0], [0.0, 0.0], [1.0, 2.0], [1.0, 1.0]]),
        {
            "click_logit": np.array([1.0, 0.0, 2.0, 1.0, 3.0]),
            **{name: np.ones(5) for name in WATCH.outputs},
        },
        basis="day_ahead",
        slices={"tab=1": np.array([False, True, True, True, True])},
        groups=np.array([1, 1, 2, 2, 3]),
    )
    value = {(row["task"], row["metric"], row["slice"]): row["value"] for row in rows}
    # User 1 is ordered right, user 2 wrong, user 3 has a positive only.
    assert value["click", "gauc", ""] == pytest.approx((2 * 1 + 2 * 0) / 4)
    assert value["click", "ndcg@10", ""] == pytest.approx((1 + 1 / math.log2(3) + 1) / 3)
    # The slice has of user 1 the negative only.
    assert value["click", "gauc", "tab=1"] == 0
    assert value["click", "ndcg@10", "tab=1"] == pytest.approx((1 / math.log2(3) + 1) / 2)
    assert list(dict.fromkeys((task, metric) for task, metric, _ in value)) == [
        *(("click", m) for m in ("auc", "pr_auc", "log_loss", "normalized_entropy", "calibration")),
        ("click", "gauc"),
        ("click", "ndcg@10"),
        *(("watch", m) for m in ("ltv_loss", "relative_squared_error", "ziln_nll", "rmse", "calibration")),
    ]


def test_a_zero_inflated_value_is_judged_by_its_expectation_in_its_own_unit() -> None:
    # P(Y > 0) is 1/2 and exp(σ²/2) is 2: 1 second is expected of each row.
    sigma = math.sqrt(2 * math.log(2))
    outputs = dict(zip(WATCH.outputs, np.array([[0.0, 0.0], [0.0, 0.0], [sigma, sigma]]), strict=True))
    found = metrics.task_metrics(WATCH, np.array([0.0, 3.0]), outputs)
    assert found["rmse"] == pytest.approx(math.sqrt((1 + 4) / 2))
    assert found["calibration"] == pytest.approx((1 + 1) / 3)
    density = 1 / (3 * sigma * math.sqrt(2 * math.pi)) * math.exp(-(math.log(3) ** 2) / (2 * sigma**2))
    assert found["ziln_nll"] == pytest.approx(-(math.log(1 / 2) + math.log(1 / 2 * density)) / 2)
    nothing = metrics.task_metrics(WATCH, np.zeros(2), outputs)
    assert math.isnan(nothing["calibration"])
    assert math.isnan(nothing["relative_squared_error"])


def test_ltv_loss_of_a_zero_inflated_value_is_on_the_log1p_scale() -> None:
    # Hardly any spread around 3: log1p(Y) is log 4 or 0, by halves, so log 2 is expected.
    outputs = dict(zip(WATCH.outputs, np.array([[0.0] * 2, [math.log(3)] * 2, [1e-6] * 2]), strict=True))
    found = metrics.task_metrics(WATCH, np.array([0.0, 3.0]), outputs)
    # Of 0 and log 4, log 2 is the mean.
    assert found["ltv_loss"] == pytest.approx(math.log(2) ** 2)
    assert found["relative_squared_error"] == pytest.approx(1)


def test_a_served_score_is_a_probability_an_expectation_or_the_log1p_itself() -> None:
    raw = {"click_logit": [math.log(3)], "watch_logit": [0.0], "watch_mu": [1.0], "watch_sigma": [2.0]}
    outputs = {name: np.array(values, np.float32) for name, values in {**raw, "share_log1p": [0.5]}.items()}
    assert metrics.served_score(CLICK, outputs) == pytest.approx([3 / 4])
    assert metrics.served_score(WATCH, outputs) == pytest.approx([math.exp(1 + 2**2 / 2) / 2])
    share = Task(name="share", label="share", kind="log1p")
    assert metrics.served_score(share, outputs).dtype == np.float64
    assert metrics.served_score(share, outputs) == [0.5]
