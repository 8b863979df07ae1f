"""tutelage-forget: delete a user from the workdir, and list the models that were trained with it."""

from tutelage.launch import locks
from tutelage.launch.actions.console import apply_all, echo
from tutelage.launch.lifecycle import forget as job
from tutelage.launch.session import Session


def forget(session: Session, *, user_id: str, dry_run: bool = False) -> None:
    """Print what was trained on the user, then print and remove what holds the user."""
    user = job.parse_user(session.run.schema, user_id)
    with locks.to_remove(session.run, session.all_models, dry_run=dry_run):
        plan = job.plan(session, user)
        echo(f"{plan.rows:,} rows on {len(plan.days)} days belong to {session.run.schema.user} {user_id}")
        # Before anything is removed: afterwards it cannot be found any more.
        for line in plan.trained:
            echo(f"trained with it: {line}")
        apply_all(plan.actions, dry_run=dry_run)
        if plan.trained:
            echo(job.unlearn(session, plan.days))
        echo(job.ELSEWHERE)
