"""Divergence of two zero-inflated log-normals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tutelage.models import ziln
from tutelage.models.lazy_tf import tf
from tutelage.models.losses.base import Rows, SoftLoss
from tutelage.pipeline import task_kinds as specs

if TYPE_CHECKING:
    from tutelage.models.task_kinds.base import TaskKind


@dataclass(frozen=True, slots=True, kw_only=True)
class ZilnKL(SoftLoss):
    """KL(teacher ‖ student) in nats (`models.ziln.kl`). The default of `ziln` tasks."""

    @classmethod
    def fits(cls, kind: TaskKind) -> bool:
        return isinstance(kind, specs.Ziln)

    def loss(self, teacher: tf.Tensor, student: tf.Tensor, rows: Rows) -> tf.Tensor:
        return ziln.kl(teacher, student)
