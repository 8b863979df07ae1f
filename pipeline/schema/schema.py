"""What one experiment reads and predicts."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import polars as pl

from tutelage.pipeline.days import duration, released_at, slice_expr
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema.features import Feature, History
from tutelage.pipeline.schema.tasks import SAMPLING_RATE, Downsampling, Negatives, Task

_RESERVED = frozenset({"day", "example_id", "event_time_us", "content", "dropped", SAMPLING_RATE})

_WEEKDAYS = ("thursday", "friday", "saturday", "sunday", "monday", "tuesday", "wednesday")
"""In the order of the days from 1970-01-01 on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """What one experiment reads and predicts.

    `key` names the columns that tell one exposure from another. Days are cut in `time_zone`
    (an IANA name). A slice is `slice_days` days long and is named by its first day. Slices are counted from
    1970-01-01, a Thursday; those of whole weeks begin on `slice_weekday` (`monday`), if it is given.
    `user` names the id feature that says whose an example is. Ranking metrics and listwise losses compare
    the examples of one user within a day, and each user has `histories`.

    A day is released, to be materialised and trained on, when the labels of all its events are mature. With
    `release_after` (`6h`, `3d`) it is released that long after its end; labels that mature later are null until then,
    and models are not trained on them. Events may arrive up to `late_days` days after their day, which postpones its
    release too. Without any of these, a day is released when it is asked for.

    Rows of one label are often too many or missing: `downsampling` says which share of the negatives was kept, and
    `negatives` adds negatives to a log of positives only.

    Example:
        >>> user = Feature(name="user", dtype="int64", capacity=1_000, scope="user")
        >>> item = Feature(name="item", dtype="int64", capacity=1_000)
        >>> click = Task(name="click", label="click")
        >>> schema = Schema(features=(user, item), tasks=(click,), key=("user", "item"), user="user",
        ...                 histories=(History(of="item", length=5),))
        >>> [feature.name for feature in schema.inputs()], schema.outputs
        (['user', 'item', 'history'], ['click_logit'])
    """

    features: tuple[Feature, ...]
    tasks: tuple[Task, ...]
    key: tuple[str, ...]
    time_zone: str = "UTC"
    slice_days: int = 1
    slice_weekday: str = ""
    user: str | None = None
    histories: tuple[History, ...] = ()
    release_after: str = ""
    late_days: int = 0
    downsampling: Downsampling | None = None
    negatives: Negatives | None = None

    def __post_init__(self) -> None:
        duration(self.release_after, "schema: release_after")
        if self.late_days < 0:
            raise UserError(f"schema: late_days is {self.late_days}, expected at least 0")
        self._check_columns()
        check_time_zone("schema", self.time_zone)
        if not self.features or not self.tasks or not self.key:
            raise UserError("schema: features, tasks and key must each name at least one column")
        if self.downsampling and not self.downsampled.is_binary:
            raise UserError(
                f"downsampling: task {self.downsampling.task!r} is {self.downsampled.kind}, expected a binary one"
            )
        if self.slice_days < 1:
            raise UserError(f"schema: slice_days is {self.slice_days}, expected at least 1")
        if self.slice_weekday not in ("", *_WEEKDAYS):
            raise UserError(
                f"schema: slice_weekday is {self.slice_weekday!r}, expected one of {', '.join(_WEEKDAYS)}"
            )
        if self.slice_weekday and self.slice_days % 7:
            raise UserError(
                f"schema: slice_weekday is {self.slice_weekday!r} and slice_days {self.slice_days}; expected whole "
                "weeks, as in slice_days=7, or no slice_weekday"
            )
        self._check_user()
        if self.negatives:
            self._check_negatives(self.negatives)

    def _check_columns(self) -> None:
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

    def _check_user(self) -> None:
        single = [feature.name for feature in self.single_ids]
        have = ", ".join(single) or "none"
        if self.user is not None and self.user not in single:
            raise UserError(f"schema: user is {self.user!r}, expected an id feature; these are {have}")
        for history in self.histories:
            if self.user is None:
                raise UserError(f"history {history.name!r} needs a user, and the schema names no `user`")
            # A history of the user's own id would hold one value only.
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

    def _check_negatives(self, negatives: Negatives) -> None:
        others = [name for name in (feature.name for feature in self.single_ids) if name != self.user]
        if self.user is None or negatives.item not in others:
            raise UserError(
                f"negatives: item is {negatives.item!r} and the schema's user {self.user!r}, expected an id feature "
                f"each; the ids are {', '.join(feature.name for feature in self.single_ids) or 'none'}"
            )
        if not {self.user, negatives.item} <= {*self.key}:
            raise UserError(
                f"negatives: the schema's key is {', '.join(self.key)}, which cannot tell a sampled row from others; "
                f"expected {self.user} and {negatives.item} in it"
            )
        for history in self.histories:
            if not history.where:
                raise UserError(
                    f"history {history.name!r}: where is empty, so that it would hold sampled negatives too, which the "
                    f"user never met; name a label, as in where={self.labels[0]!r}"
                )
        if self.downsampling:
            raise UserError("schema: negatives and downsampling exclude one another; leave one of them out")

    @property
    def slice_offset(self) -> int:
        """The first day of a slice, in days since 1970-01-01."""
        return _WEEKDAYS.index(self.slice_weekday) if self.slice_weekday else 0

    def slice_expr(self, event_time_us: str) -> pl.Expr:
        """Return the slice of each time in a column of microseconds since 1970 in UTC."""
        return slice_expr(
            event_time_us, time_zone=self.time_zone, slice_days=self.slice_days, offset=self.slice_offset
        )

    @property
    def ids(self) -> tuple[Feature, ...]:
        """The features that are looked up in an embedding table."""
        return tuple(f for f in self.features if f.is_id)

    @property
    def single_ids(self) -> tuple[Feature, ...]:
        """The ids that are not lists."""
        return tuple(f for f in self.ids if not f.length)

    @property
    def numbers(self) -> tuple[Feature, ...]:
        """The features that are numbers."""
        return tuple(f for f in self.features if not f.is_id)

    def inputs(self, without: Iterable[str] = ()) -> tuple[Feature, ...]:
        """Return the inputs of a model: the features, then each history as a list feature, except those in `without`.

        Raises UserError for a name that is neither an input nor a task, and where a history would be left without the
        feature that it is made of.
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
                    f"model: without names {history.of!r}, which {history.name!r} is made of; leave that out too"
                )
        left = tuple(feature for name, feature in by_name.items() if name not in without)
        if not left:
            raise UserError("model: without names every input; leave it at least one")
        return left

    def for_model(self, without: Iterable[str] = ()) -> "Schema":
        """Return the schema as a model sees it that has none of the tasks and histories in `without`."""
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
        """How long after its event a label is final, for each label that is not final at once."""
        longest: dict[str, timedelta] = {}
        for task in self.tasks:
            if after := duration(task.matures_after, ""):
                longest[task.label] = max(after, longest.get(task.label, after))
        return longest

    @property
    def masked(self) -> tuple[str, ...]:
        """The tasks of which a day may be released with some labels missing, or all."""
        maturity = self.maturity
        return tuple(task.name for task in self.tasks if maturity.get(task.label, timedelta()) > self._wait)

    @property
    def _wait(self) -> timedelta:
        if self.release_after:
            return duration(self.release_after, "")
        return max(self.maturity.values(), default=timedelta())

    def waits_until(self, day: date, *, now: datetime) -> datetime | None:
        """Return when a day will be released; None where it is released `now`."""
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
        """The columns that a source must offer: features, labels, and the sampling rate if the source was sampled."""
        sampled = self.downsampling is not None and self.downsampling.rate is None
        return [f.name for f in self.features] + self.labels + [SAMPLING_RATE] * sampled

    @property
    def downsampled(self) -> Task:
        """The task whose negatives are sampled. Raises UserError where no task has the name."""
        assert self.downsampling
        return self.select_tasks([self.downsampling.task])[0]

    @property
    def outputs(self) -> list[str]:
        """The models' raw outputs, in the order of the tasks."""
        return [name for task in self.tasks for name in task.outputs]

    def arrays(self, frame: pl.DataFrame, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """Return the inputs that `frame` has, or those in `names`, as models take them (`Feature.array`), by name."""
        wanted = frame.columns if names is None else list(names)
        return {f.name: f.array(frame[f.name]) for f in self.inputs() if f.name in wanted}

    def example_weight(self, frame: pl.DataFrame) -> np.ndarray | None:
        """Return the weight of each example, float32 [examples]: 1/rate for a negative, 1 for a positive.

        None where nothing was downsampled.
        """
        if self.downsampling is None:
            return None
        rate = frame[SAMPLING_RATE].fill_null(1.0).to_numpy()
        negative = frame[self.downsampled.label].to_numpy() == 0
        return np.where(negative, 1 / rate, 1).astype(np.float32)

    def select_tasks(self, names: Iterable[str]) -> tuple[Task, ...]:
        """Return the tasks with these names, in the schema's order. Raises UserError for a name that no task has."""
        wanted, known = list(names), [task.name for task in self.tasks]
        for name in wanted:
            if name not in known:
                raise UserError(f"unknown task {name!r}; this schema has {', '.join(known)}")
        return tuple(task for task in self.tasks if task.name in wanted)


def check_time_zone(whose: str, name: str) -> None:
    """Raise UserError for a name that is not an IANA time zone. `whose` says in the message who named it."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise UserError(
            f"{whose}: time_zone is {name!r}, expected an IANA name, as in Asia/Shanghai"
        ) from None
