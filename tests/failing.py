"""A disk or a network that fails a few times."""

import errno
from collections.abc import Callable
from typing import Any

EIO = OSError(errno.EIO, "Input/output error")


def failing(times: int, error: Exception, act: Callable[..., Any] = lambda: "done") -> Callable[..., Any]:
    """Return a function that raises `error` on the first `times` calls and is `act` afterwards."""
    left = [error] * times

    def fails_first(*args: Any, **kwargs: Any) -> Any:
        if left:
            raise left.pop()
        return act(*args, **kwargs)

    return fails_first
