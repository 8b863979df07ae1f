"""What all losses on soft labels have in common: checks, weights, and the mean over the batch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tutelage.models.lazy_tf import tf
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Schema, Task

if TYPE_CHECKING:
    from tutelage.models.task_kinds.base import TaskKind


class Rows(NamedTuple):
    """What a soft loss may need besides the raw outputs, for a batch of B examples."""

    kind: TaskKind
    """The kind of the task whose raw outputs these are."""
    weight: tf.Tensor
    """float32 [B]: the example's weight times its soft label's; 0 where it does not count."""
    user: tf.Tensor
    """int [B]: whose example it is; None unless the loss sets `needs_user`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftLoss:
    """How a student's raw outputs are compared with the teacher's. Derive your own, and write `loss`.

    A loss with parameters is a frozen dataclass with fields, which it checks in `__post_init__`. The base class leaves
    out the examples without a soft label, multiplies by the weights and takes the mean.

    >>> class AbsoluteError(SoftLoss):
    ...     def loss(self, teacher, student, rows):
    ...         return tf.abs(teacher[:, 0] - student[:, 0])
    >>> teacher, student = tf.constant([[1.0], [2.0]]), tf.constant([[0.0], [5.0]])
    >>> from tutelage.models.task_kinds import Log1p
    >>> mean = AbsoluteError()(teacher, student, kind=Log1p(), weight=tf.ones([2]), mask=tf.constant([1.0, 0.0]))
    >>> float(mean)  # the second example has no soft label
    1.0
    """

    @property
    def needs_user(self) -> bool:
        """Whether the loss compares the examples of one user, and so needs `Rows.user`."""
        return False

    @classmethod
    def fits(cls, kind: TaskKind) -> bool:
        """Return whether raw outputs of this kind can be compared by this loss; by default, of any kind."""
        return True

    def loss(self, teacher: tf.Tensor, student: tf.Tensor, rows: Rows) -> tf.Tensor:
        """Return the loss of each example, float32 [B].

        Args:
            teacher: the teacher's raw outputs, float32 [B, k], without a gradient. They are finite: where there is no
                soft label, the student's own stand in their place.
            student: the student's raw outputs, float32 [B, k].
            rows: what else is known about the examples.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method `loss`")

    def __call__(
        self,
        teacher: tf.Tensor,
        student: tf.Tensor,
        *,
        kind: TaskKind,
        weight: tf.Tensor,
        mask: tf.Tensor,
        user: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Return Σ w·m·ℓ / max(Σ w·[m > 0], 1) over the batch, a float32 scalar.

        The sum is divided by the weights of the examples that have a soft label, not by the batch size, so that the
        weight of distillation does not shrink with coverage. It does shrink with a label's own weight.

        Args:
            teacher: the teacher's raw outputs, float32 [B, k]; not read where w·m is 0, and may be NaN there.
            student: the student's raw outputs, float32 [B, k].
            kind: the kind of the task whose raw outputs these are.
            weight: w, of each example, float32 [B].
            mask: m, 0 where there is no soft label, else its weight, float32 [B].
            user: whose example it is, int [B]; only for a loss that sets `needs_user`.
        """
        total = tf.reduce_sum(tf.where(mask > 0, weight, tf.zeros_like(weight)))
        weight = weight * mask
        # 0 · NaN is NaN: what weighs nothing must not enter the sum at all, nor its gradient.
        teacher = tf.stop_gradient(tf.where(weight[:, None] > 0, teacher, student))
        loss = self.loss(teacher, student, Rows(kind=kind, weight=weight, user=user))
        return tf.reduce_sum(weight * loss) / tf.maximum(total, 1.0)

    def check_kind(self, task: Task, kind: TaskKind) -> None:
        """Raise UserError where raw outputs of `task`, which is of `kind`, cannot be compared by this loss."""
        if not self.fits(kind):
            from tutelage.models.losses import BUILT_IN  # they derive from this class

            known = [name for name, loss in BUILT_IN.items() if loss.fits(kind)]
            raise UserError(
                f"task {task.name!r} is {task.kind} and cannot be distilled by {type(self).__name__}; "
                f"expected {' or '.join(known) or 'a SoftLoss of your own'}"
            )

    def check_inputs(self, schema: Schema, without: Collection[str] = ()) -> None:
        """Raise UserError where a model that takes the inputs of `schema`, but none of `without`, lacks one."""
        if not self.needs_user:
            return
        name, user = type(self).__name__, schema.user
        if user is None:
            raise UserError(f"{name} needs the schema's `user`, and the schema names none")
        if user in without:
            raise UserError(f"{name} needs {user!r}, and the model is without it; leave it out of `without`")
        if any(feature.grows for feature in schema.ids if feature.name == user):
            raise UserError(
                f"{name} tells users apart by their embedding indices, and those of {user!r} grow: all new users share "
                "one; use another loss, or no `grows`"
            )
