"""tutelage-prune: remove old days, checkpoints and versions that no live model needs. A run does a part of it."""

from tutelage.launch import locks
from tutelage.launch.actions.console import apply_all, echo
from tutelage.launch.lifecycle import keep
from tutelage.launch.lifecycle import prune as job
from tutelage.launch.session import Session
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.printable import counted


def prune(session: Session, *, keep_days: int, dry_run: bool = False) -> None:
    """Print which old days stay and why, then print and remove the others."""
    with locks.to_remove(session.run, session.all_models, dry_run=dry_run):
        plan = job.plan(session, keep_days)
        for line in plan.kept:
            echo(f"kept: {line}")
        apply_all(plan.actions, dry_run=dry_run)


def remove_old(session: Session) -> None:
    """Remove the checkpoints and versions that are past the config's `keep`, and print in one line what went.

    Where others work on the workdir everything is left, and the line says so.
    """
    try:
        if not keep.plan(session).actions:
            return
        with locks.on_everything(session.run, session.all_models):
            plan = keep.plan(session)
            for action in plan.actions:
                action.apply()
    except (UserError, OSError) as error:
        echo(f"keep: no old checkpoint was removed: {error}")
        return
    stay = session.experiment.keep
    echo(
        f"keep: removed {counted(plan.checkpoints, 'old checkpoint')} and {counted(plan.versions, 'version')} out of "
        f"service, {plan.bytes / 1e6:,.0f} MB; those of the newest {counted(stay.newest or 0, 'day')} stay, and "
        f"{stay.older} older ones (--set=keep.newest=None keeps all)"
    )
