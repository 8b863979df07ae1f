"""Metrics against scikit-learn and by hand."""

import math

import numpy as np
import pytest
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from tutelage.trainers import metrics


def test_auc_and_log_loss_agree_with_scikit_learn_with_ties_too() -> None:
    rng = np.random.default_rng(1)
    label = rng.integers(0, 2, 2000).astype(np.float32)
    logit = np.round(rng.normal(size=2000) + label, 1).astype(np.float32)
    assert metrics.auc(label, logit) == pytest.approx(roc_auc_score(label, logit), abs=1e-12)
    expected = sklearn_log_loss(label, metrics.sigmoid(logit))
    assert metrics.log_loss(label, logit) == pytest.approx(expected, rel=1e-9)


def test_auc_of_one_class_is_no_number() -> None:
    assert math.isnan(metrics.auc(np.ones(3), np.arange(3.0)))


def test_calibration_is_predicted_over_observed() -> None:
    assert metrics.calibration(np.array([1.0, 0.0, 0.0, 0.0]), np.zeros(4)) == pytest.approx(2.0)


def test_a_sure_and_wrong_logit_is_not_clipped() -> None:
    assert metrics.log_loss(np.array([0.0]), np.array([800.0])) == pytest.approx(800.0)
