"""tutelage-rollback: take the teacher back to a day, with all that was built on its later days."""

from tutelage.launch import locks
from tutelage.launch.actions.console import apply_all, day_of, echo
from tutelage.launch.lifecycle.rollback import plan
from tutelage.launch.session import Session


def rollback(session: Session, *, to_day: str, dry_run: bool = False) -> None:
    """Print and remove what is later than `to_day`; the next tutelage-run makes the days again."""
    with locks.to_remove(session.run, dry_run=dry_run):
        day = day_of(session, to_day)
        actions = plan(session, day)
        apply_all(actions, dry_run=dry_run)
        if not actions:
            echo(f"Nothing to do: the teacher is trained on no day after {day}.")
