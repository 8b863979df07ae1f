"""What a command was asked for, resolved: the experiment, the workdir, the days."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from tutelage.export.versions import Versions
from tutelage.launch.config import Experiment, load
from tutelage.launch.workspace import open_workdir
from tutelage.models.config import ModelConfig
from tutelage.pipeline.days import parse_day, slices_between
from tutelage.trainers.checkpoints import State, pending
from tutelage.trainers.config import SuccessorConfig
from tutelage.trainers.run import Run, successor_model


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The common flags, as they were given. It travels to the processes that train."""

    config: str
    workdir: str
    raw_dir: str = ""
    start_day: str = ""
    end_day: str = ""
    smoke: bool = False
    overrides: Sequence[str] = ()
    beam_flags: Sequence[str] = ()
    verbose: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """An experiment in its workdir, and the days that were asked for."""

    settings: Settings
    experiment: Experiment
    run: Run
    days: list[date]

    @classmethod
    def open(cls, settings: Settings) -> "Session":
        """Raises UserError for a config, a day or a workdir that will not do."""
        experiment = load(settings.config, smoke=settings.smoke, overrides=settings.overrides)
        zone, length = experiment.schema.time_zone, experiment.schema.slice_days
        start = parse_day(settings.start_day or experiment.start_day, time_zone=zone)
        end = parse_day(settings.end_day or experiment.end_day, time_zone=zone)
        days = slices_between(start, end, slice_days=length)
        run = open_workdir(settings.workdir, experiment)
        return cls(settings=settings, experiment=experiment, run=run, days=days)

    @property
    def models(self) -> list[str]:
        """The teacher, a successor that has not taken its place, then the students in the config's order."""
        return [*self.teachers, *self.students]

    @property
    def teachers(self) -> list[str]:
        return [self.run.teacher_model, *([successor_model(s.teacher.name)] if (s := self.successor) else [])]

    @property
    def students(self) -> list[str]:
        return [student.name for student in self.experiment.students]

    @property
    def successor(self) -> SuccessorConfig | None:
        """The config's, as long as it has not taken over."""
        successor = self.experiment.successor
        return successor if successor and successor.teacher.name != self.run.teacher.name else None

    def run_of(self, model: str) -> Run:
        """As one of the `teachers` sees it: with itself as the teacher."""
        if self.successor and model == self.teachers[-1]:
            return self.run.of_successor(self.successor.teacher)
        return self.run

    def model(self, name: str) -> ModelConfig:
        """Raises UserError for a name that is neither a teacher's nor a student's."""
        if name in self.teachers:
            return self.run_of(name).teacher.model
        return self.experiment.student(name).model

    def days_of(self, model: str) -> list[date]:
        """Those of the days asked for that are the model's: they begin with its first day."""
        if model == self.run.teacher_model:
            first = self.run.takeovers[-1].first_day if self.run.takeovers else None
        elif self.successor and model in self.teachers:
            first = self.successor.first_day
        else:
            first = self.experiment.student(model).first_day
        return [day for day in self.days if first is None or day >= first]

    def to_learn(self, model: str, *, accept: date | None = None) -> list[date]:
        """`accept`: a skipped day that is to be learnt after all.

        Raises UserError where they do not follow what the model has learnt.
        """
        return pending(
            self.days_of(model),
            self.run.checkpoints(model).states(),
            slice_days=self.experiment.schema.slice_days,
            who=model,
            skipped=[day for day in self.run.quarantine(model).skipped() if day != accept],
        )

    def to_export(self, model: str) -> list[State]:
        """Finished days whose checkpoint was not published."""
        return self.versions(model).unpublished(self.run.checkpoints(model).states())

    def versions(self, model: str) -> Versions:
        return Versions(self.run.root / "export" / model)
