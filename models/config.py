"""The size and the learning rates of a network, and what it takes from a teacher."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from tutelage.models.losses import SoftLoss
from tutelage.models.task_kinds import kind_of
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A network: embeddings and numbers, their interactions, an MLP shared by the tasks, a head per task."""

    embedding_dim: int
    """Length of every id feature's embedding."""
    hidden: tuple[int, ...]
    """Units of the shared layers, first to last."""
    cross_layers: int = 0
    """DCN-v2 layers between the embeddings and the shared layers, of rank a quarter of their input."""
    dot_interaction: bool = False
    """DLRM's dot products of all pairs of embeddings, in the place of cross layers."""
    experts: int = 0
    """MMoE: so many experts in the place of the last shared layer, and a gate per task; 0: none."""
    embedding_rate: float = 0.05
    """Adagrad's learning rate, for the embeddings."""
    dense_rate: float = 1e-3
    """Adam's learning rate, for everything but the embeddings."""
    without: tuple[str, ...] = ()
    """Features and histories that this model does not take, so that a server need not have them, and tasks
    that it does not learn."""

    def __post_init__(self) -> None:
        sizes = (self.embedding_dim, *self.hidden)
        if not self.hidden or min(sizes) < 1 or self.cross_layers < 0:
            raise UserError(
                f"model: embedding_dim {self.embedding_dim}, hidden {self.hidden} and cross_layers "
                f"{self.cross_layers}: expected sizes of at least 1, at least one hidden layer, layers ≥ 0"
            )
        if self.dot_interaction and self.cross_layers:
            raise UserError(
                f"model: dot_interaction and {self.cross_layers} cross_layers: expected one kind of interaction"
            )
        if self.experts < 0 or (self.experts and len(self.hidden) < 2):
            raise UserError(
                f"model: experts {self.experts}, hidden {self.hidden}: expected at least 0, and a shared layer "
                "below the experts, as in hidden=(64, 32)"
            )
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
