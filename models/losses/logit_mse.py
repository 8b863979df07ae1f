"""Squared difference of logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tutelage.models.lazy_tf import tf
from tutelage.models.losses.base import Rows, SoftLoss

if TYPE_CHECKING:
    from tutelage.models.task_kinds.base import TaskKind


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitMSE(SoftLoss):
    """(teacher − student)², of the logits of a binary task."""

    @classmethod
    def fits(cls, kind: TaskKind) -> bool:
        return kind.is_binary

    def loss(self, teacher: tf.Tensor, student: tf.Tensor, rows: Rows) -> tf.Tensor:
        return tf.math.squared_difference(teacher[:, 0], student[:, 0])
