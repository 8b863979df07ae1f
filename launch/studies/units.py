"""The units of the studies: a teacher with one seed and all students that read its labels.

A unit's scores of the judged days are kept as sums; its models are thrown away.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from tutelage.launch.experiment import plain
from tutelage.launch.session import Session
from tutelage.launch.studies.design import Design, Setting
from tutelage.launch.studies.facts import context, facts_of_arm
from tutelage.launch.studies.labels import StudyRun
from tutelage.launch.studies.leakage import calibration_sums
from tutelage.launch.studies.statistics import user_sums
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.atomic import move_new, remove
from tutelage.pipeline.io.folders import made_beside
from tutelage.pipeline.soft_labels import SNAPSHOT, LabelPartition, labels_by_snapshot
from tutelage.trainers.config import GateConfig
from tutelage.trainers.run import TEACHER, Run

# A study measures what bad teachers do, so their days only need to be finite.
_UNGATED = GateConfig(trailing_days=1_000_000, min_days=1_000_000)
_DESIGN = "design.json"
"""The file by which a result counts as there."""


class UnitResult(NamedTuple):
    """What is kept of a unit. Each frame has the columns arm and seed too."""

    sums: pl.DataFrame
    """`statistics.user_sums` by day."""
    facts: pl.DataFrame
    """`facts.facts_of_arm`."""
    buckets: pl.DataFrame
    """`leakage.calibration_sums`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A setting with a seed, and the folder of its result. A result counts if it is whole and of this very design."""

    setting: Setting
    seed: int
    folder: Path
    design: str
    """JSON of all that the result depends on."""

    @classmethod
    def of(cls, session: Session, setting: Setting, seed: int) -> "Unit":
        """Return the unit of a setting and a seed in the session's workdir."""
        what = {
            "setting": plain(setting),
            "seed": seed,
            "days": [str(day) for day in session.days],
            "judged": len(judged_days(session)),
            "batch_size": session.run.training.batch_size,
        }
        folder = session.run.root / "study" / "units" / f"{setting.name}-{seed}"
        return cls(setting=setting, seed=seed, folder=folder, design=json.dumps(what, indent=1))

    @property
    def done(self) -> bool:
        """Whether the folder holds the result of this design."""
        path = self.folder / _DESIGN
        return path.exists() and path.read_text() == self.design and self._file("buckets").exists()

    @property
    def scratch(self) -> Path:
        """The workdir in which the unit is trained."""
        # The name depends on the design, so that a unit never resumes what another design left unfinished.
        name = hashlib.sha256(self.design.encode()).hexdigest()[:12]
        return self.folder.with_name(f".{self.folder.name}-{name}")

    def keep(self, result: UnitResult) -> None:
        """Write the result, then remove the models."""
        with made_beside(self.scratch, "result") as folder:
            folder.mkdir()
            for name, frame in result._asdict().items():
                frame.write_parquet(folder / f"{name}.parquet")
            (folder / _DESIGN).write_text(self.design)
            remove(self.folder, first=_DESIGN)
            move_new(folder, self.folder, last=_DESIGN)
        remove(self.scratch)

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.parquet"


def units_of(session: Session, design: Design, seeds: int) -> list[Unit]:
    """Return the units of a design, seed by seed."""
    return [Unit.of(session, setting, seed) for seed in range(1, seeds + 1) for setting in design.settings]


def undone(session: Session, design: Design, seeds: int) -> list[tuple[Setting, int]]:
    """Return setting and seed of the units that are still to be trained."""
    return [(unit.setting, unit.seed) for unit in units_of(session, design, seeds) if not unit.done]


def judged_days(session: Session) -> list[date]:
    """Return the last days that every student was trained for at least a day before; the arms are compared on them.

    Raises UserError where there is none, or where labels of the judged days are not mature yet.
    """
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


def run_unit(
    request: Mapping[str, Any], setting: Setting, seed: int, *, progress: Callable[[int], None]
) -> str:
    """Train a setting with a seed, keep its result and remove its models. Return the unit's name."""
    from tutelage.trainers.day_loop import train_student, train_teacher

    session = Session.open(**request)
    unit = Unit.of(session, setting, seed)
    run = replace(
        StudyRun.of(session.run),
        root=unit.scratch,
        teacher=replace(setting.teacher, gate=_UNGATED),
        teacher_model=TEACHER,
        takeovers=(),
        training=replace(session.run.training, seed=seed, holdout=0.0),  # a study serves nothing
        interactions=session.run.lake.interactions.path,
        keep_predictions=True,
        slice_by=(),
    )
    run.lake.create()
    train_teacher(run, session.days, progress=progress)
    _label(run, setting, session.days)
    for arm in setting.students:
        teacher = replace(run.teacher, name=arm.labels or run.teacher.name)
        student = replace(arm.student, gate=_UNGATED)
        train_student(replace(run, teacher=teacher), student, session.days, progress=progress)
    unit.keep(_judge(session, run, unit))
    return unit.folder.name


def _label(run: Run, setting: Setting, days: Sequence[date]) -> None:
    """Label the days with the teacher's checkpoints, as the setting's plans say."""
    from tutelage.trainers.feed import Feed
    from tutelage.trainers.teacher import Teacher

    if not setting.plans:
        return
    trainer = Teacher(run).build()
    feed = Feed(
        run.lake,
        trainer.transform,
        without=trainer.ranker.config.without,
        chunk_rows=run.training.whole_batches,
    )
    checkpoints = run.checkpoints(TEACHER)
    states = {state.day: state for state in checkpoints.states()}
    for day in days:
        read = None
        for snapshot in sorted({plan[day] for plan in setting.plans.values() if day in plan}):
            trainer.restore(checkpoints, states[snapshot])
            # With growing features, ids are mapped with the vocabulary of the snapshot.
            if read is None or trainer.vocabulary:
                read = feed.read(day, vocabulary=trainer.vocabulary)
            scores = trainer.score(read)
            for name, plan in setting.plans.items():
                if plan.get(day) != snapshot:
                    continue
                labels = (
                    labels_by_snapshot(
                        rows["example_id"], part, snapshot_day=snapshot, teacher_step=states[snapshot].step
                    )
                    for rows, (_, (part,)) in zip(read.judged(), read.pieces(scores), strict=True)
                )
                run.lake.soft_labels.write_parts(LabelPartition(name, SNAPSHOT, day), labels)


def _judge(session: Session, run: Run, unit: Unit) -> UnitResult:
    """Return what is kept of every arm of a unit, from its scores of the judged days."""
    judged = judged_days(session)
    rows = context(session.run.lake.interactions.scan(), session.experiment, judged)
    metrics = run.lake.metrics.scan().filter(pl.col("day").is_in(judged), pl.col("slice") == "").collect()
    arms = [(unit.setting.teacher_arm, TEACHER, "")]
    arms += [(arm.name, arm.student.name, arm.labels) for arm in unit.setting.students]
    found: list[UnitResult] = []
    for arm, model, labels in arms:
        scores = {day: pl.read_parquet(str(run.predictions(model, day))) for day in judged}
        own, taught = pl.concat(scores.values()), _teacher_scores(run, labels, judged)
        sums = pl.concat(
            user_sums(frame, rows.filter(pl.col("day") == day), run.schema).with_columns(day=pl.lit(day))
            for day, frame in scores.items()
        )
        facts = facts_of_arm(
            rows,
            predictions=own,
            teacher=taught,
            experiment=session.experiment,
            metrics=metrics.filter(pl.col("model") == model),
            states=run.checkpoints(model).states(),
        )
        buckets = calibration_sums(rows, predictions=own, teacher=taught, schema=run.schema)
        names = {"arm": pl.lit(arm), "seed": pl.lit(unit.seed)}
        found.append(UnitResult(*(frame.with_columns(**names) for frame in (sums, facts, buckets))))
    return UnitResult(*(pl.concat(frames) for frames in zip(*found, strict=True)))


def _teacher_scores(run: Run, labels: str, days: Sequence[date]) -> pl.DataFrame:
    """Return example_id and raw outputs of the teacher that an arm was trained on.

    For the labels of a plan these are the scores that became the labels. Some days may have none. For labels from
    before the update they are the teacher's scores of the day ahead.
    """
    columns = ["example_id", *run.schema.outputs]
    if not labels:
        return pl.read_parquet([str(run.predictions(TEACHER, day)) for day in days]).select(columns)
    scores = run.lake.soft_labels.scan(teacher=labels).filter(pl.col("day").is_in(days))
    return scores.select(columns).collect()
