"""One process per model: TensorFlow starts once, and a model goes on over all its days."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from tutelage.launch import steps
from tutelage.launch.logging_setup import Output, import_tensorflow, output, silence, tag
from tutelage.launch.session import Session
from tutelage.pipeline.errors import TransientError, UserError, disk_full_as_user_error
from tutelage.pipeline.io.printable import counted
from tutelage.pipeline.quarantine import DayStopped
from tutelage.trainers.checkpoints import State
from tutelage.trainers.preemption import Preempted, noted, stopped

_SEND_SECONDS = 0.2
_STOP_SECONDS = {signal.SIGINT: 3.0, signal.SIGTERM: 8.0}
"""A process that was asked to stop and does not come to an end is killed after this time. Ctrl-C has somebody wait."""
_RESULT_SECONDS = 1.0
"""What a process has done reaches the parent within this time."""

T = TypeVar("T")

_ended = threading.Event()  # In a child, set when its work is done.


class Killed(TransientError):
    """A process was killed by somebody else, most likely because memory ran out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a model in a process of its own."""

    model: str
    trained: list[State] = field(default_factory=list)
    exported: int = 0
    export_seconds: float = 0.0
    rejected: list[str] = field(default_factory=list)
    """A line for each version that was not blessed, with the reason and with what is served."""
    newest_rejected: bool = False
    """Whether the version of the newest finished day is among them."""
    failure: Exception | None = None
    """Why the model stopped before it had done everything. None: it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended(Generic[T]):
    """How a job ended: with a result, or with an error."""

    name: str
    result: T | None = None
    error: Exception | None = None


def train(
    session: Session, models: Sequence[str], *, progress: Callable[[str, int], None]
) -> Iterator[Outcome]:
    """Train and export `models`, as many at a time as there are cores; yields each outcome as its model ends.

    `progress` is called with a model and the number of examples it was trained on since the last call.
    A model that fails, or whose process is killed, leaves the others alone: its outcome holds the failure.
    Raises Preempted after a SIGTERM or Ctrl-C, when all have ended.
    """
    work = partial(_train, session.request)
    jobs = {model: (model,) for model in models}
    for ended in _run(work, jobs, verbose=session.verbose, progress=progress):
        yield ended.result or Outcome(model=ended.name, failure=ended.error)


def each(
    work: Callable[..., T],
    jobs: Mapping[str, tuple[Any, ...]],
    *,
    verbose: bool,
    progress: Callable[[str, int], None],
) -> Iterator[T]:
    """Call `work(*arguments, progress=)` for each job in a process of its own; yields each result as its job ends.

    Raises the UserError of the first job that fails, when the others have ended, any other exception at once, and
    Preempted after a SIGTERM or Ctrl-C.
    """
    failures = []
    for ended in _run(work, jobs, verbose=verbose, progress=progress):
        if ended.error is None:
            yield ended.result  # type: ignore[misc]
        elif not isinstance(ended.error, UserError):
            raise ended.error
        else:
            failures.append(ended.error)
    if failures:
        raise failures[0]


def _run(
    work: Callable[..., T],
    jobs: Mapping[str, tuple[Any, ...]],
    *,
    verbose: bool,
    progress: Callable[[str, int], None],
) -> Iterator[_Ended[T]]:
    """Yield how each job ended, as it ends. Raises Preempted after a SIGTERM or Ctrl-C, when all have ended."""
    cores = len(os.sched_getaffinity(0))
    workers = min(cores, len(jobs))
    context = multiprocessing.get_context("spawn")
    # The signal that asks to stop. Not an event: one would wait for a child that was killed while waiting for it.
    stop = context.RawValue("b", 0)
    threads = max(1, cores // max(1, workers))
    setup = _Setup(stop=stop, parent=os.getpid(), threads=threads, verbose=verbose, output=output())
    waiting, running = list(jobs), dict[Connection, tuple[str, BaseProcess]]()
    preempted: Preempted | None = None

    def pass_on(by: int) -> None:
        stop.value = by
        for _, process in running.values():
            _ask_to_stop(process, by)

    with noted(pass_on) as asked:
        try:
            while running or (waiting and not preempted and not asked()):
                while waiting and len(running) < workers and not preempted and not asked():
                    name = waiting.pop(0)
                    ours, process = _start(context, (setup, work, jobs[name]))
                    running[ours] = name, process
                    if by := asked():  # The signal came while it was starting.
                        _ask_to_stop(process, by)
                for connection in wait(list(running)):
                    assert isinstance(connection, Connection)
                    name, process = running[connection]
                    if not (ended := _receive(connection, name, workers, progress)):
                        continue
                    del running[connection]
                    connection.close()
                    process.join()
                    if isinstance(ended.error, Preempted):
                        preempted = preempted or ended.error
                    elif not (
                        asked() and isinstance(ended.error, Killed)
                    ):  # What trained nothing was cut off.
                        yield ended
        finally:
            if running:  # The caller goes no further: the others save what they have, and end.
                pass_on(signal.SIGTERM)
        by = asked()
    if preempted or by:
        raise Preempted(str(preempted or stopped(by)), preempted.by if preempted else by)


def _ask_to_stop(process: BaseProcess, by: int) -> None:
    """Send the signal `by`. A model in training saves a partial checkpoint; anything else ends and is done again whole.

    What trains handles both signals and notes the first. Anything else ignores Ctrl-C, and SIGTERM ends it at once, in
    the middle of an import too.
    """
    for number in sorted({by, signal.SIGTERM}):
        if process.pid and process.is_alive():
            os.kill(process.pid, number)


def _start(context: SpawnContext, arguments: tuple[Any, ...]) -> tuple[Connection, BaseProcess]:
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, *arguments))
    # Held back until the process ignores it: Ctrl-C reaches all, and one that is just starting would print a traceback.
    # The tracker lifts that when it starts, so it is started before.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    theirs.close()  # The pipe must end when the child ends.
    return ours, process


def _receive(
    connection: Connection, name: str, workers: int, progress: Callable[[str, int], None]
) -> _Ended[Any] | None:
    """Take one message of a child; return how it ended, or None where it goes on."""
    try:
        message, value = connection.recv()
    except (EOFError, OSError):
        return _Ended(
            name=name,
            error=Killed(
                f"a process that trained {name} was killed (is there memory enough for {counted(workers, 'model')} "
                "at a time?); run again to go on from the last finished day"
            ),
        )
    if message == "progress":
        progress(name, value)
        return None
    return _Ended(name=name, **{message: value})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setup:
    """What each child is given."""

    stop: Any
    parent: int
    threads: int
    verbose: bool
    output: Output


def _child(
    connection: Connection, setup: _Setup, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    """Do a job in a process of its own, and send its progress and its result, or its error, to the parent."""
    # Ctrl-C reaches the whole process group. The parent passes it on and prints the message.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_follow, args=(setup.stop, setup.parent), daemon=True).start()
    try:
        result = _work(connection, setup, work, arguments)
    except Exception as error:
        _send(connection, "error", _portable(error))
    else:
        _send(connection, "result", result)
    finally:
        _ended.set()


def _send(connection: Connection, what: str, value: object) -> None:
    with contextlib.suppress(BrokenPipeError):  # The parent has gone, and this process follows it.
        connection.send((what, value))


def _portable(error: Exception) -> Exception:
    """Return `error` in a form that can be sent to the parent. A programming error carries its traceback."""
    if not isinstance(error, UserError):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


def _follow(stop: Any, parent: int) -> None:
    """End with the parent, so that a run that was killed or asked to stop leaves no trainer behind."""
    while os.getppid() == parent:
        time.sleep(0.5)
        if stop.value:
            if _ended.wait(_STOP_SECONDS[stop.value]):
                # Not waited for: a thread of the feed, which may still read a day.
                time.sleep(_RESULT_SECONDS)
            break
    os._exit(1)


def _work(connection: Connection, setup: _Setup, work: Callable[..., T], arguments: tuple[Any, ...]) -> T:
    silence(verbose=setup.verbose, how=setup.output)
    import_tensorflow(verbose=setup.verbose, threads=setup.threads)
    rows, sent = 0, time.monotonic()

    def progress(more: int) -> None:
        nonlocal rows, sent
        rows += more
        if time.monotonic() - sent > _SEND_SECONDS:
            _send(connection, "progress", rows)
            rows, sent = 0, time.monotonic()

    result = work(*arguments, progress=progress)
    _send(connection, "progress", rows)
    return result


def _train(request: Mapping[str, Any], model: str, *, progress: Callable[[int], None]) -> Outcome:
    """Train a model and export it. One that its gate has stopped is exported as it was the day before."""
    tag(model=model)
    session = Session.open(**request)
    checkpoints = session.run.checkpoints(model)
    before = {state.day for state in checkpoints.states()}
    failure: DayStopped | None = None
    with disk_full_as_user_error(session.run.root):
        try:
            trained = steps.train(session, model, progress=progress)
        except DayStopped as error:
            failure = error
            trained = [state for state in checkpoints.states() if state.day not in before]
        started = time.monotonic()
        exported = steps.export(session, model)
    return Outcome(
        model=model,
        trained=trained,
        exported=len(exported),
        export_seconds=time.monotonic() - started,
        rejected=steps.rejected(session, model, exported),
        newest_rejected=steps.newest_rejected(session, model, exported),
        failure=failure,
    )
