"""Each cause has its exit status, and the worst of several wins."""

import pickle
import signal
from datetime import date

import pytest

from tutelage.launch.exit_codes import ExitCode, Failures, exit_code
from tutelage.launch.pool import Killed
from tutelage.launch.workspace import NothingHereYet
from tutelage.pipeline.errors import Found, GateError, TransientError, UserError
from tutelage.pipeline.quarantine import DayStopped
from tutelage.trainers.preemption import Preempted

DAY = date(2026, 1, 4)
SPOKE, TRANSIENT, MISTAKE = GateError("a gate"), TransientError("busy"), UserError("a mistake")
INTERRUPTED, TERMINATED = (Preempted("stopped", by) for by in (signal.SIGINT, signal.SIGTERM))


def test_the_statuses_are_those_that_schedulers_are_told() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "DONE": 0,
        "MISTAKE": 1,
        "FOUND": 2,
        "GATE": 3,
        "TRANSIENT": 75,
    }


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MISTAKE, 1),
        (NothingHereYet("nothing here yet"), 1),
        (ValueError("an error in the code"), 1),
        (Found("something to correct"), 2),
        (SPOKE, 3),
        (DayStopped("control: 2026-01-04 did not pass", DAY), 3),
        (TRANSIENT, 75),
        (Killed("a process was killed"), 75),
        (INTERRUPTED, 130),
        (TERMINATED, 143),
    ],
)
def test_each_cause_has_its_status(error: Exception, code: int) -> None:
    assert exit_code(error) == code
    assert exit_code(pickle.loads(pickle.dumps(error))) == code


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ([SPOKE, SPOKE], 3),
        ([SPOKE, TRANSIENT], 75),
        ([TRANSIENT, SPOKE, MISTAKE], 1),
        ([MISTAKE, TERMINATED], 143),
        ([SPOKE, INTERRUPTED, TRANSIENT], 130),
    ],
)
def test_of_several_failures_the_worst_gives_the_status_and_comes_first(
    errors: list[Exception], code: int
) -> None:
    failures = Failures(errors)
    assert exit_code(failures) == exit_code(failures.errors[0]) == code
    assert sorted(str(failures).splitlines()) == sorted(map(str, errors))


def test_a_stopped_day_keeps_its_message_and_its_day_on_the_way_to_another_process() -> None:
    error = pickle.loads(pickle.dumps(DayStopped("control: it did not pass", DAY)))
    assert (str(error), error.day) == ("control: it did not pass", DAY)
