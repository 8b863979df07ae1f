"""What the models of a workdir have in common, and where each of them keeps its files."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from tutelage.pipeline.alarms import AlarmBudget
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.quarantine import Outcome, Quarantine
from tutelage.pipeline.schema import Schema
from tutelage.trainers.checkpoints import Checkpoints, State
from tutelage.trainers.config import TeacherConfig, TrainingConfig
from tutelage.trainers.handover import Labeller, TakeOver

NO_DATA = "its data is in quarantine"
"""What the record of a model says of a day that it went past because the data's gate did."""
DEFAULT_ALARMS = AlarmBudget(per_year=1.0)
TEACHER = "teacher"
"""The first teacher's name in `metrics`, in folders and on command lines."""


def successor_model(name: str) -> str:
    """Return the same for a later teacher, from its name in the config. No student can have such a name.

    >>> successor_model("wide")
    'teacher-wide'
    """
    return f"{TEACHER}-{name}"


def is_teacher(model: str) -> bool:
    """Tell a teacher from a student by its name.

    >>> [is_teacher(model) for model in ("teacher", "teacher-wide", "auxiliary")]
    [True, True, False]
    """
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
    """The teacher that labels now."""
    root: Path
    teacher_model: str = TEACHER
    """Its name in folders, in `metrics` and on command lines."""
    takeovers: tuple[TakeOver, ...] = ()
    """The changes of teacher before it, the oldest first."""
    slice_by: tuple[str, ...] = ()
    """Features. A day's metrics are also computed for each of their frequent values."""
    interactions: Path | None = None
    """The table that the days are read from; None: the run's own."""
    alarms: AlarmBudget = DEFAULT_ALARMS
    """The false alarms that the gate of each model may give (`Experiment.alarms`)."""
    keep_predictions: bool = False
    """Whether each day's scores ahead are kept beside the checkpoints."""

    @property
    def lake(self) -> Lake:
        """The tables of the workdir."""
        return Lake(self.root / "lake", self.schema, interactions=self.interactions)

    def folder(self, model: str) -> Path:
        """Return the folder of a teacher or student."""
        return self.root / model if is_teacher(model) else self.root / "students" / model

    def labeller(self, day: date) -> Labeller:
        """Return the teacher whose labels students read of a day."""
        for takeover in self.takeovers:
            if day < takeover.from_day:
                return takeover.before
        return Labeller(
            model=self.teacher_model, name=self.teacher.name, min_examples=self.teacher.min_examples
        )

    def of_successor(self, teacher: TeacherConfig) -> "Run":
        """Return the run as a successor sees it that has not taken over: with itself as the teacher."""
        return replace(self, teacher=teacher, teacher_model=successor_model(teacher.name))

    def checkpoints(self, model: str) -> Checkpoints:
        """Return the checkpoints of a model."""
        return Checkpoints(self.folder(model) / "checkpoints")

    def quarantine(self, model: str) -> Quarantine:
        """Return the records of a model's days that did not pass its gate."""

        def torn(day: date) -> Outcome:
            """Return what became of a day, by the days that the model was trained on."""
            days = [state.day for state in self.checkpoints(model).states()]
            if day in days:
                return "passed"
            return "skipped" if days and days[-1] > day else "stopped"

        mend = "restore it from a backup, or remove it where no later day was trained on: {day} is then judged again"
        return Quarantine(self.folder(model) / "quarantine", torn=torn, mend=mend)

    def skipped(self, model: str) -> list[date]:
        """Return the days that a model is not trained on: its own gate or the data's did not let them pass."""
        return sorted({*self.quarantine(model).skipped(), *self.lake.quarantined_days()})

    def judged_days(self, states: Sequence[State]) -> dict[date, date]:
        """Return, by the states' days, the days whose rows judge their versions (`State.judged_on`).

        A state whose rows are still to come is left out.
        """
        # The table is asked only where a state needs it.
        every = all(state.holdout for state in states)
        days = [] if every else self.lake.interactions.partitions()["day"].sort().to_list()
        found = {state.day: state.judged_on(days) for state in states}
        return {day: judged for day, judged in found.items() if judged}

    def predictions(self, model: str, day: date) -> Path:
        """Return the path of a day's scores ahead, as Parquet: example_id and the raw outputs."""
        return self.folder(model) / "predictions" / f"{day}.parquet"

    def scratch(self, model: str) -> Path:
        """Return the folder of what a trainer of the model needs on the disk while it trains, and no longer."""
        return self.folder(model) / ".scratch"

    def warm_start(self, model: str) -> Path:
        """Return the path of a JSON on a successor's start: `teacher`, `day`, what was `taken` and what was `anew`."""
        return self.folder(model) / "warm_start.json"

    @property
    def report(self) -> Path:
        """The folder of the HTML report and the TensorBoard events."""
        return self.root / "report"
