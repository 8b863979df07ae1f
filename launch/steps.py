"""The steps of the pipeline. Each can be run alone, again, or elsewhere."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from typing import TYPE_CHECKING

from tutelage.export.versions import damage
from tutelage.launch import locks
from tutelage.launch.experiment import plain
from tutelage.launch.session import Session
from tutelage.launch.workspace import claim_student, claim_successor
from tutelage.pipeline.io.json import TornFile
from tutelage.pipeline.io.paths import as_path
from tutelage.pipeline.io.store import FILES
from tutelage.pipeline.soft_labels import SNAPSHOT
from tutelage.trainers import handover
from tutelage.trainers.checkpoints import State
from tutelage.trainers.handover import TakeOver
from tutelage.trainers.run import is_teacher

# Beam and TensorFlow take seconds to import: each step imports what it runs.
if TYPE_CHECKING:
    from tutelage.export.publish import Exported
    from tutelage.pipeline.label import Snapshot
    from tutelage.pipeline.materialize import Materialized
    from tutelage.trainers.day_loop import Accept

UnitsDone = Callable[[int, int], None]


def materialize(
    session: Session, days: Sequence[date], *, progress: UnitsDone | None = None
) -> "Materialized":
    """Replace `days` of `interactions` by what the raw data holds of them."""
    from tutelage.pipeline import materialize as job

    return job.materialize(
        session.experiment.source,
        session.experiment.schema,
        session.run.lake,
        raw_dir=session.raw_dir,
        workdir=str(session.run.root),
        days=days,
        quality=session.experiment.quality,
        alarms=session.experiment.alarms,
        now=session.now,
        rows_per_shard=session.experiment.rows_per_shard,
        beam_flags=session.beam_flags,
        progress=progress,
    )


def accept(session: Session, day: date, reason: str) -> tuple[int, list[str]]:
    """Commit a day of data that is in quarantine; return its rows and the models that have gone past it."""
    from tutelage.pipeline import commit_day

    rows = commit_day.accept(session.run.lake, day, reason)
    build_histories(session)
    return rows, [model for model in session.models if day in session.run.quarantine(model).skipped()]


def build_histories(session: Session) -> None:
    """Build the histories that a killed job left to be built."""
    lake = session.run.lake
    stale = lake.stale_histories(lake.interactions.partitions()["day"].to_list())
    if stale:
        from tutelage.pipeline import histories as job

        job.build(
            session.experiment.schema,
            lake,
            days=stale,
            rows_per_shard=session.experiment.rows_per_shard,
            beam_flags=session.beam_flags,
        )


def train(
    session: Session,
    model: str,
    *,
    accept: "Accept | None" = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> list[State]:
    """Train a teacher or a student on the days asked for that it lacks; return the state after each of them."""
    from tutelage.trainers.day_loop import train_student, train_successor, train_teacher

    with locks.on_model(session.run, model):
        days = session.days_of(model)
        if model == session.run.teacher_model:
            return train_teacher(session.run, days, accept=accept, progress=progress)
        if (successor := session.successor) and model in session.teachers:
            claim_successor(session.run, successor)
            return train_successor(session.run, successor, days, accept=accept, progress=progress)
        student = session.experiment.student(model)
        claim_student(session.run, student)
        return train_student(session.run, student, days, accept=accept, progress=progress)


def take_over(session: Session) -> TakeOver | None:
    """Let the successor take the teacher's place if it is as good; return what was recorded."""
    successor = session.successor
    assert successor
    return handover.take_over(
        session.run,
        successor,
        session.experiment.students,
        teacher=plain(successor.teacher),
        locked=partial(locks.on_model, session.run),
    )


def describe_teachers(session: Session) -> list[str]:
    """Return a line for each change of teacher, and one for a successor that has not taken over."""
    return handover.describe(session.run, session.successor, session.experiment.students)


def export(
    session: Session,
    model: str,
    *,
    days: Sequence[date] | None = None,
    new_signature: bool = False,
    progress: Callable[[int], None] = lambda n: None,
) -> list["Exported"]:
    """Judge the finished days that were not judged, and serve the blessed versions.

    Which days: those of `days`; where it is None, what `Session.to_export` returns.
    """
    if days is None:
        days = [state.day for state in session.to_export(model)]
        if not days:
            return []
    from tutelage.export.publish import export_student, export_teacher

    with locks.on_model(session.run, model):
        if model in session.teachers:
            return export_teacher(session.run_of(model), days=days, progress=progress)
        exported = export_student(
            session.run,
            session.experiment.student(model),
            session.experiment.serving,
            days=days,
            new_signature=new_signature,
            progress=progress,
        )
        _write_models_config(session)
        return exported


def rejected(session: Session, model: str, exported: Sequence["Exported"]) -> list[str]:
    """Return a line for each version that was not blessed or waits, with the reason and with what is served."""
    served = session.versions(model).published()
    stays = f"{served[-1].number} of {served[-1].day} stays served" if served else "nothing is served"
    return [
        f"{model} {e.version.number} {'waits' if e.verdict.verdict == 'wait' else 'is not blessed'}: "
        f"{e.verdict.describe(where='the card')}; {stays}"
        for e in exported
        if e.verdict and not e.verdict.blessed
    ]


def newest_rejected(session: Session, model: str, exported: Sequence["Exported"]) -> bool:
    """Return whether the newest version that can be judged was not blessed. One that waits is no failure.

    One of a past day that was not blessed changes nothing of what is served.
    """
    states = session.run.checkpoints(model).states()[-2:]
    judged = session.run.judged_days(states)
    newest = [state.day for state in states if state.day in judged][-1:]
    failed = {
        e.version.day for e in exported if e.verdict and not e.verdict.blessed and e.verdict.verdict != "wait"
    }
    return bool(failed.intersection(newest))


def overrule(session: Session, model: str, number: int, reason: str) -> None:
    """Record in `metrics` and in its card that a version is served although it was not blessed."""
    from tutelage.export import card, gate

    (version,) = (v for v in session.versions(model).published() if v.number == number)
    gate.record_override(session.run, model, version.day)
    card.record_override(version.path, reason)


def snapshots(session: Session, model: str) -> list["Snapshot"]:
    """Return a teacher's published snapshots: the newest version of each day."""
    from tutelage.pipeline.label import Snapshot

    newest = {version.day: version for version in session.versions(model).published()}
    return [Snapshot(path=str(v.path), day=v.day, step=v.step) for v in newest.values()]


def label(
    session: Session, days: Mapping[date, "Snapshot"], *, progress: UnitsDone | None = None
) -> dict[date, int]:
    """Replace the snapshot labels of each of `days` by those of its snapshot; return the rows by day."""
    from tutelage.pipeline import label as job

    for path in dict.fromkeys(snapshot.path for snapshot in days.values()):
        if why := damage(as_path(path)):
            raise TornFile(f"{path} cannot score: {why}; run tutelage-verify, which says what mends it")
    rows: dict[date, int] = {}
    for teacher in dict.fromkeys(session.run.labeller(day).name for day in days):
        rows |= job.label(
            session.run.schema,
            session.run.lake,
            teacher=teacher,
            days={day: s for day, s in days.items() if session.run.labeller(day).name == teacher},
            beam_flags=session.beam_flags,
            progress=progress,
        )
    return rows


def to_materialize(session: Session) -> list[date]:
    """Return the days asked for that are not in `interactions`, without quarantined and pruned ones."""
    lake = session.run.lake
    have = {*lake.interactions.partitions()["day"], *lake.quarantined_days(), *session.pruned}
    return [day for day in session.days if day not in have]


def to_label(session: Session) -> dict[date, "Snapshot"]:
    """Return the days whose snapshot labels a student reads and that have none, each with the snapshot for it.

    The very first day has no earlier snapshot: its labels are missing, and students mask them.
    """
    from tutelage.pipeline.label import choose

    readers = [s for s in session.experiment.students if s.producer == SNAPSHOT and s.distillation]
    if not readers:
        return {}
    wanted = sorted({day for student in readers for day in session.days_of(student.name)})
    rows = session.run.lake.soft_labels.partitions()
    have = set(rows.filter(producer=SNAPSHOT).select("teacher", "day").iter_rows())
    quarantined_days = set(session.run.lake.quarantined_days())
    teachers = {day: session.run.labeller(day) for day in wanted if day not in quarantined_days}
    published = {model: snapshots(session, model) for model in {t.model for t in teachers.values()}}
    return {
        day: choose(published[teacher.model], day)
        for day, teacher in teachers.items()
        if (teacher.name, day) not in have and any(s.day < day for s in published[teacher.model])
    }


def _write_models_config(session: Session) -> None:
    """Write the configuration of TensorFlow Serving: every student that has a version."""
    from tutelage.export.card import models_config

    names = [name for name in session.models if not is_teacher(name) and session.versions(name).published()]
    FILES.put(session.run.root / "export" / "models.config", models_config("/models", names).encode())
