"""The size and the learning rates of a network, and what it takes from a teacher."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from tutelage.models.backbones.base import Network, check_network
from tutelage.models.losses import SoftLoss
from tutelage.models.task_kinds import kind_of
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The network of a teacher or a student: embeddings, a backbone, and a head per task.

    >>> from tutelage.models.backbones.mlp import MLP
    >>> ModelConfig(embedding_dim=8, backbone=MLP(hidden=(64, 32))).dense_rate
    0.001
    """

    embedding_dim: int
    """Length of each feature's embedding."""
    backbone: Network
    """A `Backbone`, or a function (or `functools.partial` of one) that returns a new `tf.keras.Model` from an
    `InputSpec`."""
    embedding_rate: float = 0.05
    """Learning rate of Adagrad, for the embeddings."""
    dense_rate: float = 1e-3
    """Learning rate of Adam, for everything but the embeddings."""
    without: tuple[str, ...] = ()
    """Features and histories that this model does not take, so that a server need not have them, and tasks that it is
    not trained on."""

    def __post_init__(self) -> None:
        if self.embedding_dim < 1:
            raise UserError(f"model: embedding_dim is {self.embedding_dim}, expected at least 1")
        check_network(self.backbone)
        if not (0 < self.embedding_rate < math.inf and 0 < self.dense_rate < math.inf):
            raise UserError(
                f"model: embedding_rate {self.embedding_rate}, dense_rate {self.dense_rate}: "
                "expected two numbers above 0"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillation:
    """How a student's task is trained on the teacher's soft labels.

    >>> from tutelage.models.losses import CrossEntropy
    >>> Distillation(task="click", loss=CrossEntropy(temperature=2.0), alpha=4.0).loss
    CrossEntropy(temperature=2.0, label_scale=1.0)
    """

    task: str
    through: Literal["auxiliary", "direct"] = "auxiliary"
    """`auxiliary`: by a tower of its own, which is dropped at export; `direct`: by the served output itself."""
    alpha: float = 1.0
    """Weight of the soft loss; the task's hard loss has weight 1."""
    loss: SoftLoss | None = None
    """How the student's raw outputs are compared with the teacher's; None: the default of the task's kind."""
    gradient_scale: float = 1.0
    """The share of the gradient that passes from the auxiliary tower into the layers below it (ExFM, arXiv
    2502.17494); the tower itself takes all of it."""
    shared_layers: int | None = None
    """The auxiliary tower branches off after so many shared layers; 0: at the embeddings; None: after all."""
    hidden: tuple[int, ...] | None = None
    """Units of the auxiliary tower; None: those of the shared layers that it leaves out."""
    adapter: bool = False
    """Whether there is a second tower, trained on the teacher's label as corrected by a small network that is trained
    on hard labels: it follows a teacher that becomes stale (ExFM's student adapter)."""

    @property
    def name(self) -> str:
        """By which a command line finds it."""
        return self.task

    def __post_init__(self) -> None:
        def refuse(what: str, expected: str) -> UserError:
            return UserError(f"distillation of {self.task!r}: {what}, expected {expected}")

        if self.through not in ("auxiliary", "direct"):
            raise refuse(f"through is {self.through!r}", "auxiliary or direct")
        if not 0 <= self.alpha < math.inf:
            raise refuse(f"alpha is {self.alpha}", "a number of at least 0")
        if self.loss is not None and not isinstance(self.loss, SoftLoss):
            raise refuse(f"loss is {self.loss!r}", "a SoftLoss, as in CrossEntropy(temperature=2.0), or None")
        if not 0 <= self.gradient_scale < math.inf:
            raise refuse(f"gradient_scale is {self.gradient_scale}", "a number of at least 0")
        if (self.shared_layers or 0) < 0 or min(self.hidden or (1,)) < 1:
            raise refuse(
                f"shared_layers is {self.shared_layers} and hidden {self.hidden}", "at least 0 and at least 1"
            )
        if self.adapter and self.through == "direct":
            raise refuse("adapter is set with through='direct'", "through='auxiliary'")

    def loss_for(self, task: Task) -> SoftLoss:
        """Return the soft loss of `task`: `loss`, or the default of its kind.

        Raises UserError where the kind has no default, or the loss does not fit the kind.
        """
        kind = kind_of(task)
        loss = kind.soft_loss if self.loss is None else self.loss
        if loss is None:
            raise UserError(
                f"distillation of {self.task!r}: loss is None, and {task.kind} has no default; name a SoftLoss"
            )
        loss.check_kind(task, kind)
        return loss


def distil(*tasks: str, **fields: Any) -> tuple[Distillation, ...]:
    """Return a `Distillation` of each of `tasks`, all with the same `fields`.

    >>> [each.task for each in distil("click", "watch", alpha=4.0)]
    ['click', 'watch']
    """
    return tuple(Distillation(task=task, **fields) for task in tasks)
