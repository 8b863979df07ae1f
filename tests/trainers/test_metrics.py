"""Metrics against scikit-learn and by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score
from sklearn.metrics import log_loss as sklearn_log_loss

from tutelage.models import ziln
from tutelage.pipeline.schema import Feature, Schema, Task
from tutelage.trainers import metrics

TAB = Feature(name="tab", dtype="int64", capacity=4)
CLICK = Task(name="click", label="click")
WATCH = Task(name="watch", label="seconds", kind="ziln")


def _rows(count: int, *, users: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(label, score, user) [count] in no order, a user having more or fewer rows, many scores tied."""
    rng = np.random.default_rng(3)
    label = rng.integers(0, 2, count).astype(np.float32)
    return label, np.round(rng.normal(size=count), 1).astype(np.float32), rng.integers(0, users, count)


def test_auc_pr_auc_and_log_loss_agree_with_scikit_learn_with_ties_too() -> None:
    rng = np.random.default_rng(1)
    label = rng.integers(0, 2, 2000).astype(np.float32)
    logit = np.round(rng.normal(size=2000) + label, 1).astype(np.float32)
    assert metrics.auc(label, logit) == pytest.approx(roc_auc_score(label, logit), abs=1e-12)
    assert metrics.pr_auc(label, logit) == pytest.approx(average_precision_score(label, logit), abs=1e-12)
    expected = sklearn_log_loss(label, metrics.sigmoid(logit))
    assert metrics.log_loss(label, logit) == pytest.approx(expected, rel=1e-9)


def test_auc_of_one_class_is_no_number() -> None:
    assert math.isnan(metrics.auc(np.ones(3), np.arange(3.0)))
    assert math.isnan(metrics.auc(np.zeros(3), np.arange(3.0)))


def test_a_pair_of_equal_scores_is_half_a_win() -> None:
    # Of the pairs (2, 1), (2, 2), (3, 1), (3, 2), the second is tied: 3.5 of 4.
    assert metrics.auc(np.array([0, 0, 1, 1]), np.array([1.0, 2.0, 2.0, 3.0])) == 3.5 / 4


def test_average_precision_takes_tied_rows_at_once() -> None:
    # At score 3: recall 1/2, precision 1. At 2, two rows: recall 1, precision 2/3.
    label, score = np.array([1, 0, 1, 0]), np.array([3.0, 2.0, 2.0, 1.0])
    assert metrics.pr_auc(label, score) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)
    assert math.isnan(metrics.pr_auc(np.zeros(2), np.arange(2.0)))


def test_gauc_weighs_a_user_by_rows_and_leaves_out_one_of_one_class() -> None:
    user = np.array(["b", "a", "b", "c", "b", "a", "c"], object)
    label = np.array([1, 1, 0, 1, 0, 0, 1])
    score = np.array([1.0, 2.0, 0.0, 5.0, 2.0, 1.0, 6.0])
    # a: 1, of 2 rows. b: 1 above 0, not above 2, so 1/2, of 3 rows. c has positives only.
    assert metrics.gauc(label, score, user) == pytest.approx((2 * 1 + 3 * 1 / 2) / 5)
    assert math.isnan(metrics.gauc(np.ones(7), score, user))


def test_gauc_agrees_with_scikit_learn_user_by_user() -> None:
    label, score, user = _rows(300, users=50)
    users = [user == u for u in range(50) if len(set(label[user == u])) == 2]
    assert len(users) < 50
    expected = np.average(
        [roc_auc_score(label[mine], score[mine]) for mine in users], weights=[mine.sum() for mine in users]
    )
    assert metrics.gauc(label, score, user) == pytest.approx(expected, abs=1e-12)


def test_gauc_of_a_single_user_is_the_auc() -> None:
    label, score, _ = _rows(500, users=1)
    assert metrics.gauc(label, score, np.zeros(500)) == metrics.auc(label, score)


def test_ndcg_averages_users_and_shares_discounts_among_ties() -> None:
    user = np.array([7, 5, 7, 5, 7, 9])
    label = np.array([1.0, 3.0, 0.0, 1.0, 0.0, 0.0])
    score = np.array([0.0, 0.0, 0.0, 1.0, -1.0, -1.0])
    second = 1 / math.log2(3)
    # 7: the positive shares places 1 and 2 with a negative, of an ideal 1.
    # 5: gains 1, 3 where 3, 1 is ideal. 9 has no positive.
    expected = ((1 + second) / 2 + (1 + 3 * second) / (3 + second)) / 2
    assert metrics.ndcg(label, score, user, 10) == pytest.approx(expected)
    # At 1, the tie has half of the only discount; 5 gets 1 of 3.
    assert metrics.ndcg(label, score, user, 1) == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert math.isnan(metrics.ndcg(np.zeros(6), score, user, 10))


@pytest.mark.parametrize("k", [1, 3, 10])
def test_ndcg_agrees_with_scikit_learn_user_by_user(k: int) -> None:
    label, score, user = _rows(300, users=50)
    # scikit-learn takes no list of one; of one positive it is 1.
    users = [user == u for u in range(50) if label[user == u].any()]
    assert len(users) < 50
    expected = np.mean(
        [ndcg_score([label[mine]], [score[mine]], k=k) if mine.sum() > 1 else 1.0 for mine in users]
    )
    assert metrics.ndcg(label, score, user, k) == pytest.approx(expected, abs=1e-12)


def test_calibration_is_predicted_over_observed() -> None:
    assert metrics.calibration(np.array([1.0, 0.0, 0.0, 0.0]), np.zeros(4)) == pytest.approx(2.0)


def test_a_sure_and_wrong_logit_is_not_clipped() -> None:
    assert metrics.log_loss(np.array([0.0]), np.array([800.0])) == pytest.approx(800.0)


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


def test_normalized_entropy_of_the_base_rate_itself_is_one() -> None:
    label = np.array([1.0, 0.0, 0.0, 0.0])
    assert metrics.normalized_entropy(label, np.full(4, math.log(1 / 3))) == pytest.approx(1.0)
    assert math.isnan(metrics.normalized_entropy(np.ones(2), np.zeros(2)))


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


def test_the_quadrature_agrees_with_a_numerical_integral() -> None:
    step = 1e-3
    z = np.arange(-12, 12, step)
    density = np.exp(-np.square(z) / 2) / math.sqrt(2 * math.pi)
    for mu, sigma, tolerance in [(0.0, 0.1, 1e-12), (3.0, 1.0, 1e-9), (-2.0, 2.0, 1e-7), (0.0, 3.0, 2e-5)]:
        integral = np.sum(np.log1p(np.exp(mu + sigma * z)) * density) * step
        found = metrics.ziln_expected_log1p(*np.array([[math.log(3)], [mu], [sigma]]))
        assert found[0] == pytest.approx(3 / 4 * integral, rel=tolerance)


def test_a_zero_inflated_value_is_to_numpy_what_it_is_to_the_model() -> None:
    parameters = np.array(
        [[0.0, 1.0, 0.5], [-3.0, 4.0, 1.2], [2.0, -5.0, 3.0], [-60.0, 60.0, 3.0], [90.0, -300.0, 0.1]],
        np.float32,
    )
    label = np.array([0.0, 40.0, 1e-3, 7.0, 0.0], np.float32)
    columns, raw = list(parameters.T), tf.constant(parameters)
    pairs = [
        (metrics.ziln_expected(*columns), ziln.expected(raw)),
        (metrics.ziln_expected_log1p(*columns), ziln.expected_log1p(raw)),
        (metrics.ziln_nll(label, *columns), ziln.nll(tf.constant(label), raw)),
    ]
    for found, expected in pairs:
        assert found.dtype == np.float64
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found, expected.numpy(), rtol=2e-5, atol=1e-30)


def test_a_served_score_is_a_probability_an_expectation_or_the_log1p_itself() -> None:
    raw = {"click_logit": [math.log(3)], "watch_logit": [0.0], "watch_mu": [1.0], "watch_sigma": [2.0]}
    outputs = {name: np.array(values, np.float32) for name, values in {**raw, "share_log1p": [0.5]}.items()}
    assert metrics.served_score(CLICK, outputs) == pytest.approx([3 / 4])
    assert metrics.served_score(WATCH, outputs) == pytest.approx([math.exp(1 + 2**2 / 2) / 2])
    share = Task(name="share", label="share", kind="log1p")
    assert metrics.served_score(share, outputs).dtype == np.float64
    assert metrics.served_score(share, outputs) == [0.5]
