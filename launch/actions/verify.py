"""tutelage-verify: whether everything in the workdir is what was written, and what mends it."""

from contextlib import ExitStack

from tutelage.launch import locks
from tutelage.launch.actions.console import echo
from tutelage.launch.lifecycle import verify as check
from tutelage.launch.session import Session
from tutelage.pipeline.errors import Found, UserError


def verify(session: Session, *, repair: bool = False) -> None:
    """Print what is damaged, missing, stale or orphaned; with `repair`, mend what can be.

    Raises Found where anything is left to be mended.
    """
    with ExitStack() as held:
        if repair:
            held.enter_context(locks.alone(session.run))
            for model in session.all_models:
                held.enter_context(locks.on_model(session.run, model))
        left = 0
        for finding in list(check.find(session)):
            echo(str(finding))
            if not repair or finding.mend is None:
                left += 1
                continue
            try:
                finding.mend()
            except UserError as error:
                echo(f"not mended: {error}")
                left += 1
            else:
                echo("mended")
    if left:
        how = "" if repair else "; --repair mends what can be"
        raise Found(f"{left} found in {session.run.root}{how}")
    echo(f"{session.run.root} is sound.")
