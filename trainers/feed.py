"""The feed: a day of the lake, in the order in which it happened, as tensors."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import tensorflow as tf

from tutelage.models.ranker import Batch
from tutelage.models.task_kinds import kind_of
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.atomic import atomic_write
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.schema import Feature, Schema
from tutelage.pipeline.soft_labels import SoftLabels
from tutelage.trainers.config import ALL_ROWS, Sampling
from tutelage.trainers.vocabulary import DayIds, Vocabulary

Transform = Callable[..., tuple[tf.Tensor, tf.Tensor]]
"""`Ranker.transform`."""
_CHUNK = 65_536
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_SLICE = 1_000
"""Rows of the smallest slice: the AUC of fewer is mostly noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """All rows of a day in the order of event time, ties by example_id. Two of them bound a trainer's memory."""

    day: date
    example_id: np.ndarray
    tensors: Batch
    """As in `Batch`, with B = the rows of the day."""
    counts: Mapping[str, int]
    """Of soft labels: used, and not used by reason. Empty for a model that reads none."""
    slices: Mapping[str, np.ndarray]
    """bool [rows] by name, as in `tab=1`."""
    users: np.ndarray | None
    """A number [rows] for each user, where the schema names one."""
    input_versions: Mapping[str, int] = field(default_factory=dict)
    """The versions of what it was read from (`Lake.input_versions`)."""
    example_weight: np.ndarray | None = None
    """`Schema.example_weight` [rows]."""
    day_ids: DayIds | None = None
    """What the model meets of growing features' ids; None: it has no such feature."""
    waited: float = 0.0
    """Seconds that the trainer waited for it; of the first day, which nothing could hide, 0."""

    @property
    def size(self) -> int:
        return len(self.example_id)

    @property
    def targets(self) -> np.ndarray:
        return self.tensors.labels.numpy()

    @property
    def ahead(self) -> Batch:
        """The tensors as they are before the day: growing features' ids have the rows of then."""
        return self.tensors._replace(rows=self.day_ids.ahead) if self.day_ids else self.tensors

    @property
    def digest(self) -> str:
        """Of all that is learnt from: two days of one digest are learnt the same."""
        whole = hashlib.sha256(self.example_id.tobytes())
        for tensor in self.tensors:
            whole.update(tensor.numpy().tobytes())
        return whole.hexdigest()


def load_day(
    lake: Lake,
    day: date,
    schema: Schema,
    *,
    transform: Transform,
    soft_labels: SoftLabels | None = None,
    sampling: Sampling = ALL_ROWS,
    slice_by: Sequence[str] = (),
    without: Iterable[str] = (),
    vocabulary: Vocabulary | None = None,
) -> Day:
    """Read a day, turn its inputs into what the model takes, and join its soft labels.

    `vocabulary`: of growing features, before the day. `sampling` decides which rows weigh nothing;
    `without`, which histories and labels need not be there.
    Of each feature in `slice_by`, the values that 1,000 rows or more have are slices.

    Raises UserError where the day is not in the lake, lacks a label, or holds a soft one that it must not.
    """
    inputs = [feature.name for feature in schema.inputs(without)]
    histories = any(history.name in inputs for history in schema.histories)
    # Where the day is replaced while it is read, it counts as stale, not as what it was not read from.
    lake = lake.snapshot()
    input_versions = lake.input_versions(
        [day], histories=histories, labels=soft_labels.partition if soft_labels else None
    )
    frame = lake.interactions.scan(day=day).sort("event_time_us", "example_id").collect()
    if not frame.height:
        raise UserError(
            f"day {day} is not in {lake.interactions.path}; run tutelage-materialize for it first"
        )
    if histories:
        frame = lake.with_histories(frame.lazy(), day).collect()
    columns = schema.arrays(frame, inputs)
    trained = schema.for_model(without)
    _check_labels(frame, trained, day)
    if vocabulary:
        transform = partial(transform, entries=vocabulary.entries())
    parts = [
        transform({name: tf.constant(values[start : start + _CHUNK]) for name, values in columns.items()})
        for start in range(0, frame.height, _CHUNK)
    ]
    rows = tf.concat([part for part, _ in parts], axis=0)
    day_ids = vocabulary.observe(columns, rows, day) if vocabulary else None
    targets = hard_targets(frame, trained)
    if soft_labels:
        soft, mask, counts = soft_labels.join(frame["example_id"], day, lake=lake, schema=trained)
    else:
        soft = np.zeros([frame.height, len(trained.outputs)], np.float32)
        mask, counts = np.zeros(frame.height, np.float32), {}
    example_weight = schema.example_weight(frame)
    tensors = Batch(
        rows=day_ids.rows if day_ids else rows,
        numbers=tf.concat([numbers for _, numbers in parts], axis=0),
        labels=tf.constant(targets),
        weight=tf.constant(_weights(frame, schema, sampling, example_weight)),
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
        slices={
            f"{name}={value}": frame[name].eq_missing(value).to_numpy()
            for name in slice_by
            for value, rows in frame[name].value_counts().sort(name).iter_rows()
            if rows >= _SLICE
        },
    )


def _check_labels(frame: pl.DataFrame, schema: Schema, day: date) -> None:
    """Raise UserError for a null in a label whose task a day may not be released without."""
    masked = {task.label for task in schema.select_tasks(schema.masked)}
    for label in schema.labels:
        missing = frame[label].null_count()
        if missing and label not in masked:
            raise UserError(
                f"day {day}: the label {label!r} is null in {missing:,} rows, as it came to the schema later; let "
                f"the model begin with a later day (first_day), or be without its task, or make the day anew "
                "with tutelage-materialize"
            )


def _numbers(frame: pl.DataFrame, user: Feature) -> np.ndarray:
    """From 1 on, in the order of the ids; all rows without one are one user's."""
    return frame[user.name].fill_null(user.default).rank("dense").to_numpy()


def hard_targets(frame: pl.DataFrame, schema: Schema) -> np.ndarray:
    """Return what each task is trained on (`TaskKind.target`), float32 [rows, tasks]; NaN for a null."""
    labels = [(kind_of(task), frame[task.label].to_numpy()) for task in schema.tasks]
    targets = [np.where(np.isnan(label), np.nan, kind.target(label)) for kind, label in labels]
    return np.stack(targets, axis=1).astype(np.float32)


def _weights(
    frame: pl.DataFrame, schema: Schema, sampling: Sampling, example_weight: np.ndarray | None
) -> np.ndarray:
    """float32 [rows]: 0 for a row that is not learnt from."""
    weight = np.ones(frame.height, np.float32) if example_weight is None else example_weight.copy()
    if sampling.negatives_of:
        (task,) = schema.select_tasks([sampling.negatives_of])
        negative = frame[task.label].to_numpy() == 0
        # By a product of the id, so that a day learnt again keeps the same rows.
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
    """Each day in turn; while one is learnt, the next is read: two days are in memory at a time.

    A day is read with the vocabulary after the one before it, and once more where that one was then not kept:
    `vocabulary` says which is the model's when a day's turn comes.
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


def predictions(outputs: list[Mapping[str, tf.Tensor]]) -> dict[str, np.ndarray]:
    """Outputs of batches by name, as one array [rows] a name."""
    return {name: np.concatenate([batch[name].numpy() for batch in outputs]) for name in outputs[0]}


def soft_label_frame(
    day: Day, outputs: Mapping[str, np.ndarray], *, snapshot_day: date | None, teacher_step: np.ndarray
) -> pl.DataFrame:
    """Rows of `soft_labels` from the raw outputs [rows] of each batch before its update."""
    return pl.DataFrame({"example_id": day.example_id, **outputs, "teacher_step": teacher_step}).with_columns(
        snapshot_day=pl.lit(snapshot_day, pl.Date), trained_step=pl.col("teacher_step") + 1
    )


def write_predictions(example_id: np.ndarray, outputs: Mapping[str, np.ndarray], path: Path) -> None:
    """Raw outputs [rows] by name as Parquet; whoever reads finds all of it or no file."""
    with atomic_write(path) as partial:
        pl.DataFrame({"example_id": example_id, **outputs}).write_parquet(partial)
