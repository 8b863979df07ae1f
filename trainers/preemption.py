"""SIGTERM: a trainer saves a partial checkpoint within seconds, and ends."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tutelage.pipeline.errors import UserError

STOPPED = "stopped by SIGTERM; run again to go on from there"


class Preempted(UserError):
    """The process was asked to stop, and has saved what it was trained on."""


@contextmanager
def catch_sigterm(first: Callable[[], object] = lambda: None) -> Iterator[Callable[[], bool]]:
    """Note a SIGTERM instead of ending by it; yield a function that tells whether one came.

    `first` is called at the first one.
    """
    came = False

    def note(number: int, frame: object) -> None:
        nonlocal came
        if not came:
            came = True
            first()

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread can handle signals
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGTERM, before)
