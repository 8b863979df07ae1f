"""The feed: a day of the lake, in the order in which it happened, as tensors."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial

import numpy as np
import polars as pl
import tensorflow as tf

from tutelage.models.ranker import Batch
from tutelage.models.task_kinds import kind_of
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.holdout import held_out
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.schema import Feature, Schema
from tutelage.pipeline.soft_labels import LabelRequest
from tutelage.trainers.config import ALL_ROWS, Sampling
from tutelage.trainers.vocabulary import DayIds, Vocabulary

Transform = Callable[..., tuple[tf.Tensor, tf.Tensor]]
"""`Ranker.transform`."""
_CHUNK = 65_536
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_SLICE = 1_000
"""Examples of the smallest slice: the AUC of fewer is mostly noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """All examples of a day in the order of event time, ties by example_id.

    At most two days are in a trainer's memory at a time.
    """

    day: date
    example_id: np.ndarray
    tensors: Batch
    """As in `Batch`, with B = the examples of the day."""
    counts: Mapping[str, int]
    """Soft labels that were used, and that were not, by reason. Empty for a model that reads none."""
    slices: Mapping[str, np.ndarray]
    """bool [examples] by name, as in `tab=1`."""
    users: np.ndarray | None
    """A number [examples] for each user; None if the schema names no user."""
    input_versions: Mapping[str, int] = field(default_factory=dict)
    """The versions of the tables that it was read from (`Lake.input_versions`)."""
    example_weight: np.ndarray | None = None
    """`Schema.example_weight` [examples]."""
    day_ids: DayIds | None = None
    """The ids of growing features; None for a model without such a feature."""
    holdout: float = 0.0
    """`TrainingConfig.holdout`: the share of the day's users whose rows weigh 0."""
    waited: float = 0.0
    """Seconds that the trainer waited for it; 0 for the first day, which nothing could hide."""

    @property
    def size(self) -> int:
        """The number of examples."""
        return len(self.example_id)

    @property
    def targets(self) -> np.ndarray:
        """The hard targets, float32 [examples, tasks]."""
        return self.tensors.labels.numpy()

    @property
    def ahead(self) -> Batch:
        """The tensors for scoring the day ahead: growing features have the vocabulary from before the day."""
        return self.tensors._replace(rows=self.day_ids.ahead) if self.day_ids else self.tensors

    @property
    def digest(self) -> str:
        """SHA-256 of the example ids and of all tensors: training on two days of one digest is the same."""
        whole = hashlib.sha256(self.example_id.tobytes())
        for tensor in self.tensors:
            whole.update(tensor.numpy().tobytes())
        return whole.hexdigest()


@dataclass(frozen=True, slots=True)
class Feed:
    """Reads the days of a lake as one model takes them."""

    lake: Lake
    transform: Transform
    """Turns raw inputs into what the model takes."""
    without: Sequence[str] = ()
    """Histories and labels that need not be there (`ModelConfig.without`)."""
    sampling: Sampling = ALL_ROWS
    """Decides which examples weigh 0."""
    holdout: float = 0.0
    """`TrainingConfig.holdout`: the rows of this share of the day's users weigh 0 too."""
    slice_by: Sequence[str] = ()
    """Features. Each of their values that 1,000 examples or more of a day have is a slice."""

    def read(
        self, day: date, *, soft_labels: LabelRequest | None = None, vocabulary: Vocabulary | None = None
    ) -> Day:
        """Read a day, transform its inputs and join its soft labels.

        `vocabulary` is that of the growing features, as it was before the day.
        Raises UserError where the day is not in the lake, lacks a label, or holds a soft label that leaks.
        """
        schema = self.lake.schema
        inputs = [feature.name for feature in schema.inputs(self.without)]
        histories = any(history.name in inputs for history in schema.histories)
        # A day that is replaced while it is read then counts as stale, not as read from the new data.
        lake = self.lake.snapshot()
        input_versions = lake.input_versions(
            [day], histories=histories, labels=soft_labels.source if soft_labels else None
        )
        frame = lake.interactions.scan(day=day).sort("event_time_us", "example_id").collect()
        if not frame.height:
            raise UserError(
                f"day {day} is not in {lake.interactions.path}; run tutelage-materialize for it first"
            )
        if histories:
            frame = lake.with_histories(frame.lazy(), day).collect()
        columns = schema.arrays(frame, inputs)
        trained = schema.for_model(self.without)
        _check_labels(frame, trained, day)
        indices, numbers = self._transformed(columns, vocabulary)
        day_ids = vocabulary.observe(columns, indices, day) if vocabulary else None
        if soft_labels:
            soft, mask, counts = lake.soft_labels.join(
                frame["example_id"], day, soft_labels, outputs=trained.outputs
            )
        else:
            soft = np.zeros([frame.height, len(trained.outputs)], np.float32)
            mask, counts = np.zeros(frame.height, np.float32), {}
        example_weight = schema.example_weight(frame)
        weight = _weights(frame, schema, self.sampling, example_weight)
        weight[frame.select(held_out(schema, day, self.holdout)).to_series().to_numpy()] = 0
        tensors = Batch(
            rows=day_ids.indices if day_ids else indices,
            numbers=numbers,
            labels=tf.constant(hard_targets(frame, trained)),
            weight=tf.constant(weight),
            soft=tf.constant(soft),
            mask=tf.constant(mask),
        )
        return Day(
            day=day,
            example_id=frame["example_id"].to_numpy(),
            tensors=tensors,
            counts=counts,
            input_versions=input_versions[day],
            example_weight=example_weight,
            day_ids=day_ids,
            users=next((_numbers(frame, f) for f in schema.ids if f.name == schema.user), None),
            slices=_slices(frame, self.slice_by),
            holdout=self.holdout,
        )

    def _transformed(
        self, columns: Mapping[str, np.ndarray], vocabulary: Vocabulary | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return embedding indices [examples, fields] and numbers [examples, number features], chunk by chunk."""
        transform = self.transform
        if vocabulary:
            transform = partial(transform, entries=vocabulary.entries())
        size = len(next(iter(columns.values())))
        parts = [
            transform({name: tf.constant(values[start : start + _CHUNK]) for name, values in columns.items()})
            for start in range(0, size, _CHUNK)
        ]
        indices, numbers = zip(*parts, strict=True)
        return tf.concat(indices, axis=0), tf.concat(numbers, axis=0)


def _slices(frame: pl.DataFrame, by: Sequence[str]) -> dict[str, np.ndarray]:
    """Return bool [examples] for each value of these features that enough examples have."""
    return {
        f"{name}={value}": frame[name].eq_missing(value).to_numpy()
        for name in by
        for value, count in frame[name].value_counts().sort(name).iter_rows()
        if count >= _SLICE
    }


def _check_labels(frame: pl.DataFrame, schema: Schema, day: date) -> None:
    """Raise UserError for a null in a label that a released day must have (its task is not `Schema.masked`)."""
    masked = {task.label for task in schema.select_tasks(schema.masked)}
    for label in schema.labels:
        missing = frame[label].null_count()
        if missing and label not in masked:
            raise UserError(
                f"day {day}: the label {label!r} is null in {missing:,} rows, as it came to the schema later; let "
                "the model begin with a later day (first_day), or be without its task, or make the day again "
                "with tutelage-materialize"
            )


def _numbers(frame: pl.DataFrame, user: Feature) -> np.ndarray:
    """Number the users [examples] from 1 on, in the order of their ids; examples without one are one user's."""
    return frame[user.name].fill_null(user.default).rank("dense").to_numpy()


def hard_targets(frame: pl.DataFrame, schema: Schema) -> np.ndarray:
    """Return what each task is trained on (`TaskKind.target`), float32 [examples, tasks]; NaN for a null."""
    labels = [(kind_of(task), frame[task.label].to_numpy()) for task in schema.tasks]
    targets = [np.where(np.isnan(label), np.nan, kind.target(label)) for kind, label in labels]
    return np.stack(targets, axis=1).astype(np.float32)


def _weights(
    frame: pl.DataFrame, schema: Schema, sampling: Sampling, example_weight: np.ndarray | None
) -> np.ndarray:
    """Return the weight of each example in every loss, float32 [examples]; 0 leaves it out of training."""
    weight = np.ones(frame.height, np.float32) if example_weight is None else example_weight.copy()
    if sampling.negatives_of:
        (task,) = schema.select_tasks([sampling.negatives_of])
        negative = frame[task.label].to_numpy() == 0
        # A product of the id decides, so that a day that is trained on again keeps the same examples.
        share = (frame["example_id"].to_numpy().view(np.uint64) * _SPREAD) / np.float64(2**64)
        weight[negative & (share >= sampling.rate)] = 0
        if sampling.correction == "weights":
            weight[negative] /= np.float32(sampling.rate)
    if sampling.only:
        name, value = sampling.only.split("=", 1)
        weight[(frame[name].cast(pl.String) != value).fill_null(True).to_numpy()] = 0
    return weight


def read_ahead(
    days: Sequence[date],
    read: Callable[[date, Vocabulary | None], Day],
    *,
    vocabulary: Callable[[], Vocabulary | None] = lambda: None,
) -> Iterator[Day]:
    """Yield each day in turn. While the model is trained on one, the next is read: two days are in memory.

    A day is read with the vocabulary that follows from the day before it. If that day was not kept, it is read
    once more: `vocabulary` returns the model's own when a day's turn comes.
    """
    with ThreadPoolExecutor(1) as reader:
        expected = vocabulary()
        coming = reader.submit(read, days[0], expected)
        for i in range(len(days)):
            started = time.monotonic()
            day = coming.result()
            if vocabulary() is not expected:
                day = read(days[i], vocabulary())
            if i:
                day = replace(day, waited=time.monotonic() - started)
            if i + 1 < len(days):
                expected = day.day_ids.vocabulary if day.day_ids else None
                coming = reader.submit(read, days[i + 1], expected)
            yield day
