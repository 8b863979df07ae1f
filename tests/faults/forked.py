"""Run commands, each in a process forked from one that has imported everything and run nothing."""

import contextlib
import datetime
import itertools
import math
import multiprocessing
import os
import random
import sys
import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
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

KILLS = {
    "materialize": 30,
    "teach": 30,
    "export teacher": 12,
    "label": 25,
    **{step: 25 for step in STEPS if step.startswith("train ")},
    "export control": 7,
    "export auxiliary": 7,
    "export snapshot": 7,
    "report": 7,
}
"""How often each step is killed, or its power is cut: 200 times in all."""
NEAR = 0.05
"""Half of the instants are aimed to within this many seconds of a commit."""

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
    """A command that runs in `workdir`, a path or a URL; `first` is called in its process before anything else."""

    def __init__(
        self,
        command: str,
        workdir: Path | str,
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


def instant(seconds: list[float], chance: random.Random, *, near: bool) -> float:
    """Return an instant on the clock of an undisturbed run; a `near` one is close to a commit."""
    *commits, end = seconds
    return chance.choice(commits) + chance.uniform(-NEAR, NEAR) if near else chance.uniform(0, end)


def kill(
    step: str,
    workdir: Path,
    seconds: list[float],
    at: float,
    *,
    first: Callable[[], object] | None = None,
) -> tuple[bool, float]:
    """Kill a step `at` seconds on the clock of the undisturbed run.

    Returns whether that was before its end, and the seconds since its last commit began. The instant is timed from the
    last commit before it, because the clocks of two runs drift apart.
    """
    before = bisect_right(seconds[:-1], at)
    command = Command(STEPS[step], workdir, first=first)
    commits = command.commits()
    made = [-math.inf, *islice(commits, before)]
    time.sleep(max(0.0, at - (seconds[before - 1] if before else 0.0)))
    command.process.kill()
    killed = time.monotonic() - command.started
    code, err = command.end()
    assert code in (0, -9), err
    return code != 0, killed - [*made, *commits][-1]


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
    """Call `tell` whenever this process is about to commit something: by a rename, in Delta, or to an object store."""
    from deltalake import DeltaTable

    from tutelage.pipeline import table
    from tutelage.pipeline.io.paths import StorePath

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
    StorePath._put = told(StorePath._put)  # type: ignore[method-assign]


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
