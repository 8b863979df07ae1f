"""A day's metrics as TensorBoard scalars."""

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import tensorflow as tf

from tutelage.pipeline.io.atomic import make_folder, move_new


def write_events(folder: Path, rows: Sequence[Mapping[str, object]], *, day: date) -> None:
    """Write one scalar for each metric, at the step YYYYMMDD, under `basis/task/metric/slice`."""
    make_folder(folder)
    # There is one file for each day; a day that is trained on again replaces its own.
    for old in folder.glob(f"events.*.{day}"):
        old.unlink()
    writer = tf.summary.create_file_writer(str(folder), filename_suffix=f".{day}")
    with writer.as_default(step=int(day.strftime("%Y%m%d"))):
        for row in rows:
            tag = "/".join(str(row[part]) for part in ("basis", "task", "metric", "slice") if row[part])
            tf.summary.scalar(tag, row["value"])
    writer.close()
    # TensorBoard reads files in the order of their names, which must be that of the days, not that of writing.
    (written,) = folder.glob(f"events.*.{day}")
    move_new(written, folder / f"events.out.tfevents.{day}")
