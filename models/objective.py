"""What a ranker is trained on: the hard labels of every task, and the soft labels of those that are distilled.

The soft labels are the teacher's raw outputs in `Batch.soft`. `Objective.loss` hands them, task by task, to the
`SoftLoss` of the student's `Distillation`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tensorflow as tf

from tutelage.models.config import Distillation
from tutelage.models.task_kinds import kind_of
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Schema, Task

if TYPE_CHECKING:
    from tutelage.models.ranker import Batch, Outputs

Adapters = Mapping[str, tf.keras.layers.Layer]
"""By task, the network that corrects the teacher's raw outputs (`Distillation.adapter`)."""


def hard_loss(
    task: Task, target: tf.Tensor, raw: tf.Tensor, weight: tf.Tensor, *, offset: float = 0.0
) -> tf.Tensor:
    """Return the task's loss on hard labels: Σ w·ℓ / B, a float32 scalar.

    Args:
        task: its kind decides ℓ.
        target: what `TaskKind.target` made of the labels, float32 [B].
        raw: the network's raw outputs, float32 [B, k].
        weight: w, of each example, float32 [B]; an example of weight 0 is not trained on.
        offset: added to a binary logit here and not where it is served. With log(1/r), where a share r of
            the negatives was kept, the served logit fits all examples: kept ones have 1/r times the odds (He et
            al., ADKDD 2014, eq. 4, applied within the model; King and Zeng 2001, prior correction).

    Raises UserError for an offset of a task that is not binary: its examples of value 0 are others than the
    negatives that were dropped.
    """
    if offset and not task.is_binary:
        raise UserError(
            f"task {task.name!r}: offset is {offset}, expected 0 for a {task.kind} task; "
            "only a binary task's logit can be offset"
        )
    loss = kind_of(task).hard_loss(target, raw + offset if offset else raw)
    return tf.math.divide_no_nan(tf.reduce_sum(weight * loss), tf.cast(tf.size(loss), tf.float32))


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The loss of a batch: Σ over tasks of the hard loss, plus Σ over distillations of alpha · the soft loss."""

    schema: Schema
    """With the tasks of the model, and no other."""
    distillation: Sequence[Distillation]
    offsets: Mapping[str, float]
    """Added to the logits of binary tasks, by name, in the hard loss."""
    user: int | None
    """The column of `Schema.user` in `Batch.rows`; None: the model does not take it."""

    def loss(self, batch: "Batch", served: "Outputs", auxiliary: "Outputs", adapters: Adapters) -> tf.Tensor:
        """Return the loss of `batch`, a float32 scalar.

        Args:
            batch: B examples with their labels.
            served: raw outputs by task, float32 [B, outputs of the task].
            auxiliary: raw outputs by auxiliary tower, float32 [B, outputs of its task].
            adapters: the networks that correct the teacher's raw outputs.
        """
        loss = tf.add_n(
            [
                self.hard_loss(
                    task, batch, served[task.name], batch.weight, offset=self.offsets.get(task.name, 0.0)
                )
                for task in self.schema.tasks
            ]
        )
        if self.distillation:
            soft = []
            for distillation in self.distillation:
                soft += self._distillation_losses(distillation, batch, served, auxiliary, adapters)
            loss += tf.add_n(soft)
        return loss

    def hard_loss(
        self, task: Task, batch: "Batch", raw: tf.Tensor, weight: tf.Tensor, *, offset: float = 0.0
    ) -> tf.Tensor:
        """Return one task's loss on hard labels, a float32 scalar; examples without a label are left out."""
        target = batch.labels[:, [t.name for t in self.schema.tasks].index(task.name)]
        if task.name in self.schema.masked:
            # 0 · NaN is NaN: what is not there must not enter the sum at all, nor its gradient.
            there = ~tf.math.is_nan(target)
            target = tf.where(there, target, tf.zeros_like(target))
            weight = tf.where(there, weight, tf.zeros_like(weight))
        return hard_loss(task, target, raw, weight, offset=offset)

    def soft_loss(self, d: Distillation, batch: "Batch", teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
        """Return one task's loss on soft labels times alpha, a float32 scalar, of raw outputs [B, k]."""
        (task,) = self.schema.select_tasks([d.task])
        loss = d.loss_for(task)
        user = None
        if loss.needs_user:
            if self.user is None:
                raise UserError(
                    f"{type(loss).__name__} needs the schema's `user`, and the model does not take it"
                )
            user = batch.rows[:, self.user]
        return d.alpha * loss(
            teacher, student, kind=kind_of(task), weight=batch.weight, mask=batch.mask, user=user
        )

    def _distillation_losses(
        self, d: Distillation, batch: "Batch", served: "Outputs", auxiliary: "Outputs", adapters: Adapters
    ) -> list[tf.Tensor]:
        (task,), outputs = self.schema.select_tasks([d.task]), self.schema.outputs
        first = outputs.index(task.outputs[0])
        teacher = batch.soft[:, first : first + len(task.outputs)]
        student = (auxiliary if d.through == "auxiliary" else served)[task.name]
        losses = [self.soft_loss(d, batch, teacher, student)]
        if d.adapter:
            kind, present = kind_of(task), batch.mask > 0
            # What stands where the mask is 0 may be NaN.
            label = tf.where(present[:, None], teacher, tf.ones_like(teacher))
            adapted = kind.parameters(kind.unconstrained(label) + adapters[task.name](label))
            weight = tf.where(present, batch.weight, tf.zeros_like(batch.weight))
            losses.append(self.hard_loss(task, batch, adapted, weight))
            losses.append(self.soft_loss(d, batch, adapted, auxiliary[f"{task.name}_adapted"]))
        return losses
