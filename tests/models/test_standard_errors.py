"""Standard errors by hand, and against the spread that many days of the same make-up have."""

import math

import numpy as np
import pytest

from tutelage.models import metrics as m
from tutelage.models import standard_errors as se
from tutelage.models.task_kinds import Binary, Log1p, Ziln


def test_the_rows_of_a_user_are_added_up_before_they_are_squared() -> None:
    values = np.array([1.0, 3.0, 1.0, 3.0])
    # Each row is 1 from the mean of 2, a quarter of it: 4 · (1/4)², times 4 / 3 for the lost degree of freedom.
    assert se.clustered(se.of_mean(values)) == pytest.approx(math.sqrt(4 / 16 * 4 / 3))
    # Two users of two equal rows: 2 · (2/4)² · 2 / 1. Two users of different rows balance out.
    assert se.clustered(se.of_mean(values), np.array([1, 2, 1, 2])) == pytest.approx(1.0)
    assert se.clustered(se.of_mean(values), np.array([1, 1, 2, 2])) == 0
    assert math.isnan(se.clustered(se.of_mean(values), np.array([1, 1, 1, 1])))


def test_a_row_of_weight_2_counts_as_two_rows_of_one_user() -> None:
    twice, users = np.array([0.0, 1.0, 1.0, 4.0]), np.array([1, 2, 2, 3])
    once, weight = np.array([0.0, 1.0, 4.0]), np.array([1, 2, 1], np.float32)
    assert se.clustered(se.of_mean(once, weight)) == pytest.approx(se.clustered(se.of_mean(twice), users))
    assert se.clustered(se.of_ratio(once, once + 1, weight)) == pytest.approx(
        se.clustered(se.of_ratio(twice, twice + 1), users)
    )
    label, score = np.array([0, 1, 1, 0]), np.array([0.1, 0.3, 0.3, 0.5])
    assert se.clustered(se.of_auc(label[[0, 1, 3]], score[[0, 1, 3]], weight)) == pytest.approx(
        se.clustered(se.of_auc(label, score), users)
    )


def test_the_influence_on_an_auc_is_how_a_row_ranks_against_the_other_class() -> None:
    label, score = np.array([1, 1, 0, 0]), np.array([0.9, 0.2, 0.5, 0.1])
    # The positives are above 2 and 1 of 2 negatives, the negatives below 1 and 2 of 2 positives: an AUC of 3/4.
    expected = np.array([1 - 0.75, 0.5 - 0.75, 0.5 - 0.75, 1 - 0.75]) / 2
    np.testing.assert_allclose(se.of_auc(label, score), expected)


def test_an_auc_of_few_positives_is_as_uncertain_as_their_number_says() -> None:
    # A = 0.75, 10 of 100: Q1 = 0.6, Q2 = 0.642857; (0.1875 + 9 · 0.0375 + 89 · 0.080357) / 900.
    by_hand = math.sqrt((0.1875 + 9 * 0.0375 + 89 * 0.0803571) / 900)
    assert se.hanley_mcneil(0.75, 10, 90) == pytest.approx(by_hand, rel=1e-5)
    assert se.hanley_mcneil(0.25, 10, 90) == se.hanley_mcneil(0.75, 10, 90)
    # Ten positives that all have the same score show no spread of their own.
    label = np.repeat([1, 0], [10, 90])
    logit = np.concatenate([np.zeros(10), np.linspace(-2, 0.5, 90)])
    found = Binary().standard_errors(label, logit[:, None])
    least = se.hanley_mcneil(m.auc(label, logit), 10, 90)
    assert found["auc"] == pytest.approx(least)
    few = Binary().standard_errors(label[1:], logit[1:, None])
    assert few["auc"] == few["normalized_entropy"] == math.inf


def test_the_calibration_of_a_day_without_an_event_is_off_by_what_so_few_expected_ones_allow() -> None:
    # 4 events are expected: observed / predicted is 0 ± √(Σ p (1 − p)) / 4.
    logit = np.full([400, 1], math.log(0.01 / 0.99))
    found = Binary().standard_errors(np.zeros(400), logit)
    assert found["calibration"] == pytest.approx(math.sqrt(400 * 0.01 * 0.99) / 4)


@pytest.mark.parametrize("weighted", [False, True])
def test_standard_errors_are_the_spread_of_the_metrics_over_many_days(weighted: bool) -> None:
    rng = np.random.default_rng(3)
    days = [_day(rng, weighted=weighted) for _ in range(300)]
    for name in ("auc", "normalized_entropy", "calibration", "relative_squared_error", "ziln calibration"):
        values, errors = (np.array([day[i][name] for day in days]) for i in (0, 1))
        assert np.mean(errors) == pytest.approx(np.std(values), rel=0.2), name


def _day(rng: np.random.Generator, *, weighted: bool) -> tuple[dict[str, float], dict[str, float]]:
    """Return metrics and standard errors of 100 users with 5 rows each; a user's own mood moves all five."""
    users = np.repeat(np.arange(100), 5)
    mood = rng.normal(0, 1, 100)[users]
    logit = rng.normal(-0.5, 1, 500)
    label = (rng.random(500) < m.sigmoid(logit + mood)).astype(np.float32)
    weight = np.where(label > 0, 1.0, 2.0).astype(np.float32) if weighted else None
    value = np.expm1(np.maximum(logit + mood + rng.normal(0, 1, 500), 0) / 3).astype(np.float32)
    log1p = Log1p().target(value)
    ziln = np.stack([logit, np.zeros(500), np.ones(500)], axis=1)
    asked = {"groups": users, "weight": weight}
    values = Binary().metrics(label, logit[:, None], weight=weight)
    values["calibration"] = 1 / values["calibration"]
    values |= Log1p().metrics(log1p, logit[:, None], weight=weight)
    values["ziln calibration"] = 1 / Ziln().metrics(value, ziln, weight=weight)["calibration"]
    errors = Binary().standard_errors(label, logit[:, None], **asked)  # type: ignore[arg-type]
    errors |= Log1p().standard_errors(log1p, logit[:, None], **asked)  # type: ignore[arg-type]
    errors["ziln calibration"] = Ziln().standard_errors(value, ziln, **asked)["calibration"]  # type: ignore[arg-type]
    return values, errors


def test_a_kind_of_one_s_own_has_the_standard_errors_of_its_loss_and_calibration() -> None:
    from tests.models.test_task_kinds import Count

    target, raw = np.array([0.0, 1.0, 2.0], np.float32), np.zeros([3, 1], np.float32)
    found = Count().standard_errors(target, raw)
    # exp(0) − target · 0 is 1 for every row; observed / predicted is 1, with residuals −1, 0, 1 of 3 predicted.
    assert found[Count().loss_name] == 0
    assert found["calibration"] == pytest.approx(math.sqrt(2 / 9 * 3 / 2))
