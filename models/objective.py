"""What a ranker is trained on: the hard labels of every task, and the soft labels of those that are distilled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tensorflow as tf

from tutelage.models import ziln
from tutelage.models.config import SOFT_LOSSES, Distillation
from tutelage.models.losses import hard_loss, soft_loss
from tutelage.pipeline.schema import Schema, Task

if TYPE_CHECKING:
    from tutelage.models.ranker import Batch, Outputs


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The loss of a batch: Σ over tasks of the hard loss, plus Σ over distillations of alpha · the soft loss."""

    schema: Schema
    """With the tasks of the model, and no other."""
    distillation: Sequence[Distillation]
    offsets: Mapping[str, float]
    """Added to the logits of binary tasks, by name, in the hard loss."""
    user: int | None
    """The place of `Schema.user` in `Batch.rows`; None: the model does not take it."""

    def loss(
        self,
        batch: "Batch",
        served: "Outputs",
        auxiliary: "Outputs",
        adapters: Mapping[str, tf.keras.layers.Layer],
    ) -> tf.Tensor:
        """Return the loss of `batch`, a float32 scalar.

        Args:
            batch: B rows with their labels.
            served: raw outputs by task, float32 [B, outputs of the task].
            auxiliary: raw outputs by auxiliary tower, float32 [B, outputs of its task].
            adapters: by task, the network that corrects the teacher's raw outputs.
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
            soft = [
                term
                for d in self.distillation
                for term in self._distillation_losses(d, batch, served, auxiliary, adapters)
            ]
            loss += tf.add_n(soft)
        return loss

    def hard_loss(
        self, task: Task, batch: "Batch", raw: tf.Tensor, weight: tf.Tensor, *, offset: float = 0.0
    ) -> tf.Tensor:
        """Return one task's loss on hard labels, a scalar; examples without a label are left out."""
        labels = batch.labels[:, [t.name for t in self.schema.tasks].index(task.name)]
        if task.name in self.schema.masked:
            # 0 · NaN is NaN: what is not there must not enter the sum at all, nor its gradient.
            there = ~tf.math.is_nan(labels)
            labels = tf.where(there, labels, tf.zeros_like(labels))
            weight = tf.where(there, weight, tf.zeros_like(weight))
        return hard_loss(task, labels, raw, weight, offset=offset)

    def _distillation_losses(
        self,
        d: Distillation,
        batch: "Batch",
        served: "Outputs",
        auxiliary: "Outputs",
        adapters: Mapping[str, tf.keras.layers.Layer],
    ) -> list[tf.Tensor]:
        (task,), outputs = self.schema.select_tasks([d.task]), self.schema.outputs
        first = outputs.index(task.outputs[0])
        teacher = batch.soft[:, first : first + len(task.outputs)]

        def soft(label: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
            return d.alpha * soft_loss(
                task,
                label,
                student,
                kind=d.loss or SOFT_LOSSES[task.kind][0],
                weight=batch.weight,
                mask=batch.mask,
                temperature=d.temperature,
                label_scale=d.label_scale,
                group=batch.rows[:, self.user] if d.loss == "listwise" else None,
            )

        losses = [soft(teacher, (auxiliary if d.through == "auxiliary" else served)[task.name])]
        if d.adapter:
            # What stands where the mask is 0 may be NaN.
            present = batch.mask > 0
            label = tf.where(present[:, None], teacher, tf.ones_like(teacher))
            start = ziln.unconstrained(label) if task.kind == "ziln" else label
            adapted = start + adapters[task.name](label)
            if task.kind == "ziln":
                adapted = ziln.parameters(adapted)
            weight = tf.where(present, batch.weight, tf.zeros_like(batch.weight))
            losses.append(self.hard_loss(task, batch, adapted, weight))
            losses.append(soft(adapted, auxiliary[f"{task.name}_adapted"]))
        return losses
