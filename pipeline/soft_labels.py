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
    # A study's own: what labels that break the rule are worth.
    "leaked": pl.col("teacher_step").is_null(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftLabels:
    """Which labels a student reads."""

    teacher: str
    producer: str
    min_step: int
    """Labels of a teacher that had made fewer updates are masked."""
    half_life: float | None = None
    """Days of age after which a label weighs half."""
    outputs: tuple[str, ...] = ()
    """What is learnt from: a label that lacks one of them, of a teacher without that task, is missing."""
    masked: bool = False
    """Whether all are masked: their teacher is new to the student."""

    @property
    def partition(self) -> dict[str, str | date]:
        """Of `soft_labels`, but for the day."""
        return {"teacher": self.teacher, "producer": self.producer}

    def join(
        self, example_id: pl.Series, day: date, *, lake: Lake, schema: Schema
    ) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
        """Soft labels float32 [rows, raw outputs], their weights float32 [rows], 0 where there is none, and counts.

        The counts are of rows by what became of them, and add up to all: `labels_used`, `teacher_too_young`,
        `labels_missing` and, where the teacher is new, `teacher_changed`.
        Raises UserError where a label was made by a teacher that had learnt the row, or a row has two.
        """
        where = {**self.partition, "day": day}
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
        names = schema.outputs
        joined = pl.DataFrame({"example_id": example_id}).join(
            labels.select("example_id", "teacher_step", "snapshot_day", *names),
            on="example_id",
            how="left",
            maintain_order="left",
        )
        missing = joined.select(
            pl.any_horizontal(pl.col("teacher_step", *self.outputs).is_null())
        ).to_series()
        young = (joined["teacher_step"] < self.min_step).fill_null(False) & ~missing
        used = ~(missing | young)
        counts = {
            "labels_used": int(used.sum()),
            "teacher_too_young": int(young.sum()),
            "labels_missing": int(missing.sum()),
        }
        if self.masked:
            counts |= {"labels_used": 0, "teacher_changed": int(used.sum())}
            used = used & False
        soft = joined.select(pl.col(names).fill_null(0.0)).to_numpy().astype(np.float32)
        weight = used.to_numpy().astype(np.float32)
        if self.half_life:
            # A label by the snapshot of the day before has age 0; one from before any snapshot, too.
            age = (pl.lit(day) - pl.col("snapshot_day")).dt.total_days().fill_null(1) - 1
            days = joined.select(age.fill_null(0)).to_series().to_numpy()
            weight *= np.power(0.5, days / self.half_life, dtype=np.float32)
        return soft, weight, counts
