"""tutelage-report: the HTML report, and the results as text."""

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import polars as pl

from tutelage.launch import steps
from tutelage.launch.actions.console import echo
from tutelage.launch.lifecycle import succession
from tutelage.launch.report.page import write_report
from tutelage.launch.report.summary import print_summary
from tutelage.launch.session import Session
from tutelage.trainers.checkpoints import State


def report(session: Session, *, trained: Mapping[str, Sequence[State]] | None = None) -> None:
    """Write WORKDIR/report/index.html from the tables and print the results.

    `trained` are the days that each model was trained on just now, whose speed is printed.
    """
    experiment = session.experiment
    # A teacher whose place was taken stays behind for good.
    former = [change.before.model for change in session.run.takeovers]
    metrics = (
        session.run.lake.metrics.scan()
        .filter(pl.col("run") == session.run.name, ~pl.col("model").is_in(former))
        .collect()
    )
    baselines = {student.name: student.baseline for student in experiment.students if student.baseline}
    students = [student.name for student in experiment.students]
    tasks = [task.name for task in experiment.schema.tasks]
    print_summary(
        metrics,
        baselines,
        throughput=steps.throughput(trained or {}),
        students=students,
        tasks=tasks,
        teacher=session.run.teacher_model,
        file=sys.stdout,
    )
    path = session.run.report / "index.html"
    states = {model: session.run.checkpoints(model).states() for model in session.models}
    published = {model: session.versions(model).published() for model in session.models}
    write_report(
        path,
        experiment=experiment.name,
        metrics=metrics,
        baselines=baselines,
        counts=steps.day_counts(session),
        throughput=steps.throughput(states),
        states=states,
        id_rows={f.name: f.capacity - 1 for f in experiment.schema.ids if f.grows},
        versions={model: str(versions[-1].number) for model, versions in published.items() if versions},
        students=students,
        tasks=tasks,
        quarantined=steps.quarantined(session),
        statistics=steps.statistics(session),
        labels=experiment.schema.labels,
        teacher=session.run.teacher_model,
        teachers=succession.describe(session),
        created=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        study=session.run.root / "study" / "results.html",
    )
    echo(f"Report: {path}")
