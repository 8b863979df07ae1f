"""What one experiment reads and predicts."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import polars as pl

from tutelage.pipeline.days import duration, released_at
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema.features import Feature, History
from tutelage.pipeline.schema.tasks import SAMPLING_RATE, Downsampling, Task

_RESERVED = frozenset({"day", "example_id", "event_time_us", "content", "dropped", SAMPLING_RATE})


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


def check_time_zone(whose: str, name: str) -> None:
    """Raises UserError for a name that no time zone has."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise UserError(
            f"{whose}: time_zone is {name!r}, expected an IANA name, as in Asia/Shanghai"
        ) from None
