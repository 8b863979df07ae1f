"""Measures of drift by hand: of equal histograms, of disjoint ones, and of rows beyond the reference."""

import math

import numpy as np
import pytest

from tutelage.pipeline.drift import jensen_shannon, most_changed, psi


def test_jensen_shannon_by_hand() -> None:
    one, half = np.array([[3.0], [8]]), np.array([[3.0, 9.0], [5, 5]])
    # p = (1, 0), q = (.5, .5), m = (.75, .25): (log2(4/3) + .5 log2(2/3) + .5 log2(2)) / 2 = .31128.
    assert jensen_shannon(one, half) == pytest.approx(math.sqrt(0.31128), abs=1e-5)
    assert jensen_shannon(half, one) == jensen_shannon(one, half)


def test_jensen_shannon_is_0_for_equal_shares_and_1_without_a_common_bucket() -> None:
    one = np.array([[3.0], [8]])
    assert jensen_shannon(one, np.array([[3.0], [800]])) == 0
    assert jensen_shannon(one, np.array([[4.0], [2]])) == 1


def test_a_bucket_without_rows_does_not_count() -> None:
    one = np.array([[3.0, 4.0], [8, 0]])
    assert jensen_shannon(one, np.array([[3.0, 9.0], [1, 0]])) == 0


def test_psi_of_rows_that_are_all_in_one_decile() -> None:
    reference = np.array([range(1, 11), [10] * 10], float)
    # Half a row is added in each of ten bins: 100.5 and .5 of 105 rows against 10.5 of 105.
    expected = 90 / 105 * math.log(100.5 / 10.5) + 9 * (-10 / 105) * math.log(0.5 / 10.5)
    assert psi(np.array([[1.0], [100]]), reference) == pytest.approx(expected)
    assert psi(reference, reference) == 0


@pytest.mark.parametrize("beyond", [0.5, 11.0])
def test_psi_has_a_bin_below_the_reference_and_one_above(beyond: float) -> None:
    reference = np.array([range(1, 11), [10] * 10], float)
    # Eleven bins on each side: the ten deciles, and the one beyond; the twelfth is empty on both sides.
    apart = 100.5 / 105.5 - 0.5 / 105.5
    expected = apart * math.log(100.5 / 0.5) + 10 * (0.5 - 10.5) / 105.5 * math.log(0.5 / 10.5)
    assert psi(np.array([[beyond], [100]]), reference) == pytest.approx(expected)


def test_the_change_of_a_mix_by_hand() -> None:
    # (1 - .5)² + (0 - .5)² = .5; and 1 + 1 without a common bucket.
    one, half = np.array([[3.0], [8]]), np.array([[3.0, 9.0], [5, 5]])
    assert most_changed(one, half)[0] == pytest.approx(0.5)
    assert most_changed(one, np.array([[4.0], [2]]))[0] == pytest.approx(2.0)
    assert most_changed(half, half)[0] == 0


def test_the_bucket_whose_share_changed_most_is_left_out_of_both_sides() -> None:
    current = np.array([[1.0, 2.0, 7.0], [10, 12, 78]])
    reference = np.array([[1.0, 2.0, 7.0], [50, 48, 2]])
    _, now, before = most_changed(current, reference)
    assert (now.tolist(), before.tolist()) == ([[1, 2], [10, 12]], [[1, 2], [50, 48]])
    # Where nothing would be left, nothing is left out.
    one = np.array([[7.0], [9]])
    assert most_changed(one, reference)[1:] == (one, reference)


@pytest.mark.parametrize("measure", [jensen_shannon, psi])
def test_buckets_may_stand_in_any_order_and_more_than_once(measure: object) -> None:
    assert callable(measure)
    reference = np.array([[1.0, 2.0, 3.0], [4, 4, 2]])
    current = np.array([[1.0, 2.0, 3.0], [6, 3, 1]])
    several = np.array([[3.0, 1.0, 2.0, 1.0], [1, 2, 3, 4]])
    assert measure(several, reference) == measure(current, reference) > 0
