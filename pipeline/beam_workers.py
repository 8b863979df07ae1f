"""Beam workers in processes of their own on this host: a job ends when one of them was killed."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress

import psutil
from apache_beam.runners.portability import local_job_service

from tutelage.pipeline.errors import TransientError

_BEAMS_OWN = local_job_service.SubprocessSdkWorker
_POLL_SECONDS = 0.2
_GRACE_SECONDS = 2.0
"""A runner that fails because a worker is gone may notice it so much earlier than the thread that waits for it."""


def until_killed(work: Callable[[], None]) -> None:
    """Call `work`, which runs a pipeline in worker processes. Raises TransientError where one of these is killed.

    Beam 2.77 waits for ever for a worker that was killed before it had registered, or between two bundles. So `work`
    runs in a thread, which is left behind then, and the other workers are killed too: they would go on writing.
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
        while not died.is_set() and not wait([outcome], timeout=_POLL_SECONDS).done:
            pass
        if outcome.done() and (outcome.exception() is None or not died.wait(_GRACE_SECONDS)):
            return outcome.result()
    _kill_workers()
    raise TransientError(
        "a Beam worker was killed (is there memory enough for so many?); run again, with a lower "
        "--direct_num_workers where it is killed again"
    )


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
            if any("sdk_worker_main" in argument for argument in process.cmdline()):
                process.kill()
