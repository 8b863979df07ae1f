"""The labels that a study alone may use: those of a teacher that was already trained on the example."""

from dataclasses import fields

import polars as pl

from tutelage.pipeline.lake import Lake
from tutelage.pipeline.soft_labels import LabelPartition, SoftLabelStore
from tutelage.trainers.run import Run

LEAKED = "leaked"
"""The teacher's name under which labels that break the leak rule are stored, in the lake of a study's unit."""


class LeakingLabelStore(SoftLabelStore):
    """A store whose labels of `LEAKED` may break the leak rule, so that a study can measure what the rule is worth."""

    def _leaks(self, partition: LabelPartition, labels: pl.DataFrame) -> int:
        return 0 if partition.teacher == LEAKED else super()._leaks(partition, labels)


class StudyRun(Run):
    """The run of a study's unit: its lake has a `LeakingLabelStore`."""

    @classmethod
    def of(cls, run: Run) -> "StudyRun":
        """Return the same run, as a study's."""
        return cls(**{field.name: getattr(run, field.name) for field in fields(run)})

    @property
    def lake(self) -> Lake:
        """The tables of the run."""
        lake = super().lake
        lake.soft_labels = LeakingLabelStore(lake.soft_labels.table)
        return lake
