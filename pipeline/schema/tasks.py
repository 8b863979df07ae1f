"""What the models predict, and how the negatives of a task were sampled."""

from dataclasses import dataclass

from tutelage.pipeline.days import duration
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.task_kinds import BUILT_IN, TaskSpec

SAMPLING_RATE = "sampling_rate"
"""The column of `interactions` that says at which rate a row's negatives were kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One thing to predict, from the column `label` of `interactions`.

    `kind` is the name of a built-in kind, or a `models.task_kinds.TaskKind`:
    `binary`: the label is 0 or 1. The network gives a logit, the served score is a probability.
    `log1p`: the label is a value ≥ 0. The network gives its log1p, trained by squared error. Its expm1 is not the
    expectation of the value, so the served score keeps the name of what it is.
    `ziln`: the label is a value ≥ 0, often 0. The network gives a zero-inflated log-normal of it
    (arXiv 1912.07753), the served score is its expectation, in the label's unit.

    A label is final `matures_after` its event (`6h`, `3d`; empty: at once): a purchase may come days later,
    and no purchase yet is not a negative (arXiv 1907.06558).

    >>> Task(name="watch", label="watch_seconds", kind="ziln").outputs
    ('watch_logit', 'watch_mu', 'watch_sigma')
    """

    name: str
    label: str
    kind: str | TaskSpec = "binary"
    matures_after: str = ""

    def __post_init__(self) -> None:
        duration(self.matures_after, f"task {self.name!r}: matures_after")
        if not isinstance(self.kind, TaskSpec) and self.kind not in BUILT_IN:
            raise UserError(
                f"task {self.name!r}: kind is {self.kind!r}, expected one of {', '.join(BUILT_IN)}, or a TaskKind"
            )

    @property
    def spec(self) -> TaskSpec:
        """What `kind` says about columns."""
        return self.kind if isinstance(self.kind, TaskSpec) else BUILT_IN[self.kind]

    @property
    def is_binary(self) -> bool:
        """Whether the label is 0 or 1 and the one raw output is a logit."""
        return self.spec.is_binary

    @property
    def outputs(self) -> tuple[str, ...]:
        """The network's raw outputs: columns of `soft_labels`, names in the scoring signature."""
        return tuple(f"{self.name}_{output}" for output in self.spec.outputs)

    @property
    def score(self) -> str:
        """The served output's name: the task itself where it is a probability or an expectation."""
        suffix = self.spec.score_suffix
        return f"{self.name}_{suffix}" if suffix else self.name


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
