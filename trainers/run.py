"""What every model of a workdir has in common, and where it keeps what it has learnt."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from tutelage.pipeline.lake import Lake
from tutelage.pipeline.quarantine import Quarantine
from tutelage.pipeline.schema import Schema
from tutelage.trainers.checkpoints import Checkpoints
from tutelage.trainers.config import TeacherConfig, TrainingConfig

TEACHER = "teacher"
"""The teacher's name in `metrics`, in folders and on command lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One experiment in one workdir."""

    name: str
    schema: Schema
    training: TrainingConfig
    teacher: TeacherConfig
    root: Path
    slice_by: tuple[str, ...] = ()
    """Features by whose values a day's metrics are computed too."""
    interactions: Path | None = None
    """The table that the days are read from; None: the run's own."""
    keep_predictions: bool = False
    """Whether the scores of each day, made before it was learnt, stay beside the checkpoints."""

    @property
    def lake(self) -> Lake:
        return Lake(self.root / "lake", self.schema, interactions=self.interactions)

    def folder(self, model: str) -> Path:
        """Of `teacher`, or of the student of that name."""
        return self.root / TEACHER if model == TEACHER else self.root / "students" / model

    def checkpoints(self, model: str) -> Checkpoints:
        return Checkpoints(self.folder(model) / "checkpoints")

    def quarantine(self, model: str) -> Quarantine:
        return Quarantine(self.folder(model) / "quarantine")

    def skipped(self, model: str) -> list[date]:
        """The days that a model goes on without: its own gate, or that of the data, did not let them pass."""
        return sorted({*self.quarantine(model).skipped(), *self.lake.kept_out()})

    def predictions(self, model: str, day: date) -> Path:
        """Parquet: example_id and the raw outputs."""
        return self.folder(model) / "predictions" / f"{day}.parquet"

    @property
    def report(self) -> Path:
        return self.root / "report"
