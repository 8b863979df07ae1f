"""What a task learns from: hard labels, and the soft labels of a teacher.

Raw outputs are float32 [B, k], in the order of `Task.outputs`: k is 3 for a `ziln` task, else 1.
"""

import tensorflow as tf
import tensorflow_recommenders as tfrs

from tutelage.models import ziln
from tutelage.models.config import SOFT_LOSSES
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Task


def hard_loss(
    task: Task, labels: tf.Tensor, raw: tf.Tensor, weight: tf.Tensor, *, offset: float = 0.0
) -> tf.Tensor:
    """The task's loss on hard labels: Σ w·ℓ / B, a scalar.

    `binary`: cross-entropy of the logit. `log1p`: squared error to log1p of the label. `ziln`: negative
    log likelihood of the label.

    Args:
        task: decides ℓ.
        labels: 0 or 1, log1p of the value, or (`ziln`) the value, float32 [B].
        raw: the model's raw outputs, float32 [B, k].
        weight: w, of each row, float32 [B]; a row of weight 0 is not learnt.
        offset: added to a binary logit here and not where it is served. With log(1/r), where a share r of
            the negatives was kept, the served logit fits all rows: kept rows have 1/r times the odds (He et
            al., ADKDD 2014, eq. 4, applied within the model; King and Zeng 2001, prior correction).

    Raises UserError for an offset of a task that is not binary: its rows of value 0 are others than the
    negatives that were dropped.
    """
    if offset and task.kind != "binary":
        raise UserError(
            f"task {task.name!r}: offset is {offset}, expected 0 for a {task.kind} task; "
            "only a binary task's logit can be offset"
        )
    if task.kind == "ziln":
        return tf.reduce_mean(weight * ziln.nll(labels, raw))
    binary = task.kind == "binary"
    loss = (
        tf.keras.losses.BinaryCrossentropy(from_logits=True) if binary else tf.keras.losses.MeanSquaredError()
    )
    ranking = tfrs.tasks.Ranking(loss=loss, name=f"{task.name}_hard")
    return ranking(labels[:, None], raw + offset, sample_weight=weight, compute_metrics=False)


def soft_loss(
    task: Task,
    teacher: tf.Tensor,
    student: tf.Tensor,
    *,
    kind: str,
    weight: tf.Tensor,
    mask: tf.Tensor,
    temperature: float = 1.0,
    label_scale: float = 1.0,
    group: tf.Tensor | None = None,
) -> tf.Tensor:
    """The task's loss on soft labels: Σ w·m·ℓ / max(Σ w·[m > 0], 1) over the batch, a scalar.

    The sum is divided by the rows that have a label, not by the batch, so that the weight of
    distillation does not shrink with coverage. It does with a label's own weight.

    `cross_entropy`: between min(a·σ(teacher/T), 1) and σ(student/T), times T² so that the gradient keeps
    its size (Hinton et al., arXiv 1503.02531, section 2); a is ExFM's label scaling (arXiv 2502.17494).
    `logit_mse`: squared difference of the logits, 8 times that loss for T → ∞ up to a constant.
    `listwise`: see `_listwise`. `squared_error`: of the outputs (`log1p`), or of E[log1p(Y)] (`ziln`).
    `kl`: KL(teacher ‖ student) of the two ZILN.

    Args:
        task: whose outputs these are.
        teacher: the teacher's raw outputs, float32 [B, k]; what stands where w·m is 0 is not read, it
            may be NaN.
        student: the student's raw outputs, float32 [B, k].
        kind: one of `SOFT_LOSSES` for the task's kind; decides ℓ.
        weight: w, of each row, float32 [B].
        mask: m, 0 where there is no soft label, else its weight, float32 [B].
        temperature: T > 0, of `cross_entropy`.
        label_scale: a > 0, of `cross_entropy`.
        group: whose row it is, int [B]; `listwise` compares rows of one group.

    Raises UserError for a kind that is not the task's, and for a setting that the kind does not have.
    """
    if kind not in SOFT_LOSSES[task.kind]:
        raise UserError(
            f"task {task.name!r}: soft loss is {kind!r}, expected one of {', '.join(SOFT_LOSSES[task.kind])}"
        )
    if kind != "cross_entropy" and (temperature, label_scale) != (1.0, 1.0):
        raise UserError(
            f"task {task.name!r}: temperature is {temperature} and label_scale {label_scale}, "
            f"expected 1 for {kind}; they belong to cross_entropy"
        )
    rows = tf.reduce_sum(tf.where(mask > 0, weight, tf.zeros_like(weight)))
    weight = weight * mask
    # 0 · NaN is NaN: what weighs nothing must not enter the sum at all, nor its gradient.
    teacher = tf.stop_gradient(tf.where(weight[:, None] > 0, teacher, student))
    first, own = teacher[:, 0], student[:, 0]
    if kind == "cross_entropy":
        label = tf.minimum(label_scale * tf.sigmoid(first / temperature), 1.0)
        loss = temperature**2 * tf.nn.sigmoid_cross_entropy_with_logits(
            labels=label, logits=own / temperature
        )
    elif kind == "listwise":
        loss = _listwise(first, own, weight, group)
    elif kind == "kl":
        loss = ziln.kl(teacher, student)
    elif task.kind == "ziln":
        loss = tf.math.squared_difference(ziln.expected_log1p(teacher), ziln.expected_log1p(student))
    else:
        loss = tf.math.squared_difference(first, own)
    return tf.reduce_sum(weight * loss) / tf.maximum(rows, 1.0)


def _listwise(teacher: tf.Tensor, student: tf.Tensor, weight: tf.Tensor, group: tf.Tensor) -> tf.Tensor:
    """Each row's share [B] of the calibration-compatible listwise loss (CLID, arXiv 2312.08727).

    Of a list, the rows of one group that weigh something, it is the cross-entropy between the teacher's
    and the student's probabilities, each divided by its sum over the list, times the list's weight: as
    many rows weigh as much as in a pointwise loss. It is least where the student's probabilities are the
    teacher's up to a factor, and so leaves their level to the other losses. A row of weight 2 counts as
    two; a list of one row gives 0.

    Args: logits, float32 [B]; weights, float32 [B]; group, int [B].
    """
    distinct, lists = tf.unique(group)
    # Rows that weigh nothing make a list of their own: it is in no other list's sum, and weighs nothing.
    count = tf.size(distinct) + 1
    lists = tf.where(weight > 0, lists, count - 1)
    weight = tf.where(weight > 0, weight, tf.ones_like(weight))

    def total(values: tf.Tensor) -> tf.Tensor:
        return tf.gather(tf.math.unsorted_segment_sum(values, lists, count), lists)

    def log_share(logits: tf.Tensor) -> tf.Tensor:
        # By logarithms, less the list's largest: small probabilities keep their ratios.
        values = tf.math.log_sigmoid(logits) + tf.math.log(weight)
        largest = tf.gather(tf.math.unsorted_segment_max(values, lists, count), lists)
        values -= tf.stop_gradient(largest)
        return values - tf.math.log(total(tf.exp(values)))

    return -total(weight) / weight * tf.exp(log_share(teacher)) * log_share(student)
