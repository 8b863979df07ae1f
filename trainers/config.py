"""How the teacher and the students are trained."""

import math
import re
from dataclasses import dataclass
from datetime import date
from typing import Literal

from tutelage.models.config import Distillation, ModelConfig
from tutelage.pipeline.errors import UserError

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


def _check_name(name: str) -> None:
    # A name becomes a folder, a partition and part of a command line.
    if not _NAME.fullmatch(name):
        raise UserError(
            f"model name {name!r}: expected a lower-case letter, then letters, digits or _ (64 at most)"
        )


CHUNK_ROWS = 2**19
"""The rows of two chunks, and what reading and judging one takes, are about half a gigabyte with ten features."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """What all models of an experiment share.

    >>> TrainingConfig(batch_size=256).checkpoint_minutes
    10.0
    """

    batch_size: int
    """Examples per update. Smaller batches are slower and gain more from one pass (256 against 1,024 on KuaiRand:
    an AUC higher by 0.01 and more)."""
    seed: int = 1
    """Seed of the initial weights. It is the same for all models, so that students are compared in pairs."""
    checkpoint_minutes: float | None = 10.0
    """Minutes of training between partial checkpoints within a day; None: one is saved only on SIGTERM."""
    holdout: float = 0.02
    """The share of each day's users whose rows of that day no model is trained on (`pipeline.holdout`). A student's
    version is judged on them before it is served. 0: it is judged on the day after, and served a day later. It may be
    changed in a workdir at any time, and holds from the next day that is trained on."""

    chunk_rows: int = CHUNK_ROWS
    """Rows of a day that a trainer reads at once, rounded up to whole batches; two such chunks are in memory. A longer
    day gives the same losses chunk by chunk, and is read twice. It may be changed in a workdir at any time."""

    def __post_init__(self) -> None:
        for count in ("batch_size", "chunk_rows"):
            if (value := getattr(self, count)) < 1:
                raise UserError(f"training: {count} is {value}, expected at least 1")
        if self.checkpoint_minutes is not None and not self.checkpoint_minutes > 0:
            raise UserError(
                f"training: checkpoint_minutes is {self.checkpoint_minutes}, expected a number above 0, or None"
            )
        if not 0 <= self.holdout <= 0.5:
            raise UserError(
                f"training: holdout is {self.holdout}, expected a share from 0 to 0.5, as in 0.02"
            )

    @property
    def whole_batches(self) -> int:
        """`chunk_rows`, rounded up to a multiple of `batch_size` and of the 16 numbers of the longest SIMD vector.

        A number that is computed alone, at the end of an array, may differ in its last bit from one in a vector.
        """
        unit = math.lcm(self.batch_size, 16)
        return -(-self.chunk_rows // unit) * unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Which examples a model is trained on. It scores all of them.

    >>> Sampling(negatives_of="click", rate=0.5).offsets
    {'click': 0.6931471805599453}
    """

    negatives_of: str = ""
    """A binary task, of whose negatives only a share is kept; empty: all examples are kept."""
    rate: float = 1.0
    """The share of the negatives that is kept, by a hash of example_id."""
    correction: Literal["offset", "weights", "none"] = "offset"
    """`offset`: log(1/rate) is added to the task's logit in training, so that the served logit fits all examples (King
    and Zeng 2001); `weights`: a kept negative weighs 1/rate; `none`: scores come out too high."""
    only: str = ""
    """`feature=value`: the model is trained only on examples with that value of an id feature; empty: on all."""

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise UserError(f"sampling: rate is {self.rate}, expected a share above 0, at most 1")
        if self.correction not in ("offset", "weights", "none"):
            raise UserError(f"sampling: correction is {self.correction!r}, expected offset, weights or none")
        if self.only and "=" not in self.only:
            raise UserError(f"sampling: only is {self.only!r}, expected feature=value, as in tab=1")

    @property
    def offsets(self) -> dict[str, float]:
        """What is added to the logits in training, by task."""
        return (
            {self.negatives_of: -math.log(self.rate)}
            if self.negatives_of and self.correction == "offset"
            else {}
        )


ALL_ROWS = Sampling()


@dataclass(frozen=True, slots=True, kw_only=True)
class GateConfig:
    """What a day of training must show before it is kept, against what the days before let expect of it.

    A value fails where it is worse by more than its margin here, the smallest change that matters, and by more standard
    errors than `Experiment.false_alarms_per_year` allows. A day of few rows, or a model with few days behind it, has
    wide standard errors. It may be changed in a workdir at any time.

    >>> GateConfig(min_days=8)
    Traceback (most recent call last):
    tutelage.pipeline.errors.UserError: gate: min_days is 8, expected at most trailing_days, 7
    """

    trailing_days: int = 7
    """The number of kept days whose median is expected of a day. The model's first day is never among them."""
    min_days: int = 2
    """With fewer days to compare with, a day passes if losses, outputs and weights are finite. With more, a value is
    judged once it has settled: it no longer improves by more than noise, and the days are enough for a bound."""
    auc_drop: float = 0.02
    """A day passes with an AUC lower by up to this, both of its scores ahead and of those before each update."""
    entropy_rise: float = 0.05
    """... with a normalised entropy higher by up to this share of what is expected."""
    squared_error_rise: float = 0.25
    """... with a relative squared error of the value tasks higher by up to this share of what is expected."""
    calibration_drift: float = 0.25
    """... with a calibration farther from 1 than expected by up to this."""
    logit_shift: float = 1.0
    """... with a mean of each raw output that moved by up to this many standard deviations of the output."""
    logit_spread: float = 2.0
    """... with a standard deviation of each raw output that is up to this many times as large or as small."""
    on_failure: Literal["stop", "skip", "retry"] = "stop"
    """What happens after a day that fails. `stop`: the model stays at the day before; `skip`: it goes on with the day
    after; `retry`: it is trained on the day again with lower learning rates, then stops."""
    fallback_rate: float = 0.1
    """The factor of the learning rates for `retry`."""

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
    """The model whose soft labels all students read."""

    model: ModelConfig
    name: str = "teacher"
    """Partition of `soft_labels`: a teacher of another name has labels of its own."""
    min_examples: int = 0
    """Labels made before the teacher was trained on this many examples are masked: it knew too little."""
    sampling: Sampling = ALL_ROWS
    gate: GateConfig = DEFAULT_GATE

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.min_examples < 0:
            raise UserError(f"teacher: min_examples is {self.min_examples}, expected at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class SuccessorConfig:
    """A teacher that is trained beside the present one, and takes its place when it is as good."""

    teacher: TeacherConfig
    """It has a name that no teacher of the workdir had before."""
    first_day: date | None = None
    """It is trained from this day on, and starts with the variables of the teacher's checkpoint before it that have the
    same name and shape; None: from the first day, with nothing."""
    judged_days: int = 3
    """The number of days, the last that both were trained on, whose scores ahead are compared. The first day of neither
    is among them. It may be changed in a workdir at any time."""
    margin: float = 0.0
    """It takes over if each task's loss is at most this share above the teacher's; below 0, it must be lower by that
    share. It may be changed at any time."""
    max_kills: int = 3
    """Students wait for a successor whose process was killed. Once that has happened so often on one day, it counts as
    failed, and students go on without it. It may be changed at any time."""

    def __post_init__(self) -> None:
        if self.judged_days < 1:
            raise UserError(f"successor: judged_days is {self.judged_days}, expected at least 1")
        if not -1 < self.margin < math.inf:
            raise UserError(f"successor: margin is {self.margin}, expected a share above -1, as in 0.01")
        if self.max_kills < 1:
            raise UserError(f"successor: max_kills is {self.max_kills}, expected at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentConfig:
    """A model that is served."""

    name: str
    model: ModelConfig
    distillation: tuple[Distillation, ...] = ()
    """One for each task that is also trained on soft labels; empty: none is."""
    label_half_life: float | None = None
    """Days of age after which a soft label weighs half. Its age is the days from its snapshot to the day before its
    own. None: all weigh the same."""
    sampling: Sampling = ALL_ROWS
    producer: Literal["pre_update", "snapshot"] = "pre_update"
    """Where its soft labels come from: the teacher's forward pass before each update, or the Beam labeler, which scores
    with the snapshot of an earlier day."""
    first_day: date | None = None
    """It is trained from this day on; None: from the first."""
    baseline: str | None = None
    """The student that it is compared with in reports."""
    gate: GateConfig = DEFAULT_GATE
    new_teacher: Literal["keep", "mask", "adapt"] = "keep"
    """What happens when the labels come from a new teacher. `keep`: nothing; `mask`: the labels of its first
    `mask_days` are masked, and counted as `teacher_changed`; `adapt`: the adapters, which correct the teacher's
    labels, start from scratch. It may be changed in a workdir at any time."""
    mask_days: int = 0
    """The days of `mask`."""

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.name == "teacher":
            raise UserError("student 'teacher': that name is the teacher's; choose another")
        tasks = [distillation.task for distillation in self.distillation]
        for task in tasks:
            if tasks.count(task) > 1:
                raise UserError(f"student {self.name!r}: task {task!r} is distilled twice; give it once")
        if self.producer not in ("pre_update", "snapshot"):
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
