"""A day's metrics as TensorBoard scalars."""

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import tensorflow as tf

from tutelage.pipeline.io.atomic import make_folder, move_new, remove
from tutelage.pipeline.io.paths import remote
from tutelage.pipeline.io.scratch import scratch


def write_events(folder: Path, rows: Sequence[Mapping[str, object]], *, day: date) -> None:
    """Write one scalar for each metric, at the step YYYYMMDD, under `basis/task/metric/slice`."""
    if remote(folder):
        with scratch() as local:
            move_new(_write(local, rows, day), folder / f"events.out.tfevents.{day}")
        return
    make_folder(folder)
    # There is one file for each day; a day that is trained on again replaces its own.
    for old in folder.glob(f"events.*.{day}"):
        remove(old)
    # TensorBoard reads files in the order of their names, which must be that of the days, not that of writing.
    move_new(_write(folder, rows, day), folder / f"events.out.tfevents.{day}")


def _write(folder: Path, rows: Sequence[Mapping[str, object]], day: date) -> Path:
    """Write the events to a file in a local folder, and return it."""
    writer = tf.summary.create_file_writer(str(folder), filename_suffix=f".{day}")
    with writer.as_default(step=int(day.strftime("%Y%m%d"))):
        for row in rows:
            tag = "/".join(str(row[part]) for part in ("basis", "task", "metric", "slice") if row[part])
            tf.summary.scalar(tag, row["value"])
    writer.close()
    (written,) = folder.glob(f"events.*.{day}")
    return written
