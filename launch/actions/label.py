"""tutelage-label: a published snapshot of the teacher scores days for students."""

import time
from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING

from tutelage.launch import steps
from tutelage.launch.actions.console import day_of, echo, log, print_waits, units
from tutelage.launch.logging_setup import import_tensorflow
from tutelage.launch.session import Session
from tutelage.pipeline.io.printable import counted

if TYPE_CHECKING:
    from tutelage.pipeline.label import Snapshot


def label(session: Session, *, snapshot_day: str | None = None) -> None:
    """Replace the snapshot labels of the days asked for.

    `snapshot_day` is the day of the snapshot that scores; None: the newest day before each. Raises UserError where
    there is no such snapshot.
    """
    from tutelage.pipeline.label import choose

    print_waits(session, needed=True)
    days = [day for day in session.days if day not in session.pruned]
    teachers = {day: session.run.labeller(day).model for day in session.days}
    published = {model: steps.snapshots(session, model) for model in set(teachers.values())}
    if snapshot_day:
        wanted = day_of(session, snapshot_day)
        published = {model: [s for s in found if s.day == wanted] for model, found in published.items()}
    labelled = [day for day in days if any(s.day < day for s in published[teachers[day]])]
    for day in days:
        if day not in labelled and labelled:
            echo(f"{day}: left out, there is no snapshot of an earlier day")
    label_days(session, {day: choose(published[teachers[day]], day) for day in labelled or days[-1:]})


def label_days(session: Session, days: Mapping[date, "Snapshot"]) -> None:
    """Score each day with its snapshot and print the counts."""
    import_tensorflow(verbose=session.verbose)
    started = time.monotonic()
    with units("label") as progress:
        rows = steps.label(session, days, progress=progress)
    seconds = time.monotonic() - started
    total = sum(rows.values())
    for day, scored in rows.items():
        log(f"{day} is labelled", step="label", day=day, rows=scored)
    echo(
        f"label: {counted(len(rows), 'day')}, {counted(total, 'row')} scored by snapshots of earlier days; "
        f"{seconds:.1f} s, {total / seconds:,.0f} rows/s",
        step="label",
        seconds=round(seconds, 3),
    )
