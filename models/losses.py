"""What a task learns from: hard labels, and the soft labels of a teacher."""

import tensorflow as tf
import tensorflow_recommenders as tfrs

from tutelage.pipeline.schema import Task


def hard_loss(task: Task) -> tfrs.tasks.Ranking:
    """The task's loss on hard labels [batch] and raw outputs [batch]: their mean over the batch.

    `binary`: cross-entropy of the logit. `log1p`: squared error to log1p of the label.
    """
    if task.kind == "binary":
        return tfrs.tasks.Ranking(
            loss=tf.keras.losses.BinaryCrossentropy(from_logits=True), name=f"{task.name}_hard"
        )
    return tfrs.tasks.Ranking(loss=tf.keras.losses.MeanSquaredError(), name=f"{task.name}_hard")


def soft_loss(
    task: Task, teacher: tf.Tensor, student: tf.Tensor, *, weight: tf.Tensor | float = 1.0, mask: tf.Tensor
) -> tf.Tensor:
    """The task's loss on soft labels: Σ w·m·ℓ / max(Σ w·m, 1) over the batch, a scalar.

    The sum is divided by the rows that have a label, not by the batch, so that the weight of
    distillation does not shrink with coverage.

    `binary`: cross-entropy between σ(teacher) and σ(student), both given as logits (Hinton et al.,
    arXiv 1503.02531, eq. 1 with T = 1). `log1p`: squared error between the two outputs.

    Args:
        task: decides ℓ.
        teacher: the teacher's raw output, float32 [batch]; what stands where the mask is 0 is not
            read, it may be NaN.
        student: the student's raw output, float32 [batch].
        weight: w, of each row, float32 [batch] or a scalar.
        mask: m, 1 where there is a soft label, else 0, float32 [batch].
    """
    # 0 · NaN is NaN: what is masked must not enter the sum at all, nor its gradient.
    teacher = tf.stop_gradient(tf.where(mask > 0, teacher, tf.zeros_like(teacher)))
    if task.kind == "binary":
        loss = tf.nn.sigmoid_cross_entropy_with_logits(labels=tf.sigmoid(teacher), logits=student)
    else:
        loss = tf.math.squared_difference(teacher, student)
    weight = weight * mask
    return tf.reduce_sum(weight * loss) / tf.maximum(tf.reduce_sum(weight), 1.0)
