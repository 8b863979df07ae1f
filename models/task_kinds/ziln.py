"""A value ≥ 0, often 0, of which a zero-inflated log-normal is predicted (arXiv 1912.07753)."""

from __future__ import annotations

import math

import numpy as np

from tutelage.models import metrics as m
from tutelage.models import standard_errors as se
from tutelage.models import ziln
from tutelage.models.lazy_tf import tf
from tutelage.models.losses.ziln_kl import ZilnKL
from tutelage.models.task_kinds.base import CALIBRATION, RELATIVE_SQUARED_ERROR, ValueKind
from tutelage.pipeline import task_kinds as specs


class Ziln(ValueKind, specs.Ziln):
    """The network gives (logit, μ, σ), trained by maximum likelihood. The served score is E[Y], in the label's unit."""

    __slots__ = ()
    soft_loss = ZilnKL()
    qualities = (RELATIVE_SQUARED_ERROR, CALIBRATION)

    def parameters(self, head: tf.Tensor) -> tf.Tensor:
        return ziln.parameters(head)

    def unconstrained(self, raw: tf.Tensor) -> tf.Tensor:
        return ziln.unconstrained(raw)

    def hard_loss(self, target: tf.Tensor, raw: tf.Tensor) -> tf.Tensor:
        return ziln.nll(target, raw)

    def served(self, raw: tf.Tensor) -> tf.Tensor:
        return ziln.expected(raw)

    def expected_log1p(self, raw: tf.Tensor) -> tf.Tensor:
        return ziln.expected_log1p(raw)

    def score(self, raw: np.ndarray) -> np.ndarray:
        return ziln.expected_numpy(*raw.T)

    def error_scale(self, values: np.ndarray) -> np.ndarray:
        return np.log1p(np.maximum(values, 0))

    def row_loss(self, target: np.ndarray, raw: np.ndarray) -> np.ndarray:
        return np.square(np.log1p(target.astype(np.float64)) - ziln.expected_log1p_numpy(*raw.T))

    def metrics(
        self,
        target: np.ndarray,
        raw: np.ndarray,
        *,
        groups: np.ndarray | None = None,
        weight: m.Weight = None,
    ) -> dict[str, float]:
        """Return the squared error of log1p, plain and relative, −log likelihood, RMSE and calibration.

        RMSE is in the label's unit.
        """
        target = target.astype(np.float64)
        expected = self.score(raw)
        loss = m.mean(self.row_loss(target, raw), weight)
        return {
            "ltv_loss": loss,
            "relative_squared_error": m.relative_squared_error(np.log1p(target), loss, weight),
            "ziln_nll": m.mean(ziln.nll_numpy(target, *raw.T), weight),
            "rmse": math.sqrt(m.mean(np.square(target - expected), weight)),
            "calibration": m.over_observed(expected, target, weight),
        }

    def standard_errors(
        self,
        target: np.ndarray,
        raw: np.ndarray,
        *,
        groups: np.ndarray | None = None,
        weight: m.Weight = None,
    ) -> dict[str, float]:
        """Return that of the relative squared error and of the calibration."""
        of_error = se.of_relative_squared_error(
            np.log1p(target.astype(np.float64)), self.row_loss(target, raw), weight
        )
        of_calibration = se.of_ratio(target.astype(np.float64), self.score(raw), weight)
        return {
            "relative_squared_error": se.clustered(of_error, groups),
            "calibration": se.clustered(of_calibration, groups),
        }
