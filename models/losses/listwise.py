"""Cross-entropy between two distributions over the examples of one user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tutelage.models.lazy_tf import tf
from tutelage.models.losses.base import Rows, SoftLoss

if TYPE_CHECKING:
    from tutelage.models.task_kinds.base import TaskKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Listwise(SoftLoss):
    """The calibration-compatible listwise loss (CLID, arXiv 2312.08727), of a binary task.

    A list is made of the examples of one user in the batch that have a weight. Its loss is the cross-entropy between
    the teacher's and the student's probabilities, each divided by its sum over the list, times the list's weight: the
    loss weighs as much as a pointwise loss of as many examples. It is least where the student's probabilities are the
    teacher's times a factor, and leaves their level to the other losses. An example of weight 2 counts as two. A list
    of one example gives 0.
    """

    needs_user = True

    @classmethod
    def fits(cls, kind: TaskKind) -> bool:
        return kind.is_binary

    def loss(self, teacher: tf.Tensor, student: tf.Tensor, rows: Rows) -> tf.Tensor:
        """Return each example's share of its list's loss, float32 [B]."""
        distinct, lists = tf.unique(rows.user)
        # Examples of weight 0 make a list of their own: they are in no other list's sum, and weigh nothing.
        count = tf.size(distinct) + 1
        lists = tf.where(rows.weight > 0, lists, count - 1)
        weight = tf.where(rows.weight > 0, rows.weight, tf.ones_like(rows.weight))

        def total(values: tf.Tensor) -> tf.Tensor:
            return tf.gather(tf.math.unsorted_segment_sum(values, lists, count), lists)

        def log_share(logits: tf.Tensor) -> tf.Tensor:
            # In logarithms, less the list's largest, so that small probabilities keep their ratios.
            values = tf.math.log_sigmoid(logits) + tf.math.log(weight)
            largest = tf.gather(tf.math.unsorted_segment_max(values, lists, count), lists)
            values -= tf.stop_gradient(largest)
            return values - tf.math.log(total(tf.exp(values)))

        teacher, student = log_share(teacher[:, 0]), log_share(student[:, 0])
        return -total(weight) / weight * tf.exp(teacher) * student
