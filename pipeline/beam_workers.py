"""Signs of life of Beam workers: a job whose workers were killed ends, though its engine would wait for ever."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from apache_beam.runners.portability import local_job_service

from tutelage.pipeline.errors import TransientError

_BEAMS_OWN = local_job_service.SubprocessSdkWorker
_POLL_SECONDS = 0.2
_GRACE_SECONDS = 2.0
"""A runner that fails because a worker is gone may notice it so much earlier than the thread that waits for it."""
_BEAT_SECONDS = 5.0
_CANCEL_SECONDS = 10.0


@contextmanager
def beating(path: Path) -> Iterator[None]:
    """Touch `path` every few seconds for as long as the block takes, in a thread."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(_BEAT_SECONDS):
            with suppress(OSError):  # The driver may have given the job up.
                path.touch()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def until_killed(
    work: Callable[[], None],
    *,
    signs: Callable[[], object],
    timeout: float,
    cancel: Callable[[], object] = lambda: None,
) -> None:
    """Call `work`, which runs a pipeline whose workers are not in this process.

    `signs` returns what the workers have left behind so far; while they work, it changes within seconds. Raises
    TransientError where a worker process of this one is killed, or the signs stay as they are for `timeout` seconds.
    Beam 2.77's own runners wait for ever then. So `work` runs in a thread, which is left behind; the job is cancelled,
    and the other workers on this host are killed too: they would go on writing.
    """
    outcome: Future[None] = Future()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            outcome.set_exception(error)
        else:
            outcome.set_result(None)

    with _deaths() as died:
        threading.Thread(target=run, daemon=True).start()
        silent = _until_silent(signs, timeout)
        while not died.is_set() and not next(silent) and not wait([outcome], timeout=_POLL_SECONDS).done:
            pass
        if outcome.done() and (outcome.exception() is None or not died.wait(_GRACE_SECONDS)):
            return outcome.result()
    canceller = threading.Thread(target=cancel, daemon=True)
    canceller.start()
    canceller.join(_CANCEL_SECONDS)
    _kill_workers()
    if died.is_set():
        raise TransientError(
            "a Beam worker was killed (is there memory enough for so many?); run again, with a lower "
            "--direct_num_workers where it is killed again"
        )
    raise TransientError(
        f"no Beam worker has shown a sign of life for {timeout:.0f} s: they were killed (is there memory enough?), or "
        "none has started; run again, with a higher --beam_flag=--worker_timeout where the engine is slow to start them"
    )


def _until_silent(signs: Callable[[], object], timeout: float) -> Iterator[bool]:
    """Yield whether the signs have stayed as they are for `timeout` seconds. They are looked at once a second."""
    seen, since = signs(), time.monotonic()
    looked = since
    while True:
        now = time.monotonic()
        if now - looked >= 1:
            looked = now
            if (found := signs()) != seen:
                seen, since = found, now
        yield now - since >= timeout


@contextmanager
def _deaths() -> Iterator[threading.Event]:
    """Yield an event that is set when a worker process of this one ends with an error inside."""
    died = threading.Event()

    class Worker(_BEAMS_OWN):
        def run(self) -> None:
            with suppress(RuntimeError):
                super().run()
                return
            died.set()

    local_job_service.SubprocessSdkWorker = Worker  # type: ignore[misc]
    try:
        yield died
    finally:
        local_job_service.SubprocessSdkWorker = _BEAMS_OWN  # type: ignore[misc]


def _kill_workers() -> None:
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if any("sdk_worker" in argument for argument in process.cmdline()):
                process.kill()
