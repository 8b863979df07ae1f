"""The studies: what distillation gives, arm against arm, paired by seed, on the days of a workdir.

A unit is one teacher with one seed and all the students that read its labels. Its scores of the judged days
are kept as sums by user (`study_stats.user_sums`); its models are thrown away.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tutelage.launch.experiment import Experiment, StudyConfig, plain
from tutelage.launch.session import Session
from tutelage.launch.studies import facts as study_facts
from tutelage.launch.studies import pages as study_pages
from tutelage.launch.studies import statistics as study_stats
from tutelage.launch.studies.statistics import Arm
from tutelage.models.config import ModelConfig
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.atomic import atomic_write
from tutelage.trainers.config import GateConfig, Sampling, StudentConfig, TeacherConfig
from tutelage.trainers.run import TEACHER, Run

STUDIES = {
    1: "none, direct and auxiliary",
    2: "size of the teacher",
    3: "age of the labels",
    4: "labels before the update, of the day before, and of a teacher that saw the day",
    5: "biased teachers",
    6: "which tasks to distil",
    7: "students of one teacher",
}

# A study wants what bad teachers do: their days need only be finite.
_UNGATED = GateConfig(trailing_days=1_000_000, min_days=1_000_000)

Plan = Mapping[date, date]
"""Day → the day whose snapshot labels it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A student to train, by a name that no other has, on the labels of the teacher's forward passes or of a plan."""

    name: str
    student: StudentConfig
    labels: str = ""
    """The plan's name; empty: the teacher's own labels before each update."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A teacher, the plans by which its snapshots label, and its students."""

    name: str
    teacher: TeacherConfig
    students: tuple[Trained, ...]
    plans: Mapping[str, Plan] = dataclasses.field(default_factory=dict)

    @property
    def teacher_arm(self) -> str:
        return f"{TEACHER}@{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """What is trained, and what is compared with what."""

    settings: tuple[Setting, ...]
    arms: tuple[Arm, ...]

    @property
    def by_study(self) -> dict[str, list[Arm]]:
        return {
            study: [a for a in self.arms if a.study == study]
            for study in sorted({a.study for a in self.arms})
        }


def design(experiment: Experiment, days: Sequence[date], studies: Iterable[int]) -> Design:
    """The settings and arms of `studies`. Raises UserError for a number that is none of `STUDIES`."""
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
    return _Designer(experiment, experiment.study, days).design(wanted)


def _check(experiment: Experiment, study: StudyConfig) -> None:
    """Raises UserError for what the config does not have."""
    schema, ids = experiment.schema, [feature.name for feature in experiment.schema.ids]
    for name in (study.full, study.late):
        student = experiment.student(name)
        if not student.distillation or student.baseline is None:
            raise UserError(f"study: student {name!r} must be distilled and have a baseline")
    (task,) = schema.select_tasks([study.biased_task])
    if task.kind != "binary":
        raise UserError(f"study: biased_task {task.name!r} is {task.kind}, expected a binary task")
    for name in (study.item, study.domain.partition("=")[0]):
        if name not in ids:
            raise UserError(f"study: {name!r} is no id feature; these are {', '.join(ids)}")
    if schema.user is None:
        raise UserError("study: its intervals go by user, and the schema names no `user`")


class _Designer:
    def __init__(self, experiment: Experiment, study: StudyConfig, days: Sequence[date]):
        self.experiment = experiment
        self.study = study
        self.days = days
        self.students: dict[str, dict[str, Trained]] = {}
        self.teachers = {"base": experiment.teacher}
        self.plans: dict[str, Plan] = {}
        self.arms: list[Arm] = []

    def design(self, wanted: set[int]) -> Design:
        steps = {
            1: self.losses, 2: self.sizes, 3: self.ages, 4: self.leaks, 5: self.biases, 6: self.tasks, 7: self.many
        }  # fmt: skip
        for number in sorted(wanted):
            steps[number](f"{number} {STUDIES[number]}")
        # Transfer ratios want the teacher's own scores.
        for arm in list(self.arms):
            if arm.teacher and arm.teacher not in [a.name for a in self.arms if a.study == arm.study]:
                self.arms.append(Arm(study=arm.study, name=arm.teacher, baseline=None, group=TEACHER))
        settings = tuple(
            Setting(
                name=name,
                teacher=teacher,
                students=tuple(self.students.get(name, {}).values()),
                plans=self.plans if name == "base" else {},
            )
            for name, teacher in self.teachers.items()
        )
        return Design(settings=settings, arms=tuple(self.arms))

    def arm(
        self,
        study: str,
        student: StudentConfig,
        name: str = "",
        *,
        setting: str = "base",
        labels: str = "",
        x: float | None = None,
        group: str = "",
    ) -> None:
        """One more arm; its baseline is trained with the base teacher, whose labels it does not read."""
        trained = Trained(
            name=name or student.name,
            student=replace(student, name=name.replace("@", "_") or student.name, baseline=None),
            labels=labels,
        )
        self.students.setdefault(setting, {})[trained.name] = trained
        if student.baseline:
            self.arm(study, self.experiment.student(student.baseline), group=group)
        arm = Arm(
            study=study,
            name=trained.name,
            baseline=student.baseline,
            x=x,
            group=group,
            teacher=f"{TEACHER}@{setting}" if student.baseline else None,
        )
        self.compare(arm)

    def compare(self, arm: Arm) -> None:
        """Once more of the same name is a comparison with another baseline."""
        if (arm.study, arm.name, arm.baseline) not in [(a.study, a.name, a.baseline) for a in self.arms]:
            self.arms.append(arm)

    @property
    def late(self) -> StudentConfig:
        return self.experiment.student(self.study.late)

    @property
    def full(self) -> StudentConfig:
        return self.experiment.student(self.study.full)

    def siblings(self, student: StudentConfig) -> list[StudentConfig]:
        """All that have the same baseline."""
        return [s for s in self.experiment.students if s.baseline == student.baseline]

    def losses(self, study: str) -> None:
        for student in self.experiment.students:
            if student.producer == "pre_update":
                self.arm(study, student, group=student.baseline or student.name)
        # And the towers against distilling into the served output itself.
        for student in (self.full, self.late):
            for direct in self.siblings(student):
                if any(d.through == "direct" for d in direct.distillation):
                    self.compare(
                        Arm(study=study, name=student.name, baseline=direct.name, group="against direct")
                    )

    def sizes(self, study: str) -> None:
        for size in self.study.teacher_sizes:
            setting = f"size{size}"
            model = _scaled(self.late.model, size)
            self.teachers[setting] = replace(self.experiment.teacher, model=model)
            for group, student in (("full", self.full), ("late", self.late)):
                self.arm(study, student, f"{student.name}@{setting}", setting=setting, x=size, group=group)

    def ages(self, study: str) -> None:
        late = replace(self.late, producer="snapshot")
        first = late.first_day or self.days[1]
        known = [day for day in self.days if day < first]
        frozen = known[max(0, len(known) - self.study.refresh_days // 2 - 1)]
        for age in self.study.label_ages:
            plan = {day: self.days[i - 1 - age] for i, day in enumerate(self.days) if i > age}
            if max(plan, default=first) > first:
                self.plan(study, late, f"age{age}", plan, x=age, group="age")
        weekly = {
            day: self.days[i - 1 - (i - len(known)) % self.study.refresh_days]
            for i, day in enumerate(self.days)
            if i - 1 - (i - len(known)) % self.study.refresh_days >= 0
        }
        self.plan(study, late, "weekly", weekly, group="schedule")
        self.plan(study, late, "frozen", {day: frozen for day in self.days if day > frozen}, group="schedule")
        adapted = tuple(replace(d, adapter=d.through == "auxiliary") for d in late.distillation)
        name = f"{late.name}@frozen_adapter"
        self.arm(study, replace(late, distillation=adapted), name, labels="frozen", group="schedule")
        for other in ("weekly", "frozen"):
            continuous, aged = (f"{late.name}@{plan}" for plan in ("age0", other))
            self.compare(Arm(study=study, name=continuous, baseline=aged, group="continuous"))

    def plan(
        self,
        study: str,
        student: StudentConfig,
        name: str,
        plan: Plan,
        *,
        x: float | None = None,
        group: str = "",
    ) -> None:
        self.plans[name] = plan
        self.arm(study, student, f"{self.late.name}@{name}", labels=name, x=x, group=group)

    def leaks(self, study: str) -> None:
        self.arm(study, self.late, group="labels")
        day_before = dict(zip(self.days[1:], self.days, strict=False))
        snapshot = replace(self.late, producer="snapshot")
        self.plan(study, snapshot, "age0", day_before, group="labels")
        leaked = replace(self.late, producer="leaked")
        self.plan(study, leaked, "leaked", {day: day for day in self.days}, group="labels")

    def biases(self, study: str) -> None:
        teacher = self.experiment.teacher
        negatives = Sampling(
            negatives_of=self.study.biased_task, rate=self.study.negatives_rate, correction="none"
        )
        self.teachers["negatives"] = replace(teacher, sampling=negatives)
        self.teachers["corrected"] = replace(teacher, sampling=replace(negatives, correction="offset"))
        self.teachers["domain"] = replace(teacher, sampling=Sampling(only=self.study.domain))
        for setting in ("negatives", "corrected", "domain"):
            for student in self.siblings(self.late):
                self.arm(study, student, f"{student.name}@{setting}", setting=setting, group=setting)
        oldest = self.days[0]
        for student in self.siblings(self.late):
            old = replace(student, producer="snapshot")
            self.plans["oldest"] = dict.fromkeys(self.days[1:], oldest)
            self.arm(study, old, f"{student.name}@oldest", labels="oldest", group="oldest")

    def tasks(self, study: str) -> None:
        names = [d.task for d in self.late.distillation]
        for mask in range(1, 2 ** len(names)):
            chosen = [name for i, name in enumerate(names) if mask >> i & 1]
            student = replace(
                self.late, distillation=tuple(d for d in self.late.distillation if d.task in chosen)
            )
            name = self.late.name if len(chosen) == len(names) else f"{self.late.name}@{'_'.join(chosen)}"
            self.arm(study, student, name, group="tasks")

    def many(self, study: str) -> None:
        """Up to eight students, of four widths and two depths, each with its own baseline."""
        assert self.late.baseline is not None
        control = self.experiment.student(self.late.baseline)
        for number in range(8):
            model = replace(
                control.model,
                embedding_dim=max(1, control.model.embedding_dim * (number % 4 + 1) // 2),
                hidden=control.model.hidden if number < 4 else control.model.hidden[:1],
            )
            for student in (control, self.late):
                self.arm(
                    study,
                    replace(student, model=model, baseline=None),
                    f"{student.name}@student{number + 1}",
                    x=number + 1,
                    group="students",
                )
            name, baseline = (f"{s.name}@student{number + 1}" for s in (self.late, control))
            self.arms = [
                replace(a, baseline=baseline, teacher=f"{TEACHER}@base") if a.name == name else a
                for a in self.arms
            ]


def _scaled(model: ModelConfig, size: int) -> ModelConfig:
    return replace(
        model, embedding_dim=model.embedding_dim * size, hidden=tuple(units * size for units in model.hidden)
    )


def undone(session: Session, design: Design, seeds: int) -> list[tuple[Setting, int]]:
    """The units that are still to be trained."""
    units = [(setting, seed) for seed in range(1, seeds + 1) for setting in design.settings]
    return [(setting, seed) for setting, seed in units if not _Unit.of(session, setting, seed).done]


def run_unit(
    request: Mapping[str, Any], setting: Setting, seed: int, *, progress: Callable[[int], None]
) -> str:
    """Train a setting with a seed, keep its sums and facts, throw its models away. Returns the unit's name."""
    from tutelage.trainers.day_loop import train_student, train_teacher

    session = Session.open(**request)
    unit = _Unit.of(session, setting, seed)
    run = replace(
        session.run,
        root=unit.scratch,
        teacher=replace(setting.teacher, gate=_UNGATED),
        teacher_model=TEACHER,
        takeovers=(),
        training=replace(session.run.training, seed=seed),
        interactions=session.run.lake.interactions.path,
        keep_predictions=True,
        slice_by=(),
    )
    run.lake.create()
    train_teacher(run, session.days, progress=progress)
    _label(run, setting, session.days)
    for trained in setting.students:
        teacher = replace(run.teacher, name=trained.labels or run.teacher.name)
        student = replace(trained.student, gate=_UNGATED)
        train_student(replace(run, teacher=teacher), student, session.days, progress=progress)
    unit.keep(*_judge(session, run, setting, seed))
    return unit.folder.name


def _label(run: Run, setting: Setting, days: Sequence[date]) -> None:
    """What the teacher's checkpoints say of the days, as the plans want it."""
    from tutelage.trainers.feed import load_day, soft_label_frame
    from tutelage.trainers.trainer import Trainer

    if not setting.plans:
        return
    trainer = Trainer(
        run.schema, run.teacher.model, batch_size=run.training.batch_size, seed=run.training.seed
    )
    checkpoints = run.checkpoints(TEACHER)
    states = {state.day: state for state in checkpoints.states()}
    for day in days:
        read = None
        for snapshot in sorted({plan[day] for plan in setting.plans.values() if day in plan}):
            trainer.restore(checkpoints, states[snapshot])
            # Growing features' ids have the rows that the snapshot gave them.
            if read is None or trainer.vocabulary:
                read = load_day(
                    run.lake,
                    day,
                    run.schema,
                    transform=trainer.transform,
                    without=trainer.ranker.config.without,
                    vocabulary=trainer.vocabulary,
                )
            step = np.full(read.size, states[snapshot].step, np.int64)
            frame = soft_label_frame(
                read, trainer.score(read), snapshot_day=snapshot, teacher_step=step
            ).with_columns(trained_step=pl.lit(None, pl.Int64))
            for name, plan in setting.plans.items():
                if plan.get(day) == snapshot:
                    producer = "leaked" if snapshot >= day else "snapshot"
                    run.lake.soft_labels.replace(frame, {"teacher": name, "producer": producer, "day": day})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unit:
    """Where a unit's results are. They are there whole, and of this very setting, or it is not done."""

    folder: Path
    design: str

    @classmethod
    def of(cls, session: Session, setting: Setting, seed: int) -> "_Unit":
        days = [str(day) for day in session.days]
        what = {
            "setting": plain(setting),
            "seed": seed,
            "days": days,
            "judged": len(judged_days(session)),
            "batch_size": session.run.training.batch_size,
        }
        root = session.run.root / "study" / "units"
        return cls(folder=root / f"{setting.name}-{seed}", design=json.dumps(what, indent=1))

    @property
    def done(self) -> bool:
        path = self.folder / "design.json"
        return path.exists() and path.read_text() == self.design

    @property
    def scratch(self) -> Path:
        # Of another design, nothing that it left half done may be gone on with.
        name = hashlib.sha256(self.design.encode()).hexdigest()[:12]
        return self.folder.with_name(f".{self.folder.name}-{name}")

    def keep(self, sums: pl.DataFrame, facts: pl.DataFrame) -> None:
        result = self.scratch / "result"
        result.mkdir(exist_ok=True)
        sums.write_parquet(result / "sums.parquet")
        facts.write_parquet(result / "facts.parquet")
        (result / "design.json").write_text(self.design)
        shutil.rmtree(self.folder, ignore_errors=True)
        result.rename(self.folder)
        shutil.rmtree(self.scratch)


def judged_days(session: Session) -> list[date]:
    """By whose scores the arms are compared: the last ones, of those that every student had learnt a day before."""
    assert session.experiment.study
    if masked := session.experiment.schema.masked:
        raise UserError(
            f"a study judges every task by all rows, and days are released before {', '.join(masked)} is mature; "
            "leave out the schema's release_after"
        )
    first = max(student.first_day or session.days[0] for student in session.experiment.students)
    judged = [day for day in session.days[-session.experiment.study.judged_days :] if day > first]
    if not judged:
        raise UserError(
            f"the days asked for end on {session.days[-1]}, and a student starts on {first}: no day can be judged; "
            "give a later --end_day"
        )
    return judged


def _judge(session: Session, run: Run, setting: Setting, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The sums by user and the facts of every arm of a unit, on the judged days."""
    sums, facts, judged = [], [], judged_days(session)
    rows = study_facts.context(session.run.lake.interactions.scan(), session.experiment, judged)
    metrics = run.lake.metrics.scan().filter(pl.col("day").is_in(judged), pl.col("slice") == "").collect()
    teacher = pl.read_parquet([run.predictions(TEACHER, day) for day in judged])
    for arm, model in {
        setting.teacher_arm: TEACHER,
        **{t.name: t.student.name for t in setting.students},
    }.items():
        arm_and_seed = {"arm": pl.lit(arm), "seed": pl.lit(seed)}
        scores = {day: pl.read_parquet(run.predictions(model, day)) for day in judged}
        for day, frame in scores.items():
            of_day = study_stats.user_sums(frame, rows.filter(pl.col("day") == day), run.schema)
            sums.append(of_day.with_columns(**arm_and_seed, day=pl.lit(day)))
        found = study_facts.facts_of_arm(
            rows,
            pl.concat(scores.values()),
            teacher,
            experiment=session.experiment,
            metrics=metrics.filter(pl.col("model") == model),
            states=run.checkpoints(model).states(),
        )
        facts.append(found.with_columns(**arm_and_seed))
    return pl.concat(sums), pl.concat(facts)


def compare(session: Session, design: Design, seeds: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(comparisons, facts): what the arms of the units that are done show, `study_stats.COMPARISONS`, and
    the mean over seeds of each fact: arm, task, metric, value."""
    units = [
        _Unit.of(session, setting, seed).folder for setting in design.settings for seed in range(1, seeds + 1)
    ]
    sums = pl.scan_parquet([unit / "sums.parquet" for unit in units])
    facts = pl.concat([pl.read_parquet(unit / "facts.parquet") for unit in units])
    comparisons = [
        study_stats.compare(sums, arms, days=judged_days(session), seed=1)
        for arms in design.by_study.values()
    ]
    means = facts.group_by("arm", "task", "metric", maintain_order=True).agg(pl.col("value").mean())
    return pl.concat(comparisons), means


def results(session: Session, design: Design, studies: Sequence[int], seeds: int) -> study_pages.StudyResults:
    """What the units that are done show, and the command that shows it again."""
    request = session.request
    comparisons, facts = compare(session, design, seeds)
    flags = [f"--config={request['config']}", f"--workdir={request['workdir']}", f"--seeds={seeds}"]
    flags += [f"--raw_dir={request['raw_dir']}"] if request["raw_dir"] else []
    flags += ["--smoke"] if request["smoke"] else []
    flags += [f"--studies={number}" for number in studies] + [
        f"--set={text}" for text in request["overrides"]
    ]
    return study_pages.StudyResults(
        experiment=session.experiment.name,
        comparisons=comparisons,
        facts=facts,
        tasks=session.experiment.schema.tasks,
        command=" ".join(["tutelage-study", *flags]),
        created=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        days=judged_days(session),
    )


def write(session: Session, found: study_pages.StudyResults) -> Path:
    """The tables as Delta, all as Markdown and as an HTML page; returns the page's path."""
    root = session.run.root / "study"
    for name, frame in (("comparisons", found.comparisons), ("facts", found.facts)):
        frame.write_delta(root / name, mode="overwrite", delta_write_options={"schema_mode": "overwrite"})
    for name, text in (
        ("results.md", study_pages.results_markdown(found)),
        ("results.html", study_pages.results_html(found)),
    ):
        with atomic_write(root / name) as partial:
            partial.write_text(text, "utf-8")
    return root / "results.html"
