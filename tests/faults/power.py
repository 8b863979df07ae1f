"""What a power cut leaves of a workdir: only what was brought to the disk (fsync) is sure to be there.

A process that records tells what each fsync brought to the disk: the content of a file, or the names in a folder. What
is not brought there is lost, whichever library wrote it. Calls of `os.fsync` are all that need to be seen: by strace,
TensorFlow, Polars, NumPy and Delta Lake never call fsync, so that tutelage does it for what they have written.

Files are known by their inodes. A recorded one is kept from being used again by a link to it, or for a folder by a
descriptor that stays open.
"""

import contextlib
import json
import os
import random
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Mode = Literal["synced", "named"]
"""`synced`: names and contents are those of the last fsync, so that what was deleted since comes back. `named`: the
names are those of the instant, the contents those of the last fsync."""
MODES: tuple[Mode, ...] = ("synced", "named")

_PINS, _CONTENTS, _LOG = "pins", "contents", "log"


def record(workdir: Path, journal: Path) -> None:
    """Take all of `workdir` as on the disk, and from now on record in `journal` what this process brings there."""
    _Recorder(workdir.resolve(), journal).start()


class _Recorder:
    def __init__(self, workdir: Path, journal: Path):
        self.workdir, self.journal = workdir, journal
        self.lock, self.number = threading.RLock(), 0
        self.pinned: set[int] = set()
        self.fsync = os.fsync

    def start(self) -> None:
        for name in (_PINS, _CONTENTS):
            (self.journal / name).mkdir(parents=True)
        self.log = os.open(self.journal / _LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for at, _, names in os.walk(self.workdir):
            for name in names:
                self._content(os.path.join(at, name))
            self._names(at)
        os.fsync = self.sync

    def sync(self, descriptor: int) -> None:
        self.fsync(descriptor)
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if not Path(path).is_relative_to(self.workdir):
            return
        with self.lock:
            if os.path.isdir(path):
                self._names(path)
            else:
                self._content(path)

    def _content(self, path: str) -> None:
        inode = os.stat(path).st_ino
        self.number += 1
        shutil.copyfile(path, self.journal / _CONTENTS / str(self.number))
        self._pin(path, inode, folder=False)
        self._write({"inode": inode, "content": self.number})

    def _names(self, path: str) -> None:
        names = {}
        for entry in os.scandir(path):
            inode, folder = entry.inode(), entry.is_dir(follow_symlinks=False)
            with contextlib.suppress(FileNotFoundError):  # Another thread has removed it meanwhile.
                self._pin(entry.path, inode, folder=folder)
                names[entry.name] = inode, folder
        self._write({"inode": os.stat(path).st_ino, "names": names})

    def _pin(self, path: str, inode: int, *, folder: bool) -> None:
        if inode in self.pinned:
            return
        if folder:
            os.open(path, os.O_RDONLY)
        else:
            os.link(path, self.journal / _PINS / str(inode))
        self.pinned.add(inode)

    def _write(self, entry: object) -> None:
        os.write(self.log, json.dumps(entry).encode() + b"\n")


Names = dict[str, tuple[int, bool]]
"""The entries of a folder: name → inode, and whether it is a folder."""


@dataclass(kw_only=True)
class _Disk:
    """What was brought to the disk, by inode."""

    contents: dict[int, Path] = field(default_factory=dict)
    names: dict[int, Names] = field(default_factory=dict)
    when: dict[int, int] = field(default_factory=dict)
    """When the names of a folder were last brought there: later is higher."""
    ever: set[int] = field(default_factory=set)
    """Whatever has had a name there."""


def cut(workdir: Path, journal: Path, into: Path, *, mode: Mode, chance: random.Random) -> Path:
    """Write to `into` what a power cut leaves of `workdir`, whose process has just been killed; return `into`.

    A file whose content was never brought to the disk is empty or holds its first half, by `chance`.
    """
    disk, now = _read(journal), dict(_folders(workdir))
    root = workdir.stat().st_ino
    # A file is at one place: where a rename has brought it, if any of the two folders was brought to the disk since.
    names = now if mode == "named" else _with_whole_renames(disk, now)
    paths = {os.stat(path).st_ino: path for path in map(str, workdir.rglob("*"))}

    def write(inode: int, target: Path) -> None:
        target.mkdir()
        for name, (child, folder) in names.get(inode, {}).items():
            if folder:
                write(child, target / name)
            elif child in disk.contents:
                shutil.copyfile(disk.contents[child], target / name)
            else:
                half = Path(paths[child]).read_bytes() if child in paths else b""
                (target / name).write_bytes(half[: len(half) // 2] if chance.random() < 0.5 else b"")

    write(root, into)
    return into


def _read(journal: Path) -> _Disk:
    disk = _Disk()
    for number, line in enumerate((journal / _LOG).read_bytes().splitlines(keepends=True)):
        if not line.endswith(b"\n"):
            break  # The process was killed in the middle of it.
        entry = json.loads(line)
        inode = entry["inode"]
        if "content" in entry:
            disk.contents[inode] = journal / _CONTENTS / str(entry["content"])
        else:
            disk.names[inode] = {name: (child, folder) for name, (child, folder) in entry["names"].items()}
            disk.when[inode] = number
            disk.ever |= {child for child, _ in disk.names[inode].values()}
    return disk


def _folders(root: Path) -> Iterator[tuple[int, Names]]:
    for at, _, _ in os.walk(root):
        yield (
            os.stat(at).st_ino,
            {entry.name: (entry.inode(), entry.is_dir(follow_symlinks=False)) for entry in os.scandir(at)},
        )


def _with_whole_renames(disk: _Disk, now: dict[int, Names]) -> dict[int, Names]:
    """Return the names on the disk as a journaling file system keeps them: a rename is there as a whole or not at all.

    Where one of its two folders was brought to the disk after a rename, so was the other's part of it.
    """
    place: dict[int, tuple[int, str]] = {}
    for folder in sorted(disk.names, key=disk.when.__getitem__):
        for name, (child, _) in disk.names[folder].items():
            place[child] = folder, name
    kept = {
        folder: {name: entry for name, entry in names.items() if place[entry[0]] == (folder, name)}
        for folder, names in disk.names.items()
    }
    for folder, names in now.items():
        for name, (child, is_folder) in names.items():
            if child in disk.ever and child not in place:
                kept.setdefault(folder, {})[name] = child, is_folder
    return kept
