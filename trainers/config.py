"""How the teacher and the students learn."""

import math
import re
from dataclasses import dataclass
from datetime import date
from typing import Literal

from tutelage.models.config import Distillation, ModelConfig
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
    checkpoint_minutes: float | None = 10.0
    """Minutes of learning after which a day is put down where it stands; None: only when it is asked to stop."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"training: batch_size is {self.batch_size}, expected at least 1")
        if self.checkpoint_minutes is not None and not self.checkpoint_minutes > 0:
            raise UserError(
                f"training: checkpoint_minutes is {self.checkpoint_minutes}, expected a number above 0, or None"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Which rows a model learns from; it scores them all."""

    negatives_of: str = ""
    """A binary task of whose negatives only a share is kept; empty: all rows are."""
    rate: float = 1.0
    """The share of them that is kept, by a hash of example_id."""
    correction: Literal["offset", "weights", "none"] = "offset"
    """`offset`: the task's logit is learnt with log(1/rate) added, so that the one that is served fits all
    rows (King and Zeng 2001); `weights`: a kept negative weighs 1/rate; `none`: scores come out too high."""
    only: str = ""
    """`feature=value`: only rows with that value of an id feature are learnt from; empty: all."""

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise UserError(f"sampling: rate is {self.rate}, expected a share above 0, at most 1")
        if self.correction not in ("offset", "weights", "none"):
            raise UserError(f"sampling: correction is {self.correction!r}, expected offset, weights or none")
        if self.only and "=" not in self.only:
            raise UserError(f"sampling: only is {self.only!r}, expected feature=value, as in tab=1")

    @property
    def offsets(self) -> dict[str, float]:
        """Of logits by task, in training."""
        return (
            {self.negatives_of: -math.log(self.rate)}
            if self.negatives_of and self.correction == "offset"
            else {}
        )


ALL_ROWS = Sampling()


@dataclass(frozen=True, slots=True, kw_only=True)
class GateConfig:
    """What a day that was learnt must show before it is kept, against the mean of the days before it.

    It may change in a workdir at any time.
    """

    trailing_days: int = 7
    """Days kept last that a day is compared with; the model's first one is never among them."""
    min_days: int = 2
    """With fewer of them a day need only be finite: loss, outputs and weights."""
    auc_drop: float = 0.05
    """A day passes with an AUC lower by up to this, of its scores ahead and of those before each update."""
    entropy_rise: float = 0.10
    """... with a normalised entropy higher by up to this share of it."""
    squared_error_rise: float = 0.25
    """... with a relative squared error of the value tasks higher by up to this share of it."""
    calibration_drift: float = 0.25
    """... with a calibration further from 1 by up to this."""
    logit_shift: float = 1.0
    """... with a mean of a raw output that moved by up to this many standard deviations of the output."""
    logit_spread: float = 2.0
    """... with a standard deviation of it that is up to so many times as large or as small."""
    on_failure: Literal["stop", "skip", "retry"] = "stop"
    """What becomes of a day that fails. `stop`: the model stays at the day before; `skip`: it goes on with
    the day after; `retry`: the day again with lower rates, then stop."""
    fallback_rate: float = 0.1
    """`retry`: times which the rates are."""

    def __post_init__(self) -> None:
        if self.on_failure not in ("stop", "skip", "retry"):
            raise UserError(f"gate: on_failure is {self.on_failure!r}, expected stop, skip or retry")
        for count in ("trailing_days", "min_days"):
            if (days := getattr(self, count)) < 1:
                raise UserError(f"gate: {count} is {days}, expected at least 1")
        if self.min_days > self.trailing_days:
            raise UserError(
                f"gate: min_days is {self.min_days}, expected at most trailing_days, {self.trailing_days}"
            )
        for margin in ("auc_drop", "entropy_rise", "squared_error_rise", "calibration_drift", "logit_shift"):
            if not 0 <= (value := getattr(self, margin)) < math.inf:
                raise UserError(f"gate: {margin} is {value}, expected a number of at least 0")
        if not 1 < self.logit_spread < math.inf:
            raise UserError(f"gate: logit_spread is {self.logit_spread}, expected a number above 1")
        if not 0 < self.fallback_rate < 1:
            raise UserError(f"gate: fallback_rate is {self.fallback_rate}, expected between 0 and 1")


DEFAULT_GATE = GateConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherConfig:
    """The model that labels for all students."""

    model: ModelConfig
    name: str = "teacher"
    """Partition of `soft_labels`: another name is another teacher's labels."""
    min_examples: int = 0
    """Labels made before the teacher had learnt this many rows are masked: it knew too little."""
    sampling: Sampling = ALL_ROWS
    gate: GateConfig = DEFAULT_GATE

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.min_examples < 0:
            raise UserError(f"teacher: min_examples is {self.min_examples}, expected at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class SuccessorConfig:
    """A teacher that learns beside the present one, and takes its place when it is as good."""

    teacher: TeacherConfig
    """Of another name."""
    first_day: date | None = None
    """It learns from this day on, and starts with what of the teacher's checkpoint before it has the same name
    and shape; None: from the first day, with nothing."""
    judged_days: int = 3
    """The last days that both have learnt, by whose scores ahead they are compared; the first day of neither is
    among them. May change in a workdir at any time."""
    margin: float = 0.0
    """It takes over with a loss of each task that is higher than the teacher's by up to this share of it; below 0:
    that is lower by so much. May change at any time."""

    def __post_init__(self) -> None:
        if self.judged_days < 1:
            raise UserError(f"successor: judged_days is {self.judged_days}, expected at least 1")
        if not -1 < self.margin < math.inf:
            raise UserError(f"successor: margin is {self.margin}, expected a share above -1, as in 0.01")


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentConfig:
    """A model that is served."""

    name: str
    model: ModelConfig
    distillation: tuple[Distillation, ...] = ()
    """Of each task that learns from soft labels too; empty: none does."""
    label_half_life: float | None = None
    """Days after which a soft label weighs half: days between its snapshot and the day before its own.
    None: all weigh the same."""
    sampling: Sampling = ALL_ROWS
    producer: Literal["pre_update", "snapshot", "leaked"] = "pre_update"
    """Whose labels it reads: the teacher's own forward pass, or the Beam labeler. (`leaked`: a study's, of a
    teacher that had learnt the rows, to see what that costs.)"""
    first_day: date | None = None
    """It learns from this day on; None: from the first."""
    baseline: str | None = None
    """The student that it is compared with."""
    gate: GateConfig = DEFAULT_GATE
    new_teacher: Literal["keep", "mask", "adapt"] = "keep"
    """What becomes of a new teacher's labels where another one's were learnt from before. `keep`: nothing;
    `mask`: those of its first `mask_days` are masked, and counted as `teacher_changed`; `adapt`: the adapters,
    which correct the teacher's labels, start anew. May change in a workdir at any time."""
    mask_days: int = 0
    """Of `mask`."""

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.name == "teacher":
            raise UserError("student 'teacher': that name is the teacher's; choose another")
        tasks = [distillation.task for distillation in self.distillation]
        for task in tasks:
            if tasks.count(task) > 1:
                raise UserError(f"student {self.name!r}: task {task!r} is distilled twice; give it once")
        if self.producer not in ("pre_update", "snapshot", "leaked"):
            raise UserError(
                f"student {self.name!r}: producer is {self.producer!r}, expected pre_update or snapshot"
            )
        if self.label_half_life is not None and not 0 < self.label_half_life < math.inf:
            raise UserError(
                f"student {self.name!r}: label_half_life is {self.label_half_life}, expected days above 0"
            )
        if self.new_teacher not in ("keep", "mask", "adapt"):
            raise UserError(
                f"student {self.name!r}: new_teacher is {self.new_teacher!r}, expected keep, mask or adapt"
            )
        if (self.new_teacher == "mask") != (self.mask_days > 0):
            raise UserError(
                f"student {self.name!r}: new_teacher is {self.new_teacher!r} and mask_days {self.mask_days}, "
                "expected days above 0 with mask, and 0 with keep and adapt"
            )
        if self.new_teacher == "adapt" and not any(each.adapter for each in self.distillation):
            raise UserError(
                f"student {self.name!r}: new_teacher is 'adapt' and there is no adapter; give its distillation "
                "adapter=True"
            )
