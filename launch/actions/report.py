"""tutelage-report: the HTML report, and the results as text."""

import sys
from collections.abc import Mapping, Sequence

from tutelage.launch.actions.console import echo
from tutelage.launch.report.data import gather
from tutelage.launch.report.page import write_report
from tutelage.launch.report.summary import print_summary, throughput
from tutelage.launch.session import Session
from tutelage.trainers.checkpoints import State


def report(session: Session, *, trained: Mapping[str, Sequence[State]] | None = None) -> None:
    """Write WORKDIR/report/index.html from the tables and print the results.

    `trained` are the days that each model was trained on just now, whose speed is printed.
    """
    data = gather(session)
    print_summary(data.results, speeds=throughput(trained or {}), file=sys.stdout)
    path = session.run.report / "index.html"
    write_report(path, data)
    echo(f"Report: {path}")
