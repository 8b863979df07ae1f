"""What a command was asked for, resolved: the experiment, the workdir, the days."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from tutelage.export.versions import Versions
from tutelage.launch.config import Experiment, load
from tutelage.launch.logging_setup import quiet_stderr
from tutelage.launch.workspace import open_workdir
from tutelage.models.config import ModelConfig
from tutelage.pipeline.days import parse_day, slices_between
from tutelage.trainers.checkpoints import State, pending
from tutelage.trainers.config import SuccessorConfig
from tutelage.trainers.run import TEACHER, Run, successor_model


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
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    """The moment of the command, the same for all its processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """An experiment in its workdir, and the days that were asked for."""

    settings: Settings
    experiment: Experiment
    run: Run
    days: list[date]
    """Those that are released."""
    waiting: Mapping[date, datetime] = field(default_factory=dict)
    """Those that are not, and when they will be."""
    pruned: frozenset[date] = frozenset()
    """Of `days`, those that were removed from the tables and are to stay so."""

    @classmethod
    def open(cls, settings: Settings) -> "Session":
        """Raises UserError for a config, a day or a workdir that will not do."""
        with quiet_stderr(verbose=settings.verbose):  # a config of the user's own may import TensorFlow
            experiment = load(settings.config, smoke=settings.smoke, overrides=settings.overrides)
        zone, length = experiment.schema.time_zone, experiment.schema.slice_days
        now = settings.now.astimezone
        start = parse_day(settings.start_day or experiment.start_day, time_zone=zone, now=now)
        end = parse_day(settings.end_day or experiment.end_day, time_zone=zone, now=now)
        asked = slices_between(start, end, slice_days=length)
        until = {day: experiment.schema.waits_until(day, now=settings.now) for day in asked}
        run = open_workdir(settings.workdir, experiment)
        return cls(
            settings=settings,
            experiment=experiment,
            run=run,
            days=[day for day, at in until.items() if at is None],
            waiting={day: at for day, at in until.items() if at is not None},
            pruned=run.lake.pruned(asked),
        )

    @property
    def asked(self) -> str:
        """The days that were asked for, released or not."""
        days = sorted([*self.days, *self.waiting])
        return f"{days[0]} to {days[-1]}"

    def waits(self) -> str:
        """In one line, which of the days asked for are not released, and until when; empty: all are."""
        if not self.waiting:
            return ""
        day, at = min(self.waiting.items())
        more = f", and {len(self.waiting) - 1} later days" if len(self.waiting) > 1 else ""
        return f"{day} until {at:%Y-%m-%d %H:%M %Z}{more}"

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

    @property
    def all_models(self) -> list[str]:
        """Those, and the students and teachers that are in the workdir and no longer in the config."""
        root = self.run.root
        paths = [*root.glob(f"{TEACHER}-*"), root / TEACHER, *(root / "students").glob("*")]
        found = sorted(path.name for path in paths if path.is_dir())
        return list(dict.fromkeys([*self.models, *found]))

    def model(self, name: str) -> ModelConfig:
        """Raises UserError for a name that is neither a teacher's nor a student's."""
        if name in self.teachers:
            return self.run_of(name).teacher.model
        return self.experiment.student(name).model

    def days_of(self, model: str) -> list[date]:
        """Those of the days asked for that are the model's: they begin with its first day. None is pruned."""
        return [day for day in self._own_days(model) if day not in self.pruned]

    def left_out(self, model: str) -> list[date]:
        """Days that a model which has learnt nothing yet would have begun with, and that were pruned."""
        trained = self.run.checkpoints(model).states()
        return [] if trained else [day for day in self._own_days(model) if day in self.pruned]

    def first_day(self, model: str) -> date | None:
        """The first that a model is to learn, as its config says."""
        if model == self.run.teacher_model:
            return self.run.takeovers[-1].first_day if self.run.takeovers else None
        if self.successor and model in self.teachers:
            return self.successor.first_day
        return self.experiment.student(model).first_day

    def _own_days(self, model: str) -> list[date]:
        first = self.first_day(model)
        return [day for day in self.days if first is None or day >= first]

    def days_to_train(self, model: str, *, accept: date | None = None) -> list[date]:
        """`accept`: a skipped day that is to be learnt after all.

        Raises UserError where they do not follow what the model has learnt.
        """
        return pending(
            self.days_of(model),
            self.run.checkpoints(model).states(),
            slice_days=self.experiment.schema.slice_days,
            who=model,
            skipped=[day for day in self.run.skipped(model) if day != accept],
        )

    def to_export(self, model: str) -> list[State]:
        """Finished days whose checkpoint was not published."""
        return self.versions(model).unpublished(self.run.checkpoints(model).states())

    def versions(self, model: str) -> Versions:
        return Versions(self.run.root / "export" / model)
