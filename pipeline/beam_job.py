"""How the Beam jobs run: the runner, its options, progress, and how a user's mistake leaves a worker."""

import contextlib
import io
import json
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import PCollection
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from tutelage.pipeline.beam_sampling import short_sampling_period
from tutelage.pipeline.beam_workers import until_killed
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.atomic import remove
from tutelage.pipeline.io.links import refuse_link
from tutelage.pipeline.io.locks import locked
from tutelage.pipeline.io.paths import as_path, remote
from tutelage.pipeline.io.store import FILES
from tutelage.pipeline.lake import LOCK

# `DirectRunner` would first try to download another runner.
DEFAULT_RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"

Progress = Callable[[int, int], None]
"""Called with the number of finished units and the number of all units."""


def options(flags: Sequence[str]) -> PipelineOptions:
    """Return Beam's options for flags like `--runner=FlinkRunner`.

    Raises UserError for a flag that Beam would ignore, for a value that it cannot parse, and for a mode that loses
    data.
    """
    parsed = PipelineOptions(list(flags))
    unknown: list[str] = []
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            known = parsed.get_all_options(
                add_extra_args_fn=lambda parser: unknown.extend(parser.parse_known_args(flags)[1])
            )
    except SystemExit:  # argparse prints its usage first and the reason last.
        raise UserError(f"--beam_flag: {message.getvalue().split('error: ')[-1].strip()}") from None
    for flag in unknown:
        name = flag.lstrip("-").split("=")[0]
        raise UserError(f"--beam_flag={flag}: Beam has no option {name!r}; see its PipelineOptions")
    if known.get("direct_running_mode") == "multi_threading":
        # Measured with Beam 2.77: it loses 0.3 to 2.7 % of the values of a GroupByKey.
        raise UserError("--direct_running_mode=multi_threading loses values in Beam 2.77; omit it")
    return parsed


def one_group_per_unit(
    pipeline: beam.Pipeline, units: Iterable[Any]
) -> PCollection[tuple[int, Iterable[Any]]]:
    """Put each unit into a group of its own, so that any worker may take it.

    Beam's Reshuffle does the same, but takes longer to build than a small day takes to process.
    """
    numbered = pipeline | "Units" >> beam.Create(list(enumerate(units)), reshuffle=False)
    return numbered | "Spread" >> beam.GroupByKey()


_THREADS = 3
_PROGRESS_SECONDS = 0.2


class ThreadedDoFn(beam.DoFn):
    """Calls `work` for three elements of a bundle at a time, and emits its results at the end of the bundle.

    Threads pay off because Polars and Arrow release the interpreter while they work, and have parts that use only one
    processor.
    """

    def start_bundle(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS)
        self._futures: list[Future[Iterable[Any]]] = []

    def process(self, element: Any) -> None:
        self._futures.append(self._pool.submit(self.work, element))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        try:
            for future in self._futures:
                yield from map(GlobalWindows.windowed_value, future.result())
        finally:
            self._pool.shutdown(cancel_futures=True)

    def work(self, element: Any) -> Iterable[Any]:
        """Return what the element becomes; called in a thread."""
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

    def failed(self, unit: int | str, error: UserError) -> None:
        """Record a user's mistake, for `raise_failure`."""
        (self.path / f"{unit}.error").write_text(str(error))

    @contextlib.contextmanager
    def telling(self, unit: int | str) -> Iterator[None]:
        """Record a UserError that is raised inside, before it stops the worker."""
        try:
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
            if remote(left):
                remove(left)
                continue
            shutil.rmtree(left, ignore_errors=True)
            left.unlink(missing_ok=True)  # A lock file, where its job has removed the folder just now.


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

    Raises a worker's UserError with its own text, and TransientError where a worker's process was killed.
    """
    parsed = options(flags)
    known = parsed.get_all_options()
    runner = known.get("runner") or DEFAULT_RUNNER
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(_PROGRESS_SECONDS * (10 if remote(staging.path) else 1)):
            if progress:
                progress(len(list(staging.path.glob("*.done"))), units)

    def work() -> None:
        with short_sampling_period(), beam.Pipeline(runner=runner, options=parsed) as pipeline:
            build(pipeline)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        if known.get("direct_running_mode") == "multi_processing":
            until_killed(work)
        else:
            work()
    except Exception:
        staging.raise_failure()
        raise
    finally:
        finished.set()
        watcher.join()
