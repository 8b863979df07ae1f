"""How the teacher and the students learn."""

import re
from dataclasses import dataclass
from datetime import date
from typing import Literal

from tutelage.models.config import ModelConfig
from tutelage.pipeline.errors import UserError

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


def _check_name(name: str) -> None:
    # It becomes a folder, a partition and part of a command line.
    if not _NAME.fullmatch(name):
        raise UserError(
            f"model name {name!r}: expected a lower-case letter, then letters, digits or _ (64 at most)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """What all models of an experiment share."""

    batch_size: int
    """Rows per update. Smaller is slower and learns more from one pass (256 against 1,024 on
    KuaiRand: 0.01 of AUC and more)."""
    seed: int = 1
    """Of the initial weights, the same for all models, so that students are compared in pairs."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"training: batch_size is {self.batch_size}, expected at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherConfig:
    """The model that labels for all students."""

    model: ModelConfig
    name: str = "teacher"
    """Partition of `soft_labels`: another name is another teacher's labels."""
    min_examples: int = 0
    """Labels made before the teacher had learnt this many rows are masked: it knew too little."""

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.min_examples < 0:
            raise UserError(f"teacher: min_examples is {self.min_examples}, expected at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentConfig:
    """A model that is served."""

    name: str
    model: ModelConfig
    distillation: Literal["none", "direct", "auxiliary"] = "none"
    """`direct`: soft labels teach the served output; `auxiliary`: a tower of their own, never that."""
    distilled_tasks: tuple[str, ...] = ()
    """Tasks that learn from soft labels too; empty: all of them."""
    alpha: float = 1.0
    """Weight of a soft loss; a hard one weighs 1."""
    producer: Literal["pre_update", "snapshot"] = "pre_update"
    """Whose labels it reads: the teacher's own forward pass, or the Beam labeler."""
    first_day: date | None = None
    """It learns from this day on; None: from the first."""
    baseline: str | None = None
    """The student that it is compared with."""

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.name == "teacher":
            raise UserError("student 'teacher': that name is the teacher's; choose another")
        if self.distillation not in ("none", "direct", "auxiliary"):
            raise UserError(
                f"student {self.name!r}: distillation is {self.distillation!r}, expected none, direct or auxiliary"
            )
        if self.producer not in ("pre_update", "snapshot"):
            raise UserError(
                f"student {self.name!r}: producer is {self.producer!r}, expected pre_update or snapshot"
            )
        if not 0 <= self.alpha < float("inf"):
            raise UserError(f"student {self.name!r}: alpha is {self.alpha}, expected a number of at least 0")
