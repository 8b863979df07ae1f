"""Whatever moves versions is killed with SIGKILL while a watcher polls what is served; run again, it ends the same."""

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tutelage.export.remote import mirror
from tutelage.export.versions import CARD, DIGESTS, Version, Versions
from tutelage.pipeline.io.json import unsealed
from tutelage.trainers.checkpoints import State

DAYS = [date(2026, 1, 29) + timedelta(days=n) for n in range(5)]
STATES = [State(day=day, step=n, examples=n, rows=1, id=f"checkpoint-{n}") for n, day in enumerate(DAYS)]
NUMBERS = [int(f"{day:%Y%m%d}01") for day in DAYS]
# At the start there are a retired version older than the two served ones, and a rejected one that is newer.
RETIRED, FIRST, SECOND, REJECTED, NEW = NUMBERS
SERVED = [FIRST, SECOND]
REASON = "late labels, sound model"
FILES = {"saved_model.pb": 20_000, "variables/variables.data-00000-of-00001": 100_000, "assets/ids": 10}


def _sizes(number: int) -> dict[str, int]:
    """Return the bytes of each file of a version. The new one is large, so that it takes a while to write."""
    return {name: size * (30 if number == NEW else 1) for name, size in FILES.items()}


def _stage(versions: Versions, state: State) -> Path:
    def write(path: str) -> None:
        for name, size in _sizes(NUMBERS[STATES.index(state)]).items():
            (Path(path) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(path) / name).write_bytes(bytes(size))

    return versions.stage(state, write)


def _export(versions: Versions, end: Callable[[Path], Version]) -> None:
    """Do nothing if the checkpoint already has a version."""
    for state in versions.unpublished([STATES[4]]):
        end(_stage(versions, state))


def _log(versions: Versions) -> list[dict[str, Any]]:
    return (
        [unsealed(json.loads(line)) for line in versions.log.read_text().splitlines()]
        if versions.log.exists()
        else []
    )


def _unless_done(action: str, versions: Versions, act: Callable[[], object]) -> None:
    """Act unless the log says that it is done, as somebody would who runs a killed command again."""
    if not any(record["action"] == action and record["done"] for record in _log(versions)):
        act()


def _mirror(versions: Versions) -> None:
    mirror(versions.folder, f"file://{versions.folder.parents[1]}/mirror")


def _mirrored_before(versions: Versions) -> None:
    """Make a copy of the two served versions, then a new version."""
    _mirror(versions)
    _export(versions, versions.publish)
    versions.retire(keep=1)


@dataclass(frozen=True, kw_only=True)
class Case:
    act: Callable[[Versions], object]
    serves: int
    """What is served afterwards."""
    shown: list[int] = field(default_factory=lambda: SERVED)
    """The versions that may be served then."""
    prepare: Callable[[Versions], object] = lambda versions: None
    watched: str = "export/wide"


CASES = {
    "publish": Case(act=lambda v: _export(v, v.publish), serves=NEW, shown=[*SERVED, NEW]),
    "reject": Case(act=lambda v: _export(v, v.reject), serves=SECOND),
    "promote a rejected": Case(
        act=lambda v: v.promote(REJECTED, REASON), serves=REJECTED, shown=[*SERVED, REJECTED]
    ),
    "promote a retired": Case(act=lambda v: v.promote(RETIRED), serves=RETIRED, shown=[RETIRED]),
    "rollback": Case(act=lambda v: _unless_done("rollback", v, v.rollback), serves=FIRST, shown=[FIRST]),
    "keep": Case(act=lambda v: v.retire(keep=1), serves=SECOND, shown=[SECOND]),
    "pin": Case(act=lambda v: v.pin(FIRST, REASON), serves=SECOND),
    "unpin": Case(
        prepare=lambda v: v.pin(FIRST),
        act=lambda v: _unless_done("unpin", v, lambda: v.unpin(FIRST)),
        serves=SECOND,
    ),
    "mirror": Case(prepare=_mirrored_before, act=_mirror, serves=NEW, shown=[NEW], watched="mirror"),
}


class Watcher:
    """Polls a folder like a server, and notes what it must not see."""

    def __init__(self, folder: Path, versions: Versions, allowed: set[int]):
        self.folder, self.versions, self.allowed = folder, versions, allowed
        # In a copy, a version arrives file by file, and is complete when saved_model.pb is there.
        self.copy = folder != versions.folder
        self.shown: list[int] = []
        self.served: list[int] = []
        """The highest version that was shown, each time that it changed."""
        self.polls = 0
        self.wrong: list[str] = []

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        self.poll()
        stop = threading.Event()

        def poll_on() -> None:
            try:
                while not stop.is_set():
                    self.poll()
            except BaseException as error:
                self.wrong.append(repr(error))

        thread = threading.Thread(target=poll_on)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self.poll()

    def poll(self) -> None:
        self.polls += 1
        names = [name for name in os.listdir(self.folder) if name.isdecimal()]
        if self.copy:
            names = [name for name in names if (self.folder / name / "saved_model.pb").exists()]
        self.shown = sorted(map(int, names))
        if not self.shown:
            self.wrong.append("nothing is served")
        elif self.served[-1:] != self.shown[-1:]:
            self.served.append(self.shown[-1])
        for number in self.shown:
            try:
                sizes = self._look(self.folder / str(number))
            except FileNotFoundError:
                continue  # It was moved or removed after it was listed.
            if not all(sizes.pop(name, 0) for name in (CARD, DIGESTS)) or sizes != _sizes(number):
                self.wrong.append(f"{number} is not complete: {sizes}")
            if number not in self.allowed and not self._by_override(number):
                self.wrong.append(f"{number} is not blessed")

    def _look(self, path: Path) -> dict[str, int]:
        # An open folder stays the same when it is renamed.
        at = os.open(path, os.O_DIRECTORY)
        try:
            sizes = {
                os.path.normpath(f"{where}/{name}"): os.stat(name, dir_fd=inside).st_size
                for where, _, files, inside in os.fwalk(dir_fd=at)
                for name in files
            }
            if self.copy:
                os.stat("saved_model.pb", dir_fd=at)
        finally:
            os.close(at)
        return sizes

    def _by_override(self, number: int) -> bool:
        decided = {"action": "promote", "version": number, "reason": REASON}
        return number == REJECTED and any(decided.items() <= record.items() for record in _log(self.versions))


def _fork(act: Callable[[], object]) -> tuple[int, int]:
    """Fork a process that acts when the pipe to it is closed; return its id and the pipe."""
    start, go = os.pipe()
    pid = os.fork()
    if pid:
        os.close(start)
        return pid, go
    try:
        os.close(go)
        os.read(start, 1)
        act()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _killed_after(seconds: float, act: Callable[[], object]) -> Callable[[], bool]:
    """Return a function that runs `act` in another process, and returns whether the kill came before its end."""
    pid, go = _fork(act)

    def run() -> bool:
        os.close(go)
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
        return _cut_short(pid)

    return run


def _killed_before(nth: int, act: Callable[[], object]) -> Callable[[], bool]:
    """Return the same, killed just before the nth change that it makes to a file."""

    def counted() -> None:
        left = nth

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if writes or event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir"):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        act()

    pid, go = _fork(counted)

    def run() -> bool:
        os.close(go)
        return _cut_short(pid)

    return run


def _cut_short(pid: int) -> bool:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL), "it failed; its traceback is printed"
    return code != 0


def _versions(root: Path) -> Versions:
    return Versions(root / "export" / "wide")


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("before")
    versions = _versions(root)
    for state in STATES[:3]:
        versions.publish(_stage(versions, state))
    versions.reject(_stage(versions, STATES[3]))
    assert versions.retire(keep=2) == [RETIRED]
    return root


def _prepare(before: Path, root: Path, case: Case) -> Versions:
    shutil.copytree(before, root)
    versions = _versions(root)
    case.prepare(versions)
    return versions


def _tree(root: Path) -> dict[str, object]:
    """Return the bytes of each file, and the decisions without their times."""
    versions = _versions(root)
    log = [{key: value for key, value in record.items() if key != "time"} for record in _log(versions)]
    # A killed process may have made a folder whose number is not in the ledger; the next one adds it.
    apart = (versions.log, versions.ledger)
    files = [path for path in root.rglob("*") if path.is_file() and path not in apart and path.name[0] != "."]
    tree = {str(path.relative_to(root)): path.read_bytes() for path in files}
    return {"log": log, "numbers": versions.used(), **tree}


def _check(
    before: Path, root: Path, case: Case, kill: Callable[[Callable[[], object]], Callable[[], bool]]
) -> tuple[bool, int]:
    """Kill it under a watcher and run it again; return whether it was cut short, and the number of polls."""
    versions = _prepare(before, root, case)
    run = kill(lambda: case.act(versions))
    watcher = Watcher(root / case.watched, versions, {*SERVED, *case.shown} - {REJECTED})
    with watcher.watching():
        cut_short = run()
        case.act(versions)
    assert not watcher.wrong
    # The served version changes once, or not at all.
    assert watcher.served == list(dict.fromkeys([SECOND, case.serves]))
    assert watcher.shown == case.shown
    return cut_short, watcher.polls


@pytest.mark.parametrize("name", CASES)
def test_killed_before_any_change_of_a_file_and_run_again_it_ends_the_same(
    name: str, before: Path, tmp_path: Path
) -> None:
    case = CASES[name]
    case.act(_prepare(before, tmp_path / "never killed", case))
    expected = _tree(tmp_path / "never killed")
    for nth in range(1, 100):
        root = tmp_path / str(nth)
        cut_short, _ = _check(before, root, case, partial(_killed_before, nth))
        assert _tree(root) == expected, f"killed before change {nth}"
        if not cut_short:
            break
    # It was killed before each of its changes, of which there were some.
    assert 4 < nth < 99


@pytest.mark.slow
def test_killed_at_a_hundred_random_instants_it_only_shows_complete_blessed_versions(
    before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds, expected = {}, {}
    for name, case in CASES.items():
        versions = _prepare(before, tmp_path / name, case)
        started = time.monotonic()
        case.act(versions)
        seconds[name] = time.monotonic() - started
        expected[name] = _tree(tmp_path / name)
    chance = random.Random(7)
    kills = cut_short = polls = 0
    while cut_short < 100:
        name = list(CASES)[kills % len(CASES)]
        root = tmp_path / str(kills)
        instant = chance.uniform(0, seconds[name])
        cut, polled = _check(before, root, CASES[name], partial(_killed_after, instant))
        assert _tree(root) == expected[name], f"{name} killed after {instant} s"
        kills, cut_short, polls = kills + 1, cut_short + cut, polls + polled
        shutil.rmtree(root)
    with capsys.disabled():
        print(f"\n{kills} kills, {cut_short} of them before the end; {polls:,} polls")
