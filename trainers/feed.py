"""The feed: a day of the lake, in the order in which it happened, as tensors."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import tensorflow as tf

from tutelage.models.ranker import Batch
from tutelage.models.task_kinds import kind_of
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.holdout import held_out
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.schema import SAMPLING_RATE, Feature, Schema
from tutelage.pipeline.soft_labels import JoinedLabels, LabelPartition, LabelRequest, SoftLabelStore
from tutelage.trainers.config import ALL_ROWS, CHUNK_ROWS, Sampling
from tutelage.trainers.day import Chunk, Day, JudgedRows
from tutelage.trainers.event_order import EventOrder
from tutelage.trainers.parts import Parts, part_of
from tutelage.trainers.vocabulary import Vocabulary

Transform = Callable[..., tuple[tf.Tensor, tf.Tensor]]
"""`Ranker.transform`."""
_PART = 65_536
"""Examples that are transformed at once."""
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


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
    """Features; each of their values that 1,000 examples or more of a day have is a slice."""
    chunk_rows: int = CHUNK_ROWS
    """The most examples that are read at once."""
    scratch: Path | None = None
    """A folder for what a day of more than a chunk needs on the disk; None: the system's for temporary files."""

    def read(
        self, day: date, *, soft_labels: LabelRequest | None = None, vocabulary: Vocabulary | None = None
    ) -> Day:
        """Read the first chunk of a day, transform its inputs and join its soft labels; the rest is read as it comes.

        `vocabulary` is that of the growing features, as it was before the day.
        Raises UserError where the day is not in the lake, lacks a label, or holds a soft label that leaks.
        """
        # A day that is replaced while it is read then counts as stale, not as read from the new data.
        return Day(day, _Reader(self, self.lake.snapshot(), day, soft_labels, vocabulary))


class _Reader:
    """Reads the chunks of a day for one model; see `day.Reader`."""

    def __init__(
        self,
        feed: Feed,
        lake: Lake,
        day: date,
        soft_labels: LabelRequest | None,
        vocabulary: Vocabulary | None,
    ):
        """Look at what is there of the day in `lake`, of which later commits are not seen. See `Feed.read`."""
        self._feed, self._day, self._schema = feed, day, lake.schema
        self._trained = lake.schema.for_model(feed.without)
        self._inputs = [feature.name for feature in lake.schema.inputs(feed.without)]
        histories = any(history.name in self._inputs for history in lake.schema.histories)
        labels = soft_labels.source if soft_labels else None
        self.input_versions: Mapping[str, int] = lake.input_versions(
            [day], histories=histories, labels=labels
        )[day]
        self._order = EventOrder(lake.interactions.scan(day=day), chunk_rows=feed.chunk_rows)
        if not self._order.size:
            raise UserError(
                f"day {day} is not in {lake.interactions.path}; run tutelage-materialize for it first"
            )
        self.size, self.chunk_rows = self._order.size, feed.chunk_rows
        self.vocabulary, self.slice_by, self.holdout = vocabulary, feed.slice_by, feed.holdout
        self.scratch = _new_folder(feed.scratch) if self.size > self.chunk_rows else None
        self._histories = lake.made_histories(day) if histories else None
        self._labels = (
            _DayLabels(lake.soft_labels, day, soft_labels, self._order, self.scratch) if soft_labels else None
        )

    def chunk(self, start: int, stop: int) -> Chunk:
        """Return these examples of the day, with `tensors.rows` by the vocabulary from before the day."""
        schema, trained, feed = self._schema, self._trained, self._feed
        frame = self._order.read(start, stop)
        if self._histories is not None:
            users = frame.lazy().select(schema.user).unique()
            theirs = self._histories.join(users, on=schema.user, how="semi").collect(engine="streaming")
            frame = frame.join(theirs, on=schema.user, how="left", maintain_order="left")
        columns = schema.arrays(frame, self._inputs)
        _check_labels(frame, trained, self._day)
        indices, numbers = self._transformed(columns)
        if self._labels:
            soft, mask, counts = self._labels.join(frame["example_id"], start, outputs=trained.outputs)
        else:
            soft = np.zeros([frame.height, len(trained.outputs)], np.float32)
            mask, counts = np.zeros(frame.height, np.float32), {}
        weight = _weights(frame, schema, feed.sampling, schema.example_weight(frame))
        weight[frame.select(held_out(schema, self._day, feed.holdout)).to_series().to_numpy()] = 0
        return Chunk(
            start=start,
            tensors=Batch(
                rows=indices,
                numbers=numbers,
                labels=tf.constant(hard_targets(frame, trained)),
                weight=tf.constant(weight),
                soft=tf.constant(soft),
                mask=tf.constant(mask),
            ),
            ahead_rows=indices,
            columns=columns if self.vocabulary else {},
            judged=frame.select(self._judged_by),
            counts=counts,
        )

    @property
    def _judged_by(self) -> list[str]:
        schema = self._schema
        names = ["example_id", *self._feed.slice_by, *self._trained.labels]
        names += [schema.user] if schema.user else []
        if schema.downsampling is not None:
            names += [SAMPLING_RATE, schema.downsampled.label]
        return list(dict.fromkeys(names))

    def judged(self, start: int, stop: int) -> pl.DataFrame:
        """Return `Chunk.judged` of these examples."""
        return self._order.read(start, stop, self._judged_by)

    def judged_rows(self, judged: pl.DataFrame, slices: Sequence[tuple[str, object]]) -> JudgedRows:
        """Return what `judged` says, with these values of features as slices."""
        schema = self._schema
        return JudgedRows(
            targets=hard_targets(judged, self._trained),
            users=next((_numbers(judged, f) for f in schema.ids if f.name == schema.user), None),
            weight=schema.example_weight(judged),
            slices={f"{name}={value}": judged[name].eq_missing(value).to_numpy() for name, value in slices},
        )

    def _transformed(self, columns: Mapping[str, np.ndarray]) -> tuple[tf.Tensor, tf.Tensor]:
        """Return embedding indices [examples, fields] and numbers [examples, number features], part by part."""
        transform = self._feed.transform
        if self.vocabulary:
            transform = partial(transform, entries=self.vocabulary.entries())
        size = len(next(iter(columns.values())))
        parts = [
            transform({name: tf.constant(values[start : start + _PART]) for name, values in columns.items()})
            for start in range(0, size, _PART)
        ]
        indices, numbers = zip(*parts, strict=True)
        return tf.concat(indices, axis=0), tf.concat(numbers, axis=0)


class _DayLabels:
    """The soft labels of a day, chunk by chunk.

    Labels lie in no order that the examples have. For a day of several chunks, labels and examples are brought together
    by a hash of their id, a part at a time, and what is found is kept by chunk (a Grace join).
    """

    def __init__(
        self,
        store: SoftLabelStore,
        day: date,
        request: LabelRequest,
        order: EventOrder,
        scratch: Path | None,
    ):
        """`scratch` is a folder for a day of several chunks."""
        self._store, self._day, self._request = store, day, request
        self._chunk_rows = order.chunk_rows
        self._by_chunk = self._brought_together(order, scratch) if scratch else None

    def _brought_together(self, order: EventOrder, scratch: Path) -> Parts:
        """Return the labels by chunk."""
        partition = LabelPartition(*self._request.source, self._day)
        count = -(-order.size // self._chunk_rows)
        by_chunk = Parts(scratch / "labels_by_chunk", count)
        examples, labels = (Parts(scratch / name, count) for name in ("examples", "labels"))
        for chunk in range(count):
            start = chunk * self._chunk_rows
            ids = order.read(start, min(start + self._chunk_rows, order.size), ["example_id"])
            rows = ids.with_columns(chunk=pl.lit(chunk))
            examples.add(rows, part_of(rows["example_id"], count))
        for rows in self._store.batches(partition, self._chunk_rows):
            labels.add(rows, part_of(rows["example_id"], count))
        for part in range(count):
            found = labels.read(part)
            self._store.check(partition, found)
            found = found.join(examples.read(part), on="example_id")
            by_chunk.add(found.drop("chunk"), found["chunk"].to_numpy())
        for done in (examples, labels):
            done.remove()
        return by_chunk

    def join(self, example_id: pl.Series, start: int, *, outputs: Sequence[str]) -> JoinedLabels:
        """Return the labels of the examples of the chunk that begins with example `start`, in their order."""
        there = self._by_chunk.read(start // self._chunk_rows) if self._by_chunk else None
        return self._store.join(example_id, self._day, self._request, outputs=outputs, labels=there)


def _new_folder(parent: Path | None) -> Path:
    if parent:
        parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="tutelage-", dir=parent))


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
