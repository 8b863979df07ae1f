"""A value ≥ 0, of which log1p is predicted by squared error."""

from __future__ import annotations

import math

import numpy as np

from tutelage.models import metrics as m
from tutelage.models import standard_errors as se
from tutelage.models.lazy_tf import tf
from tutelage.models.losses.squared_error import SquaredError
from tutelage.models.task_kinds.base import RELATIVE_SQUARED_ERROR, ValueKind
from tutelage.pipeline import task_kinds as specs


class Log1p(ValueKind, specs.Log1p):
    """The network gives log1p of the value, and it is served as it is: expm1 of it is not the expectation."""

    __slots__ = ()
    soft_loss = SquaredError()
    qualities = served_qualities = (RELATIVE_SQUARED_ERROR,)

    def target(self, label: np.ndarray) -> np.ndarray:
        return np.log1p(label)

    def hard_loss(self, target: tf.Tensor, raw: tf.Tensor) -> tf.Tensor:
        return tf.math.squared_difference(raw[:, 0], target)

    def served(self, raw: tf.Tensor) -> tf.Tensor:
        return raw[:, 0]

    def expected_log1p(self, raw: tf.Tensor) -> tf.Tensor:
        return raw[:, 0]

    def score(self, raw: np.ndarray) -> np.ndarray:
        return raw[:, 0].astype(np.float64)

    def predicted(self, raw: np.ndarray) -> np.ndarray:
        return np.full(len(raw), np.nan)

    def row_loss(self, target: np.ndarray, raw: np.ndarray) -> np.ndarray:
        return np.square(target.astype(np.float64) - raw[:, 0])

    def metrics(
        self,
        target: np.ndarray,
        raw: np.ndarray,
        *,
        groups: np.ndarray | None = None,
        weight: m.Weight = None,
    ) -> dict[str, float]:
        """Return the squared error of log1p, plain, relative to the variance, and its root."""
        loss = m.mean(self.row_loss(target, raw), weight)
        relative = m.relative_squared_error(target.astype(np.float64), loss, weight)
        return {"ltv_loss": loss, "relative_squared_error": relative, "rmse": math.sqrt(loss)}

    def standard_errors(
        self,
        target: np.ndarray,
        raw: np.ndarray,
        *,
        groups: np.ndarray | None = None,
        weight: m.Weight = None,
    ) -> dict[str, float]:
        """Return that of the relative squared error."""
        of_error = se.of_relative_squared_error(target.astype(np.float64), self.row_loss(target, raw), weight)
        return {"relative_squared_error": se.clustered(of_error, groups)}
