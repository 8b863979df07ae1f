"""A command's request, resolved: the experiment, its workdir, and the days that were asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import Any

from tutelage.export.versions import Versions
from tutelage.launch.config import load
from tutelage.launch.experiment import Experiment
from tutelage.launch.logging_setup import quiet_stderr
from tutelage.launch.workspace import open_workdir
from tutelage.models.config import ModelConfig
from tutelage.pipeline.days import describe_moves, parse_day, slices_between
from tutelage.pipeline.io.printable import counted
from tutelage.pipeline.soft_labels import SNAPSHOT
from tutelage.trainers.checkpoints import State, pending
from tutelage.trainers.config import SuccessorConfig
from tutelage.trainers.run import TEACHER, Run, successor_model


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """An experiment in its workdir, and the days that were asked for. `Session.open` makes one."""

    experiment: Experiment
    run: Run
    days: list[date]
    """The days asked for that are released."""
    waiting: Mapping[date, datetime] = field(default_factory=dict)
    """The days asked for that are not, and when they will be."""
    moved: str = ""
    """How the first and the last day asked for were moved to whole slices; empty where they were not."""
    pruned: frozenset[date] = frozenset()
    """The days asked for that were pruned, and stay so until they are materialised again."""
    raw_dir: str = ""
    beam_flags: Sequence[str] = ()
    verbose: bool = False
    every_version: bool = False
    """Whether past days are exported too, and not only a model's newest finished day."""
    awaits_teacher: bool = False
    """Whether models go no further than the teacher that they need (`awaited`)."""
    awaits_successor: bool = False
    """Whether students that read labels go no further than the successor: its process or the teacher's was killed."""
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    """The moment of the command, which is the same in all its processes."""
    request: Mapping[str, Any] = field(default_factory=dict)
    """The arguments of `open`. They are sent to the processes that train, which open the session again."""

    @classmethod
    def open(
        cls,
        *,
        config: str,
        workdir: str,
        overrides: Sequence[str] = (),
        smoke: bool = False,
        start_day: str = "",
        end_day: str = "",
        now: datetime | None = None,
        read_only: bool = False,
        may_be_new: bool = False,
        **kept: Any,
    ) -> "Session":
        """Return the session that a command's flags ask for; `kept` are fields that are taken as they are.

        `read_only` creates no workdir and changes none. Raises UserError for a config, a day or a workdir that
        cannot be used, and NothingHereYet where a workdir that is to be read is not there, unless it `may_be_new`.
        """
        with quiet_stderr(
            verbose=kept.get("verbose", False)
        ):  # a config of the user's own may import TensorFlow
            experiment = load(config, smoke=smoke, overrides=overrides)
        schema, now = experiment.schema, now or datetime.now(UTC)
        start, end = (
            parse_day(day, time_zone=schema.time_zone, now=now.astimezone)
            for day in (start_day or experiment.start_day, end_day or experiment.end_day)
        )
        asked = slices_between(start, end, slice_days=schema.slice_days, offset=schema.slice_offset)
        until = {day: schema.waits_until(day, now=now) for day in asked}
        run = open_workdir(workdir, experiment, read_only=read_only, may_be_new=may_be_new)
        request = {"config": config, "workdir": workdir, "overrides": overrides, "smoke": smoke, **kept}
        return cls(
            experiment=experiment,
            run=run,
            days=[day for day, at in until.items() if at is None],
            waiting={day: at for day, at in until.items() if at is not None},
            moved=describe_moves(start, end, asked, slice_days=schema.slice_days),
            pruned=frozenset() if may_be_new else run.lake.pruned(asked),
            now=now,
            request={**request, "start_day": start_day, "end_day": end_day, "now": now},
            **kept,
        )

    def reopened(self) -> "Session":
        """Return the session as a change of teacher or a rollback has left it."""
        return Session.open(**self.request)

    def asking(self, **changes: Any) -> "Session":
        """Return the session with `changes` of its fields, here and wherever it is opened again."""
        return replace(self, **changes, request={**self.request, **changes})

    @property
    def asked(self) -> str:
        """The days that were asked for, released or not."""
        days = sorted([*self.days, *self.waiting])
        return f"{days[0]} to {days[-1]}"

    def waits(self) -> str:
        """Return one line on the days that are not released and until when; empty where all are."""
        if not self.waiting:
            return ""
        day, at = min(self.waiting.items())
        more = f", and {counted(len(self.waiting) - 1, 'later day')}" if len(self.waiting) > 1 else ""
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
        """The config's successor, until it has taken over."""
        successor = self.experiment.successor
        return successor if successor and successor.teacher.name != self.run.teacher.name else None

    def run_of(self, model: str) -> Run:
        """Return the run as one of the `teachers` sees it, with itself as the teacher."""
        if self.successor and model == self.teachers[-1]:
            return self.run.of_successor(self.successor.teacher)
        return self.run

    @property
    def all_models(self) -> list[str]:
        """`models`, then the students and teachers that are in the workdir and no longer in the config."""
        root = self.run.root
        paths = [*root.glob(f"{TEACHER}-*"), root / TEACHER, *(root / "students").glob("*")]
        found = sorted(path.name for path in paths if path.is_dir())
        return list(dict.fromkeys([*self.models, *found]))

    def model(self, name: str) -> ModelConfig:
        """Return a model's config. Raises UserError for a name that no teacher and no student has."""
        if name in self.teachers:
            return self.run_of(name).teacher.model
        return self.experiment.student(name).model

    def days_of(self, model: str) -> list[date]:
        """Return the days asked for from the model's first day on, without the pruned ones.

        With `awaits_teacher` the days end before the first one that waits for a teacher (`awaited`).
        """
        days = [day for day in self._own_days(model) if day not in self.pruned]
        awaited = min(self.awaited(model), default=date.max) if self.awaits_teacher else date.max
        return [day for day in days if day < awaited]

    def awaited(self, model: str) -> dict[date, str]:
        """Return the days that a model is to wait with, in order, each with the teacher that it waits for.

        A student that reads labels waits for the training of the teacher that labels a day. One that reads labels by
        snapshot waits for the exports of the days before it too, and with `awaits_successor` each of them waits for
        the successor, which may take over. A successor that starts warm waits for the teacher's days before its own.
        """
        days, teacher = self._to_come(model), self.run.teacher_model
        if model in self.teachers:
            late = self._to_come(teacher) if model != teacher and self._starts_warm(model) else []
            return dict.fromkeys(days if late and days and late[0] < days[0] else [], teacher)
        student = self.experiment.student(model)
        if not student.distillation:
            return {}
        late = self._to_come(teacher)
        exports = [state.day for state in self.to_export(teacher)] if student.producer == SNAPSHOT else []
        waits = {
            day: teacher
            for day in days
            if self.run.labeller(day).model == teacher and (day in late or any(at < day for at in exports))
        }
        if self.awaits_successor and self.successor:
            late = self._to_come(self.teachers[-1])
            waits = {**{day: self.teachers[-1] for day in days if day in late}, **waits}
        return dict(sorted(waits.items()))

    def _starts_warm(self, model: str) -> bool:
        """Whether a successor is still to start, with what the teacher was trained to before its first day."""
        return self.first_day(model) is not None and not self.run.checkpoints(model).states()

    def _to_come(self, model: str) -> list[date]:
        """Return the days asked for that a model is still to be trained on."""
        done = {*(state.day for state in self.run.checkpoints(model).states()), *self.run.skipped(model)}
        return [day for day in self._own_days(model) if day not in done and day not in self.pruned]

    def left_out(self, model: str) -> list[date]:
        """Return the pruned days that an untrained model would have begun with."""
        if self.run.checkpoints(model).states():
            return []
        return [day for day in self._own_days(model) if day in self.pruned]

    def first_day(self, model: str) -> date | None:
        """Return the first day that the config gives a model; None: any."""
        if model == self.run.teacher_model:
            return self.run.takeovers[-1].first_day if self.run.takeovers else None
        if self.successor and model in self.teachers:
            return self.successor.first_day
        return self.experiment.student(model).first_day

    def _own_days(self, model: str) -> list[date]:
        first = self.first_day(model)
        return [day for day in self.days if first is None or day >= first]

    def days_to_train(self, model: str, *, accept: date | None = None) -> list[date]:
        """Return the days asked for that a model is still to be trained on; `accept` is a skipped one to take up.

        Raises UserError where they do not follow the days that it was trained on.
        """
        return pending(
            self.days_of(model),
            self.run.checkpoints(model).states(),
            slice_days=self.experiment.schema.slice_days,
            who=model,
            skipped=[day for day in self.run.skipped(model) if day != accept],
        )

    def to_export(self, model: str) -> list[State]:
        """Return the finished days whose checkpoint is to become a version and has not.

        Of a teacher whose snapshots label these are all days, because that of a day labels the days after it. Otherwise
        it is the newest one, because a version of a past day would not be served, and of a student the newest one whose
        rows to be judged on are there. With `every_version` they are all such days.
        """
        states, versions = self.run.checkpoints(model).states(), self.versions(model)
        every = self.exports_every(model)
        if model in self.teachers:
            return versions.unpublished(states if every else states[-1:])
        # Without a holdout the last day waits, and the one before is the newest.
        states = states if every else states[-2:]
        judged = self.run.judged_days(states)
        states = [state for state in states if state.day in judged]
        if every:
            return versions.unpublished(states)
        later = [version.day for version in versions.published()]
        return versions.unpublished(
            [state for state in states[-1:] if state.day >= max(later, default=state.day)]
        )

    def exports_every(self, model: str) -> bool:
        """Return whether each finished day of a model is to become a version, and not only its newest one."""
        students = self.experiment.students
        label = any(s.distillation and s.producer == SNAPSHOT for s in students)
        return self.every_version or (label and model in self.teachers)

    def version_waits(self, model: str) -> str:
        """Return what the version of a student's newest finished day waits for; empty where it waits for nothing."""
        newest = self.run.checkpoints(model).states()[-1:]
        if model in self.teachers or not newest:
            return ""
        (state,) = newest
        if self.versions(model).waits(state):
            return f"the version of {state.day} is not served: too few rows to tell, and serving.undecided is 'wait'"
        if not self.run.judged_days(newest) and self.versions(model).unpublished(newest):
            return f"the version of {state.day} waits for the day after it, as training.holdout was 0"
        return ""

    def versions(self, model: str) -> Versions:
        return Versions(self.run.root / "export" / model)
