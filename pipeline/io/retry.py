"""Try again what failed for a cause that may pass."""

import logging
import os
import time
from collections.abc import Callable
from typing import NoReturn, ParamSpec, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_chain, wait_fixed

from tutelage.pipeline.errors import PASSING, TransientError, system_error

PAUSES = (1.0, 5.0, 20.0)
"""Seconds before each further attempt."""
_log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


def with_retries(what: str, act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return `act(*args, **kwargs)`, which is tried again where a read or a write failed for a passing cause.

    `act` must be safe to repeat. The passing causes are `pipeline.errors.PASSING`. `what` names the action in messages.

    Raises TransientError where the cause did not pass. Any other error is raised as it is, at once.

    Example:
        >>> with_retries("the sum", sum, [1, 2])
        3
    """

    def message(state: RetryCallState) -> str:
        assert state.outcome
        error = state.outcome.exception()
        cause = os.strerror(system_error(error) or 0)
        return f"{what}: {cause} ({' '.join(str(error).split())[:200]})"

    def warn(state: RetryCallState) -> None:
        assert state.next_action
        _log.warning("%s; trying again in %g s", message(state), state.next_action.sleep)

    def give_up(state: RetryCallState) -> NoReturn:
        assert state.outcome
        raise TransientError(
            f"{message(state)}, {len(PAUSES) + 1} times; look after the disk or the network behind the workdir, "
            "then run again to go on from what was finished"
        ) from state.outcome.exception()

    retrying = Retrying(
        retry=retry_if_exception(lambda error: system_error(error) in PASSING),
        stop=stop_after_attempt(len(PAUSES) + 1),
        wait=wait_chain(*map(wait_fixed, PAUSES)),
        sleep=time.sleep,
        before_sleep=warn,
        retry_error_callback=give_up,
    )
    return retrying(act, *args, **kwargs)
