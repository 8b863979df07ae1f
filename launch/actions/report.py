"""tutelage-report: the HTML report, and the results as text."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tutelage.launch.actions.console import echo
from tutelage.launch.logging_setup import output
from tutelage.launch.report.data import gather
from tutelage.launch.report.page import write_report
from tutelage.launch.report.summary import print_summary, throughput
from tutelage.launch.session import Session
from tutelage.pipeline.io.paths import remote
from tutelage.trainers.checkpoints import State


def is_outdated(session: Session) -> bool:
    """Return whether the page was not written since a table last changed: a run was stopped before it came to that."""
    page = session.run.report / "index.html"
    if not any(session.run.checkpoints(model).states() for model in session.models):
        return False
    if not page.exists():
        return True
    return any(
        _changed(log) > page.stat().st_mtime_ns for log in (session.run.root / "lake").glob("*/_delta_log")
    )


def _changed(log: Path) -> int:
    """Return when a table's log last changed, in nanoseconds. An object store has no times of folders."""
    if stored := remote(log):
        return max(each.st_mtime_ns for each in stored.stats().values())
    return log.stat().st_mtime_ns


def report(session: Session, *, trained: Mapping[str, Sequence[State]] | None = None) -> None:
    """Write WORKDIR/report/index.html from the tables and print the results.

    `trained` are the days that each model was trained on just now, whose speed is printed.
    """
    data = gather(session)
    if not (output().json or output().quiet):
        print_summary(data.results, speeds=throughput(trained or {}), file=sys.stdout)
    path = session.run.report / "index.html"
    write_report(path, data)
    echo(f"Report: {path}", step="report")
