"""What the models predict, and how the negatives of a task were sampled."""

from dataclasses import dataclass

from tutelage.pipeline.days import duration
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.task_kinds import BUILT_IN, TaskSpec

SAMPLING_RATE = "sampling_rate"
"""The column of `interactions` with the share of negatives that was kept or drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One thing to predict, from the column `label` of `interactions`.

    `kind` is the name of a built-in kind, or a `models.task_kinds.TaskKind`.
    `binary`: the label is 0 or 1, the model returns a logit, and the served score is a probability.
    `log1p`: the label is a value ≥ 0, and the model returns its log1p, trained by squared error. The expm1 of that is
    not an expectation of the value, so the served score is named `<task>_log1p`.
    `ziln`: the label is a value ≥ 0, often 0. The model returns a zero-inflated log-normal distribution of it
    (arXiv 1912.07753), and the served score is its expectation, in the label's unit.

    A label is final `matures_after` its event (`6h`, `3d`; empty: at once). A purchase may come days later,
    and no purchase yet is not a negative (arXiv 1907.06558).

    Example:
        >>> Task(name="spend", label="spend_usd", kind="ziln").outputs
        ('spend_logit', 'spend_mu', 'spend_sigma')
    """

    name: str
    label: str
    kind: str | TaskSpec = "binary"
    matures_after: str = ""
    unit: str = ""
    """The unit of a value, as in `seconds` or `stars`, for reports and cards. It changes no number."""

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
    """Only a share of the negatives of a binary task is kept in `interactions`, and all positives.

    The column `sampling_rate` (float32, above 0, at most 1; null: 1) says for each example, positive or negative, which
    share of the negatives was kept where it comes from. A negative weighs 1/sampling_rate in every loss and metric, so
    that scores fit the data as it was before sampling.

    Example:
        >>> Downsampling(task="click", rate=1.5)
        Traceback (most recent call last):
        tutelage.pipeline.errors.UserError: downsampling: rate is 1.5, expected a share above 0, at most 1, or None
    """

    task: str
    rate: float | None = None
    """The share that materialising keeps, chosen by example_id; None: the source was sampled, and has the column."""

    def __post_init__(self) -> None:
        if self.rate is not None and not 0 < self.rate <= 1:
            raise UserError(
                f"downsampling: rate is {self.rate}, expected a share above 0, at most 1, or None"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Negatives:
    """Negatives that materialising adds to a log that has positives only, or too few negatives.

    Each row with a label above 0 gets `per_positive` rows of items that its user did not meet in the slice, drawn
    uniformly from the items of the slice, whose labels are 0 (`pipeline.negatives.draw`). A score is then a probability
    among positives and sampled negatives. The column `sampling_rate` of a sampled row is the share that was drawn of
    the items that its user did not meet; it is null in a row of the log. To a logit, log(sampling_rate) is added to get
    that of a pair of user and item.

    Example:
        >>> Negatives(item="video_id", per_positive=0)
        Traceback (most recent call last):
        tutelage.pipeline.errors.UserError: negatives: per_positive is 0, expected at least 1
    """

    item: str
    """The id feature of the items."""
    per_positive: int = 4
    seed: int = 0
    """Another seed draws other items. What a user gets on a day depends on the seed, the user and the day's rows."""

    def __post_init__(self) -> None:
        if self.per_positive < 1:
            raise UserError(f"negatives: per_positive is {self.per_positive}, expected at least 1")
