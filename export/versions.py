"""The versions of a model: numbers that are never used twice, a served folder that shows whole versions only.

WORKDIR/export/NAME/VERSION    served: of these a server loads the highest number
WORKDIR/rejected/NAME/VERSION  failed the gate
WORKDIR/retired/NAME/VERSION   taken out of service
WORKDIR/publication/NAME       log.jsonl (decisions), pinned/VERSION (the reason), staging/ (being made)
"""

import contextlib
import getpass
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.atomic import atomic_write
from tutelage.pipeline.io.locks import locked
from tutelage.trainers.checkpoints import State

CARD = "assets.extra/tutelage.json"
_VERSION = re.compile(r"[0-9]{10}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A SavedModel that an export made. `number` is YYYYMMDDNN: NN rises when the day is built again."""

    path: Path
    number: int
    day: date
    step: int
    checkpoint: str
    """Id of the checkpoint that it was made from."""


class Versions:
    """The versions of one model. `folder` is WORKDIR/export/NAME; the other folders are found from it.

    A version is moved by one rename, and what is to be served is in before anything else goes out: at every
    instant the highest number in `folder` is one that was published or promoted, and it is whole. An
    operation that was killed and is run again ends the same.
    """

    def __init__(self, folder: Path):
        root, self.name = folder.parents[1], folder.name
        self.folder = folder
        self.rejected = root / "rejected" / self.name
        self.retired = root / "retired" / self.name
        self.log = root / "publication" / self.name / "log.jsonl"
        self.pins = self.log.with_name("pinned")
        self.staging = self.log.with_name("staging")
        # Numbers that were ever given, one a line: a removed version's number stays used.
        self.ledger = folder / "numbers.txt"

    def published(self) -> list[Version]:
        """Those that are served, as in `versions_in`."""
        return versions_in(self.folder)

    def unpublished(self, states: Sequence[State]) -> list[State]:
        """Those that no version was made from, be it served, rejected or retired, and that one can be made from."""
        folders = (self.folder, self.rejected, self.retired)
        made = {version.checkpoint for folder in folders for version in versions_in(folder)}
        return [state for state in states if state.id not in made and not state.pruned]

    def used(self) -> set[str]:
        """The numbers that were ever given."""
        written = set(self.ledger.read_text().split()) if self.ledger.exists() else set()
        return written.union(
            path.name for folder in (self.folder, self.rejected, self.retired) for path in _numbered(folder)
        )

    def stage(self, state: State, write: Callable[[str], None]) -> Path:
        """Let `write` make a SavedModel in a folder that nothing serves; returns that folder.

        What a killed process left there is cleared away: one process at a time stages versions of a model.
        """
        shutil.rmtree(self.staging, ignore_errors=True)
        self.staging.mkdir(parents=True)
        path = self.staging / state.id
        write(str(path))
        card = {"day": str(state.day), "step": state.step, "checkpoint": state.id}
        (path / CARD).parent.mkdir(exist_ok=True)
        (path / CARD).write_text(json.dumps(card))
        return path

    def publish(self, staging: Path) -> Version:
        """Show a staged version under a new number. Raises UserError where it holds a link or no sound card."""
        return self._number(staging, self.folder)

    def reject(self, staging: Path) -> Version:
        """Put a staged version among the rejected ones, under a new number, as `publish` does."""
        return self._number(staging, self.rejected)

    def promote(self, number: int, reason: str = "") -> list[int]:
        """Serve this version, and retire those that are newer; returns the numbers of these.

        Raises UserError where there is no such version, where it was rejected and no reason is given, and
        where a newer one is pinned.
        """
        with self._alone():
            served = self._served()
            path = self._find(number).path
            if path.parent == self.rejected and not reason:
                raise UserError(
                    f"{self.name} {number} was rejected (why is in {path / 'assets.extra'}); "
                    f"give a --reason to serve it all the same"
                )
            if served and served[-1].number == number and not self._left("promote", number):
                return []
            return self._serve("promote", number, reason)

    def rollback(self, reason: str = "") -> list[int]:
        """Retire the version that is served, so that the one before it is; returns the retired number.

        Raises UserError where there is none before it, and where it is pinned.
        """
        with self._alone():
            served = self._served()
            if served and self._left("rollback", served[-1].number):  # killed when it had taken effect
                return self._serve("rollback", served[-1].number, reason)
            if len(served) < 2:
                raise UserError(
                    f"{self.name} has {len(served)} versions in {self.folder}, and a rollback needs two; "
                    f"--promote=VERSION brings one back from {self.retired} or {self.rejected}"
                )
            return self._serve("rollback", served[-2].number, reason)

    def withdraw(self, numbers: Sequence[int], reason: str) -> None:
        """Take these out of service, though nothing may be left; raises UserError where one is pinned."""
        with self._alone():
            self._check_pins(numbers)
            with self._noted("withdraw", max(numbers), reason, numbers):
                # The newest last: what is served changes once.
                for number in sorted(numbers):
                    self._move(number, self.retired)

    def retire(self, *, keep: int) -> list[int]:
        """Take all out of service but the newest `keep` (at least 1) and the pinned ones; returns the numbers."""
        with self._alone():
            pinned = self.pinned()
            old = [version.number for version in self.published() if version.number not in pinned][:-keep]
            for number in old:
                self._move(number, self.retired)
            return old

    def remove(self, numbers: Sequence[int]) -> None:
        """Delete these; their numbers stay used."""
        with self._alone():
            self._write_ledger()
            aside = self.staging.with_name("removed")
            for number in numbers:
                # Renamed first: half a version must not look like one.
                shutil.rmtree(aside, ignore_errors=True)
                os.rename(self._find(number).path, aside)
                shutil.rmtree(aside)

    def pin(self, number: int, reason: str = "") -> None:
        """Keep a served version from being retired. Raises UserError where it is not among the served ones."""
        with self._alone():
            if number not in {version.number for version in self.published()}:
                raise UserError(
                    f"{self.name} has no version {number} in {self.folder}; pin one that is there"
                )
            if self.pinned().get(number) == reason and not self._left("pin", number):
                return
            with self._noted("pin", number, reason):
                _replace(self.pins / str(number), f"{reason}\n")

    def unpin(self, number: int, reason: str = "") -> None:
        """Raises UserError where it is not pinned."""
        with self._alone():
            if number not in self.pinned() and not self._left("unpin", number):
                pinned = ", ".join(map(str, self.pinned())) or "nothing"
                raise UserError(f"{self.name} {number} is not pinned; pinned is {pinned}")
            with self._noted("unpin", number, reason):
                (self.pins / str(number)).unlink(missing_ok=True)

    def pinned(self) -> dict[int, str]:
        """The reason of each pinned version, by its number."""
        return {int(path.name): path.read_text().strip() for path in _numbered(self.pins)}

    def _number(self, staging: Path, folder: Path) -> Version:
        with self._alone():
            card = _card(staging)
            number = self._next(card["day"])
            path = folder / str(number)
            folder.mkdir(parents=True, exist_ok=True)
            os.rename(staging, path)
            # Written down after the rename, so that a killed process uses no number up.
            self._write_ledger()
            return Version(path=path, number=number, **card)

    def _write_ledger(self) -> None:
        _replace(self.ledger, "\n".join(sorted(self.used())) + "\n")

    def _next(self, day: date) -> int:
        prefix = f"{day:%Y%m%d}"
        last = max((int(number[8:]) for number in self.used() if number.startswith(prefix)), default=0)
        if last == 99:
            raise UserError(f"{self.folder}: day {day} was built 99 times, there is no number left for it")
        return int(f"{prefix}{last + 1:02d}")

    def _served(self) -> list[Version]:
        """The published ones. Raises UserError for a folder that no export made and a server might load."""
        paths = [path for path in self.folder.glob("*") if path.name.isdecimal() and path.is_dir()]
        return [_version(path) for path in sorted(paths)]

    def _find(self, number: int) -> Version:
        for folder in (self.folder, self.retired, self.rejected):
            if os.path.lexists(folder / str(number)):
                return _version(folder / str(number))
        raise UserError(
            f"{self.name} has no version {number} in {self.folder}, {self.retired} or {self.rejected}"
        )

    def _serve(self, action: str, number: int, reason: str) -> list[int]:
        newer = [version.number for version in self.published() if version.number > number]
        self._check_pins(newer)
        with self._noted(action, number, reason, newer) as retires:
            self._move(number, self.folder)
            # The newest last: what is served changes once.
            for old in newer:
                self._move(old, self.retired)
        return retires

    def _check_pins(self, numbers: Sequence[int]) -> None:
        for held in sorted(self.pinned().keys() & set(numbers)):
            why = f" ({self.pinned()[held]})" if self.pinned()[held] else ""
            raise UserError(f"{self.name} {held} is pinned{why} and would be retired; --unpin={held} first")

    def _move(self, number: int, folder: Path) -> None:
        path = self._find(number).path
        if path.parent != folder:
            folder.mkdir(parents=True, exist_ok=True)
            os.rename(path, folder / path.name)

    @contextlib.contextmanager
    def _noted(
        self, action: str, number: int, reason: str, retires: Sequence[int] = ()
    ) -> Iterator[list[int]]:
        """Note in the log what is to be done, then that it is; one that was killed and goes on is noted once."""
        records = self._records()
        if left := self._left(action, number):
            records.pop()
            reason = reason or left["reason"]
            retires = sorted({*left["retires"], *retires})
        record = {
            "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "who": _who(),
            "action": action,
            "version": number,
            "retires": list(retires),
            "reason": reason,
        }

        def note(*, done: bool) -> None:
            lines = [json.dumps(line) + "\n" for line in [*records, {**record, "done": done}]]
            _replace(self.log, "".join(lines))

        note(done=False)
        yield list(retires)
        note(done=True)

    def _left(self, action: str, number: int) -> dict[str, Any] | None:
        """The last record, where it is of this and was not done."""
        last = (self._records() or [{"done": True}])[-1]
        return None if last["done"] or (last["action"], last["version"]) != (action, number) else last

    def _records(self) -> list[dict[str, Any]]:
        return list(map(json.loads, self.log.read_text().splitlines())) if self.log.exists() else []

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time moves versions: for milliseconds, so others wait."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.log.with_name(".lock"), "", wait=None):
            yield


def _numbered(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[0-9]*") if _VERSION.fullmatch(path.name))


def versions_in(folder: Path) -> list[Version]:
    """Those in a folder, in the order of their numbers. What no export made is left out."""
    found = []
    for path in _numbered(folder):
        with contextlib.suppress(UserError):
            found.append(_version(path))
    return found


def _version(path: Path) -> Version:
    """Raises UserError where no export made it."""
    card = _card(path)
    if not _VERSION.fullmatch(path.name) or path.name[:8] != f"{card['day']:%Y%m%d}":
        raise UserError(f"{path} is of {card['day']} by its {CARD}, not by its name; remove it")
    return Version(path=path, number=int(path.name), **card)


def _card(path: Path) -> dict[str, Any]:
    """What `stage` wrote into a folder. Raises UserError where it did not, or where the folder holds a link."""
    links = [path] if path.is_symlink() else []
    for folder, folders, files in os.walk(path):
        links += [inside for name in (*folders, *files) if (inside := Path(folder, name)).is_symlink()]
    if links:
        raise UserError(f"{links[0]} is a link, and a version is made of plain files; remove {path}")
    try:
        card = json.loads((path / CARD).read_text())
        day, step, checkpoint = date.fromisoformat(card["day"]), int(card["step"]), str(card["checkpoint"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path} was made by no export: it holds no sound {CARD}; remove it") from None
    return {"day": day, "step": step, "checkpoint": checkpoint}


def _replace(path: Path, text: str) -> None:
    with atomic_write(path) as partial:
        partial.write_text(text)


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container's user may have no name.
        return str(os.getuid())
