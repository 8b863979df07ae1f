"""What every model of a workdir has in common, and where it keeps what it has learnt."""

from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from tutelage.pipeline.lake import Lake
from tutelage.pipeline.quarantine import Quarantine
from tutelage.pipeline.schema import Schema
from tutelage.trainers.checkpoints import Checkpoints
from tutelage.trainers.config import TeacherConfig, TrainingConfig
from tutelage.trainers.takeovers import Labeller, TakeOver

TEACHER = "teacher"
"""The first teacher's name in `metrics`, in folders and on command lines."""


def successor_model(name: str) -> str:
    """The same of a teacher that came later, from its name in the config: no student can be called so."""
    return f"{TEACHER}-{name}"


def is_teacher(model: str) -> bool:
    return model == TEACHER or model.startswith(f"{TEACHER}-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What trainers and exports see of an experiment and its workdir.

    It is not part of `launch.Session`, because `trainers/` and `export/` must not import `launch/`. It knows no
    students, no config file and no flags, and a study replaces its root, teacher and training.
    """

    name: str
    schema: Schema
    training: TrainingConfig
    teacher: TeacherConfig
    """The one that labels now."""
    root: Path
    teacher_model: str = TEACHER
    """Under which name it keeps what it has learnt."""
    takeovers: tuple[TakeOver, ...] = ()
    """The changes of teacher before it, the oldest first."""
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
        """Of a teacher, or of the student of that name."""
        return self.root / model if is_teacher(model) else self.root / "students" / model

    def labeller(self, day: date) -> Labeller:
        """The teacher whose labels students read of a day."""
        for takeover in self.takeovers:
            if day < takeover.from_day:
                return takeover.before
        return Labeller(
            model=self.teacher_model, name=self.teacher.name, min_examples=self.teacher.min_examples
        )

    def of_successor(self, teacher: TeacherConfig) -> "Run":
        """The same with a successor in the teacher's place, which it has not taken yet."""
        return replace(self, teacher=teacher, teacher_model=successor_model(teacher.name))

    def checkpoints(self, model: str) -> Checkpoints:
        return Checkpoints(self.folder(model) / "checkpoints")

    def quarantine(self, model: str) -> Quarantine:
        return Quarantine(self.folder(model) / "quarantine")

    def skipped(self, model: str) -> list[date]:
        """The days that a model goes on without: its own gate, or that of the data, did not let them pass."""
        return sorted({*self.quarantine(model).skipped(), *self.lake.quarantined_days()})

    def predictions(self, model: str, day: date) -> Path:
        """Parquet: example_id and the raw outputs."""
        return self.folder(model) / "predictions" / f"{day}.parquet"

    def warm_start(self, model: str) -> Path:
        """JSON: from whose state of which day a successor started, what was `taken`, and what started `anew`."""
        return self.folder(model) / "warm_start.json"

    @property
    def report(self) -> Path:
        return self.root / "report"
