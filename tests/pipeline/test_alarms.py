import numpy as np
import pytest
from scipy import stats

from tutelage.pipeline.alarms import AlarmBudget


def test_a_year_of_tests_that_each_spend_their_share_gives_the_false_alarms_that_were_asked_for() -> None:
    budget = AlarmBudget(per_year=2.0).shared(4)
    assert budget.per_test(10) * 10 * 365.25 == pytest.approx(0.5)


def test_a_gate_that_speaks_once_a_week_may_spend_seven_days_at_a_time() -> None:
    weekly, daily = AlarmBudget(per_year=1.0, slice_days=7), AlarmBudget(per_year=1.0)
    assert weekly.per_test(1) == pytest.approx(7 * daily.per_test(1))


def test_no_test_spends_more_than_a_coin_toss() -> None:
    assert AlarmBudget(per_year=1e6).per_test(1) == 0.5


@pytest.mark.parametrize("dof", [1.0, 6.0, float("inf")])
def test_the_bound_is_the_quantile_of_student_s_t(dof: float) -> None:
    budget = AlarmBudget(per_year=1.0)
    assert stats.t.sf(budget.bound(3, dof=dof), dof) == pytest.approx(budget.per_test(3), rel=1e-6)


def test_a_cusum_without_a_drift_fires_as_seldom_as_a_single_test() -> None:
    budget = AlarmBudget(per_year=365.25 / 100)  # once in 100 verdicts
    limit, rng = budget.cusum(1), np.random.default_rng(7)
    total, fired = np.zeros(2_000), 0
    for _ in range(1_000):
        total = np.maximum(total + rng.standard_normal(2_000) - 1.0, 0.0)
        fired += int((total > limit).sum())
        total[total > limit] = 0.0
    assert 0.8 < fired / 2_000 / 1_000 * 100 < 1.25
