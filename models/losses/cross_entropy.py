"""Cross-entropy between the teacher's probability and the student's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tutelage.models.lazy_tf import tf
from tutelage.models.losses.base import Rows, SoftLoss
from tutelage.pipeline.errors import UserError

if TYPE_CHECKING:
    from tutelage.models.task_kinds.base import TaskKind


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossEntropy(SoftLoss):
    """Between min(a·σ(teacher/T), 1) and σ(student/T), times T². The default of binary tasks.

    The factor T² keeps the size of the gradient (Hinton et al., arXiv 1503.02531, section 2). For T → ∞ the loss is an
    eighth of `LogitMSE`, up to a constant.

    Raises UserError for a parameter that is not a number above 0.

    >>> CrossEntropy(temperature=2.0)
    CrossEntropy(temperature=2.0, label_scale=1.0)
    """

    temperature: float = 1.0
    """T: both logits are divided by it."""
    label_scale: float = 1.0
    """a: the teacher's probability is multiplied by it, up to 1 (ExFM, arXiv 2502.17494)."""

    def __post_init__(self) -> None:
        if not (0 < self.temperature < math.inf and 0 < self.label_scale < math.inf):
            raise UserError(
                f"CrossEntropy: temperature is {self.temperature} and label_scale {self.label_scale}, "
                "expected numbers above 0"
            )

    @classmethod
    def fits(cls, kind: TaskKind) -> bool:
        return kind.is_binary

    def loss(self, teacher: tf.Tensor, student: tf.Tensor, rows: Rows) -> tf.Tensor:
        label = tf.minimum(self.label_scale * tf.sigmoid(teacher[:, 0] / self.temperature), 1.0)
        return self.temperature**2 * tf.nn.sigmoid_cross_entropy_with_logits(
            labels=label, logits=student[:, 0] / self.temperature
        )
