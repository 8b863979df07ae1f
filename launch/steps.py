"""The steps of the pipeline. Each can be run alone, again, or elsewhere."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

import polars as pl

from tutelage.launch import locks
from tutelage.launch.session import Session
from tutelage.launch.workspace import claim_student, claim_successor
from tutelage.pipeline.io.atomic import atomic_write
from tutelage.trainers.checkpoints import State
from tutelage.trainers.run import is_teacher

# Beam and TensorFlow take seconds to import: each step imports what it runs.
if TYPE_CHECKING:
    from tutelage.export.publish import Exported
    from tutelage.pipeline.label import Snapshot
    from tutelage.pipeline.materialize import Materialized
    from tutelage.trainers.day_loop import Accept
    from tutelage.trainers.trainer import Trainer

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
        now=session.now,
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

        job.build(session.experiment.schema, lake, days=stale, beam_flags=session.beam_flags)


def train(
    session: Session,
    model: str,
    *,
    accept: "Accept | None" = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> list[State]:
    """Train a teacher or a student on the days asked for that it lacks; return the state after each of them."""
    from tutelage.trainers.day_loop import train_student, train_teacher

    with locks.on_model(session.run, model):
        if model in session.teachers:
            start = _warm_start(session) if model != session.run.teacher_model else lambda trainer: None
            run, days = session.run_of(model), session.days_of(model)
            return train_teacher(run, days, start=start, accept=accept, progress=progress)
        student = session.experiment.student(model)
        claim_student(session.run, student)
        days = session.days_of(model)
        return train_student(session.run, student, days, accept=accept, progress=progress)


def _warm_start(session: Session) -> "Callable[[Trainer], object]":
    from tutelage.trainers.warm_start import warm_start

    successor = session.successor
    assert successor
    claim_successor(session.run, successor)
    first, name = successor.first_day, successor.teacher.name
    return lambda trainer: warm_start(trainer, session.run, name, first) if first else None


def export(
    session: Session,
    model: str,
    *,
    days: Sequence[date] | None = None,
    new_signature: bool = False,
    progress: Callable[[int], None] = lambda n: None,
) -> list["Exported"]:
    """Judge the finished days that were not judged (of `days`; None: of all), and serve the blessed versions."""
    if not session.to_export(model) and days is None:
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


def rejected(model: str, exported: Sequence["Exported"]) -> list[str]:
    """Return a line for each version that was not blessed, with the reason."""
    return [
        f"{model} {e.version.number}: {e.verdict}" for e in exported if e.verdict and not e.verdict.blessed
    ]


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

    readers = [s for s in session.experiment.students if s.producer == "snapshot" and s.distillation]
    if not readers:
        return {}
    wanted = sorted({day for student in readers for day in session.days_of(student.name)})
    rows = session.run.lake.soft_labels.partitions()
    have = set(rows.filter(producer="snapshot").select("teacher", "day").iter_rows())
    quarantined_days = set(session.run.lake.quarantined_days())
    teachers = {day: session.run.labeller(day) for day in wanted if day not in quarantined_days}
    published = {model: snapshots(session, model) for model in {t.model for t in teachers.values()}}
    return {
        day: choose(published[teacher.model], day)
        for day, teacher in teachers.items()
        if (teacher.name, day) not in have and any(s.day < day for s in published[teacher.model])
    }


def day_counts(session: Session) -> pl.DataFrame:
    """One row per materialised day and reason: day, rows_in, kept, reason, dropped; of the day's kept rows, how many
    came `late`, and how many labels are `masked`, as they were not mature."""
    table = session.run.lake.interactions
    have = set(table.partitions()["day"])
    rows = [
        (
            date.fromisoformat(day),
            counts["rows_in"],
            counts["kept"],
            reason,
            dropped,
            counts.get("late", 0),
            sum(counts.get("masked", {}).values()),
        )
        for day, counts in table.counts().items()
        for reason, dropped in (counts["dropped"] or {None: 0}).items()
    ]
    columns = ("day", "rows_in", "kept", "reason", "dropped", "late", "masked")
    schema = {**dict.fromkeys(columns, pl.Int64), "day": pl.Date, "reason": pl.String}
    return (
        pl.DataFrame(rows, schema=schema, orient="row")
        .filter(pl.col("day").is_in(have))
        .sort("day", "reason")
    )


def statistics(session: Session) -> pl.DataFrame:
    """A row per day and column, of the days in quarantine too."""
    from tutelage.pipeline import commit_day

    return commit_day.statistics(session.run.lake)


def quarantined(session: Session) -> list[str]:
    """A line for each day of data, or of models, that was not kept, or was against the verdict of its gate."""
    of = {"data": session.run.lake.quarantine} | {m: session.run.quarantine(m) for m in session.models}
    who: dict[str, list[str]] = {}
    for name, quarantine in of.items():
        for line in quarantine.describe():
            who.setdefault(line, []).append(name)
    return [f"{', '.join(names)}: {line}" for line, names in who.items()]


def throughput(states: Mapping[str, Sequence[State]]) -> list[dict[str, object]]:
    """Examples per second of its updates, and the share of a model's time spent waiting for its feed."""
    rows: list[dict[str, object]] = []
    for model, trained in states.items():
        seconds = sum(state.seconds for state in trained)
        if seconds:
            examples = sum(state.rows for state in trained)
            waited = sum(state.waited for state in trained)
            rows.append(
                {
                    "model": model,
                    "examples": examples,
                    "examples_per_second": examples / seconds,
                    "feed_wait_share": waited / (waited + seconds),
                }
            )
    return rows


def _write_models_config(session: Session) -> None:
    """Write the configuration of TensorFlow Serving: every student that has a version."""
    from tutelage.export.card import models_config

    names = [name for name in session.models if not is_teacher(name) and session.versions(name).published()]
    with atomic_write(session.run.root / "export" / "models.config") as partial:
        partial.write_text(models_config("/models", names))
