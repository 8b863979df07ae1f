"""How the Beam jobs run: the runner, its options, progress, and how a user's mistake leaves a worker."""

import contextlib
import json
import shutil
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions
from apache_beam.pvalue import PCollection
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

from tutelage.pipeline.beam_engines import Engine
from tutelage.pipeline.beam_sampling import short_sampling_period
from tutelage.pipeline.beam_workers import beating, until_killed
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.atomic import remove
from tutelage.pipeline.io.links import refuse_link
from tutelage.pipeline.io.locks import locked
from tutelage.pipeline.io.paths import as_path, remote
from tutelage.pipeline.io.store import FILES
from tutelage.pipeline.lake import LOCK

Progress = Callable[[int, int], None]
"""Called with the number of finished units and the number of all units."""


ALL = 0
"""The key under which a GroupByKey brings everything together.

None would not do: Dask groups by hash, and in Python 3.11 None has another one in each process.
"""
_THREADS = 3
_PROGRESS_SECONDS = 0.2


def in_groups(
    pipeline: beam.Pipeline, units: Sequence[Any], *, size: int | None = None
) -> PCollection[tuple[int, Iterable[Any]]]:
    """Put the units into groups of up to `size` (None: `group_size`). A group is what a worker takes at a time.

    Beam's Reshuffle spreads elements too, but takes longer to build than a small day takes to process.
    """
    size = size or group_size(pipeline)
    numbered = [(number // size, unit) for number, unit in enumerate(units)]
    return pipeline | "Units" >> beam.Create(numbered, reshuffle=False) | "Spread" >> beam.GroupByKey()


def group_size(pipeline: beam.Pipeline) -> int:
    """Return how many units a worker takes at a time: all where there is one worker, else a few."""
    mode = pipeline.options.view_as(DirectOptions).direct_running_mode
    one = isinstance(pipeline.runner, FnApiRunner) and mode == "in_memory"
    return sys.maxsize if one else _THREADS


class ThreadedDoFn(beam.DoFn):
    """Takes a group of units, calls `work` for three of them at a time, and yields the results in their order.

    Threads pay off because Polars and Arrow release the interpreter while they work, and have parts that use only one
    processor. The results come from `process`: not every runner keeps what `finish_bundle` returns (Beam 2.77's Dask
    runner drops it).
    """

    def process(self, group: tuple[Any, Iterable[Any]]) -> Iterator[Any]:
        with ThreadPoolExecutor(_THREADS) as pool:
            for results in pool.map(self.work, group[1]):
                yield from results

    def work(self, unit: Any) -> Iterable[Any]:
        """Return what the unit becomes; called in a thread."""
        raise NotImplementedError


class Staging:
    """A job's own folder beside the tables, through which its workers report to the driver.

    No job reads the folder of another one. The folder's name begins with the attempt number of the job. What lies in
    it is Arrow, JSON or text: nothing that is read from it can run code.
    """

    def __init__(self, path: str):
        self.path = as_path(path)
        self.attempt = int(self.path.name.partition("-")[0])

    def done(self, unit: int) -> None:
        """Record that a unit is finished, for the progress display."""
        (self.path / f"{unit}.done").touch()

    def signs(self) -> object:
        """Return what changes for as long as any worker works: names of files, and when units last were at work."""
        return {
            path.name: path.stat().st_mtime_ns if path.suffix == ".alive" else None
            for path in self.path.glob("*")
        }

    def failed(self, unit: int | str, error: UserError) -> None:
        """Record a user's mistake, for `raise_failure`."""
        (self.path / f"{unit}.error").write_text(str(error))

    @contextlib.contextmanager
    def telling(self, unit: int | str) -> Iterator[None]:
        """Show signs of life, and record a UserError that is raised inside, before it stops the worker."""
        try:
            with beating(self.path / f"{unit}.alive"):
                yield
        except UserError as error:
            self.failed(unit, error)
            raise

    def give(self, name: str, value: Any) -> None:
        """Hand a value that JSON can hold to the driver; it replaces an earlier value of that name.

        Files are used because a portable runner returns no elements to the driver.
        """
        FILES.put(self.path / f"{name}.json", json.dumps(value).encode())

    def given(self) -> dict[str, Any]:
        """Return the values that the workers gave, by name."""
        return {path.stem: json.loads(path.read_text()) for path in self.path.glob("[!.]*.json")}

    def remove(self, pattern: str) -> None:
        """Delete the files that match a glob pattern."""
        for path in self.path.glob(pattern):
            path.unlink(missing_ok=True)

    def raise_failure(self) -> None:
        """Raise the UserError that stopped a worker, if there is one.

        A runner only passes on its text, somewhere inside an error of its own.
        """
        for path in sorted(self.path.glob("*.error")):
            raise UserError(path.read_text())


@contextlib.contextmanager
def staging_folder(lake_root: Path) -> Iterator[Staging]:
    """Make a new staging folder that only this user can open, and remove it when the job ends.

    The next job removes the folder of a job that was killed. Raises UserError while a command cleans the tables,
    because that would delete rows that are not committed yet, and where the folder of all jobs is a link.
    """
    root = lake_root / ".staging"
    refuse_link(root)
    root.mkdir(parents=True, exist_ok=True)
    cleaning = f"tutelage-forget or tutelage-prune is running in {lake_root}; wait until it ends, or stop it"
    with contextlib.ExitStack() as held:
        # Jobs share the lock; who cleans has it alone.
        held.enter_context(locked(lake_root / LOCK, cleaning, shared=True))
        sweep(lake_root)
        # The folder is locked before another job can find it.
        if remote(root):
            path = root / f"{time.time_ns()}-{uuid.uuid4().hex}"
            held.callback(remove, path)
            held.enter_context(locked(path / LOCK, f"{path} belongs to another job"))
            yield Staging(str(path))
            return
        new = Path(tempfile.mkdtemp(prefix="new-", dir=root))
        held.enter_context(locked(new, f"{new} belongs to another job"))
        path = new.rename(root / new.name.replace("new", str(time.time_ns()), 1))
        try:
            yield Staging(str(path))
        finally:
            shutil.rmtree(path, ignore_errors=True)


def left_over(lake_root: Path) -> list[Path]:
    """Return the staging folders of jobs that run or were killed. The rows of a killed job are in no table.

    Raises UserError where the folder that holds them is a link.
    """
    refuse_link(lake_root / ".staging")
    return sorted((lake_root / ".staging").glob("[0-9]*"))


def abandoned(lake_root: Path) -> list[Path]:
    """Return the staging folders of jobs that were killed."""
    found = []
    for left in left_over(lake_root):
        # A killed process holds no lock.
        with contextlib.suppress(OSError, UserError), locked(_lock(left), ""):
            found.append(left)
    return found


def sweep(lake_root: Path) -> None:
    """Remove the staging folders of killed jobs."""
    for left in left_over(lake_root):
        with contextlib.suppress(OSError, UserError), locked(_lock(left), f"{left} is in use"):
            remove(left)  # Of a folder that its job has removed just now, the lock has left a file.


def _lock(staging: Path) -> Path:
    """Return what the job of a staging folder holds a lock on: a lease needs a file."""
    return staging / LOCK if remote(staging) else staging


def run(
    build: Callable[[beam.Pipeline], object],
    *,
    flags: Sequence[str],
    staging: Staging,
    units: int,
    progress: Progress | None = None,
) -> None:
    """Build and run a pipeline until it ends.

    Raises a worker's UserError with its own text, TransientError where workers were killed and the engine has no
    others, and DryRun where the flags ask for no more than a translation.
    """
    engine = Engine(flags)
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(_PROGRESS_SECONDS * (10 if remote(staging.path) else 1)):
            if progress:
                progress(len(list(staging.path.glob("*.done"))), units)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        with short_sampling_period():
            _run(engine, partial(engine.start, build, units), staging)
    except Exception:
        staging.raise_failure()
        raise
    finally:
        finished.set()
        watcher.join()


def _run(engine: Engine, start: Callable[[], None], staging: Staging) -> None:
    watched = partial(until_killed, signs=staging.signs, timeout=engine.worker_timeout, cancel=engine.cancel)
    if engine.in_process:
        start()
    elif engine.runs_at_start:
        watched(start)
    else:
        start()
        watched(engine.wait)
