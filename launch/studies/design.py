"""What the studies train and compare: a function per study, which adds its arms to a design."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import NamedTuple

from tutelage.launch.experiment import Experiment, StudyConfig
from tutelage.launch.studies.labels import LEAKED
from tutelage.launch.studies.statistics import Arm
from tutelage.models.config import ModelConfig
from tutelage.pipeline.errors import UserError
from tutelage.trainers.config import Sampling, StudentConfig, TeacherConfig
from tutelage.trainers.run import TEACHER

BASE = "base"
"""The setting of the config's own teacher."""
Plan = Mapping[date, date]
"""From a day to the day whose snapshot labels it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentArm:
    """A student to train, under a name of its own."""

    name: str
    student: StudentConfig
    labels: str = ""
    """The plan whose labels it reads; empty: the teacher's labels from before each update."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A teacher, the plans by which its snapshots label, and its students."""

    name: str
    teacher: TeacherConfig
    students: tuple[StudentArm, ...]
    plans: Mapping[str, Plan] = field(default_factory=dict)

    @property
    def teacher_arm(self) -> str:
        return _teacher_arm(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """What is trained, and what is compared with what."""

    settings: tuple[Setting, ...]
    arms: tuple[Arm, ...]

    @property
    def by_study(self) -> dict[str, list[Arm]]:
        """The arms of each study, in the order of the studies' names."""
        studies = sorted({arm.study for arm in self.arms})
        return {study: [arm for arm in self.arms if arm.study == study] for study in studies}


def design(experiment: Experiment, days: Sequence[date], studies: Iterable[int]) -> Design:
    """Return the settings and arms of `studies`. Raises UserError for a number that is not in `STUDIES`."""
    wanted = set(studies)
    if not wanted <= STUDIES.keys():
        raise UserError(
            f"--studies: {sorted(wanted - STUDIES.keys())}; expected numbers of {sorted(STUDIES)}"
        )
    if experiment.study is None:
        raise UserError(
            f"config {experiment.name!r} has no study; give it one, as in launch/configs/synthetic.py"
        )
    _check(experiment, experiment.study)
    builder = _Builder(experiment, experiment.study, days)
    for number in sorted(wanted):
        builder.name = f"{number} {STUDIES[number].title}"
        STUDIES[number].add_arms(builder)
    return builder.build()


def _check(experiment: Experiment, study: StudyConfig) -> None:
    """Raise UserError where the study names something that the experiment does not have."""
    schema, ids = experiment.schema, [feature.name for feature in experiment.schema.ids]
    for name in (study.full, study.late):
        student = experiment.student(name)
        if not student.distillation or student.baseline is None:
            raise UserError(f"study: student {name!r} must be distilled and have a baseline")
    (task,) = schema.select_tasks([study.biased_task])
    if not task.is_binary:
        raise UserError(f"study: biased_task {task.name!r} is {task.kind}, expected a binary task")
    for name in (study.item, study.domain.partition("=")[0]):
        if name not in ids:
            raise UserError(f"study: {name!r} is not an id feature; expected one of {', '.join(ids)}")
    if schema.user is None:
        raise UserError("study: its intervals resample users, and the schema names no `user`; name one")


class _Builder:
    """Collects settings and arms; what several studies ask for is trained once."""

    def __init__(self, experiment: Experiment, config: StudyConfig, days: Sequence[date]):
        self.experiment = experiment
        self.config = config
        self.days = days
        self.name = ""
        """The study whose arms are being added."""
        self.late = experiment.student(config.late)
        self.full = experiment.student(config.full)
        self.teachers = {BASE: experiment.teacher}
        self._students: dict[str, dict[str, StudentArm]] = {}
        self._plans: dict[str, Plan] = {}
        self._arms: list[Arm] = []

    def build(self) -> Design:
        # A transfer ratio needs the scores of the teacher itself.
        for arm in list(self._arms):
            if arm.teacher and arm.teacher not in [a.name for a in self._arms if a.study == arm.study]:
                self._arms.append(Arm(study=arm.study, name=arm.teacher, baseline=None, group=TEACHER))
        settings = [
            Setting(
                name=name,
                teacher=teacher,
                students=tuple(self._students.get(name, {}).values()),
                plans=self._plans if name == BASE else {},
            )
            for name, teacher in self.teachers.items()
        ]
        return Design(settings=tuple(settings), arms=tuple(self._arms))

    def train(self, student: StudentConfig, name: str = "", *, setting: str = BASE, labels: str = "") -> str:
        """Add a student to train, called `name` or as in its config; return the name of its arm."""
        arm = StudentArm(
            name=name or student.name,
            student=replace(student, name=name.replace("@", "_") or student.name, baseline=None),
            labels=labels,
        )
        self._students.setdefault(setting, {})[arm.name] = arm
        return arm.name

    def compare(
        self, name: str, baseline: str | None, *, x: float | None = None, group: str = "", teacher: str = ""
    ) -> None:
        """Add a comparison of two arms; `teacher`: the setting whose teacher's lead is shared, '' for none."""
        arm = Arm(
            study=self.name,
            name=name,
            baseline=baseline,
            x=x,
            group=group,
            teacher=_teacher_arm(teacher) if teacher else None,
        )
        if (arm.study, arm.name, arm.baseline) not in [(a.study, a.name, a.baseline) for a in self._arms]:
            self._arms.append(arm)

    def add(
        self,
        student: StudentConfig,
        name: str = "",
        *,
        setting: str = BASE,
        labels: str = "",
        x: float | None = None,
        group: str = "",
    ) -> None:
        """Train a student and its baseline and compare them.

        The baseline reads no labels, so it is trained once, beside the base teacher.
        """
        arm = self.train(student, name, setting=setting, labels=labels)
        if student.baseline:
            self.train(self.experiment.student(student.baseline))
            self.compare(student.baseline, None, group=group)
        self.compare(arm, student.baseline, x=x, group=group, teacher=setting if student.baseline else "")

    def add_plan(
        self, student: StudentConfig, name: str, plan: Plan, *, x: float | None = None, group: str = ""
    ) -> None:
        """Add the late student on the labels of `plan`, which is called `name`."""
        self._plans[name] = plan
        self.add(student, f"{student.name}@{name}", labels=name, x=x, group=group)

    def siblings(self, student: StudentConfig) -> list[StudentConfig]:
        """Return all students that have the same baseline."""
        return [s for s in self.experiment.students if s.baseline == student.baseline]


def _losses(builder: _Builder) -> None:
    """Add all students of the config, then compare auxiliary towers with distilling into the served output."""
    for student in builder.experiment.students:
        if student.producer == "pre_update":
            builder.add(student, group=student.baseline or student.name)
    for student in (builder.full, builder.late):
        for direct in builder.siblings(student):
            if any(d.through == "direct" for d in direct.distillation):
                builder.compare(student.name, direct.name, group="against direct")


def _teacher_sizes(builder: _Builder) -> None:
    """Add the full and the late student of teachers of several sizes."""
    for size in builder.config.teacher_sizes:
        setting = f"size{size}"
        model = _scaled(builder.late.model, size)
        builder.teachers[setting] = replace(builder.experiment.teacher, model=model)
        for group, student in (("full", builder.full), ("late", builder.late)):
            builder.add(student, f"{student.name}@{setting}", setting=setting, x=size, group=group)


def _label_ages(builder: _Builder) -> None:
    """Add the late student on labels of several ages, of a weekly teacher, and of one that is frozen."""
    days, config = builder.days, builder.config
    late = replace(builder.late, producer="snapshot")
    first = late.first_day or days[1]
    known = [day for day in days if day < first]
    frozen = known[max(0, len(known) - config.refresh_days // 2 - 1)]
    for age in config.label_ages:
        plan = {day: days[i - 1 - age] for i, day in enumerate(days) if i > age}
        if max(plan, default=first) > first:
            builder.add_plan(late, f"age{age}", plan, x=age, group="age")
    weekly = {
        day: days[i - 1 - (i - len(known)) % config.refresh_days]
        for i, day in enumerate(days)
        if i - 1 - (i - len(known)) % config.refresh_days >= 0
    }
    builder.add_plan(late, "weekly", weekly, group="schedule")
    builder.add_plan(late, "frozen", {day: frozen for day in days if day > frozen}, group="schedule")
    adapted = tuple(replace(d, adapter=d.through == "auxiliary") for d in late.distillation)
    name = f"{late.name}@frozen_adapter"
    builder.add(replace(late, distillation=adapted), name, labels="frozen", group="schedule")
    for other in ("weekly", "frozen"):
        builder.compare(f"{late.name}@age0", f"{late.name}@{other}", group="continuous")


def _leaks(builder: _Builder) -> None:
    """Add the late student on labels from before the update, of the day before, and of a teacher that saw the day."""
    days = builder.days
    builder.add(builder.late, group="labels")
    snapshot = replace(builder.late, producer="snapshot")
    builder.add_plan(snapshot, "age0", dict(zip(days[1:], days, strict=False)), group="labels")
    builder.add_plan(snapshot, LEAKED, {day: day for day in days}, group="labels")


def _biased_teachers(builder: _Builder) -> None:
    """Add all late students of teachers that lack negatives, know one domain only, or stopped on the first day."""
    teacher, config = builder.experiment.teacher, builder.config
    negatives = Sampling(negatives_of=config.biased_task, rate=config.negatives_rate, correction="none")
    samplings = {
        "negatives": negatives,
        "corrected": replace(negatives, correction="offset"),
        "domain": Sampling(only=config.domain),
    }
    for setting, sampling in samplings.items():
        builder.teachers[setting] = replace(teacher, sampling=sampling)
        for student in builder.siblings(builder.late):
            builder.add(student, f"{student.name}@{setting}", setting=setting, group=setting)
    oldest = dict.fromkeys(builder.days[1:], builder.days[0])
    for student in builder.siblings(builder.late):
        builder.add_plan(replace(student, producer="snapshot"), "oldest", oldest, group="oldest")


def _tasks(builder: _Builder) -> None:
    """Add the late student with every combination of its distilled tasks."""
    late = builder.late
    names = [d.task for d in late.distillation]
    for mask in range(1, 2 ** len(names)):
        chosen = [name for i, name in enumerate(names) if mask >> i & 1]
        student = replace(late, distillation=tuple(d for d in late.distillation if d.task in chosen))
        name = late.name if len(chosen) == len(names) else f"{late.name}@{'_'.join(chosen)}"
        builder.add(student, name, group="tasks")


def _many_students(builder: _Builder) -> None:
    """Add eight students, of four widths and two depths, each with its own baseline."""
    assert builder.late.baseline is not None
    control = builder.experiment.student(builder.late.baseline)
    for number in range(8):
        hidden = _hidden(control.model)
        model = replace(
            _with_hidden(control.model, hidden if number < 4 else hidden[:1]),
            embedding_dim=max(1, control.model.embedding_dim * (number % 4 + 1) // 2),
        )
        baseline, arm = (
            builder.train(replace(student, model=model), f"{student.name}@student{number + 1}")
            for student in (control, builder.late)
        )
        builder.compare(baseline, None, x=number + 1, group="students")
        builder.compare(arm, baseline, x=number + 1, group="students", teacher=BASE)


class Study(NamedTuple):
    title: str
    """What the study varies."""
    add_arms: Callable[[_Builder], None]


STUDIES = {
    1: Study("none, direct and auxiliary", _losses),
    2: Study("size of the teacher", _teacher_sizes),
    3: Study("age of the labels", _label_ages),
    4: Study("labels before the update, of the day before, and of a teacher that saw the day", _leaks),
    5: Study("biased teachers", _biased_teachers),
    6: Study("which tasks to distil", _tasks),
    7: Study("students of one teacher", _many_students),
}
"""The studies by the number that --studies takes."""


def _teacher_arm(setting: str) -> str:
    return f"{TEACHER}@{setting}"


def _scaled(model: ModelConfig, size: int) -> ModelConfig:
    """Return the model with `size` times the width."""
    wider = _with_hidden(model, tuple(units * size for units in _hidden(model)))
    return replace(wider, embedding_dim=model.embedding_dim * size)


def _hidden(model: ModelConfig) -> tuple[int, ...]:
    if not hasattr(model.backbone, "hidden"):
        raise UserError(
            f"study: the backbone {model.backbone!r} has no field `hidden`, which is varied; name students "
            "whose backbone has one, as in MLP(hidden=(64, 32))"
        )
    return tuple(model.backbone.hidden)


def _with_hidden(model: ModelConfig, hidden: tuple[int, ...]) -> ModelConfig:
    return replace(model, backbone=replace(model.backbone, hidden=hidden))  # type: ignore[type-var]
