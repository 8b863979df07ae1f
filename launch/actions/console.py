"""What the actions share: printing, progress bars, and the errors of days and versions that are not fit for use."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tutelage.launch.lifecycle.invalidation import Action
from tutelage.launch.logging_setup import event, output
from tutelage.launch.report.summary import PrintableConsole
from tutelage.launch.session import Session
from tutelage.pipeline.days import parse_day, spans
from tutelage.pipeline.errors import GateError, UserError
from tutelage.pipeline.io.printable import printable
from tutelage.trainers.run import TEACHER

# Soft wrap: a log has no width, and a line that is cut in two cannot be searched for.
out = PrintableConsole(soft_wrap=True, highlight=False)
ANEW = "tutelage-materialize for these days alone makes them again"


def echo(text: str = "", *, style: str | None = None, **fields: Any) -> None:
    """Print a line, in which square brackets are no markup and other line ends than its own are escaped.

    Where the command logs JSON, the line is an event with these `fields`. `--quiet` prints neither.
    """
    if output().quiet:
        return
    if output().json:
        log(text, **fields)
    else:
        out.print(printable(text), style=style, markup=False)


def log(message: str, **fields: Any) -> None:
    """Print an event where the command logs JSON. People read the same in a table or in a line on several days."""
    if output().json and not output().quiet:
        sys.stdout.write(event(message, **fields) + "\n")
        sys.stdout.flush()


def print_waits(session: Session, *, needed: bool = False) -> None:
    """Print how the days asked for were moved to whole slices, and which of them are not released.

    Raises UserError where released days are `needed` and there is none.
    """
    if session.moved:
        echo(session.moved)
    if needed and not session.days:
        raise UserError(f"no day asked for is released: {session.waits()}; ask for earlier days")
    if waits := session.waits():
        echo(f"waits: {waits}")


def print_left_out(session: Session, model: str) -> None:
    """Print which days an untrained model starts without."""
    if left := session.left_out(model):
        echo(f"{model}: {pruned(session, left)}, so it starts without them; {ANEW}")


def print_holdout(session: Session, models: Sequence[str]) -> None:
    """Print whose share of withheld users changes with the next day that they are trained on."""
    now = session.run.training.holdout
    last = {model: session.run.checkpoints(model).states()[-1:] for model in models}
    changed = [
        model
        for model, states in last.items()
        if states and states[0].holdout != now and session.days_of(model)[-1:] > [states[0].day]
    ]
    if changed:
        was = ", ".join(f"{share:g}" for share in sorted({last[model][0].holdout for model in changed}))
        echo(
            f"training.holdout was {was} and is {now:g} for {', '.join(changed)}: from the next day on the rows of "
            f"{100 * now:g} % of the users are withheld from training, to judge versions on before they are served"
            if now
            else f"training.holdout was {was} and is 0 for {', '.join(changed)}: versions are judged on the day after "
            "their own, and served a day later"
        )


def pruned(session: Session, days: Iterable[date]) -> str:
    return f"{spans(sorted(days), slice_days=session.run.schema.slice_days)} were pruned"


def apply_all(actions: Sequence[Action], *, dry_run: bool) -> None:
    """Print and do each action, or only print it."""
    for action in actions:
        echo(f"{'would remove' if dry_run else 'removing'}: {action.what}")
        if not dry_run:
            action.apply()


def day_of(session: Session, day: str) -> date:
    """Return the day that a flag names, in the schema's time zone. Raises UserError where it names none."""
    return parse_day(day, time_zone=session.experiment.schema.time_zone)


def accepted_day(session: Session, accept_day: str | None, reason: str) -> date | None:
    """Return the day that is to be kept against its gate. Raises UserError where only one of the flags is given."""
    if bool(accept_day) != bool(reason):
        raise UserError("--accept_day and --reason go together; give both")
    return day_of(session, accept_day) if accept_day else None


def model_of(session: Session, name: str) -> str:
    """Return a model's name in folders and tables: `teacher` is whichever teacher labels now."""
    return session.run.teacher_model if name == TEACHER else name


def quarantine_error(session: Session, days: Sequence[date]) -> GateError:
    """Return the error for days of data in quarantine."""
    return GateError(
        f"in quarantine, so everything goes on without: {', '.join(map(str, days))}; look into "
        f"{session.run.lake.quarantine.folder}, then correct the day and run tutelage-materialize for it, change "
        "the config's quality, or keep it as it is with tutelage-materialize --accept_day=DAY --reason=..."
    )


def raise_quarantined(session: Session, days: Sequence[date]) -> None:
    """Raise GateError where days of data are in quarantine: a job must not look sound when one is not fit for use."""
    if days:
        raise quarantine_error(session, days)


def rejected_version(session: Session, line: str) -> GateError:
    """Return the error for a newest version that was not blessed; `line` is that of `steps.rejected`."""
    folder = session.run.root / "rejected"
    return GateError(f"{line}; look into {folder}, or serve it all the same with tutelage-export --promote")


def progress_bars() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # In a log every redraw would be a line.
    disabled = not out.is_terminal or output().json or output().quiet
    return Progress(*columns, console=out, transient=True, disable=disabled)


@contextmanager
def bar(name: str, total: int) -> Iterator[Callable[..., None]]:
    """Show a bar; yields a function that advances it by a number of items."""
    with progress_bars() as bars:
        task = bars.add_task(name, total=total)
        yield lambda more: bars.advance(task, more)


@contextmanager
def units(name: str) -> Iterator[Callable[..., None]]:
    """Show a bar whose total is not known yet; yields a function of the items done and their total."""
    with progress_bars() as bars:
        task = bars.add_task(name, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
