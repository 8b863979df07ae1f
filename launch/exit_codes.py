"""With which status a command ends. This is the one table, for all commands."""

from collections.abc import Sequence
from enum import IntEnum

from tutelage.pipeline.errors import Found, GateError, TransientError, UserError
from tutelage.trainers.preemption import Preempted


class ExitCode(IntEnum):
    """The statuses of all commands; a scheduler may act on them. After a signal it is 128 + its number: 130, 143."""

    DONE = 0
    MISTAKE = 1
    """A mistake in the request, the config or the data, or in the code: it stays until somebody corrects it."""
    FOUND = 2
    """There is something to do, or something was found, by a command that only looks."""
    GATE = 3
    """A gate spoke: a day of data is in quarantine, a model stopped, or its newest version was rejected."""
    TRANSIENT = 75
    """A process was killed, the workdir is busy, the disk is full, or a read or write failed: run again later."""


# The first class that an error is an instance of counts.
_BY_CLASS: dict[type[BaseException], ExitCode] = {
    Found: ExitCode.FOUND,
    GateError: ExitCode.GATE,
    TransientError: ExitCode.TRANSIENT,
    BaseException: ExitCode.MISTAKE,
}
_WORST_FIRST = (ExitCode.MISTAKE, ExitCode.TRANSIENT, ExitCode.GATE, ExitCode.FOUND)
"""Where a run fails for several causes. A signal is worse than any of them."""


class Failures(UserError):
    """The failures of one run, the worst first, each with its line."""

    def __init__(self, errors: Sequence[BaseException]):
        self.errors = sorted(errors, key=_badness)
        super().__init__("\n".join(map(str, self.errors)))


def exit_code(error: BaseException) -> int:
    """Return the status with which a command ends that fails with `error`.

    Example:
        >>> exit_code(Failures([GateError("a day is in quarantine"), TransientError("the workdir is busy")]))
        75
    """
    if isinstance(error, Failures):
        return exit_code(error.errors[0])
    if isinstance(error, Preempted):
        return 128 + error.by
    return int(next(code for cause, code in _BY_CLASS.items() if isinstance(error, cause)))


def _badness(error: BaseException) -> int:
    code = exit_code(error)
    return _WORST_FIRST.index(ExitCode(code)) if code < 128 else -1
