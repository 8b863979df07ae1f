"""One process per model: TensorFlow starts once, and a model goes on over all its days."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from tutelage.launch import steps
from tutelage.launch.logging_setup import import_tensorflow, silence
from tutelage.launch.session import Session
from tutelage.pipeline.errors import UserError, disk_full_as_user_error
from tutelage.trainers.checkpoints import State
from tutelage.trainers.preemption import Preempted, noted, stopped

_SEND_SECONDS = 0.2
_STOP_SECONDS = 8.0
"""A process that was asked to stop and does not come to an end is killed after this time."""
_RESULT_SECONDS = 1.0
"""What a process has done reaches the parent within this time."""

T = TypeVar("T")

_progress: Any = None  # In a child, the queue to the parent.
_ended = threading.Event()  # In a child, set when its work is done.


class Stopped(UserError):
    """The run was asked to stop, and its models have saved partial checkpoints."""

    def __init__(self, message: str, by: int):
        super().__init__(message)
        # After SIGTERM the run ends as it does after any failure, when its processes have ended.
        self.status = 128 + by if by == signal.SIGINT else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a model in a process of its own."""

    model: str
    trained: list[State]
    exported: int
    rejected: list[str]
    """A line for each version that was not blessed, with the reason."""


def train(
    session: Session, models: Sequence[str], *, progress: Callable[[str, int], None]
) -> Iterator[Outcome]:
    """Train and export `models`, as many at a time as there are cores; yields each outcome as its model ends.

    `progress` is called with a model and the number of examples it was trained on since the last call.
    Raises the UserError of the first model that fails, when the others have ended.
    """
    work = partial(_train, session.request)
    jobs = {model: (model,) for model in models}
    yield from each(work, jobs, verbose=session.verbose, progress=progress)


def each(
    work: Callable[..., T],
    jobs: Mapping[str, tuple[Any, ...]],
    *,
    verbose: bool,
    progress: Callable[[str, int], None],
) -> Iterator[T]:
    """Call `work(*arguments, progress=)` for each job in a process of its own; otherwise as `train`."""
    cores = len(os.sched_getaffinity(0))
    workers = min(cores, len(jobs))
    context = multiprocessing.get_context("spawn")
    # The signal that asks to stop. Not an event: one would wait for a child that was killed while waiting for it.
    stop = context.RawValue("b", 0)
    with (
        _listening(context.SimpleQueue(), progress) as queue,
        noted(partial(setattr, stop, "value")) as asked,
        ProcessPoolExecutor(
            workers,
            mp_context=context,
            initializer=_start,
            initargs=(queue, stop, os.getpid()),
            max_tasks_per_child=1,
        ) as pool,
    ):
        threads = max(1, cores // workers)
        futures: dict[Future[T], str] = {
            pool.submit(_work, work, name, arguments, threads=threads, verbose=verbose): name
            for name, arguments in jobs.items()
        }
        failures: list[UserError] = []
        unfinished = list(jobs)
        for future in as_completed(futures):
            try:
                yield future.result()
            except Preempted as error:
                for other in futures:
                    other.cancel()
                # This process trains nothing: it ends in the usual way, when the others have.
                failures.insert(0, Stopped(str(error), error.by))
            except CancelledError:
                pass
            except UserError as error:
                failures.append(error)
            except BrokenProcessPool:
                if by := asked():
                    raise Stopped(str(failures[0]) if failures else stopped(by), by) from None
                raise UserError(
                    f"a process that trained {' or '.join(unfinished)} was killed (is there memory enough "
                    f"for {workers} models at a time?); run again to go on from the last finished day"
                ) from None
            except BaseException:
                # A programming error is raised now, not when all the others have ended.
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            unfinished.remove(futures[future])
    if by := asked():
        raise Stopped(str(failures[0]) if failures else stopped(by), by)
    if failures:
        raise failures[0]


@contextmanager
def _listening(queue: Any, progress: Callable[[str, int], None]) -> Iterator[Any]:
    """Call `progress` with what children put into the queue; at the end, wait for the last message."""

    def listen() -> None:
        while (message := queue.get()) is not None:
            progress(*message)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    yield queue
    queue.put(None)
    listener.join()


def _start(queue: Any, stop: Any, parent: int) -> None:
    global _progress
    _progress = queue
    # Ctrl-C reaches the whole process group. The parent passes it on and prints the message.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(stop, parent), daemon=True).start()


def _follow(stop: Any, parent: int) -> None:
    """End with the parent, so that a run that was killed or asked to stop leaves no trainer behind."""
    while os.getppid() == parent:
        time.sleep(0.5)
        if stop.value:
            # A model in training saves a partial checkpoint; anything else is cut off and done again whole.
            trains = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
            os.kill(os.getpid(), stop.value if trains else signal.SIGTERM)
            _ended.wait(_STOP_SECONDS)
            # Not waited for: a thread of the feed, which may still read a day.
            time.sleep(_RESULT_SECONDS)
            break
    os._exit(1)


def _work(work: Callable[..., T], name: str, arguments: tuple[Any, ...], *, threads: int, verbose: bool) -> T:
    silence(verbose=verbose)
    import_tensorflow(verbose=verbose, threads=threads)
    rows, sent = 0, time.monotonic()

    def progress(more: int) -> None:
        nonlocal rows, sent
        rows += more
        if time.monotonic() - sent > _SEND_SECONDS:
            _progress.put((name, rows))
            rows, sent = 0, time.monotonic()

    try:
        result = work(*arguments, progress=progress)
        _progress.put((name, rows))
        return result
    finally:
        _ended.set()


def _train(request: Mapping[str, Any], model: str, *, progress: Callable[[int], None]) -> Outcome:
    session = Session.open(**request)
    with disk_full_as_user_error(session.run.root):
        trained = steps.train(session, model, progress=progress)
        exported = steps.export(session, model)
    return Outcome(
        model=model, trained=trained, exported=len(exported), rejected=steps.rejected(model, exported)
    )
