"""What the models predict, and how the negatives of a task were sampled."""

from dataclasses import dataclass
from typing import Literal

from tutelage.pipeline.days import duration
from tutelage.pipeline.errors import UserError

_OUTPUTS = {
    "binary": ("logit",),
    "log1p": ("log1p",),
    # The logit of a value above 0; mean and standard deviation of the log of such a value.
    "ziln": ("logit", "mu", "sigma"),
}
SAMPLING_RATE = "sampling_rate"
"""The column of `interactions` that says at which rate a row's negatives were kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One thing to predict, from the column `label` of `interactions`.

    `binary`: the label is 0 or 1, the model gives a logit, the served score is a probability.
    `log1p`: the label is a value ≥ 0, the model gives its log1p by squared error. Its expm1 is no
    expectation of the value, so the served score keeps the name of what it is.
    `ziln`: the label is a value ≥ 0, often 0, the model gives a zero-inflated log-normal of it
    (arXiv 1912.07753), the served score is its expectation, in the label's unit.

    A label is final `matures_after` its event (`6h`, `3d`; empty: at once): a purchase may come days later,
    and no purchase yet is no negative (arXiv 1907.06558).
    """

    name: str
    label: str
    kind: Literal["binary", "log1p", "ziln"] = "binary"
    matures_after: str = ""

    def __post_init__(self) -> None:
        duration(self.matures_after, f"task {self.name!r}: matures_after")
        if self.kind not in _OUTPUTS:
            raise UserError(
                f"task {self.name!r}: kind is {self.kind!r}, expected one of {', '.join(_OUTPUTS)}"
            )

    @property
    def outputs(self) -> tuple[str, ...]:
        """The model's raw outputs: columns of `soft_labels`, names in the scoring signature."""
        return tuple(f"{self.name}_{output}" for output in _OUTPUTS[self.kind])

    @property
    def score(self) -> str:
        """The served output's name: the task itself where it is a probability or an expectation."""
        return f"{self.name}_log1p" if self.kind == "log1p" else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Downsampling:
    """Of the negatives of a binary task `interactions` holds a share only, and all positives.

    The column `sampling_rate` (float32, above 0, at most 1; null: 1) says of each row, positives too, which share of
    the negatives was kept where it comes from. A negative then weighs 1/sampling_rate in every loss and metric, so that
    scores fit the rows as they were before.
    """

    task: str
    rate: float | None = None
    """What materialising keeps, by example_id; None: the source's rows are what was kept, and it has the column."""

    def __post_init__(self) -> None:
        if self.rate is not None and not 0 < self.rate <= 1:
            raise UserError(
                f"downsampling: rate is {self.rate}, expected a share above 0, at most 1, or None"
            )
