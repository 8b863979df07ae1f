"""What a record is: its features, its tasks and the columns of the tables."""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import polars as pl
import pyarrow as pa

from tutelage.pipeline.days import duration, released_at
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.task_kinds import BUILT_IN, TaskSpec

_ARROW = {"int64": pa.int64(), "string": pa.string(), "float32": pa.float32()}
DEFAULTS: dict[str, int | str | float] = {"int64": -1, "string": "", "float32": 0.0}
"""What models see where a value is missing, by dtype."""
SAMPLING_RATE = "sampling_rate"
"""The column of `interactions` that says at which rate a row's negatives were kept."""
_RESERVED = frozenset({"day", "example_id", "event_time_us", "content", "dropped", SAMPLING_RATE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """When an id feature's ids are given rows of the table of their own, and when they lose them."""

    min_seen: int = 2
    """An id is given a row when it is met for this many times; the first times it is on the default row."""
    unseen_days: int = 30
    """An id that was not met on so many days, up to a day's end, is forgotten then: its row and its count."""

    def __post_init__(self) -> None:
        if self.min_seen < 1 or self.unseen_days < 1:
            raise UserError(
                f"growth: min_seen is {self.min_seen} and unseen_days {self.unseen_days}, expected at least 1"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One input of the models.

    An `int64` or `string` feature is an id: it is looked up in an embedding table of `capacity` vectors.
    A `float32` feature is a number: it is fed as it is, or as log1p(max(value, 0)) where `log1p`.
    A null is stored as a null; models see `default` in its place.
    A `user` feature is the same for all candidates of a request (who asks, from where); one of a
    `candidate` differs between them.

    An id of `length` n is a list (of tags, say) of which models see the mean of the first n items'
    embeddings; a null is as good as an empty one, and an item that is null or `default` is none.
    A number with `buckets`, ascending edges in its own unit, is fed with the embedding of the bucket
    that it lies in besides; an edge belongs to the bucket above it.

    Ids are hashed into the `capacity`, and may share a vector; with `grows` an id has a row of its own or the first
    one, the default row (`models.id_map`), as each model has met it.
    """

    name: str
    dtype: Literal["int64", "string", "float32"]
    capacity: int = 0
    log1p: bool = False
    scope: Literal["user", "candidate"] = "candidate"
    length: int = 0
    buckets: tuple[float, ...] = ()
    grows: Growth | None = None

    def __post_init__(self) -> None:
        if self.dtype not in _ARROW:
            raise UserError(
                f"feature {self.name!r}: dtype is {self.dtype!r}, expected one of {sorted(_ARROW)}"
            )
        if self.scope not in ("user", "candidate"):
            raise UserError(f"feature {self.name!r}: scope is {self.scope!r}, expected 'user' or 'candidate'")
        if self.is_id and not 1 <= self.capacity < 2**31:
            raise UserError(
                f"feature {self.name!r}: capacity is {self.capacity}, an id needs between 1 and 2**31 - 1"
            )
        if self.is_id and self.log1p:
            raise UserError(f"feature {self.name!r}: log1p is for float32 features, this one is {self.dtype}")
        if self.length < 0 or (self.length and not self.is_id):
            raise UserError(
                f"feature {self.name!r}: length is {self.length}, expected at least 0, and 0 for a float32"
            )
        ascending = all(a < b for a, b in itertools.pairwise(self.buckets))
        if not (ascending and all(map(math.isfinite, self.buckets))) or (self.buckets and self.is_id):
            raise UserError(
                f"feature {self.name!r}: buckets is {self.buckets}, expected ascending numbers, "
                "and none for an id"
            )
        if self.grows and (not self.is_id or self.length or self.capacity < 2):
            raise UserError(
                f"feature {self.name!r}: grows is for single ids with a capacity of at least 2, the default row and "
                f"another; this one is {self.dtype} of length {self.length} with a capacity of {self.capacity}"
            )

    @property
    def is_id(self) -> bool:
        return self.dtype != "float32"

    @property
    def default(self) -> int | str | float:
        """What models see where the value is missing, and after the last item of a list."""
        return DEFAULTS[self.dtype]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row's value."""
        return (self.length,) if self.length else ()

    def array(self, values: pl.Series) -> np.ndarray:
        """A column as models take it: [rows], nulls filled, or of a list [rows, length], filled up."""
        if not self.length:
            return values.fill_null(self.default).to_numpy()
        lists = values.list.drop_nulls().list.head(self.length)
        sizes = lists.list.len().fill_null(0)
        items = lists.filter(sizes > 0).explode().to_numpy()
        filled = np.full([len(values), self.length], self.default, items.dtype)
        filled[np.arange(self.length) < sizes.to_numpy()[:, None]] = items
        return filled

    @property
    def fields(self) -> int:
        """How many embeddings one row's value takes."""
        return max(self.length, 1)

    @property
    def embeddings(self) -> int:
        """How many rows of the embedding table are its own."""
        return self.capacity if self.is_id else len(self.buckets) + 1 if self.buckets else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What a row's user met before the row's day: a list of the user's that models weigh by the candidate.

    Of the rows of the `days` days before it, where the label `where` is above 0 (empty: of all), the
    values of the id feature `of`, the newest `length` of them, newest first. It shares the embeddings of `of`.
    """

    name: str = "history"
    of: str
    length: int = 20
    days: int = 7
    where: str = ""

    def __post_init__(self) -> None:
        if self.length < 1 or self.days < 1:
            raise UserError(
                f"history {self.name!r}: length is {self.length} and days {self.days}, expected at least 1"
            )


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """What one experiment reads and predicts.

    `key` names the columns that tell one exposure from another. Days are cut in `time_zone`
    (an IANA name); a slice is `slice_days` days long and carries the date of its first day.
    `user` names the id feature that says whose a row is: ranking metrics and listwise losses compare
    the rows of one user within a day, and `histories` are each user's.

    A day is released, to be materialised and learnt, when the labels of all its events are mature, or
    `release_after` its end (`6h`, `3d`) where that is given: of tasks that mature later, the labels that are not
    mature by then are nulls and are not learnt. Events may come up to `late_days` days after the day that they
    are of, which postpones its release too. Without any of these, a day is released when it is asked for.
    """

    features: tuple[Feature, ...]
    tasks: tuple[Task, ...]
    key: tuple[str, ...]
    time_zone: str = "UTC"
    slice_days: int = 1
    user: str | None = None
    histories: tuple[History, ...] = ()
    release_after: str = ""
    late_days: int = 0
    downsampling: Downsampling | None = None

    def __post_init__(self) -> None:
        duration(self.release_after, "schema: release_after")
        if self.late_days < 0:
            raise UserError(f"schema: late_days is {self.late_days}, expected at least 0")
        for name in self.key:
            if name in self.maturity:
                raise UserError(
                    f"schema: key column {name!r} is a label that matures later; expected columns that are "
                    "there from the start"
                )
        names = [f.name for f in self.features] + self.labels
        made = [history.name for history in self.histories]
        for name in names + made:
            if (names + made).count(name) > 1 or name in _RESERVED:
                raise UserError(f"schema: column {name!r} is reserved or named twice; rename it")
        lists = [feature.name for feature in self.features if feature.length]
        for name in self.key:
            if name not in (*names, "event_time_us"):
                raise UserError(
                    f"schema: key column {name!r} is neither a feature, a label nor event_time_us"
                )
            if name in lists:
                raise UserError(f"schema: key column {name!r} is a list; expected columns of single values")
        outputs = [name for task in self.tasks for name in sorted({*task.outputs, task.score})]
        for name in outputs:
            if outputs.count(name) > 1:
                raise UserError(f"schema: two tasks have an output {name!r}; rename one of them")
        check_time_zone("schema", self.time_zone)
        if not self.features or not self.tasks or not self.key:
            raise UserError("schema: features, tasks and key must each name at least one column")
        if self.downsampling and not self.downsampled.is_binary:
            raise UserError(
                f"downsampling: task {self.downsampling.task!r} is {self.downsampled.kind}, expected a binary one"
            )
        if self.slice_days < 1:
            raise UserError(f"schema: slice_days is {self.slice_days}, expected at least 1")
        single = [feature.name for feature in self.single_ids]
        have = ", ".join(single) or "none"
        if self.user is not None and self.user not in single:
            raise UserError(f"schema: user is {self.user!r}, expected an id feature; these are {have}")
        for history in self.histories:
            if self.user is None:
                raise UserError(f"history {history.name!r} is a user's, and the schema names no `user`")
            # A list of a user's own id would say nothing.
            others = [name for name in single if name != self.user]
            if history.of not in others:
                raise UserError(
                    f"history {history.name!r}: of is {history.of!r}, expected an id feature other than the user's; "
                    f"these are {', '.join(others) or 'none'}"
                )
            if history.where and history.where not in self.labels:
                raise UserError(
                    f"history {history.name!r}: where is {history.where!r}, expected a label; "
                    f"these are {', '.join(self.labels)}"
                )

    @property
    def ids(self) -> tuple[Feature, ...]:
        return tuple(f for f in self.features if f.is_id)

    @property
    def single_ids(self) -> tuple[Feature, ...]:
        """Those that are no lists."""
        return tuple(f for f in self.ids if not f.length)

    @property
    def numbers(self) -> tuple[Feature, ...]:
        return tuple(f for f in self.features if not f.is_id)

    def inputs(self, without: Iterable[str] = ()) -> tuple[Feature, ...]:
        """What models take: the features, then each history as a list of the user's; none of `without`.

        Raises UserError for a name that is none of these and no task, and where a history would be left without the
        feature that it is of.
        """
        without = list(without)
        by_name = {feature.name: feature for feature in self.features}
        for history in self.histories:
            of = by_name[history.of]
            by_name[history.name] = Feature(
                name=history.name, dtype=of.dtype, capacity=of.capacity, scope="user", length=history.length
            )
        tasks = [task.name for task in self.tasks]
        for name in without:
            if name not in by_name and name not in tasks:
                raise UserError(
                    f"model: without names {name!r}, expected inputs of the schema: {', '.join(by_name)}; "
                    f"or tasks: {', '.join(tasks)}"
                )
        for history in self.histories:
            if history.of in without and history.name not in without:
                raise UserError(
                    f"model: without names {history.of!r}, of which {history.name!r} is; leave that out too"
                )
        left = tuple(feature for name, feature in by_name.items() if name not in without)
        if not left:
            raise UserError("model: without names every input; leave it at least one")
        return left

    def for_model(self, without: Iterable[str] = ()) -> "Schema":
        """The schema as a model sees it that learns no task of `without`, and takes no history of it."""
        without = list(without)
        tasks = tuple(task for task in self.tasks if task.name not in without)
        if not tasks:
            raise UserError("model: without names every task; leave it at least one")
        if len(tasks) == len(self.tasks):
            return self
        histories = tuple(history for history in self.histories if history.name not in without)
        return replace(self, tasks=tasks, histories=histories)

    @property
    def labels(self) -> list[str]:
        """The label columns, each once, in the order of the tasks."""
        return list(dict.fromkeys(task.label for task in self.tasks))

    @property
    def maturity(self) -> dict[str, timedelta]:
        """How long after its event a label is final, of each label that is not at once."""
        longest: dict[str, timedelta] = {}
        for task in self.tasks:
            if after := duration(task.matures_after, ""):
                longest[task.label] = max(after, longest.get(task.label, after))
        return longest

    @property
    def masked(self) -> tuple[str, ...]:
        """Tasks that a day may be released without, or with some of its labels only."""
        maturity = self.maturity
        return tuple(task.name for task in self.tasks if maturity.get(task.label, timedelta()) > self._wait)

    @property
    def _wait(self) -> timedelta:
        if self.release_after:
            return duration(self.release_after, "")
        return max(self.maturity.values(), default=timedelta())

    def waits_until(self, day: date, *, now: datetime) -> datetime | None:
        """When a day that is not released `now` will be; None: it is."""
        if not (self.release_after or self._wait or self.late_days):
            return None
        at = released_at(
            day,
            time_zone=self.time_zone,
            slice_days=self.slice_days,
            wait=self._wait,
            late_days=self.late_days,
        )
        return at if now < at else None

    @property
    def offered(self) -> list[str]:
        """The columns that a source must offer: features, labels, and the rate at which it was sampled."""
        sampled = self.downsampling is not None and self.downsampling.rate is None
        return [f.name for f in self.features] + self.labels + [SAMPLING_RATE] * sampled

    @property
    def downsampled(self) -> Task:
        """The task whose negatives are. Raises UserError where the name is no task's."""
        assert self.downsampling
        return self.select_tasks([self.downsampling.task])[0]

    @property
    def outputs(self) -> list[str]:
        """The models' raw outputs, in the order of the tasks."""
        return [name for task in self.tasks for name in task.outputs]

    @property
    def interactions(self) -> pa.Schema:
        """Columns of a data file of `interactions` (the partition column `day` is not in the file)."""
        binary = {task.label for task in self.tasks if task.is_binary}
        return pa.schema(
            [("example_id", pa.int64()), ("event_time_us", pa.int64())]
            + [(f.name, _arrow(f)) for f in self.features]
            + [(label, pa.int8() if label in binary else pa.float32()) for label in self.labels]
            + [(SAMPLING_RATE, pa.float32())] * (self.downsampling is not None)
        )

    @property
    def soft_labels(self) -> pa.Schema:
        """Columns of a data file of `soft_labels` (partition columns `teacher, producer, day` apart)."""
        return pa.schema(
            [("example_id", pa.int64())]
            + [(name, pa.float32()) for name in self.outputs]
            + [("snapshot_day", pa.date32()), ("teacher_step", pa.int64()), ("trained_step", pa.int64())]
        )

    @property
    def history_columns(self) -> pa.Schema:
        """Columns of a data file of `histories` (the partition column `day` is not in the file)."""
        names = {self.user, *(history.name for history in self.histories)}
        return pa.schema([(f.name, _arrow(f)) for f in self.inputs() if f.name in names])

    def arrays(self, frame: pl.DataFrame, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """The inputs that `frame` has, or those of `names`, as models take them (`Feature.array`), by name."""
        wanted = frame.columns if names is None else list(names)
        return {f.name: f.array(frame[f.name]) for f in self.inputs() if f.name in wanted}

    def example_weight(self, frame: pl.DataFrame) -> np.ndarray | None:
        """float32 [rows]: of how many rows each of `interactions` is what was kept, 1/rate of a negative, 1 of a
        positive, of which none was left out; None: each is of itself."""
        if self.downsampling is None:
            return None
        rate = frame[SAMPLING_RATE].fill_null(1.0).to_numpy()
        negative = frame[self.downsampled.label].to_numpy() == 0
        return np.where(negative, 1 / rate, 1).astype(np.float32)

    def select_tasks(self, names: Iterable[str]) -> tuple[Task, ...]:
        """The tasks called `names`, in the schema's order. Raises UserError for a name that is none."""
        wanted, known = list(names), [task.name for task in self.tasks]
        for name in wanted:
            if name not in known:
                raise UserError(f"unknown task {name!r}; this schema has {', '.join(known)}")
        return tuple(task for task in self.tasks if task.name in wanted)


def _arrow(feature: Feature) -> pa.DataType:
    dtype = _ARROW[feature.dtype]
    return pa.list_(dtype) if feature.length else dtype


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

STATISTICS = pa.schema(
    [
        ("column", pa.string()),
        ("rows", pa.int64()),
        ("nulls", pa.int64()),
        ("not_finite", pa.int64()),
        ("mean", pa.float64()),
        ("sd", pa.float64()),
        ("min", pa.float64()),
        ("max", pa.float64()),
        ("deciles", pa.list_(pa.float64())),
        ("distinct", pa.float64()),
        ("top", pa.list_(pa.string())),
        ("top_share", pa.list_(pa.float64())),
        ("bucket", pa.list_(pa.float64())),
        ("bucket_rows", pa.list_(pa.int64())),
        ("seen", pa.binary()),
        ("drift", pa.float64()),
        ("new_ids", pa.float64()),
    ]
)
"""Columns of a data file of `statistics` (the partition column `day` is not in the file): a row for each feature
and label of the day, see `pipeline/statistics.py`."""
