"""Run commands, each in a process forked from one that has imported everything and run nothing."""

import contextlib
import datetime
import itertools
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

CONFIG = str(Path(__file__).with_name("five_days.py"))
STUDENTS = ("control", "auxiliary", "snapshot")
STEPS = {
    "materialize": "materialize",
    "teach": "teach",
    "export teacher": "export --model=teacher",
    "label": "label",
    **{f"train {name}": f"student --student={name}" for name in STUDENTS},
    **{f"export {name}": f"export --model={name} --export=all" for name in STUDENTS},
    "report": "report",
}
"""The command and the flags of each step, in the order in which they depend on one another."""

# A command sets this before it imports TensorFlow, which here is imported before the command is run.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
_context = multiprocessing.get_context("forkserver")
# What the commands import. Importing TensorFlow takes many times as long as a fork.
_context.set_forkserver_preload(
    [
        "tutelage.launch.run",
        "tutelage.launch.actions.export",
        "tutelage.pipeline.materialize",
        "tutelage.pipeline.label",
        "tutelage.trainers.day_loop",
        "tutelage.export.publish",
        "tensorboard.summary",
    ]
)


class Command:
    """A command that runs in `workdir`; `first` is called in its process before anything else."""

    def __init__(
        self,
        command: str,
        workdir: Path,
        *,
        config: str = CONFIG,
        first: Callable[[], object] | None = None,
    ):
        self._marks, theirs = _context.Pipe(duplex=False)
        descriptor, err = tempfile.mkstemp()
        os.close(descriptor)
        self._err = Path(err)
        name, *flags = command.split()
        flags += [f"--config={config}", f"--workdir={workdir}"]
        self.process = _context.Process(target=_run, args=(name, flags, err, theirs, first))
        self.process.start()
        theirs.close()
        self.started = float(self._marks.recv_bytes())

    def commits(self) -> Iterator[float]:
        """Yield the seconds since its start whenever it is about to commit something: by a rename, or in Delta."""
        with contextlib.suppress(EOFError):
            while True:
                yield float(self._marks.recv_bytes()) - self.started

    def end(self) -> tuple[int | None, str]:
        """Wait for its end; return its exit status, and what it wrote to stderr."""
        self.process.join()
        err = self._err.read_text()
        self._err.unlink()
        return self.process.exitcode, err


def complete(step: str, workdir: Path, *, first: Callable[[], object] | None = None) -> list[float]:
    """Run a step to its end; return the seconds until each of its commits, and until its end."""
    command = Command(STEPS[step], workdir, first=first)
    seconds = list(command.commits())
    code, err = command.end()
    assert (code, err) == (0, ""), f"{step}: {code}, {err}"
    return [*seconds, time.monotonic() - command.started]


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """The run that nothing disturbed: the workdir before and after each step."""

    before: dict[str, Path] = field(default_factory=dict)
    after: dict[str, Path] = field(default_factory=dict)


def _run(
    name: str, flags: list[str], err: str, marks: Connection, first: Callable[[], object] | None
) -> None:
    os.dup2(os.open(err, os.O_WRONLY), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stderr, sys.stdout = os.fdopen(2, "w", buffering=1), os.fdopen(1, "w")
    sys.argv = [f"tutelage-{name}", *flags]
    if first:
        first()
    tell_commits(partial(_mark, marks))
    from tutelage.launch import commands

    _mark(marks)
    getattr(commands, name)()


def _mark(marks: Connection) -> None:
    # All processes share this clock.
    marks.send_bytes(repr(time.monotonic()).encode())


def tell_commits(tell: Callable[[], object]) -> None:
    """Call `tell` whenever this process is about to commit something: by a rename, or in Delta."""
    from deltalake import DeltaTable

    from tutelage.pipeline import table

    def told(act: Callable[..., Any]) -> Callable[..., Any]:
        def tell_first(*args: Any, **kwargs: Any) -> Any:
            tell()
            return act(*args, **kwargs)

        return tell_first

    def tell_renames(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.rename":
            tell()

    sys.addaudithook(tell_renames)
    DeltaTable.create_write_transaction = told(DeltaTable.create_write_transaction)
    table.write_deltalake = told(table.write_deltalake)


def run_the_clock_backwards() -> None:
    """Make each reading of the time of day in this process an hour earlier than the last one."""
    from tutelage.export.versions import decisions
    from tutelage.launch.report import data

    now, looks = time.time(), itertools.count(1)

    def seconds() -> float:
        return now - 3600 * next(looks)

    class Backwards(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.datetime.fromtimestamp(seconds(), tz)

    time.time, time.time_ns = seconds, lambda: int(seconds() * 1e9)
    decisions.datetime = data.datetime = Backwards  # type: ignore[attr-defined]
