"""The size and the learning rates of a network, and what it takes from a teacher."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from tutelage.models.backbones.base import Network, check_network
from tutelage.pipeline.errors import UserError


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


SOFT_LOSSES = {
    "binary": ("cross_entropy", "logit_mse", "listwise"),
    "log1p": ("squared_error",),
    "ziln": ("kl", "squared_error"),
}
"""What a task of each kind can learn from soft labels by; the first unless another is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillation:
    """How a student's task takes in the teacher's soft labels."""

    task: str
    through: Literal["auxiliary", "direct"] = "auxiliary"
    """`auxiliary`: a tower of its own, thrown away at export; `direct`: the served output itself."""
    alpha: float = 1.0
    """Weight of the soft loss; the task's hard loss weighs 1."""
    loss: str = ""
    """One of `SOFT_LOSSES` for the task's kind; empty: the first."""
    temperature: float = 1.0
    """Of `cross_entropy` (Hinton et al., arXiv 1503.02531)."""
    label_scale: float = 1.0
    """The teacher's probability is multiplied by it, up to 1 (ExFM, arXiv 2502.17494)."""
    gradient_scale: float = 1.0
    """What passes from the auxiliary tower into the layers below it (ExFM); the tower itself learns in full."""
    shared_layers: int | None = None
    """The auxiliary tower leaves after so many shared layers; 0: at the embeddings; None: after all."""
    hidden: tuple[int, ...] | None = None
    """Units of the auxiliary tower; None: those of the shared layers that it leaves out."""
    adapter: bool = False
    """A second tower learns from the teacher's label as corrected by a small network that learns from hard
    labels: it follows a teacher that ages (ExFM's student adapter)."""

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
        losses = [loss for kind in SOFT_LOSSES.values() for loss in kind]
        if self.loss and self.loss not in losses:
            raise refuse(f"loss is {self.loss!r}", f"one of {', '.join(dict.fromkeys(losses))}")
        if not (0 < self.temperature < math.inf and 0 < self.label_scale < math.inf):
            raise refuse(
                f"temperature is {self.temperature} and label_scale {self.label_scale}", "numbers above 0"
            )
        if not 0 <= self.gradient_scale < math.inf:
            raise refuse(f"gradient_scale is {self.gradient_scale}", "a number of at least 0")
        if (self.shared_layers or 0) < 0 or min(self.hidden or (1,)) < 1:
            raise refuse(
                f"shared_layers is {self.shared_layers} and hidden {self.hidden}", "at least 0 and at least 1"
            )
        if self.adapter and self.through == "direct":
            raise refuse("adapter is set with through='direct'", "through='auxiliary'")


def distil(*tasks: str, **fields: Any) -> tuple[Distillation, ...]:
    """Each of `tasks` with the same settings, the fields of `Distillation`."""
    return tuple(Distillation(task=task, **fields) for task in tasks)
