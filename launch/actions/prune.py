"""tutelage-prune: remove old days, checkpoints and versions that no live model needs."""

from tutelage.launch import locks
from tutelage.launch.actions.console import apply_all, echo
from tutelage.launch.lifecycle import prune as job
from tutelage.launch.session import Session


def prune(session: Session, *, keep_days: int, dry_run: bool = False) -> None:
    """Print which old days stay and why, then print and remove the others."""
    with locks.alone(session.run), locks.on_everything(session.run, session.all_models):
        plan = job.plan(session, keep_days)
        for line in plan.kept:
            echo(f"kept: {line}")
        apply_all(plan.actions, dry_run=dry_run)
