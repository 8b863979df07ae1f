"""What the schema and the tables need to know about a kind of task; no TensorFlow, no network."""

from collections.abc import Mapping
from types import MappingProxyType


class TaskSpec:
    """The columns of a kind of task. `models.task_kinds.TaskKind` adds the loss and the metrics to it.

    A user's own kind derives from `TaskKind`, not from this class.
    """

    __slots__ = ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the network puts out, as in ("logit",): columns of `soft_labels` and of the scoring signature."""
        raise NotImplementedError(f"{type(self).__name__} has no `outputs`; give it a tuple of names")

    @property
    def score_suffix(self) -> str:
        """Added to the task's name in the served score's; empty where the score is in the label's own unit."""
        return ""

    @property
    def is_binary(self) -> bool:
        """Whether the label is 0 or 1 and the one output is the logit of a 1.

        Only such a task's negatives can be sampled, and only its label is stored as int8.
        """
        return False


class Binary(TaskSpec):
    """A label of 0 or 1."""

    __slots__ = ()
    outputs = ("logit",)
    is_binary = True


class Log1p(TaskSpec):
    """A value ≥ 0, of which log1p is predicted."""

    __slots__ = ()
    outputs = ("log1p",)
    # Its expm1 is not the expectation of the value, so the score keeps the name of what it is.
    score_suffix = "log1p"


class Ziln(TaskSpec):
    """A value ≥ 0, often 0, of which a zero-inflated log-normal is predicted."""

    __slots__ = ()
    # The logit of a value above 0; mean and standard deviation of the log of such a value.
    outputs = ("logit", "mu", "sigma")


BUILT_IN: Mapping[str, TaskSpec] = MappingProxyType({"binary": Binary(), "log1p": Log1p(), "ziln": Ziln()})
"""The kinds that `Task(kind=...)` takes by name."""
