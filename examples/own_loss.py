"""A task kind and a soft loss of your own: `tutelage-run --config=examples/own_loss.py --smoke --workdir=...`."""

from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

from tutelage.export.config import ServingConfig
from tutelage.launch.configs import synthetic
from tutelage.models.config import distil
from tutelage.models.losses import SoftLoss
from tutelage.models.task_kinds import TaskKind
from tutelage.pipeline.schema import Task


class EdgeCrossEntropy(SoftLoss):
    """Cross-entropy between the teacher's and the student's probability of each edge, summed over the edges."""

    def loss(self, teacher, student, rows):
        each = tf.nn.sigmoid_cross_entropy_with_logits(labels=tf.sigmoid(teacher), logits=student)
        return tf.reduce_sum(each, axis=1)


@dataclass(frozen=True)
class Ordinal(TaskKind):
    """How many `edges` the label reaches: a logit for each edge; the served score is the expected level."""

    edges: tuple[float, ...]
    outputs = property(lambda self: tuple(f"reaches_{i}" for i in range(len(self.edges))))
    loss_name = "ordinal_loss"
    soft_loss = EdgeCrossEntropy()

    def target(self, label):
        return np.digitize(label, self.edges)

    def hard_loss(self, target, raw):
        reached = tf.cast(target[:, None] > np.arange(len(self.edges)), tf.float32)
        return tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(labels=reached, logits=raw), axis=1)

    def served(self, raw):
        return tf.reduce_sum(tf.sigmoid(raw), axis=1)


def experiment(*, smoke: bool):
    base = synthetic.experiment(smoke=smoke)
    level = Task(name="level", label="watch_seconds", kind=Ordinal(edges=(1.0, 10.0, 30.0)))
    schema = replace(base.schema, tasks=(Task(name="click", label="click"), level))
    student = replace(base.student("auxiliary"), distillation=distil("click", "level"), baseline=None)
    score = ServingConfig(score=(("click", 1.0), ("level", 0.1)))
    return replace(base, schema=schema, students=(student,), serving=score, study=None)
