"""tutelage-status: what there is of each day and model, and what is still to be done."""

from tutelage.launch.actions.console import out
from tutelage.launch.report.status import print_status
from tutelage.launch.session import Session


def status(session: Session) -> None:
    """Print the state of the workdir."""
    print_status(session, out)
