"""Sums that merge: by hand, against the exact metrics and scikit-learn, and in any split."""

import math
from collections.abc import Callable, Iterator
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from tutelage.models import metrics
from tutelage.trainers.streaming import BinarySums, GroupSums, SquaredErrorSums

# Four scores to a bin of 1/128, so that the order within one is lost, and some beyond the last bins.
LOGIT = st.one_of(st.integers(-20, 20).map(lambda i: i / 512), st.sampled_from([-800.0, -17.0, 16.0, 800.0]))
ROWS = st.lists(st.tuples(st.integers(0, 1), LOGIT, st.integers(0, 5)), max_size=40)
Columns = tuple[np.ndarray, np.ndarray, np.ndarray]


def _columns(rows: list[tuple[int, float, int]]) -> Columns:
    """(label, logit, user)"""
    label, logit, user = np.array(rows, np.float64).reshape(-1, 3).T
    return label, logit, user.astype(np.int64)


def _parts(columns: Columns, worker: np.ndarray) -> Iterator[Columns]:
    """The rows of each of four workers; one may have none."""
    for i in range(4):
        label, logit, user = (column[worker == i] for column in columns)
        yield label, logit, user


def _same(found: dict[str, float], expected: dict[str, float]) -> None:
    assert found == pytest.approx(expected, rel=1e-12, nan_ok=True)


def test_binary_sums_of_two_workers_by_hand() -> None:
    one = BinarySums().update(np.array([1, 0]), np.array([math.log(3), 0.0]))
    two = BinarySums().update(np.array([1, 0]), np.array([0.0, -math.log(3)]))
    # Probabilities 3/4 and 1/2, 1/2 and 1/4; the labels 1 and 0 both times.
    loss = -(math.log(3 / 4) + math.log(1 / 2) + math.log(1 / 2) + math.log(3 / 4)) / 4
    _same(
        (one + two).result(),
        {
            "auc": 3.5 / 4,  # one pair of four is tied
            "pr_auc": 1 / 2 * 1 + 1 / 2 * 2 / 3,
            "log_loss": loss,
            "normalized_entropy": loss / math.log(2),
            "calibration": (3 / 4 + 1 / 2 + 1 / 2 + 1 / 4) / 2,
        },
    )


def test_bounds_by_hand_where_a_positive_and_a_negative_share_a_bin() -> None:
    sums = BinarySums().update(np.array([1, 1, 0]), np.array([5.0, 0.001, 0.002]))
    # One of two pairs may be a win, a tie or none: half a win each way.
    assert sums.result()["auc"] == (1 + 1 / 2) / 2
    # The second positive's precision: 2/2 if it is before the negative, 2/3 after; 2/3 is said.
    assert sums.result()["pr_auc"] == pytest.approx((1 + 2 / 3) / 2)
    assert sums.bounds() == {"auc": 1 / 4, "pr_auc": pytest.approx((2 / 2 - 2 / 3) / 2)}


def test_a_negative_before_many_positives_of_its_bin_is_within_the_bound() -> None:
    label, logit = np.array([0] + [1] * 20), np.linspace(0.002, 0.001, 21)
    sums = BinarySums().update(label, logit)
    # 20/21 is said of each positive; the first found has 1/2, the second 2/3, the third 3/4 …
    exact = sum(i / (i + 1) for i in range(1, 21)) / 20
    assert metrics.pr_auc(label, logit) == pytest.approx(exact)
    assert sums.result()["pr_auc"] == pytest.approx(20 / 21)
    assert sums.bounds()["pr_auc"] == pytest.approx(20 / 21 - 1 / 2)


def test_a_histogram_of_a_days_logits_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    label = (rng.random(20_000) < 0.2).astype(np.float64)
    logit = (rng.normal(size=20_000) + label - 2).astype(np.float32)
    sums = BinarySums().update(label, logit)
    found, bounds = sums.result(), sums.bounds()
    assert bounds["auc"] < 1e-3
    assert bounds["pr_auc"] < 3e-3
    assert abs(found["auc"] - roc_auc_score(label, logit)) <= bounds["auc"]
    assert abs(found["pr_auc"] - average_precision_score(label, logit)) <= bounds["pr_auc"]
    assert found["log_loss"] == pytest.approx(log_loss(label, metrics.sigmoid(logit)), rel=1e-9)
    for name in ("normalized_entropy", "calibration"):
        assert found[name] == pytest.approx(getattr(metrics, name)(label, logit), rel=1e-12)


@given(rows=ROWS)
def test_auc_and_pr_auc_are_off_by_no_more_than_their_bounds(rows: list[tuple[int, float, int]]) -> None:
    label, logit, _ = _columns(rows)
    sums = BinarySums().update(label, logit)
    for name, exact in (("auc", metrics.auc), ("pr_auc", metrics.pr_auc)):
        error = abs(sums.result()[name] - exact(label, logit))
        assert math.isnan(error) or error <= sums.bounds()[name] + 1e-12


@given(rows=ROWS, data=st.data())
def test_rows_in_any_split_give_what_all_at_once_give(
    rows: list[tuple[int, float, int]], data: st.DataObject
) -> None:
    columns = _columns(rows)
    worker = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows))))
    start: Any
    for start in (BinarySums(), SquaredErrorSums()):
        update: Callable[[Columns], Any] = lambda part, start=start: start.update(*part[:2])  # noqa: E731
        _same(reduce(add, map(update, _parts(columns, worker))).result(), update(columns).result())


@given(rows=ROWS, workers=st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_users_in_any_split_give_what_all_at_once_give(
    rows: list[tuple[int, float, int]], workers: list[int]
) -> None:
    columns = label, logit, user = _columns(rows)
    merged = reduce(add, (GroupSums().update(*part) for part in _parts(columns, np.array(workers)[user])))
    _same(merged.result(), GroupSums().update(*columns).result())
    exact = {
        "gauc": metrics.gauc(label, logit, user),
        "ndcg@10": metrics.ndcg(label, logit, user, 10),
    }
    _same(merged.result(), exact)


def test_squared_error_by_hand() -> None:
    sums = SquaredErrorSums().update(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    sums += SquaredErrorSums().update(np.array([3.0]), np.array([0.0]))
    _same(sums.result(), {"mean_squared_error": (0 + 4 + 9) / 3, "rmse": math.sqrt(13 / 3)})


def test_what_has_seen_no_rows_has_no_numbers() -> None:
    empty = np.zeros(0)
    for sums in (BinarySums(), SquaredErrorSums(), GroupSums(), GroupSums().update(empty, empty, empty)):
        assert all(math.isnan(value) for value in sums.result().values())
    assert all(math.isnan(value) for value in BinarySums().bounds().values())
