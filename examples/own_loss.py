"""A task kind and a soft loss of your own: `tutelage-run --config=examples/own_loss.py --smoke --workdir=...`."""

from dataclasses import dataclass, replace

import tensorflow as tf

from tutelage.export.config import ServingConfig
from tutelage.launch.configs import synthetic
from tutelage.launch.experiment import Experiment
from tutelage.models.config import Distillation
from tutelage.models.losses import CrossEntropy, Rows, SoftLoss
from tutelage.models.task_kinds import TaskKind
from tutelage.pipeline.schema import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class PoissonKL(SoftLoss):
    """KL(teacher ‖ student) of two Poisson rates: λt · (log λt − log λs) − λt + λs."""

    def loss(self, teacher: tf.Tensor, student: tf.Tensor, rows: Rows) -> tf.Tensor:
        t, s = teacher[:, 0], student[:, 0]
        return tf.exp(t) * (t - s) - tf.exp(t) + tf.exp(s)


class Count(TaskKind):
    """A count ≥ 0. The network gives log λ, the served score is λ, the expected count."""

    outputs = ("log_rate",)
    loss_name = "poisson_loss"
    soft_loss = PoissonKL()

    def hard_loss(self, target: tf.Tensor, raw: tf.Tensor) -> tf.Tensor:  # half the deviance
        return tf.exp(raw[:, 0]) - target * raw[:, 0] + tf.math.xlogy(target, target) - target

    def served(self, raw: tf.Tensor) -> tf.Tensor:
        return tf.exp(raw[:, 0])


def experiment(*, smoke: bool) -> Experiment:
    """Return the bundled experiment with other tasks: clicks, and how many seconds were watched."""
    base = synthetic.experiment(smoke=smoke)
    tasks = (Task(name="click", label="click"), Task(name="seconds", label="watch_seconds", kind=Count()))
    both = (Distillation(task="click", loss=CrossEntropy(temperature=2.0)), Distillation(task="seconds"))
    students = (base.student("control"), replace(base.student("auxiliary"), distillation=both))
    score = ServingConfig(score=(("click", 1.0), ("seconds", 0.01)))
    return replace(
        base, schema=replace(base.schema, tasks=tasks), students=students, serving=score, study=None
    )
