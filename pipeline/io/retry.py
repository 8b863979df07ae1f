"""What fails for a cause that may pass is tried again as it was."""

import logging
import os
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from tutelage.pipeline.errors import PASSING, UserError, system_error

PAUSES = (1.0, 5.0, 20.0)
"""Seconds before each further try."""
_log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


def with_retries(what: str, act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`act(*args, **kwargs)`, which may be done twice, tried again where a read or a write failed for a
    passing cause (`pipeline.errors.PASSING`); `what` says what it does.

    Raises UserError where the cause did not pass, and any other error as it is.
    """
    for pause in (*PAUSES, None):
        try:
            return act(*args, **kwargs)
        except Exception as error:
            number = system_error(error)
            if number not in PASSING:
                raise
            message = f"{what}: {os.strerror(number)} ({' '.join(str(error).split())[:200]})"
            if pause is None:
                raise UserError(
                    f"{message}, {len(PAUSES) + 1} times; look after the disk or the network behind the workdir, "
                    "then run again to go on from what was finished"
                ) from error
            _log.warning("%s; it is tried again in %g s", message, pause)
            time.sleep(pause)
    raise AssertionError  # The last pause is None.
