"""A kind of task: what its network puts out, its loss on hard labels, what is served, and how it is judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from tutelage.models import standard_errors as se
from tutelage.models.lazy_tf import tf
from tutelage.models.metrics import Weight, mean, over_observed
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.task_kinds import TaskSpec

if TYPE_CHECKING:
    from tutelage.models.losses.base import SoftLoss


@dataclass(frozen=True, slots=True)
class Quality:
    """A metric that the gates compare, and how much worse it may become."""

    metric: str
    """Its name in `TaskKind.metrics`."""
    better: Literal["higher", "lower", "one"]
    """`higher`: it may fall by the margin. `lower`: it may rise by the margin as a share of itself. `one`: it may be
    farther from 1 by the margin."""
    margin: str
    """The field of `GateConfig` and of `ServingConfig` that holds the margin, as in "auc_drop"."""


CALIBRATION = Quality("calibration", "one", "calibration_drift")
RELATIVE_SQUARED_ERROR = Quality("relative_squared_error", "lower", "squared_error_rise")
"""Compared instead of the squared error, because the spread of the values differs from day to day."""
SERVED_METRICS = ("auc", "normalized_entropy", "relative_squared_error", "calibration")
"""What can be said of served scores alone, without the raw outputs."""


@dataclass(frozen=True, slots=True)
class TaskKind(TaskSpec):
    """Derive a kind of task of your own from this class, in one file, and pass it as `Task(kind=Count())`.

    A kind must have `outputs`, `loss_name`, `hard_loss` and `served`; the rest has defaults. A kind with
    parameters is a frozen dataclass with fields. TensorFlow methods are traced into the training step and into the
    served graph, so they must be made of TensorFlow ops.

    >>> class Count(TaskKind):  # a count ≥ 0, Poisson distributed
    ...     outputs = ("log_rate",)
    ...     loss_name = "poisson_loss"
    ...     def hard_loss(self, target, raw):
    ...         return tf.exp(raw[:, 0]) - target * raw[:, 0]
    ...     def served(self, raw):
    ...         return tf.exp(raw[:, 0])
    >>> round(float(Count().served(tf.constant([[0.0]]))[0]), 3)
    1.0
    """

    @property
    def loss_name(self) -> str:
        """The metric by which models are compared (report, succession); lower is better, and it ends in `_loss`."""
        raise NotImplementedError(f"{type(self).__name__} has no `loss_name`; give it one that ends in _loss")

    @property
    def soft_loss(self) -> SoftLoss | None:
        """The loss on soft labels where `Distillation.loss` is None; None: there is no default."""
        return None

    @property
    def qualities(self) -> tuple[Quality, ...]:
        """What the gate of training compares with earlier days: by default the loss, and the calibration."""
        return Quality(self.loss_name, "lower", "squared_error_rise"), CALIBRATION

    @property
    def served_qualities(self) -> tuple[Quality, ...]:
        """What the gate before serving compares between two versions' served scores: of `SERVED_METRICS`."""
        return RELATIVE_SQUARED_ERROR, CALIBRATION

    def target(self, label: np.ndarray) -> np.ndarray:
        """Return what the network is trained on, [rows] from labels [rows], NumPy. A missing label is NaN."""
        return label

    def parameters(self, head: tf.Tensor) -> tf.Tensor:
        """Return the raw outputs, float32 [batch, k], from the last layer's, float32 [batch, k]."""
        return head

    def unconstrained(self, raw: tf.Tensor) -> tf.Tensor:
        """Return what `parameters` makes `raw` of, float32 [batch, k]; where it has no inverse, a finite neighbour."""
        return raw

    def hard_loss(self, target: tf.Tensor, raw: tf.Tensor) -> tf.Tensor:
        """Return the loss on hard labels, float32 [batch].

        Args:
            target: as `target` made it, float32 [batch]. Where the weight is 0 it is any finite number.
            raw: the raw outputs, float32 [batch, k].
        """
        raise NotImplementedError(f"{type(self).__name__} has no method `hard_loss`")

    def served(self, raw: tf.Tensor) -> tf.Tensor:
        """Return the served score, float32 [batch], from raw outputs, float32 [batch, k]."""
        raise NotImplementedError(f"{type(self).__name__} has no method `served`")

    def score(self, raw: np.ndarray) -> np.ndarray:
        """Return `served`, float64 [rows], from raw outputs [rows, k], NumPy.

        The exported graph is compared with it. Written in NumPy, it tests `served` as well; as it stands, it calls it.
        """
        return np.asarray(self.served(tf.constant(raw, tf.float32)), np.float64)

    def error_scale(self, values: np.ndarray) -> np.ndarray:
        """Return targets or served scores [rows] on the scale on which the gate squares their difference."""
        return values

    def predicted(self, raw: np.ndarray) -> np.ndarray:
        """Return the expectation of the target, float64 [rows], for calibration; NaN where the kind predicts none."""
        return self.score(raw)

    def row_loss(self, target: np.ndarray, raw: np.ndarray) -> np.ndarray:
        """Return the loss whose mean is the metric `loss_name`, float64 [rows], NumPy; by default `hard_loss`."""
        return np.asarray(
            self.hard_loss(tf.constant(target, tf.float32), tf.constant(raw, tf.float32)), np.float64
        )

    def metrics(
        self, target: np.ndarray, raw: np.ndarray, *, groups: np.ndarray | None = None, weight: Weight = None
    ) -> dict[str, float]:
        """Return metrics by name; `loss_name` and every one of `qualities` is among them.

        Args:
            target: as `target` made it, [rows]; none is NaN.
            raw: the raw outputs, [rows, k].
            groups: the users' ids [rows], for metrics that compare the rows of one user; None: there are none.
            weight: the weight of each row, [rows]; None: one.
        """
        return {
            self.loss_name: mean(self.row_loss(target, raw), weight),
            "calibration": over_observed(self.predicted(raw), target.astype(np.float64), weight),
        }

    def standard_errors(
        self, target: np.ndarray, raw: np.ndarray, *, groups: np.ndarray | None = None, weight: Weight = None
    ) -> dict[str, float]:
        """Return the standard errors of `qualities` by name; of calibration, that of its inverse, observed / predicted.

        The arguments are those of `metrics`; the rows of one of the `groups` are not independent. Infinite: so few
        rows say nothing of the metric, and the day is not judged by it. One that is missing is not known: the day is
        then judged by the spread of the days before alone.
        """
        observed = target.astype(np.float64)
        return {
            self.loss_name: se.clustered(se.of_mean(self.row_loss(target, raw), weight), groups),
            "calibration": se.clustered(se.of_ratio(observed, self.predicted(raw), weight), groups),
        }

    def check(self, task: str) -> None:
        """Raise UserError where the kind cannot be used as it is written; `task` is the name in the message."""
        for name in ("outputs", "loss_name", "hard_loss", "served"):
            if getattr(type(self), name) is getattr(TaskKind, name):
                raise UserError(
                    f"task {task!r}: {type(self).__name__} has no `{name}` of its own; see models.task_kinds.TaskKind"
                )
        for quality in self.served_qualities:
            if quality.metric not in SERVED_METRICS:
                raise UserError(
                    f"task {task!r}: served_qualities of {self} name {quality.metric!r}, expected one of "
                    f"{', '.join(SERVED_METRICS)}"
                )
        if not self.loss_name.endswith("_loss"):
            raise UserError(
                f"task {task!r}: loss_name of {self} is {self.loss_name!r}, expected a name that ends in _loss"
            )


class ValueKind(TaskKind):
    """A kind for a value ≥ 0, judged by the squared error of its log1p: `ltv_loss`, for lifetime value.

    Values such as watch time or spend are heavy-tailed; the error of their logarithm is not ruled by a few rows.
    """

    __slots__ = ()
    loss_name = "ltv_loss"

    def expected_log1p(self, raw: tf.Tensor) -> tf.Tensor:
        """Return E[log1p(Y)], float32 [batch], from raw outputs, float32 [batch, k]."""
        raise NotImplementedError(f"{type(self).__name__} has no method `expected_log1p`")
