"""Metrics against scikit-learn and by hand."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score
from sklearn.metrics import log_loss as sklearn_log_loss

from tutelage.models import metrics


def _rows(count: int, *, users: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (label, score, user) [count] in no order; users have unequal numbers of rows, many scores are tied."""
    rng = np.random.default_rng(3)
    label = rng.integers(0, 2, count).astype(np.float32)
    return label, np.round(rng.normal(size=count), 1).astype(np.float32), rng.integers(0, users, count)


def test_auc_pr_auc_and_log_loss_agree_with_scikit_learn_on_tied_scores() -> None:
    rng = np.random.default_rng(1)
    label = rng.integers(0, 2, 2000).astype(np.float32)
    logit = np.round(rng.normal(size=2000) + label, 1).astype(np.float32)
    assert metrics.auc(label, logit) == pytest.approx(roc_auc_score(label, logit), abs=1e-12)
    assert metrics.pr_auc(label, logit) == pytest.approx(average_precision_score(label, logit), abs=1e-12)
    expected = sklearn_log_loss(label, metrics.sigmoid(logit))
    assert metrics.log_loss(label, logit) == pytest.approx(expected, rel=1e-9)


def test_auc_of_one_class_is_nan() -> None:
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


def test_gauc_weights_a_user_by_rows_and_leaves_out_users_of_one_class() -> None:
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


def test_the_loss_of_a_confident_wrong_logit_is_not_clipped() -> None:
    assert metrics.log_loss(np.array([0.0]), np.array([800.0])) == pytest.approx(800.0)


def test_normalized_entropy_of_the_base_rate_itself_is_one() -> None:
    label = np.array([1.0, 0.0, 0.0, 0.0])
    assert metrics.normalized_entropy(label, np.full(4, math.log(1 / 3))) == pytest.approx(1.0)
    assert math.isnan(metrics.normalized_entropy(np.ones(2), np.zeros(2)))


def test_a_relative_squared_error_of_one_is_that_of_the_mean() -> None:
    # The variance of 1, 2, 4 is 14/9; of 1, 2, 2, with a weight of 2, 2/9.
    assert metrics.relative_squared_error(np.array([1.0, 2.0, 4.0]), 14 / 9) == pytest.approx(1)
    weighed = metrics.relative_squared_error(np.array([1.0, 2.0]), 4 / 9, np.array([1.0, 2.0]))
    assert weighed == pytest.approx(2)
    assert math.isnan(metrics.relative_squared_error(np.ones(3), 0.0))
