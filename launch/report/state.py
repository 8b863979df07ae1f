"""The state of a workdir for programs: one JSON object, and the problems in it with their exit codes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import date
from functools import cache, partial
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import polars as pl

from tutelage.export.versions import Version, versions_in
from tutelage.export.versions.version import read_verdict
from tutelage.launch import last_run, steps
from tutelage.launch.exit_codes import ExitCode, Failures, exit_code
from tutelage.launch.lifecycle import stale
from tutelage.launch.report.summary import is_loss
from tutelage.pipeline.errors import Found, GateError, TransientError, UserError
from tutelage.pipeline.io.printable import counted, printable
from tutelage.trainers.checkpoints import State
from tutelage.trainers.run import NO_DATA, is_teacher

if TYPE_CHECKING:
    from tutelage.launch.session import Session

FORMAT = 1
"""Rises when a field of the JSON changes its meaning or goes. A field that is added leaves it as it is."""


def state_of(session: "Session") -> dict[str, Any]:
    """Return the state of the workdir as JSON takes it. docs/operations.md describes the fields."""
    last = last_run.read(session.run)
    states = {model: session.run.checkpoints(model).states() for model in session.models}
    missing = {model: missing_days(session, model, of_model) for model, of_model in states.items()}
    found = list(_problems(session, last, missing))
    quarantined = [str(day) for day in session.run.lake.quarantined_days() if day in session.days]
    return {
        "format": FORMAT,
        "experiment": session.experiment.name,
        "workdir": printable(str(session.run.root)),
        "time": last_run.utc(session.now),
        "status": exit_code(Failures(found)) if found else ExitCode.DONE.value,
        "problems": [{"status": exit_code(each), "message": printable(str(each))} for each in found],
        "last_run": asdict(last) if last else None,
        "days": {
            "first": str(min([*session.days, *session.waiting])),
            "last": str(max([*session.days, *session.waiting])),
            "waiting": [str(day) for day in session.waiting],
            "to_materialize": list(map(str, steps.to_materialize(session))),
            "quarantined": quarantined,
            "pruned": sorted(map(str, session.pruned)),
        },
        "data": _data(session),
        "models": list(_models(session, states, missing)),
    }


def problems(state: Mapping[str, Any]) -> UserError | None:
    """Return the error with which a monitor ends on `state_of`; None where nothing is wrong."""
    kinds = {ExitCode.GATE: GateError, ExitCode.FOUND: Found, ExitCode.TRANSIENT: TransientError}
    found = [kinds.get(each["status"], UserError)(each["message"]) for each in state["problems"]]
    return Failures(found) if found else None


def _problems(
    session: "Session", last: last_run.LastRun | None, missing: Mapping[str, Sequence[date]]
) -> Iterator[UserError]:
    if last and last.status == ExitCode.MISTAKE:
        yield UserError(
            f"the run of {last.started} ended with status 1; correct what it said, then run again"
        )
    elif last and last.status not in (ExitCode.DONE, ExitCode.GATE):
        yield TransientError(f"the run of {last.started} ended with status {last.status}; run again")
    yield from _gates(session)
    if found := stale.find(session):
        yield Found(f"stale: {found.describe(session)}; run tutelage-run")
    if days := steps.to_materialize(session):
        yield Found(f"{counted(len(days), 'day')} to materialise from {days[0]} on; run tutelage-run")
    for model, lacks in missing.items():
        if lacks:
            yield Found(
                f"{model}: {counted(len(lacks), 'day')} to train from {lacks[0]} on; run tutelage-run"
            )


def _gates(session: "Session") -> Iterator[GateError]:
    """Yield an error for each day asked for that a gate keeps out, and for each newest version that is not blessed."""
    data = session.run.lake.quarantined_days()
    yield from (
        GateError(f"{day} is in quarantine; see tutelage-status") for day in data if day in session.days
    )
    for model in session.models:
        for day, outcome in failed_days(session, model).items():
            if day in session.days:
                yield GateError(f"{model}: {day} did not pass its gate and is {outcome}; see tutelage-status")
        for version in rejected_versions(session, model)[-1:]:
            if version.day >= max((v.day for v in session.versions(model).published()), default=version.day):
                yield GateError(
                    f"{model}: version {version.number} is not blessed; see its card in rejected/"
                )


def failed_days(session: "Session", model: str) -> dict[date, str]:
    """Return the days that a model's own gate keeps out, each with its outcome, `stopped` or `skipped`."""
    data = set(session.run.lake.quarantined_days())
    records = session.run.quarantine(model).days()
    return {
        day: record["outcome"]
        for day, record in records.items()
        if record["outcome"] in ("stopped", "skipped") and day not in data and _said(record) != NO_DATA
    }


def _said(record: Mapping[str, Any]) -> str:
    return str(record["attempts"][-1]["said"])


def rejected_versions(session: "Session", model: str) -> list[Version]:
    """Return the versions that the gate before serving rejected, without those that wait for more rows."""
    found = versions_in(session.versions(model).rejected)
    return [version for version in found if not read_verdict(version.path).startswith("wait")]


def missing_days(session: "Session", model: str, states: Sequence[State]) -> list[date]:
    """Return the days asked for that a model, which has these `states`, is still to be trained on."""
    done = {*(state.day for state in states), *session.run.skipped(model)}
    return [day for day in session.days_of(model) if day not in done]


def _data(session: "Session") -> dict[str, Any]:
    """Return the newest materialised day, its rows, and how many days there are."""
    days = session.run.lake.interactions.partitions()
    day, rows = days.select("day", "rows").row(-1) if days.height else (None, None)
    return {"days": days.height, "last_day": day and str(day), "last_rows": rows}


def _models(
    session: "Session", states: Mapping[str, Sequence[State]], missing: Mapping[str, Sequence[date]]
) -> Iterator[dict[str, Any]]:
    # Each is read once, however many students there are.
    labels = session.run.lake.soft_labels.partitions()
    losses = cache(partial(_losses, session))
    for model, of_model in states.items():
        last = of_model[-1] if of_model else None
        yield {
            "model": model,
            "role": "teacher" if is_teacher(model) else "student",
            "days_trained": len(of_model),
            **_last_day(last),
            "days_missing": list(map(str, missing[model])),
            "days_failed": list(map(str, failed_days(session, model))),
            **_ages(session, model, labels),
            "teacher_lead": _lead(session, model, last.day, losses) if last else {},
        }


def _last_day(last: State | None) -> dict[str, Any]:
    return {
        "last_day": str(last.day) if last else None,
        "last_rows": last.rows if last else None,
        "last_seconds": round(last.seconds + last.waited, 3) if last else None,
    }


def _ages(session: "Session", model: str, all_labels: pl.DataFrame) -> dict[str, Any]:
    """Return the newest labels that a model reads, the version that is served, and how old both are."""
    versions = session.versions(model).published()
    served = versions[-1] if versions else None
    labels = _newest_labels(session, model, all_labels)
    return {
        "label_day": str(labels) if labels else None,
        "label_age_days": _age(session, labels),
        "version": served.number if served else None,
        "version_day": str(served.day) if served else None,
        "version_age_days": _age(session, served.day if served else None),
        "rejected_version": max((v.number for v in rejected_versions(session, model)), default=None),
    }


def _age(session: "Session", day: date | None) -> int | None:
    """Return how many days lie between `day` and today, by the clock of the schema's time zone."""
    today = session.now.astimezone(ZoneInfo(session.experiment.schema.time_zone)).date()
    return (today - day).days if day else None


def _newest_labels(session: "Session", model: str, labels: pl.DataFrame) -> date | None:
    """Return the newest day of the labels that a student reads; None for any other model."""
    if model in session.teachers or not session.experiment.student(model).distillation:
        return None
    producer = session.experiment.student(model).producer
    found = labels.filter(producer=producer).select("teacher", "day")
    days = [day for teacher, day in found.iter_rows() if teacher == session.run.labeller(day).name]
    return max(days, default=None)


_Losses = Mapping[tuple[str, str], float]
"""By (task, metric)."""


def _lead(
    session: "Session", model: str, day: date, losses: Callable[[str, date], _Losses]
) -> dict[str, float]:
    """Return by how much the teacher's loss is below a student's, as a share of the student's, for each task.

    Both are of scores made before they were trained on `day`, the student's last one. Tasks that either lacks are left
    out.
    """
    if model in session.teachers:
        return {}
    ours, theirs = (losses(name, day) for name in (model, session.run.teacher_model))
    both = [name for name in ours if ours[name] and name in theirs]
    return {" ".join(name): round(1 - theirs[name] / ours[name], 6) for name in both}


def _losses(session: "Session", model: str, day: date) -> _Losses:
    """Return a model's losses of a day, of scores made ahead and all rows."""
    rows = session.run.lake.metrics.scan(model=model, run=session.run.name, day=day)
    rows = rows.filter(basis="day_ahead", slice="").filter(pl.col("value").is_finite())
    found = rows.select("task", "metric", "value").sort("task", "metric").collect().iter_rows()
    return {(task, metric): value for task, metric, value in found if task and is_loss(metric)}
