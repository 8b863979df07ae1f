"""What a study asks of scores, by hand."""

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from tutelage.trainers.diagnosis import (
    agreement,
    buckets,
    calibration_by,
    diversity,
)


def test_a_value_at_an_edge_is_in_the_bucket_above_and_one_that_is_missing_in_none() -> None:
    values = np.array([0.5, 1.0, 9.0, 10.0, np.nan, -np.inf])
    assert buckets(values, [1, 10]).tolist() == [0, 1, 1, 2, -1, 0]


def test_deciles_hold_as_many_values_each_and_equal_values_one_bucket() -> None:
    values = np.random.default_rng(1).permutation(1000.0 + np.arange(50))
    assert np.bincount(buckets(values)).tolist() == [5] * 10
    # The first nine of ten deciles end at the one value.
    assert buckets(np.array([3, 3, 3, 3])).tolist() == [9] * 4
    assert buckets(np.array([np.nan, *range(10)])).tolist() == [-1, *range(10)]
    assert buckets(np.full(2, np.nan)).tolist() == [-1, -1]


def test_calibration_by_bucket_adds_up_predicted_and_observed() -> None:
    label = np.array([1, 0, 1, 0], np.int8)
    predicted = np.array([0.5, 0.25, 0.75, 0.5], np.float32)
    assert calibration_by(label, predicted, np.array([2, 0, 2, 0])).to_dicts() == [
        {"bucket": 0, "rows": 2, "predicted": 0.75, "observed": 0.0},
        {"bucket": 2, "rows": 2, "predicted": 1.25, "observed": 2.0},
    ]


def test_calibration_by_bucket_counts_a_row_as_often_as_it_weighs() -> None:
    label, predicted = np.array([1, 0, 1, 0]), np.array([0.5, 0.25, 0.75, 0.5])
    weight = np.array([1, 4, 1, 2], np.float32)
    assert calibration_by(label, predicted, np.array([2, 0, 2, 0]), weight).to_dicts() == [
        {"bucket": 0, "rows": 6, "predicted": 2.0, "observed": 0.0},
        {"bucket": 2, "rows": 2, "predicted": 1.25, "observed": 2.0},
    ]


def test_agreement_of_order_of_logits_and_of_probabilities() -> None:
    teacher, student = np.log([1.0, 3.0, 9.0]), np.log([1.0, 1 / 3, 3.0])
    found = agreement(teacher, student)
    # In units of log 3: 0, 1, 2 and 0, -1, 1; covariance 1/3, variances 2/3 and 2/3.
    assert found["pearson"] == pytest.approx(1 / 2)
    # Ranks 1, 2, 3 and 2, 1, 3: covariance 1/3, variances 2/3.
    assert found["spearman"] == pytest.approx(1 / 2)
    # 1/2, 3/4, 9/10 and 1/2, 1/4, 3/4.
    assert found["probability_difference"] == pytest.approx((0 + 1 / 2 + 9 / 10 - 3 / 4) / 3)


def test_rank_correlation_agrees_with_scipy_with_ties_too() -> None:
    rng = np.random.default_rng(1)
    teacher = np.round(rng.normal(size=500), 1).astype(np.float32)
    student = np.round(teacher**3 + rng.normal(size=500), 1).astype(np.float32)
    assert agreement(teacher, student)["spearman"] == pytest.approx(spearmanr(teacher, student).statistic)


def test_agreement_with_a_constant_is_no_correlation() -> None:
    found = agreement(np.zeros(3), np.arange(3.0))
    assert math.isnan(found["pearson"])
    assert math.isnan(found["spearman"])


def test_diversity_of_the_top_of_each_users_list() -> None:
    found = diversity(
        np.array([0.9, 0.1, 0.5, 0.2, 0.8]),
        np.array([1, 1, 1, 2, 2]),
        np.array(["a", "b", "c", "d", "a"]),
        np.array([60, 10, 20, 10, 60]),
        k=1,
    )
    # Both lists have a on top, one item of four.
    assert found["coverage"] == 1 / 4
    assert found["gini"] == pytest.approx(1)
    # 60 and 60 are shown; there are (60 + 10 + 20) / 3 = 30 and (10 + 60) / 2 = 35.
    assert found["popularity_lift"] == pytest.approx(60 / ((30 + 35) / 2))


def test_gini_by_hand_and_zero_where_all_items_are_shown_alike() -> None:
    user, item, popularity = np.repeat([1, 2, 3], 3), np.tile([7, 8, 9], 3), np.ones(9)
    order = np.array([3, 2, 1, 1, 3, 2, 2, 1, 3.0])
    # On top: 7, 8, 9.
    assert diversity(order, user, item, popularity, k=1) == pytest.approx(
        {"coverage": 1.0, "gini": 0.0, "popularity_lift": 1.0}, abs=1e-12
    )
    # On top: 7, 7, 9; shares 0, 1/3, 2/3 of items 8, 9, 7, each times -2, 0, 2, over 2.
    order[3:6] = [3, 2, 1]
    assert diversity(order, user, item, popularity, k=1)["gini"] == pytest.approx(2 * 2 / 3 / 2)


def test_a_short_list_is_shown_whole_and_equal_scores_rank_as_the_rows_stand() -> None:
    one = diversity(np.zeros(2), np.array([1, 1]), np.array([5, 6]), np.array([3.0, 1.0]), k=1)
    assert one == pytest.approx({"coverage": 1 / 2, "gini": 1.0, "popularity_lift": 3 / 2})
    whole = diversity(np.zeros(2), np.array([1, 1]), np.array([5, 6]), np.array([3.0, 1.0]), k=10)
    assert whole == pytest.approx({"coverage": 1.0, "gini": 0.0, "popularity_lift": 1.0})


def test_diversity_of_one_item_nobody_knows_has_no_numbers() -> None:
    found = diversity(np.zeros(2), np.array([1, 2]), np.array([5, 5]), np.zeros(2), k=1)
    assert math.isnan(found["gini"])
    assert math.isnan(found["popularity_lift"])
