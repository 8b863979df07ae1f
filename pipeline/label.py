"""Beam job: label days of `interactions` with a snapshot of the teacher that was published for an earlier day."""

import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from tutelage.pipeline import beam_job, file_job
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.paths import as_path
from tutelage.pipeline.io.retry import with_retries
from tutelage.pipeline.io.scratch import local_copy
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.schema import Schema
from tutelage.pipeline.soft_labels import SNAPSHOT, LabelPartition, labels_by_snapshot
from tutelage.pipeline.table import DataFile

BATCH = 8192
"""Examples per batch. It bounds the memory of the activations, not the result."""
_THREADS = 2
"""Batches scored at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A published SavedModel whose serving signature returns the raw outputs of every task."""

    path: str
    day: date
    """The last day that it was trained on."""
    step: int
    """Its number of updates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelUnit:
    """One data file of a day, and the snapshot that scores it."""

    index: int
    day: date
    file: str
    snapshot: Snapshot

    @property
    def where(self) -> str:
        """What people call it."""
        return f"the labels of {self.day}, {self.file}"


def choose(snapshots: Sequence[Snapshot], day: date) -> Snapshot:
    """Return the newest snapshot that was trained on no example of `day`. Raises UserError where there is none."""
    earlier = [s for s in snapshots if s.day < day]
    if not earlier:
        have = ", ".join(str(s.day) for s in snapshots) or "none"
        raise UserError(
            f"no teacher snapshot of a day before {day} (published: {have}); "
            "export an earlier day with tutelage-export --model=teacher --export=all, or label a later day"
        )
    return max(earlier, key=lambda s: s.day)


@functools.lru_cache(maxsize=2)
def _load(path: str) -> Any:
    """Load a model once per process: a worker scores many files with the same snapshot."""
    import tensorflow as tf

    with local_copy(as_path(path)) as copy:
        model = tf.saved_model.load(str(copy))
    signature = model.signatures["serving_default"]
    signature.model = model  # The signature alone would not keep the variables alive.
    return signature


def takes(snapshot: Snapshot) -> list[str]:
    """Return the names of the inputs that the snapshot takes."""
    return list(_load(snapshot.path).structured_input_signature[1])


def score(snapshot: Snapshot, frame: pl.DataFrame, schema: Schema) -> dict[str, np.ndarray]:
    """Return the raw outputs that the snapshot has, by name, each a float32 array [examples in `frame`]."""
    import tensorflow as tf

    signature = _load(snapshot.path)
    features = schema.arrays(frame, takes(snapshot))
    names = [name for name in schema.outputs if name in signature.structured_outputs]

    def scores(start: int) -> list[np.ndarray]:
        batch = {name: tf.constant(values[start : start + BATCH]) for name, values in features.items()}
        outputs = signature(**batch)
        return [outputs[name].numpy() for name in names]

    # While one batch is computed, the next is converted to tensors.
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = list(pool.map(scores, range(0, frame.height, BATCH)))
    return dict(zip(names, map(np.concatenate, zip(*parts, strict=True)), strict=True))


class ScoreFile(file_job.WriteFile):
    """Takes a data file, writes a file of its soft labels, and gives it to the driver.

    Memory: the data file, the histories of its users and the model.
    """

    what = "the labels"

    def __init__(self, schema: Schema, teacher: str, lake_root: str, staging: str):
        super().__init__(schema, lake_root, staging)
        self.teacher = teacher

    def write(self, unit: LabelUnit) -> DataFile:
        """Write the labels of a data file."""
        lake, names = Lake(self.lake_root, self.schema), takes(unit.snapshot)
        rows = lake.interactions.read_file(unit.file)
        if any(history.name in names for history in self.schema.histories):
            users = rows.select(self.schema.user).unique().collect().to_series()
            rows = lake.with_histories(rows, unit.day, of=users)
        frame = rows.select("example_id", *names).collect()
        scores = score(unit.snapshot, frame, self.schema)
        labels = labels_by_snapshot(
            frame["example_id"], scores, snapshot_day=unit.snapshot.day, teacher_step=unit.snapshot.step
        )
        partition = LabelPartition(self.teacher, SNAPSHOT, unit.day)
        return lake.soft_labels.write_file(partition, labels, name=f"part-{unit.index:05d}")


def label(
    schema: Schema,
    lake: Lake,
    *,
    teacher: str,
    days: Mapping[date, Snapshot],
    beam_flags: Sequence[str] = (),
    progress: beam_job.Progress | None = None,
) -> dict[date, int]:
    """Replace the `snapshot` labels of `days`, each day scored by its snapshot. Returns the labels of each day.

    A unit is a data file. Each day is committed by itself, once the labels of all its files are there.

    Raises UserError where a day was not materialised, its snapshot was trained on it, or the runner lost a unit.
    """
    # Before the files are listed: if they are replaced in between, the labels count as stale.
    sources = lake.label_sources(list(days))
    units: list[LabelUnit] = []
    for day, snapshot in days.items():
        if snapshot.day >= day:
            raise UserError(
                f"the snapshot of {snapshot.day} was trained on {day}; label a day with an earlier snapshot"
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
        scoring = ScoreFile(schema, teacher, str(root), str(staging.path))
        made = file_job.run(units, scoring, staging=staging, flags=beam_flags, progress=progress)
        for day, labels in made:
            partition = LabelPartition(teacher, SNAPSHOT, day)
            commit = partial(lake.soft_labels.commit, attempt=staging.attempt, source=sources[day])
            with_retries(f"the labels of {day}", commit, partition, labels)
    rows = lake.soft_labels.partitions().filter(teacher=teacher, producer=SNAPSHOT)
    return {day: int(rows.filter(day=day)["rows"].sum()) for day in days}
