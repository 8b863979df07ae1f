"""A second record of the commits of a Delta table on a local disk: what each said, and digests of the files it added.

Delta Lake cannot tell when its log has lost something: it takes an empty commit for one that changed nothing, and does
not miss a last commit that is gone. An object store needs no such record and has none: it writes a commit whole, keeps
it once it has answered, and checks what it stores.
"""

import hashlib
import json
import os
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tutelage.pipeline.io.atomic import sync
from tutelage.pipeline.io.digests import differs, sha256_of
from tutelage.pipeline.io.paths import remote
from tutelage.pipeline.io.store import FILES

FILE = "_commits.log"
"""Beside `_delta_log`. Its name begins with `_`, so that Delta Lake leaves it alone when it removes old files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TornEntry:
    """An entry of a table's log that is not what was written."""

    path: Path
    why: str
    content: bytes | None
    """What mends it: the content that was written, b"" where it is removed; None: nothing does."""

    @property
    def remedy(self) -> str:
        """What mends it, in words."""
        if self.content is None:
            return "no copy of it is known; restore it from a backup"
        if self.content:
            return f"it is restored from {FILE}"
        return "it is removed; tutelage-verify says whether anything was made of it, and what lacks it then"

    def mend(self) -> None:
        """Write what was there, or remove the entry."""
        if self.content:
            FILES.put(self.path, self.content)
        elif self.content is not None:
            FILES.delete(self.path)


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the record: `VERSION DIGEST JSON`. The digest is that of the JSON."""

    version: int
    digest: bytes
    body: bytes

    @property
    def sound(self) -> bool:
        return self.digest == _digest(self.body)


_READ: dict[tuple[str, int], tuple[int, dict[str, str]]] = {}
"""How much of each record this process has read, and the digests in it."""


class Commits:
    """The record of the table in `folder`. Several processes may append at a time.

    A commit that has no line was made by an older release, by another program, or by a process that was killed before
    it wrote the line: it is taken as it is.
    """

    def __init__(self, folder: Path):
        self.path = folder / FILE
        self._log = folder / "_delta_log"
        self._kept = remote(folder) is None

    def append(self, version: int, commit: bytes, files: Mapping[str, str]) -> None:
        """Record a commit, which is on the disk, and the SHA-256 of each file that it added, by its path."""
        body = json.dumps({"files": files, "commit": commit.decode()}).encode()
        new = not self.path.exists()
        with self.path.open("ab+") as file:
            # One write: lines of several processes do not mix. What a power loss left of a line is ended first.
            whole = not file.tell() or os.pread(file.fileno(), 1, file.tell() - 1) == b"\n"
            file.write((b"" if whole else b"\n") + b"%d %s %s\n" % (version, _digest(body), body))
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync(self.path.parent)

    def unrecorded(self) -> int:
        """Return how many commits have no line, or one that is not what was written."""
        if not self._kept:
            return 0
        sound = {line.version for line in _lines(self._content()) if line and line.sound}
        return sum(int(path.stem) not in sound for path in self._log.glob("[0-9]*.json"))

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of each file that is known, by its path in the table.

        A process reads each line once, however often it asks.
        """
        if not self._kept or not self.path.exists():
            return {}
        stat = self.path.stat()
        key = str(self.path), stat.st_ino
        read, known = _READ.get(key, (0, {}))
        if stat.st_size > read:
            content = self._content(read)
            content = content[: content.rfind(b"\n") + 1]  # Another process may be writing the last line.
            for line in _lines(content):
                if line and line.sound:
                    known |= json.loads(line.body)["files"]
            _READ[key] = read + len(content), known
        return known

    def complete(self) -> None:
        """Record those of the newest commits that have no line: their writers were killed before they wrote it."""
        if not self._kept or not self.path.exists():
            return
        names = {entry.name for entry in os.scandir(self._log)}
        recorded = {line.version for line in _lines(self._content()) if line and line.sound}
        for version in range(_after_checkpoint(names), 1 + max(_entries(names), default=-1)):
            if version not in recorded:
                entry = self._log / f"{version:020}.json"
                self.append(version, entry.read_bytes(), self._files(entry, {}))

    def rewrite(self) -> None:
        """Write the record anew from the log, which is sound. Files without a digest get that of their content now."""
        if not self._kept:
            return
        known = self.digests()
        lines = []
        for path in sorted(self._log.glob("[0-9]*.json")):
            body = json.dumps({"files": self._files(path, known), "commit": path.read_text()}).encode()
            lines.append(b"%d %s %s\n" % (int(path.stem), _digest(body), body))
        FILES.put(self.path, b"".join(lines))

    def _files(self, entry: Path, known: Mapping[str, str]) -> dict[str, str]:
        """Return the SHA-256 of each file that came with a commit and is there, or is `known`."""
        names = [*added(entry.read_bytes()), f"_delta_log/{entry.stem}.checkpoint.parquet"]
        there = [name for name in names if name in known or (self.path.parent / name).exists()]
        return {name: known.get(name) or sha256_of(self.path.parent / name) for name in there}

    def torn(self, *, since_checkpoint: bool = True) -> list[TornEntry]:
        """Return the entries of the log that are not what was written, or are gone.

        With `since_checkpoint` only those from which the newest version is read.
        """
        if not self._kept:
            return []
        on_disk = {entry.name for entry in os.scandir(self._log)} if self._log.exists() else set()
        found = list(self._torn_checkpoints(on_disk, newest=since_checkpoint))
        torn = {entry.path.name for entry in found}
        first = _after_checkpoint(on_disk - torn) if since_checkpoint else 0
        lines = {
            line.version: line.body
            for line in _lines(self._content())
            if line and line.version >= first and line.sound
        }
        there = _entries(on_disk)
        newest = max((*there, *lines), default=-1)
        for version in range(first, newest + 1):
            path = self._log / f"{version:020}.json"
            content = path.read_bytes() if version in there else None
            written = json.loads(lines[version])["commit"].encode() if version in lines else None
            if content == written if written is not None else content and _is_commit(content):
                continue
            # Nothing can have been made of the newest commit where not even its line was written.
            mend = written if written is not None else b"" if version == newest else None
            found.append(TornEntry(path=path, why=_why(content), content=mend))
        return found

    def _torn_checkpoints(self, on_disk: set[str], *, newest: bool) -> Iterator[TornEntry]:
        """Yield the checkpoints of the log that are damaged: they sum up the entries before them, which all stay.

        With `newest` those before the newest sound one are not looked at, because nothing reads them.
        """
        known = self.digests()
        torn = set()
        for name in sorted((name for name in on_disk if name.endswith(".checkpoint.parquet")), reverse=True):
            if wrong := differs(self._log / name, None, known.get(f"_delta_log/{name}")):
                torn.add(name)
                yield TornEntry(path=self._log / name, why=wrong, content=b"")
            elif newest:
                break
        if "_last_checkpoint" in on_disk:
            path = self._log / "_last_checkpoint"
            try:
                name = f"{json.loads(path.read_bytes())['version']:020}.checkpoint.parquet"
            except (ValueError, KeyError, TypeError):
                yield TornEntry(path=path, why=_why(path.read_bytes()), content=b"")
            else:
                if name not in on_disk - torn:
                    yield TornEntry(path=path, why=f"names {name}, which is not there", content=b"")

    def _content(self, start: int = 0) -> bytes:
        """Return what the record holds from a position in the file on."""
        if not self.path.exists():
            return b""
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read()


def _entries(names: set[str]) -> set[int]:
    """Return the versions of the entries of a log, by the names in its folder."""
    return {int(name[:20]) for name in names if name[:20].isdecimal() and name[20:] == ".json"}


def _after_checkpoint(names: set[str]) -> int:
    """Return the first version that the newest checkpoint of a log does not sum up."""
    return 1 + max((int(name[:20]) for name in names if name.endswith(".checkpoint.parquet")), default=-1)


def _lines(content: bytes) -> Iterator[_Line | None]:
    """Yield each line; None for one that cannot be parsed."""
    for text in content.split(b"\n"):
        version, _, rest = text.partition(b" ")
        digest, _, body = rest.partition(b" ")
        if text:
            yield _Line(int(version), digest, body) if version.isdigit() and len(version) < 20 else None


def added(commit: bytes) -> dict[str, int]:
    """Return the size of each file that a commit adds, by its path in the table."""
    actions = (json.loads(line).get("add") for line in commit.splitlines())
    return {urllib.parse.unquote(action["path"]): action["size"] for action in actions if action}


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:32].encode()


def _is_commit(content: bytes) -> bool:
    try:
        return all(isinstance(json.loads(line), dict) for line in content.splitlines())
    except ValueError:
        return False


def _why(content: bytes | None) -> str:
    if content is None:
        return "is missing"
    return "is not what was written" if content.strip(b"\0 \r\n") else "is empty"
