"""tutelage-status: what there is of each day and model, and what is still to be done; for people and for programs."""

import json as json_format
import sys

from tutelage.launch.actions.console import echo, out
from tutelage.launch.report.state import problems, state_of
from tutelage.launch.report.status import print_status
from tutelage.launch.report.textfile import write_textfile
from tutelage.launch.session import Session


def status(session: Session, *, json: bool = False, monitor: bool = False, textfile: str = "") -> None:
    """Print the state of the workdir: for people, as `json`, or only what is wrong, for a `monitor`.

    `textfile` is written too, for Prometheus. Raises what `state.problems` returns where a monitor asks.
    """
    if not (json or monitor or textfile):
        print_status(session, out)
        return
    state = state_of(session)
    if textfile:
        write_textfile(textfile, state)
    if json:
        sys.stdout.write(json_format.dumps(state, indent=1) + "\n")
    elif not monitor:
        print_status(session, out)
    if monitor:
        if error := problems(state):
            raise error
        if not json:
            echo(f"{session.experiment.name} in {session.run.root}: nothing is wrong")
