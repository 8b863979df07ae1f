"""`tutelage-run` whose processes can be killed one by one: each tells its process id, its commits and its end."""

import contextlib
import dataclasses
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import psutil

from tests.faults.forked import Command, tell_commits

CONFIG = str(Path(__file__).with_name("four_days.py"))
DRIVER = "driver"
WORKER = "Beam worker"
NIGHT = "run --export=all"
_POLL_SECONDS = 0.002
_WORKER_POLL_SECONDS = 0.05
"""Looking for the processes below another one takes milliseconds."""
_PATIENCE_SECONDS = 300


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instant:
    """When a process is killed: `seconds` after it was about to make the commit of this number; 0: after its start."""

    commit: int
    seconds: float


class Night:
    """A command, by default the nightly one, in `workdir`; `told` is a new folder, for what its processes tell."""

    def __init__(self, workdir: Path, told: Path, command: str = NIGHT):
        told.mkdir()
        self.told = told
        self.command = Command(command, workdir, config=CONFIG, first=partial(_fork_trainers, told))

    def kill(self, role: str, instant: Instant) -> bool:
        """Kill the process of `role`: a model, the driver or a Beam worker; return whether that was before its end."""
        if not self._wait_for(f"{role}.pid"):
            return False
        pid = int((self.told / f"{role}.pid").read_text())
        while instant.commit and self.commits(role) < instant.commit and not self._ended(role):
            time.sleep(_POLL_SECONDS)
        time.sleep(instant.seconds)
        if self._ended(role):
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return True

    def kill_worker(self, seconds: float) -> bool:
        """Kill one of the Beam workers `seconds` after it started; return whether that was before its end."""
        driver = psutil.Process(self.command.process.pid)
        while True:
            try:
                workers = [
                    each for each in driver.children(recursive=True) if "sdk_worker" in str(each.cmdline())
                ]
                if workers:
                    time.sleep(seconds)
                    workers[-1].kill()
                    return True
            except psutil.NoSuchProcess:
                return False
            if not driver.is_running() or driver.status() == psutil.STATUS_ZOMBIE:
                return False
            time.sleep(_WORKER_POLL_SECONDS)

    def end(self) -> tuple[int | None, str]:
        """Wait for the end of the driver and of its processes; return its exit status and what it wrote to stderr."""
        ended = self.command.end()
        for path in self.told.glob("*.pid"):
            while psutil.pid_exists(int(path.read_text())):  # A trainer follows its driver.
                time.sleep(_POLL_SECONDS)
        return ended

    def seconds(self, role: str) -> float:
        """Return the time that the process of `role` took."""
        return (self.told / f"{role}.end").stat().st_mtime - (self.told / f"{role}.pid").stat().st_mtime

    def commits(self, role: str) -> int:
        """Return how many commits the process of `role` was about to make so far."""
        path = self.told / f"{role}.commits"
        return path.stat().st_size if path.exists() else 0

    def _ended(self, role: str) -> bool:
        return (self.told / f"{role}.end").exists() or not self.command.process.is_alive()

    def _wait_for(self, name: str) -> bool:
        started = time.monotonic()
        while not (self.told / name).exists():
            assert time.monotonic() < started + _PATIENCE_SECONDS, f"{name} did not come"
            if not self.command.process.is_alive():
                return False
            time.sleep(_POLL_SECONDS)
        return True


def instants(night: Night, role: str, chance: random.Random) -> Iterator[Instant]:
    """Yield instants at which to kill a role, by an undisturbed night; every other one is just after a commit began."""
    while True:
        yield Instant(commit=0, seconds=chance.uniform(0, night.seconds(role)))
        yield Instant(commit=chance.randint(1, night.commits(role)), seconds=chance.uniform(0, 0.05))


def _fork_trainers(told: Path) -> None:
    """Let the processes of models be forked by the server of this one, which is their driver.

    The server has imported what they need, and has run nothing. A process that is spawned imports it anew.
    """
    from tutelage.launch import pool

    server: Any = forkserver._forkserver  # type: ignore[attr-defined]
    server.ensure_running = lambda: None  # It is the one that has forked this process.
    forks = multiprocessing.get_context("forkserver")
    pool.multiprocessing.get_context = lambda method: forks  # type: ignore[assignment]

    def start(context: Any, arguments: tuple[Any, ...]) -> Any:
        ours, theirs = context.Pipe(duplex=False)
        _, _, (model, *_) = arguments
        process = context.Process(target=_trainer, args=(told, model, theirs, *arguments))
        process.start()
        theirs.close()
        return ours, process

    pool._start = start
    _tell(told, DRIVER)


def _trainer(told: Path, model: str, connection: Any, setup: Any, work: Any, arguments: Any) -> None:
    from tutelage.launch import pool

    # The server is the parent of this process, which follows its driver all the same.
    os.getppid = lambda: setup.parent if psutil.pid_exists(setup.parent) else 1
    _tell(told, model)
    pool._child(connection, setup, work, arguments)
    (told / f"{model}.end").touch()


def _tell(told: Path, role: str) -> None:
    """Write the process id of a role, and a byte for each of its commits."""
    file = os.open(told / f"{role}.commits", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    tell_commits(lambda: os.write(file, b"."))
    new = told / f"{role}.new"
    new.write_text(str(os.getpid()))
    os.link(new, told / f"{role}.pid")  # Not a rename, which would be told as a commit.
