"""SIGTERM: a day that is being learnt is put down where it stands."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tutelage.pipeline.errors import UserError

STOPPED = "stopped by SIGTERM; run again to go on from there"


class Preempted(UserError):
    """The process was asked to stop, and what it had learnt is written down."""


@contextmanager
def noted(first: Callable[[], object] = lambda: None) -> Iterator[Callable[[], bool]]:
    """SIGTERM in here is noted, and ends nothing; what is given says whether it came.

    At the first one `first` is called.
    """
    came = False

    def note(number: int, frame: object) -> None:
        nonlocal came
        if not came:
            came = True
            first()

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # Only the main thread can take signals.
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGTERM, before)
