"""Locks on files and folders: between the processes of one host, and in an object store between all that use it."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from tutelage.pipeline.errors import TransientError
from tutelage.pipeline.io.leases import leased
from tutelage.pipeline.io.paths import remote

_POLL_SECONDS = 0.05


@contextlib.contextmanager
def locked(path: Path, message: str, *, shared: bool = False, wait: float | None = 0) -> Iterator[None]:
    """Hold a lock on a file, which is created if it does not exist, or on a folder.

    Any number of processes may hold it `shared`; otherwise one holds it alone. `wait` is how many seconds to wait for
    another holder; None: until it is free. The operating system releases the lock when its process ends, even if it
    was killed. The file stays: what matters is the lock, not that the file exists. In an object store the lock is a
    lease (`io.leases`), and its file must be one that nothing else writes.

    Raises TransientError with `message` where another process holds the lock; a lease's message names that process.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with locked(folder, "somebody else is at work"):
        ...     with locked(folder, "somebody else is at work"):
        ...         pass
        Traceback (most recent call last):
        tutelage.pipeline.errors.TransientError: somebody else is at work
    """
    if stored := remote(path):
        with leased(stored, message, shared=shared, wait=wait):
            yield
        return
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags, 0o644)
    try:
        _acquire(descriptor, message, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, wait)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, message: str, mode: int, wait: float | None) -> None:
    if wait is None:
        fcntl.flock(descriptor, mode)
        return
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TransientError(message) from None
            time.sleep(_POLL_SECONDS)
        else:
            return
