"""Beam job: score days of `interactions` with a published snapshot of the teacher of an earlier day."""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl

from tutelage.pipeline import beam_job
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.retry import with_retries
from tutelage.pipeline.lake import DataFile, Lake
from tutelage.pipeline.schema import Schema

PRODUCER = "snapshot"
BATCH = 8192
"""Rows of a batch: it bounds the activations, not the result."""
_THREADS = 2
"""Batches scored at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A published SavedModel whose serving signature gives every task's raw output.

    It has learnt `day` and nothing after it, in `step` updates.
    """

    path: str
    day: date
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelUnit:
    """One data file of a day and the snapshot that scores it."""

    index: int
    day: date
    file: str
    snapshot: Snapshot


def choose(snapshots: Sequence[Snapshot], day: date) -> Snapshot:
    """The newest snapshot that has seen nothing of `day`. Raises UserError where there is none."""
    earlier = [s for s in snapshots if s.day < day]
    if not earlier:
        have = ", ".join(str(s.day) for s in snapshots) or "none"
        raise UserError(
            f"no teacher snapshot of a day before {day} (published: {have}); "
            "export an earlier day with tutelage-export --model=teacher, or label a later day"
        )
    return max(earlier, key=lambda s: s.day)


@functools.lru_cache(maxsize=2)
def _load(path: str) -> Any:
    """One model a process: a worker scores many files with the same snapshot."""
    import tensorflow as tf

    model = tf.saved_model.load(path)
    signature = model.signatures["serving_default"]
    signature.model = model  # The signature alone would not keep the variables alive.
    return signature


def takes(snapshot: Snapshot) -> list[str]:
    """The inputs that the snapshot's scores are of, by name."""
    return list(_load(snapshot.path).structured_input_signature[1])


def score(snapshot: Snapshot, frame: pl.DataFrame, schema: Schema) -> dict[str, np.ndarray]:
    """The raw outputs of every task that the snapshot has, for the rows of `frame`, each a float32 array [rows]."""
    import tensorflow as tf

    signature = _load(snapshot.path)
    features = schema.arrays(frame, takes(snapshot))
    names = [name for name in schema.outputs if name in signature.structured_outputs]

    def scores(start: int) -> list[np.ndarray]:
        batch = {name: tf.constant(values[start : start + BATCH]) for name, values in features.items()}
        outputs = signature(**batch)
        return [outputs[name].numpy() for name in names]

    # While one batch is computed, another is made into tensors.
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = list(pool.map(scores, range(0, frame.height, BATCH)))
    return dict(zip(names, map(np.concatenate, zip(*parts, strict=True)), strict=True))


class ScoreFile(beam.DoFn):
    """A data file in, a file of soft labels out. Memory: the data file, its day's histories and the model."""

    def __init__(self, schema: Schema, teacher: str, lake_root: str, staging: str):
        self.schema = schema
        self.teacher = teacher
        self.lake_root = lake_root
        self.staging = beam_job.Staging(staging)

    def process(self, group: tuple[int, Iterable[LabelUnit]]) -> Iterator[tuple[str, tuple[int, DataFile]]]:
        (unit,) = group[1]
        with self.staging.telling(unit.index):
            file = with_retries(f"the labels of {unit.day}", self._score, unit)
        self.staging.done(unit.index)
        yield str(unit.day), (unit.index, file)

    def _score(self, unit: LabelUnit) -> DataFile:
        lake, names = Lake(self.lake_root, self.schema), takes(unit.snapshot)
        rows = lake.interactions.read_file(unit.file)
        if any(history.name in names for history in self.schema.histories):
            rows = lake.with_histories(rows, unit.day)
        frame = rows.select("example_id", *names).collect()
        scores = score(unit.snapshot, frame, self.schema)
        labels = frame.select("example_id").with_columns(
            *(pl.Series(name, values) for name, values in scores.items()),
            *(pl.lit(None, pl.Float32).alias(n) for n in self.schema.outputs if n not in scores),
            snapshot_day=pl.lit(unit.snapshot.day),
            teacher_step=pl.lit(unit.snapshot.step, pl.Int64),
            trained_step=pl.lit(None, pl.Int64),
        )
        return lake.soft_labels.write_file(
            labels, partition(self.teacher, unit.day), name=f"part-{unit.index:05d}"
        )


class CommitLabels(beam.DoFn):
    """All files of a day in, one commit out."""

    def __init__(
        self, schema: Schema, teacher: str, sources: Mapping[date, int], lake_root: str, staging: str
    ):
        self.schema = schema
        self.teacher = teacher
        self.sources = sources
        self.lake_root = lake_root
        self.staging = beam_job.Staging(staging)

    def process(self, group: tuple[str, Iterable[tuple[int, DataFile]]]) -> None:
        text, numbered = group
        day = date.fromisoformat(text)
        files = [file for _, file in sorted(numbered, key=lambda item: item[0])]
        table = Lake(self.lake_root, self.schema).soft_labels
        metadata = {"labelled": sum(file.rows for file in files)}
        with self.staging.telling(text):
            with_retries(
                f"the labels of {day}",
                table.commit,
                files,
                partition(self.teacher, day),
                attempt=self.staging.attempt,
                metadata=metadata,
                source=self.sources[day],
            )


def partition(teacher: str, day: date, producer: str = PRODUCER) -> dict[str, str | date]:
    return {"teacher": teacher, "producer": producer, "day": day}


def label(
    schema: Schema,
    lake: Lake,
    *,
    teacher: str,
    days: Mapping[date, Snapshot],
    beam_flags: Sequence[str] = (),
    progress: beam_job.Progress | None = None,
) -> dict[date, int]:
    """Replace the `snapshot` labels of `days`, each scored by its snapshot; returns rows by day.

    Raises UserError where a day was not materialised, or its snapshot has seen it.
    """
    sources = lake.label_sources(list(days))  # before the files are listed, as they may be replaced
    units: list[LabelUnit] = []
    for day, snapshot in days.items():
        if snapshot.day >= day:
            raise UserError(
                f"the snapshot of {snapshot.day} has seen {day}; label a day with an earlier snapshot"
            )
        files = lake.interactions.files(day=day)
        if not files:
            raise UserError(
                f"day {day} is not in {lake.interactions.path}; run tutelage-materialize for it first"
            )
        units += [
            LabelUnit(index=len(units) + i, day=day, file=file, snapshot=snapshot)
            for i, file in enumerate(files)
        ]
    root = lake.soft_labels.path.parent
    with beam_job.staging_folder(root) as staging:
        where = (str(root), str(staging.path))

        def build(pipeline: beam.Pipeline) -> None:
            _ = (
                beam_job.one_group_per_unit(pipeline, units)
                | "Score" >> beam.ParDo(ScoreFile(schema, teacher, *where))
                | "ByDay" >> beam.GroupByKey()
                | "Commit" >> beam.ParDo(CommitLabels(schema, teacher, sources, *where))
            )

        beam_job.run(build, flags=beam_flags, staging=staging, units=len(units), progress=progress)
    rows = lake.soft_labels.partitions().filter(teacher=teacher, producer=PRODUCER)
    return {day: int(rows.filter(day=day)["rows"].sum()) for day in days}
