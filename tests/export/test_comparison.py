"""How much worse a version is than another on the same rows, and how sure that is, by hand."""

from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tutelage.export.comparison import (
    RESAMPLES,
    Comparison,
    JudgedRows,
    compare,
    effective_users,
    interval,
)
from tutelage.export.config import ServingConfig
from tutelage.models.metrics import auc, normalized_entropy, relative_squared_error
from tutelage.pipeline.schema import Task

DAY = date(2026, 1, 3)
CLICK = Task(name="click", label="click")
WATCH = Task(name="watch", label="watch_seconds", kind="log1p")
VALUE = Task(name="value", label="value", kind="ziln")
SERVING = ServingConfig(score=(("click", 1.0),))


def _rows(click: Any, users: Any = None, **fields: Any) -> JudgedRows:
    click = np.asarray(click, float)
    whole = {
        "day": DAY,
        "targets": {"click": click},
        "weight": np.ones(len(click)),
        "users": np.arange(len(click)) if users is None else np.asarray(users),
        "slices": {},
    }
    return JudgedRows(**{**whole, **fields})


def _compare(rows: JudgedRows, now: Any, before: Any, *, tasks: Any = (CLICK,)) -> dict[str, Comparison]:
    scores = [None if s is None else {"click": np.asarray(s, float)} for s in (now, before)]
    found = compare(tasks, rows, scores[0], scores[1], SERVING, seed=1)  # type: ignore[arg-type]
    return {each.name: each for each in found}


def _world(rows: int, rows_per_user: int = 5, seed: int = 1) -> tuple[JudgedRows, np.ndarray]:
    """Return labels drawn from true probabilities, and these."""
    rng = np.random.default_rng(seed)
    truth = 1 / (1 + np.exp(-rng.normal(size=rows)))
    return _rows(rng.random(rows) < truth, np.arange(rows) // rows_per_user), truth


def test_the_interval_is_the_difference_with_so_many_standard_errors_on_either_side() -> None:
    # The standard deviation of −1, 0 and 1 is 1. With many users t is normal: 1.645; of ten tests, 2.576.
    resampled = np.array([-1.0, 0.0, 1.0])
    assert interval(5.0, resampled, tests=1, dof=np.inf) == pytest.approx((5 - 1.6449, 5 + 1.6449), abs=1e-4)
    assert interval(5.0, resampled, tests=10, dof=np.inf) == pytest.approx((5 - 2.5758, 5 + 2.5758), abs=1e-4)
    # Of five users, t with four degrees of freedom, 2.1318, times √(5 / 4).
    assert interval(5.0, resampled, tests=1, dof=4) == pytest.approx((5 - 2.3835, 5 + 2.3835), abs=1e-4)


def test_of_four_users_or_of_few_resamples_with_a_value_there_is_no_interval() -> None:
    assert interval(5.0, np.array([4.0, 5.0, 6.0]), tests=1, dof=3) is None
    assert interval(5.0, np.array([4.0, np.nan, np.nan]), tests=1, dof=9) is None
    assert interval(5.0, np.array([4.0, 6.0, np.nan]), tests=1, dof=9) is not None


def test_users_of_unequal_weight_tell_less_than_as_many_of_equal_weight() -> None:
    assert effective_users(np.ones(4), np.arange(4)) == pytest.approx(4)
    assert effective_users(np.ones(4), np.array([0, 0, 0, 1])) == pytest.approx(16 / 10)
    assert effective_users(np.zeros(0), np.zeros(0, int)) == 0


def test_values_are_those_of_the_metrics_of_a_day_and_worse_is_a_difference_or_a_share() -> None:
    rows, truth = _world(400)
    click, now, before = rows.targets["click"], np.sqrt(truth), truth
    found = _compare(rows, now, before)
    one = found["click auc"]
    assert (one.value, one.reference) == pytest.approx((auc(click, now), auc(click, before)))
    assert one.worse == pytest.approx(auc(click, before) - auc(click, now), abs=1e-12)
    entropies = [normalized_entropy(click, np.log(p / (1 - p))) for p in (now, before)]
    one = found["click normalized_entropy"]
    assert (one.value, one.reference) == pytest.approx(entropies)
    assert one.worse == pytest.approx(entropies[0] / entropies[1] - 1)
    one = found["click calibration"]
    far = [p.sum() / click.sum() for p in (now, before)]
    assert (one.value, one.reference) == pytest.approx(far)
    assert one.worse == pytest.approx(abs(far[0] - 1) - abs(far[1] - 1))
    assert {(each.rows, each.users, each.day) for each in found.values()} == {(400, 80, DAY)}


def test_ties_count_half_and_weights_are_rows() -> None:
    # Of four pairs 0.2 < 0.4 and 0.2 < 0.9 are right, 0.4 = 0.4 a tie, 0.4 < 0.9 right.
    rows = _rows([0, 0, 1, 1])
    assert _compare(rows, [0.2, 0.4, 0.4, 0.9], None)["click auc"].value == pytest.approx(3.5 / 4)
    # The first negative stands for three: six pairs more are right.
    heavy = replace(rows, weight=np.array([3.0, 1.0, 1.0, 1.0]))
    assert _compare(heavy, [0.2, 0.4, 0.4, 0.9], None)["click auc"].value == pytest.approx(7.5 / 8)


def test_values_of_a_ziln_task_are_compared_on_the_scale_of_log1p() -> None:
    target, score = np.array([0.0, 3.0, 8.0]), np.array([1.0, 2.0, 5.0])
    rows = _rows([0, 0, 1], targets={"value": target, "watch": np.log1p(target)})
    found = compare(
        (VALUE, WATCH), rows, {"value": score, "watch_log1p": np.log1p(score)}, None, SERVING, seed=1
    )
    loss = np.square(np.log1p(target) - np.log1p(score)).mean()
    expected = relative_squared_error(np.log1p(target), loss)
    assert {each.name: each.value for each in found} == {
        "value relative_squared_error": pytest.approx(expected),
        "value calibration": pytest.approx(8 / 11),
        "watch relative_squared_error": pytest.approx(expected),
    }


def test_the_standard_error_of_independent_rows_is_that_of_the_mean() -> None:
    # Each user has a row. Both predict too much, by 0.3 and 0.4: the difference is 0.1 · n / Σ y.
    rows, truth = _world(2000, rows_per_user=1)
    one = _compare(rows, truth + 0.4, truth + 0.3)["click calibration"]
    assert one.low is not None
    assert one.high is not None
    click = rows.targets["click"]
    se = 0.1 * len(click) / click.sum() ** 2 * np.sqrt(len(click)) * click.std()
    t = stats.norm.ppf(0.95)
    assert (one.high - one.low) / 2 / t == pytest.approx(se, rel=0.12)


def test_rows_of_one_user_count_as_one() -> None:
    # Ten copies of each user's rows make the same users, not more of them: the interval stays as wide.
    rows, truth = _world(300, rows_per_user=3)
    rng = np.random.default_rng(2)
    noisy = np.clip(truth + rng.normal(scale=0.1, size=300), 0.01, 0.99)
    single = _compare(rows, noisy, truth)["click auc"]
    tenfold = _rows(np.tile(rows.targets["click"], 10), np.tile(rows.users, 10))
    copied = _compare(tenfold, np.tile(noisy, 10), np.tile(truth, 10))["click auc"]
    assert copied.low == pytest.approx(single.low, rel=1e-6)
    assert copied.high == pytest.approx(single.high, rel=1e-6)


def test_one_worse_by_more_than_the_margin_fails_one_as_good_passes_and_few_rows_leave_it_open() -> None:
    rows, truth = _world(5000)
    garbage = np.random.default_rng(3).permutation(truth)
    bad = _compare(rows, garbage, truth)["click auc"]
    assert not bad.passed
    assert bad.low is not None
    assert bad.low > SERVING.auc_drop
    good = _compare(rows, truth, truth)["click auc"]
    assert (good.passed, good.undecided, good.worse, good.low, good.high) == (True, False, 0, 0, 0)
    few = _rows(rows.targets["click"][:12], rows.users[:12])
    open_ = _compare(few, garbage[:12], truth[:12])["click auc"]
    assert (open_.passed, open_.undecided) == (True, True)
    # Worse, and surely, by less than the margin: as good as the gate asks for.
    a_little = _compare(rows, truth, truth)["click calibration"]
    slightly = _compare(rows, truth * 1.02, truth)["click calibration"]
    assert a_little.worse == 0
    assert slightly.worse != 0
    assert (slightly.passed, slightly.undecided) == (True, False)


def test_of_two_sound_versions_few_are_rejected_and_of_rows_without_signal_none_more_than_promised() -> None:
    rejected = 0
    for seed in range(60):
        rows, truth = _world(120, seed=seed)
        rng = np.random.default_rng(seed)
        now, before = (
            1 / (1 + np.exp(-np.log(truth / (1 - truth)) - rng.normal(scale=0.3, size=120))) for _ in range(2)
        )
        rejected += not all(each.passed for each in _compare(rows, now, before).values())
    assert rejected <= 2


def test_without_rows_nothing_is_compared_and_nothing_fails() -> None:
    found = _compare(_rows([]), [], [])
    assert [(each.rows, each.passed, each.undecided) for each in found.values()] == [(0, True, True)] * 3
    assert found["click auc"].describe() == "click auc: nothing to compare on 0 rows of 0 users of 2026-01-03"


def test_of_one_class_there_is_no_auc_and_nothing_fails() -> None:
    auc_of_negatives = _compare(_rows([0] * 20), np.linspace(0.1, 0.9, 20), np.full(20, 0.5))["click auc"]
    assert (auc_of_negatives.value, auc_of_negatives.passed, auc_of_negatives.undecided) == (None, True, True)


def test_rows_without_a_label_are_left_out_and_a_task_without_any_is_not_compared() -> None:
    rows = _rows([1, 0, np.nan, 1, 0])
    assert _compare(rows, [0.9, 0.1, np.nan, 0.9, 0.1], None)["click auc"].rows == 4
    assert _compare(_rows([np.nan] * 3), [0.1] * 3, [0.1] * 3) == {}


def test_an_output_that_the_served_version_does_not_have_is_not_compared() -> None:
    rows = _rows([1, 0], targets={"click": np.array([1.0, 0.0]), "watch": np.array([1.0, 0.0])})
    both = {"click": np.array([0.9, 0.1]), "watch_log1p": np.array([1.0, 0.0])}
    found = compare((CLICK, WATCH), rows, both, {"click": both["click"]}, SERVING, seed=1)
    assert {each.name.split()[0] for each in found} == {"click"}


def test_slices_share_one_level_so_more_of_them_make_each_interval_wider() -> None:
    rows, truth = _world(2000)
    noisy = np.clip(truth + np.random.default_rng(5).normal(scale=0.1, size=2000), 0.01, 0.99)
    inside = np.arange(2000) < 1000
    one = _compare(replace(rows, slices={"tab=1": inside}), noisy, truth)
    many = _compare(replace(rows, slices={f"tab={n}": inside for n in range(1, 5)}), noisy, truth)
    # Of all rows nothing changes.
    assert one["click auc"] == many["click auc"]
    narrow, wide = one["click auc, tab=1"], many["click auc, tab=1"]
    assert narrow.slice == "tab=1"
    assert None not in (narrow.worse, narrow.high, wide.high)
    ratio = (wide.high - wide.worse) / (narrow.high - narrow.worse)  # type: ignore[operator]
    # Three metrics on one slice share 5 %, then twelve.
    assert ratio == pytest.approx(stats.norm.ppf(1 - 0.05 / 12) / stats.norm.ppf(1 - 0.05 / 3), rel=0.02)


def test_the_same_rows_give_the_same_intervals_whatever_the_size_of_the_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, truth = _world(500)
    whole = _compare(rows, truth**2, truth)
    assert _compare(rows, truth**2, truth) == whole
    monkeypatch.setattr("tutelage.export.comparison._CELLS", 500 * RESAMPLES // 7)
    in_blocks = _compare(rows, truth**2, truth)
    for name, each in whole.items():
        assert in_blocks[name].high == pytest.approx(each.high)


def test_a_comparison_as_text_names_the_metric_the_difference_the_rows_and_the_field() -> None:
    one = Comparison(
        name="click auc", value=0.6, reference=0.7, worse=0.1, low=0.08, high=0.12, margin=0.03,
        field="auc_drop", day=DAY, rows=1900, users=60, passed=False,
    )  # fmt: skip
    assert one.describe() == (
        "click auc is 0.6, the served version 0.7: worse by 0.1 (0.08 to 0.12) and serving.auc_drop allows 0.03, on "
        "1,900 rows of 60 users of 2026-01-03"
    )
    of_share = replace(one, share=True, field="entropy_rise", margin=0.05)
    assert "worse by 10 % (8 % to 12 %) and serving.entropy_rise allows 5 %" in of_share.describe()
