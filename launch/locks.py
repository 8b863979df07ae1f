"""The locks of a workdir. The system releases the lock of a process that was killed."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tutelage.pipeline.io.atomic import make_folder
from tutelage.pipeline.io.locks import locked
from tutelage.pipeline.lake import LOCK
from tutelage.trainers.run import Run


@contextmanager
def _exclusive(path: Path, busy: str, *, patience: float = 0) -> Iterator[None]:
    """Hold the lock file at `path`.

    Raises TransientError(`busy`) where another process still does after `patience` s.
    """
    make_folder(path.parent)
    with locked(path, f"{busy}; wait for it, or stop it", wait=patience):
        yield


@contextmanager
def alone(run: Run) -> Iterator[None]:
    """Allow one run at a time in a workdir: the nightly job may start while the last one still goes on."""
    with _exclusive(run.root / ".lock", f"another tutelage-run is at work in {run.root}"):
        yield


@contextmanager
def on_model(run: Run, model: str) -> Iterator[None]:
    """Allow one process at a time to work on a model."""
    with _exclusive(run.folder(model) / ".lock", f"another process is working on {model} in {run.root}"):
        yield


@contextmanager
def on_tables(run: Run, *, patience: float = 0, why: str = "") -> Iterator[None]:
    """Keep jobs that write tables out. `why` begins the message of the TransientError where one is at work."""
    root = run.lake.interactions.path.parent
    with _exclusive(root / LOCK, f"{why}a job is writing tables in {root}", patience=patience):
        yield


@contextmanager
def on_everything(run: Run, models: Sequence[str]) -> Iterator[None]:
    """Keep trainers, exports and jobs out of the workdir, so that files which nothing refers to can be removed."""
    with ExitStack() as locks:
        for model in models:
            locks.enter_context(on_model(run, model))
        locks.enter_context(on_tables(run))
        yield


@contextmanager
def to_remove(run: Run, models: Sequence[str] | None = None, *, dry_run: bool) -> Iterator[None]:
    """Be `alone`, and with `models` also hold the locks `on_everything`; with `dry_run` hold no lock."""
    with ExitStack() as locks:
        if not dry_run:
            locks.enter_context(alone(run))
            if models is not None:
                locks.enter_context(on_everything(run, models))
        yield
