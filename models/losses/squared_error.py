"""Squared difference of two expectations of log1p of a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tutelage.models.lazy_tf import tf
from tutelage.models.losses.base import Rows, SoftLoss

if TYPE_CHECKING:
    from tutelage.models.task_kinds.base import TaskKind


@dataclass(frozen=True, slots=True, kw_only=True)
class SquaredError(SoftLoss):
    """(E[log1p(Y)] of the teacher − that of the student)². The default of `log1p` tasks.

    It fits every kind with a method `expected_log1p`. For a `log1p` task these are the raw outputs.
    """

    @classmethod
    def fits(cls, kind: TaskKind) -> bool:
        return hasattr(kind, "expected_log1p")

    def loss(self, teacher: tf.Tensor, student: tf.Tensor, rows: Rows) -> tf.Tensor:
        expected: Any = rows.kind.expected_log1p  # type: ignore[attr-defined]
        return tf.math.squared_difference(expected(teacher), expected(student))
