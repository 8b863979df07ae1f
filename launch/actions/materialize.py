"""tutelage-materialize: raw events become days of `interactions`."""

from collections.abc import Sequence
from datetime import date

from tutelage.launch import steps
from tutelage.launch.actions.console import (
    ANEW,
    accepted_day,
    echo,
    log,
    print_waits,
    pruned,
    raise_quarantined,
    units,
)
from tutelage.launch.actions.dry_run import print_preview
from tutelage.launch.logging_setup import quiet_stderr
from tutelage.launch.report.summary import came_in, noted
from tutelage.launch.session import Session
from tutelage.pipeline.errors import disk_full_as_user_error
from tutelage.pipeline.io.printable import counted


def materialize(
    session: Session, *, accept_day: str | None = None, reason: str = "", dry_run: bool = False
) -> None:
    """Replace the days asked for, or commit the quarantined `accept_day` as it is; or look at a sample of the raw data.

    Raises GateError where a day does not pass the quality gate, and Found where a dry run found something.
    """
    if dry_run:
        print_preview(session)
        return
    if day := accepted_day(session, accept_day, reason):
        rows, past = steps.accept(session, day, reason)
        echo(f"{day}: {rows:,} rows are in interactions now, accepted: {reason}")
        if past:
            echo(
                f"{', '.join(past)} went past it and will not be trained on it, unless tutelage-rollback takes the "
                "teacher back to the day before (and tutelage-student --reset a student without distillation)"
            )
        return
    print_waits(session, needed=True)
    days = [day for day in session.days if day not in session.pruned]
    if days and session.pruned:
        echo(f"{pruned(session, session.pruned)} and are left out; {ANEW}")
    raise_quarantined(session, materialize_days(session, days or session.days))


def materialize_days(session: Session, days: Sequence[date]) -> list[date]:
    """Replace `days` and print the counts; return the days that did not pass the quality gate."""
    # TensorFlow Datasets, which a source may use, imports TensorFlow.
    with (
        quiet_stderr(verbose=session.verbose),
        disk_full_as_user_error(session.run.root),
        units("materialize") as progress,
    ):
        done = steps.materialize(session, days, progress=progress)
    counts = done.days.values()
    dropped: dict[str, int] = dict(done.elsewhere)
    for day_counts in (*counts, *done.held.values()):
        for reason, rows in day_counts.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + rows
    reasons = ", ".join(f"{rows:,} {reason}" for reason, rows in sorted(dropped.items())) or "none"
    notes = noted(
        {"late": sum(c.late for c in counts), "masked": sum(sum(c.masked.values()) for c in counts)}
    )
    sampled = sum(c.sampled for c in (*counts, *done.held.values()))
    held = f" + {sum(c.kept for c in done.held.values()):,} quarantined" if done.held else ""
    for day, of_day in done.days.items():
        log(f"{day} is materialised", step="materialize", day=day, rows_in=of_day.rows_in, kept=of_day.kept)
    echo(
        f"materialize: {counted(len(done.days), 'day')}, {came_in(done.rows_in, sampled)} = "
        f"{sum(c.kept for c in counts):,} kept{notes} + {sum(dropped.values()):,} dropped ({reasons}){held}; "
        f"{done.seconds:.1f} s, {done.rows_in / done.seconds:,.0f} rows/s",
        step="materialize",
        seconds=round(done.seconds, 3),
    )
    for warning in done.warnings:
        echo(f"warning: {warning}", step="materialize", level="warning")
    for day, message in done.quarantined.items():
        echo(f"quarantine: {day} {message}", step="materialize", day=day, level="warning")
    return list(done.quarantined)
