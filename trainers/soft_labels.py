"""Soft labels as a student reads them: joined by example_id, checked, masked, counted."""

from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.schema import Schema

# House rule: a label never comes from a teacher that has already learnt that row.
_LEAKS = {
    "pre_update": ~(pl.col("teacher_step") < pl.col("trained_step")),
    "snapshot": ~(pl.col("snapshot_day") < pl.col("day")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftLabels:
    """Which labels a student reads."""

    teacher: str
    producer: str
    min_step: int
    """Labels of a teacher that had made fewer updates are masked."""

    def join(
        self, example_id: pl.Series, day: date, *, lake: Lake, schema: Schema
    ) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
        """Soft labels float32 [rows, tasks], mask float32 [rows], and the rows counted by what became of them.

        The counts are `labels_used`, `teacher_too_young` and `labels_missing`; they add up to the rows.
        Raises UserError where a label was made by a teacher that had learnt the row, or a row has two.
        """
        where: dict[str, str | date] = {"teacher": self.teacher, "producer": self.producer, "day": day}
        labels = lake.soft_labels.scan(**where).collect()
        path = f"{lake.soft_labels.path}: teacher {self.teacher}, producer {self.producer}, day {day}"
        # A comparison with a null says nothing: a label without its origin is refused too.
        leaks = labels.filter(_LEAKS[self.producer].fill_null(True)).height
        if leaks:
            raise UserError(
                f"{path}: {leaks} labels come from a teacher that had already learnt the row, or do not "
                "say which; a label must be older than what it labels. Write that day's labels again"
            )
        if labels["example_id"].n_unique() != labels.height:
            raise UserError(f"{path}: an example_id has more than one label; write that day's labels again")
        names = [task.output for task in schema.tasks]
        joined = pl.DataFrame({"example_id": example_id}).join(
            labels.select("example_id", "teacher_step", *names),
            on="example_id",
            how="left",
            maintain_order="left",
        )
        missing = joined["teacher_step"].is_null()
        young = (joined["teacher_step"] < self.min_step).fill_null(False)
        used = ~(missing | young)
        counts = {
            "labels_used": int(used.sum()),
            "teacher_too_young": int(young.sum()),
            "labels_missing": int(missing.sum()),
        }
        soft = joined.select(pl.col(names).fill_null(0.0)).to_numpy().astype(np.float32)
        return soft, used.to_numpy().astype(np.float32), counts
