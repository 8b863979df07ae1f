"""Versions that are published, rejected, retired, promoted and pinned.

WORKDIR/export/NAME/VERSION    served: a server loads the highest number of these
WORKDIR/rejected/NAME/VERSION  failed the gate
WORKDIR/retired/NAME/VERSION   taken out of service
WORKDIR/publication/NAME       log.jsonl (decisions), pinned/VERSION (the reason), staging/ (being made),
                               damaged/VERSION (set aside, because its files are not those that were written)
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tutelage.export.versions.decisions import Decisions
from tutelage.export.versions.numbers import Numbers
from tutelage.export.versions.pins import Pins
from tutelage.export.versions.version import (
    GRAPH,
    Version,
    damage,
    is_number,
    numbered,
    read_card,
    read_verdict,
    read_version,
    versions_in,
    write_card,
    write_digests,
)
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.atomic import make_folder, move, move_new, remove
from tutelage.pipeline.io.folders import remove_whole, unfinished, whole_folders
from tutelage.pipeline.io.locks import locked
from tutelage.pipeline.io.paths import remote
from tutelage.pipeline.io.printable import counted
from tutelage.pipeline.io.scratch import scratch, telling_loss
from tutelage.trainers.checkpoints import State


class Versions:
    """The versions of one model. `folder` is WORKDIR/export/NAME; the other folders follow from it.

    A version is moved by one rename, and the version to serve is moved in before any other is moved out. At
    every instant the highest number in `folder` therefore names a whole version that was published or promoted.
    An operation that was killed and is run again ends the same.

    In an object store a move is a copy and a deletion: `saved_model.pb`, without which nothing is a version, is copied
    last and deleted first. What a killed process left of a move is cleared up before the next one. A version is staged
    in local scratch.
    """

    def __init__(self, folder: Path):
        root, self.name = folder.parents[1], folder.name
        self.folder = folder
        self.rejected = root / "rejected" / self.name
        self.retired = root / "retired" / self.name
        self.log = root / "publication" / self.name / "log.jsonl"
        self.staging = self.log.with_name("staging")
        """Where versions are made, in a workdir on a disk."""
        self._scratch = contextlib.ExitStack()
        """Holds the same for one in an object store."""
        self.set_aside = self.log.with_name("damaged")
        self.ledger = folder / "numbers.txt"
        self._folders = (self.folder, self.retired, self.rejected)
        self._damaged: list[Path] = []
        """The newest served version where `unpublished` has found it damaged."""
        self._decisions = Decisions(self.log)
        self._pins = Pins(self.log.with_name("pinned"), self.name)
        self._numbers = Numbers(self.ledger, (*self._folders, self.set_aside))

    def published(self) -> list[Version]:
        """Return the versions that are served, in the order of their numbers."""
        return versions_in(self.folder)

    def unpublished(self, states: Sequence[State]) -> list[State]:
        """Return the checkpoints of which a version can still be made.

        A checkpoint that a served, rejected or retired version was made from is not among them, nor is one
        whose tensors were pruned. That of the newest served version is, where the version is damaged.
        """
        made = {version.checkpoint for folder in self._folders for version in versions_in(folder)}
        self._damaged = [path for path in numbered(self.folder)[-1:] if damage(path)]
        made -= {version.checkpoint for version in self.published() if version.path in self._damaged}
        return [state for state in states if state.id not in made and not state.pruned]

    def waits(self, state: State) -> bool:
        """Return whether the version of `state` is among the rejected ones only because too little was known of it."""
        of_day = [path for path in numbered(self.rejected) if path.name[:8] == f"{state.day:%Y%m%d}"]
        return any(
            read_card(path)["checkpoint"] == state.id and read_verdict(path).startswith("wait")
            for path in of_day[-1:]
        )

    def newest_sound(self) -> Version | None:
        """Return the newest served version whose files are those that were written."""
        return next((version for version in reversed(self.published()) if not damage(version.path)), None)

    def set_damaged_aside(self, number: int) -> None:
        """Take a damaged version out of service, or from among the others, for good."""
        with self._locked():
            make_folder(self.set_aside)
            for folder in self._folders:
                if _is_there(path := folder / str(number)):
                    move(path, self.set_aside / path.name, last=GRAPH)

    def replace_damaged(self) -> list[str]:
        """Set the version aside that `unpublished` has found damaged, if a newer one is served; return how it is."""
        newest = self.newest_sound()
        found = []
        for path in self._damaged:
            if newest and newest.number > int(path.name) and path.exists():
                found.append(damage(path))
                self.set_damaged_aside(int(path.name))
        return found

    def torn_records(self) -> list[tuple[str, str, Callable[[], None]]]:
        """Return the records about versions that are not what was written: what, the remedy, and what does it."""
        found = [(what, remedy, self._decisions.repair) for what, remedy in self._decisions.torn()]
        if why := self._numbers.torn():
            remedy = "numbers of removed versions may be given again; --repair writes those that are known"
            found.append((why, remedy, self._numbers.write_down))
        return found

    def used(self) -> set[str]:
        """Return all numbers that were ever given."""
        return self._numbers.used()

    def pinned(self) -> dict[int, str]:
        """Return the reason of each pinned version, by its number."""
        return self._pins.reasons()

    def check_unpinned(self, numbers: Sequence[int]) -> None:
        """Raise UserError if one of these versions is pinned."""
        self._pins.check_none(numbers)

    def stage(self, state: State, write: Callable[[str], None]) -> Path:
        """Let `write` make a SavedModel in a folder that nothing serves, and return that folder.

        What a killed process left there is removed: only one process at a time stages versions of a model.
        """
        self._scratch.close()
        with contextlib.ExitStack() as made:
            if remote(self.staging):
                path = made.enter_context(scratch()) / state.id
            else:
                shutil.rmtree(self.staging, ignore_errors=True)
                self.staging.mkdir(parents=True)
                path = self.staging / state.id
            write(str(path))
            write_card(path, state)
            self._scratch = made.pop_all()
        return path

    def publish(self, staging: Path) -> Version:
        """Move a staged version into service under a new number.

        Raises UserError if it holds a link, or if its card is missing or damaged.
        """
        return self._move_in(staging, self.folder)

    def reject(self, staging: Path) -> Version:
        """Move a staged version to the rejected ones under a new number. Raises what `publish` raises."""
        return self._move_in(staging, self.rejected)

    def promote(self, number: int, reason: str = "") -> list[int]:
        """Serve this version, retire those that are newer, and return their numbers.

        Raises UserError if there is no such version, if it was rejected and no reason is given, or if a newer
        one is pinned.
        """
        with self._locked():
            served = self._served()
            path = self._find(number).path
            if path.parent == self.rejected and not reason:
                raise UserError(
                    f"{self.name} {number} was rejected (see {path / 'assets.extra'}); "
                    f"give a --reason to serve it anyway"
                )
            if served and served[-1].number == number and not self._decisions.unfinished("promote", number):
                return []
            return self._serve("promote", number, reason)

    def rollback(self, reason: str = "") -> list[int]:
        """Retire the served version so that the one before it is served; return the retired number.

        Raises UserError if there is none before it, or if it is pinned.
        """
        with self._locked():
            served = self._served()
            # A rollback that was killed after it had taken effect is completed, not taken again.
            if served and self._decisions.unfinished("rollback", served[-1].number):
                return self._serve("rollback", served[-1].number, reason)
            if len(served) < 2:
                raise UserError(
                    f"{self.name} has {counted(len(served), 'version')} in {self.folder}, but a rollback needs two; "
                    f"--promote=VERSION brings one back from {self.retired} or {self.rejected}"
                )
            return self._serve("rollback", served[-2].number, reason)

    def withdraw(self, numbers: Sequence[int], reason: str) -> None:
        """Retire these versions even if none is left to serve. Raises UserError if one of them is pinned."""
        with self._locked():
            self._pins.check_none(numbers)
            with self._decisions.record("withdraw", max(numbers), reason, numbers):
                self._retire(numbers)

    def retire(self, *, keep: int) -> list[int]:
        """Retire all but the newest `keep` (at least 1) and the pinned versions; return the retired numbers."""
        with self._locked():
            pinned = self.pinned()
            old = [version.number for version in self.published() if version.number not in pinned][:-keep]
            self._retire(old)
            return old

    def remove(self, numbers: Sequence[int]) -> None:
        """Delete these versions; their numbers stay used."""
        with self._locked():
            self._numbers.write_down()
            aside = self.staging.with_name("removed")
            for number in numbers:
                # A version that is half deleted must not look like one.
                remove_whole(self._find(number).path, aside, first=GRAPH)

    def pin(self, number: int, reason: str = "") -> None:
        """Keep a served version from being retired. Raises UserError if it is not served."""
        with self._locked():
            if number not in {version.number for version in self.published()}:
                raise UserError(
                    f"{self.name} has no version {number} in {self.folder}; pin one that is there"
                )
            if self.pinned().get(number) == reason and not self._decisions.unfinished("pin", number):
                return
            with self._decisions.record("pin", number, reason):
                self._pins.add(number, reason)

    def unpin(self, number: int, reason: str = "") -> None:
        """Let a pinned version be retired again. Raises UserError if it is not pinned."""
        with self._locked():
            if number not in self.pinned() and not self._decisions.unfinished("unpin", number):
                pinned = ", ".join(map(str, self.pinned())) or "none"
                raise UserError(f"{self.name} {number} is not pinned; pinned versions: {pinned}")
            with self._decisions.record("unpin", number, reason):
                self._pins.remove(number)

    def _move_in(self, staging: Path, folder: Path) -> Version:
        with self._locked():
            with telling_loss(staging) if remote(folder) else contextlib.nullcontext():
                card = read_card(staging)
                number = self._numbers.next(card["day"])
                path = folder / str(number)
                make_folder(folder)
                write_digests(staging)
                move_new(staging, path, last=GRAPH)
            # Written after the rename, so that a killed process does not waste a number.
            self._numbers.write_down()
            return Version(path=path, number=number, **card)

    def _served(self) -> list[Version]:
        """Return the published versions. Raises UserError for a folder that no export made: a server may load it."""
        paths = whole_folders(self.folder, "*", GRAPH)
        return [read_version(path) for path in paths if path.name.isdecimal()]

    def _find(self, number: int) -> Version:
        for folder in self._folders:
            if _is_there(folder / str(number)):
                return read_version(folder / str(number))
        raise UserError(
            f"{self.name} has no version {number} in {self.folder}, {self.retired} or {self.rejected}"
        )

    def _serve(self, action: str, number: int, reason: str) -> list[int]:
        newer = [version.number for version in self.published() if version.number > number]
        self._pins.check_none(newer)
        if why := damage(self._find(number).path, contents=True):
            raise UserError(f"{self.name} {number} is damaged: {why}; serve another version")
        with self._decisions.record(action, number, reason, newer) as retires:
            self._move(number, self.folder)
            self._retire(newer)
        return retires

    def _retire(self, numbers: Sequence[int]) -> None:
        # In rising order: the highest number, which is served, changes only once.
        for number in sorted(numbers):
            self._move(number, self.retired)

    def _move(self, number: int, folder: Path) -> None:
        path = self._find(number).path
        if path.parent != folder:
            make_folder(folder)
            move(path, folder / path.name, last=GRAPH)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process at a time move versions. A move takes milliseconds, so the others wait."""
        make_folder(self.log.parent)
        with locked(self.log.with_name(".lock"), "", wait=None):
            self._clear_up()
            yield

    def _clear_up(self) -> None:
        """Remove from an object store what a process that was killed in a move has left.

        Of a version that is in two folders the served one stays, otherwise the one that is not rejected.
        """
        seen: set[str] = set()
        for folder in self._folders:
            if not remote(folder):
                return
            for part in unfinished(folder, GRAPH):
                if is_number(part.name):
                    remove(part)
            for path in numbered(folder):
                if path.name in seen:
                    remove(path, first=GRAPH)
                seen.add(path.name)


def _is_there(path: Path) -> bool:
    """Return whether a version, or anything else that has its name, is there."""
    return (path / GRAPH).is_file() if remote(path) else os.path.lexists(path)
