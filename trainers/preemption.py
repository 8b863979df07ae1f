"""SIGTERM and Ctrl-C: a model that is being trained saves a partial checkpoint before the process ends."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tutelage.pipeline.errors import UserError

SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""What asks a command to stop: a scheduler that reclaims the machine, or Ctrl-C."""


def stopped(by: int) -> str:
    """Return the message for a command that was stopped while it trained nothing."""
    return f"stopped by {signal.Signals(by).name}; run again to go on from there"


class Preempted(UserError):
    """The process was asked to stop by the signal `by`, and a partial checkpoint was saved."""

    def __init__(self, message: str, by: int = signal.SIGTERM):
        super().__init__(message)
        self.by = by


@contextmanager
def noted(first: Callable[[int], object] = lambda by: None) -> Iterator[Callable[[], int]]:
    """Note a signal of `SIGNALS` instead of ending the process.

    Yields a function that returns the signal that came, or 0. `first` is called with the first signal.
    """
    came = 0

    def note(number: int, frame: object) -> None:
        nonlocal came
        if not came:
            came = number
            first(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0  # Only the main thread can take signals.
        return
    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield lambda: came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
