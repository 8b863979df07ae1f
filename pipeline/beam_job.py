"""How the Beam jobs run: the runner, its options, progress, and how a user's mistake gets out of a worker."""

import contextlib
import io
import pickle
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import PCollection
from apache_beam.runners.worker.statesampler import StateSampler
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.atomic import atomic_write
from tutelage.pipeline.io.locks import locked
from tutelage.pipeline.lake import LOCK

# `DirectRunner` would first try to download another runner.
DEFAULT_RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"

# A bundle's end waits for a thread that looks, ever less often, what the bundle is at: by default and after a second
# every 200 ms, as long as a small job's stage takes. Beam has no option for it.
StateSampler.__init__.__defaults__ = (20,)

Progress = Callable[[int, int], None]
"""Called with (units done, units in all)."""


def options(flags: Sequence[str]) -> PipelineOptions:
    """Beam's options from flags like `--runner=FlinkRunner`.

    Raises UserError for a flag that Beam would ignore, and for a mode that loses data.
    """
    parsed = PipelineOptions(list(flags))
    unknown: list[str] = []
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            known = parsed.get_all_options(
                add_extra_args_fn=lambda parser: unknown.extend(parser.parse_known_args(flags)[1])
            )
    except SystemExit:  # argparse has printed its usage, and what is wrong last.
        raise UserError(f"--beam_flag: {message.getvalue().split('error: ')[-1].strip()}") from None
    for flag in unknown:
        name = flag.lstrip("-").split("=")[0]
        raise UserError(f"--beam_flag={flag}: Beam has no option {name!r}; see its PipelineOptions")
    if known.get("direct_running_mode") == "multi_threading":
        # Measured with Beam 2.77: it loses 0.3 to 2.7 % of the values of a GroupByKey.
        raise UserError("--direct_running_mode=multi_threading loses values in Beam 2.77; leave it out")
    return parsed


def one_group_per_unit(
    pipeline: beam.Pipeline, units: Iterable[Any]
) -> PCollection[tuple[int, Iterable[Any]]]:
    """Each unit in a group of its own, so that any worker takes it; Beam's Reshuffle takes longer to build than a small
    day to work on."""
    numbered = pipeline | "Units" >> beam.Create(list(enumerate(units)), reshuffle=False)
    return numbered | "Spread" >> beam.GroupByKey()


_AT_ONCE = 3


class ThreadedDoFn(beam.DoFn):
    """Calls `work` for three elements of a bundle at a time, and gives what it returns at the bundle's end.

    Polars and Arrow leave the interpreter to others while they work, and have parts that keep one processor only.
    """

    def start_bundle(self) -> None:
        self._pool = ThreadPoolExecutor(_AT_ONCE)
        self._begun: list[Future[Iterable[Any]]] = []

    def process(self, element: Any) -> None:
        self._begun.append(self._pool.submit(self.work, element))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        try:
            for each in self._begun:
                yield from map(GlobalWindows.windowed_value, each.result())
        finally:
            self._pool.shutdown(cancel_futures=True)

    def work(self, element: Any) -> Iterable[Any]:
        raise NotImplementedError


class Staging:
    """A job's own folder beside the tables: what its workers tell each other, and the driver.

    Nothing reads the folder of another job. Its name is the job's attempt number.
    """

    def __init__(self, path: str):
        self.path = Path(path)
        self.attempt = int(self.path.name)

    def done(self, unit: int) -> None:
        (self.path / f"{unit}.done").touch()

    def failed(self, unit: int | str, error: UserError) -> None:
        (self.path / f"{unit}.error").write_text(str(error))

    @contextlib.contextmanager
    def telling(self, unit: int | str) -> Iterator[None]:
        """Inside, a user's mistake is noted for the driver before it stops the worker."""
        try:
            yield
        except UserError as error:
            self.failed(unit, error)
            raise

    def give(self, name: str, value: object) -> None:
        """Hand a value to the driver, in the place of what was given under that name: a portable runner hands no
        elements back."""
        with atomic_write(self.path / f"{name}.given") as partial:
            partial.write_bytes(pickle.dumps(value))

    def given(self) -> dict[str, Any]:
        """What the workers gave, by name."""
        return {path.stem: pickle.loads(path.read_bytes()) for path in self.path.glob("[!.]*.given")}

    def remove(self, pattern: str) -> None:
        for path in self.path.glob(pattern):
            path.unlink()

    def raise_failure(self) -> None:
        """Raise the mistake that stopped a worker: a runner hands on its text only inside its own."""
        for path in sorted(self.path.glob("*.error")):
            raise UserError(path.read_text())


@contextlib.contextmanager
def staging_folder(lake_root: Path) -> Iterator[Staging]:
    """A new staging folder, removed when the job ends; that of a killed job is removed by the next one.

    Raises UserError where the tables are being cleaned: that would take away what is not committed yet.
    """
    root = lake_root / ".staging"
    root.mkdir(parents=True, exist_ok=True)
    cleaning = f"tutelage-forget or tutelage-prune is at work in {lake_root}; wait for it, or stop it"
    with contextlib.ExitStack() as held:
        # Jobs share the lock; who cleans has it alone.
        held.enter_context(locked(lake_root / LOCK, cleaning, shared=True))
        sweep(lake_root)
        path = root / str(time.time_ns())
        # It is locked before it has the name by which another job would find it.
        new = path.with_name(f"new-{path.name}")
        new.mkdir()
        held.enter_context(locked(new, f"{new} belongs to another job"))
        new.rename(path)
        try:
            yield Staging(str(path))
        finally:
            shutil.rmtree(path, ignore_errors=True)


def left_over(lake_root: Path) -> list[Path]:
    """The staging folders of jobs, at work or killed: the latter's rows are in no table."""
    return sorted((lake_root / ".staging").glob("[0-9]*"))


def sweep(lake_root: Path) -> None:
    """Remove the staging folders of killed jobs."""
    for left in left_over(lake_root):
        # The system takes the lock back from a killed process.
        with contextlib.suppress(OSError, UserError), locked(left, f"{left} is in use"):
            shutil.rmtree(left, ignore_errors=True)
            left.unlink(missing_ok=True)  # A lock file, where its job has removed the folder just now.


def run(
    build: Callable[[beam.Pipeline], object],
    *,
    flags: Sequence[str],
    staging: Staging,
    units: int,
    progress: Progress | None = None,
) -> None:
    """Build and run a pipeline to its end. Raises the UserError of a worker as it was."""
    parsed = options(flags)
    runner = parsed.get_all_options().get("runner") or DEFAULT_RUNNER
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(0.2):
            if progress:
                progress(len(list(staging.path.glob("*.done"))), units)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        with beam.Pipeline(runner=runner, options=parsed) as pipeline:
            build(pipeline)
    except Exception:
        staging.raise_failure()
        raise
    finally:
        finished.set()
        watcher.join()
