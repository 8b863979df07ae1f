"""What a record is: its features, its tasks and the columns of the three tables."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import polars as pl
import pyarrow as pa

from tutelage.pipeline.errors import UserError

_ARROW = {"int64": pa.int64(), "string": pa.string(), "float32": pa.float32()}
DEFAULTS: dict[str, int | str | float] = {"int64": -1, "string": "", "float32": 0.0}
"""What models see where a value is missing, by dtype."""
_OUTPUTS = {
    "binary": ("logit",),
    "log1p": ("log1p",),
    # The logit of a value above 0; mean and standard deviation of the log of such a value.
    "ziln": ("logit", "mu", "sigma"),
}
_RESERVED = frozenset({"day", "example_id", "event_time_us", "content", "dropped"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One input of the models.

    An `int64` or `string` feature is an id: it is looked up in an embedding table of `rows` rows.
    A `float32` feature is a number: it is fed as it is, or as log1p(max(value, 0)) where `log1p`.
    A null is stored as a null; models see `default` in its place.
    A `user` feature is the same for all candidates of a request (who asks, from where); one of a
    `candidate` differs between them.
    """

    name: str
    dtype: Literal["int64", "string", "float32"]
    rows: int = 0
    log1p: bool = False
    scope: Literal["user", "candidate"] = "candidate"

    def __post_init__(self) -> None:
        if self.dtype not in _ARROW:
            raise UserError(
                f"feature {self.name!r}: dtype is {self.dtype!r}, expected one of {sorted(_ARROW)}"
            )
        if self.scope not in ("user", "candidate"):
            raise UserError(f"feature {self.name!r}: scope is {self.scope!r}, expected 'user' or 'candidate'")
        if self.is_id and not 1 <= self.rows < 2**31:
            raise UserError(
                f"feature {self.name!r}: rows is {self.rows}, an id needs between 1 and 2**31 - 1"
            )
        if self.is_id and self.log1p:
            raise UserError(f"feature {self.name!r}: log1p is for float32 features, this one is {self.dtype}")

    @property
    def is_id(self) -> bool:
        return self.dtype != "float32"

    @property
    def default(self) -> int | str | float:
        """What models see where the value is missing."""
        return DEFAULTS[self.dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One thing to predict, from the column `label` of `interactions`.

    `binary`: the label is 0 or 1, the model gives a logit, the served score is a probability.
    `log1p`: the label is a value ≥ 0, the model gives its log1p by squared error. Its expm1 is no
    expectation of the value, so the served score keeps the name of what it is.
    `ziln`: the label is a value ≥ 0, often 0, the model gives a zero-inflated log-normal of it
    (arXiv 1912.07753), the served score is its expectation, in the label's unit.
    """

    name: str
    label: str
    kind: Literal["binary", "log1p", "ziln"] = "binary"

    def __post_init__(self) -> None:
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
class Schema:
    """What one experiment reads and predicts.

    `key` names the columns that tell one exposure from another. Days are cut in `time_zone`
    (an IANA name); a slice is `slice_days` days long and carries the date of its first day.
    `user` names the id feature that says whose a row is: ranking metrics and listwise losses compare
    the rows of one user within a day.
    """

    features: tuple[Feature, ...]
    tasks: tuple[Task, ...]
    key: tuple[str, ...]
    time_zone: str = "UTC"
    slice_days: int = 1
    user: str | None = None

    def __post_init__(self) -> None:
        names = [f.name for f in self.features] + self.labels
        for name in names:
            if names.count(name) > 1 or name in _RESERVED:
                raise UserError(f"schema: column {name!r} is reserved or named twice; rename it")
        for name in self.key:
            if name not in (*names, "event_time_us"):
                raise UserError(
                    f"schema: key column {name!r} is neither a feature, a label nor event_time_us"
                )
        outputs = [name for task in self.tasks for name in sorted({*task.outputs, task.score})]
        for name in outputs:
            if outputs.count(name) > 1:
                raise UserError(f"schema: two tasks have an output {name!r}; rename one of them")
        check_time_zone("schema", self.time_zone)
        if not self.features or not self.tasks or not self.key:
            raise UserError("schema: features, tasks and key must each name at least one column")
        if self.slice_days < 1:
            raise UserError(f"schema: slice_days is {self.slice_days}, expected at least 1")
        if self.user is not None and self.user not in [feature.name for feature in self.ids]:
            have = ", ".join(feature.name for feature in self.ids) or "none"
            raise UserError(f"schema: user is {self.user!r}, expected an id feature; these are {have}")

    @property
    def ids(self) -> tuple[Feature, ...]:
        return tuple(f for f in self.features if f.is_id)

    @property
    def numbers(self) -> tuple[Feature, ...]:
        return tuple(f for f in self.features if not f.is_id)

    @property
    def labels(self) -> list[str]:
        """The label columns, each once, in the order of the tasks."""
        return list(dict.fromkeys(task.label for task in self.tasks))

    @property
    def outputs(self) -> list[str]:
        """The models' raw outputs, in the order of the tasks."""
        return [name for task in self.tasks for name in task.outputs]

    @property
    def interactions(self) -> pa.Schema:
        """Columns of a data file of `interactions` (the partition column `day` is not in the file)."""
        binary = {task.label for task in self.tasks if task.kind == "binary"}
        return pa.schema(
            [("example_id", pa.int64()), ("event_time_us", pa.int64())]
            + [(f.name, _ARROW[f.dtype]) for f in self.features]
            + [(label, pa.int8() if label in binary else pa.float32()) for label in self.labels]
        )

    @property
    def soft_labels(self) -> pa.Schema:
        """Columns of a data file of `soft_labels` (partition columns `teacher, producer, day` apart)."""
        return pa.schema(
            [("example_id", pa.int64())]
            + [(name, pa.float32()) for name in self.outputs]
            + [("snapshot_day", pa.date32()), ("teacher_step", pa.int64()), ("trained_step", pa.int64())]
        )

    def arrays(self, frame: pl.DataFrame) -> dict[str, np.ndarray]:
        """The features of `frame` as models take them: one array [rows] a feature, nulls filled."""
        return {f.name: frame[f.name].fill_null(f.default).to_numpy() for f in self.features}

    def select_tasks(self, names: Iterable[str]) -> tuple[Task, ...]:
        """The tasks called `names`, in the schema's order. Raises UserError for a name that is none."""
        wanted, known = list(names), [task.name for task in self.tasks]
        for name in wanted:
            if name not in known:
                raise UserError(f"unknown task {name!r}; this schema has {', '.join(known)}")
        return tuple(task for task in self.tasks if task.name in wanted)


def check_time_zone(whose: str, name: str) -> None:
    """Raises UserError for a name that no time zone has."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise UserError(
            f"{whose}: time_zone is {name!r}, expected an IANA name, as in Asia/Shanghai"
        ) from None


METRICS = pa.schema(
    [
        ("run", pa.string()),
        ("day", pa.date32()),
        ("task", pa.string()),
        ("metric", pa.string()),
        ("slice", pa.string()),
        ("basis", pa.string()),
        ("value", pa.float64()),
        ("rows", pa.int64()),
    ]
)
"""Columns of a data file of `metrics` (the partition column `model` is not in the file)."""
