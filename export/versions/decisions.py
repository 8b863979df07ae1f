"""The log of what people decided about versions: who did what, when and why."""

import contextlib
import getpass
import json
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tutelage.pipeline.io.json import TornFile, parse_json, sealed, warn_once
from tutelage.pipeline.io.store import FILES


class Decisions:
    """A JSON object a line: time, who, action, version, retires, reason, done.

    A decision is written before it takes effect and marked as done afterwards. One that was killed in between
    is thereby known, and the same command run again completes it rather than taking it a second time.
    """

    def __init__(self, path: Path):
        self.path = path
        self._tag = ""

    @contextlib.contextmanager
    def record(
        self, action: str, number: int, reason: str, retires: Sequence[int] = ()
    ) -> Iterator[list[int]]:
        """Log a decision around the block that takes it, and yield the numbers that it retires.

        A decision that a killed process left unfinished is continued: it keeps its reason unless there is a new
        one, and its versions to retire are added.
        """
        records = self._read()
        if left := self.unfinished(action, number):
            records.pop()
            reason = reason or left["reason"]
            retires = sorted({*left["retires"], *retires})
        record = {
            "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "who": _user(),
            "action": action,
            "version": number,
            "retires": list(retires),
            "reason": reason,
        }
        self._write([*records, {**record, "done": False}])
        yield list(retires)
        self._write([*records, {**record, "done": True}])

    def unfinished(self, action: str, number: int) -> dict[str, Any] | None:
        """Return the last record if it is this decision and was not done, else None."""
        last = (self._read() or [{"done": True}])[-1]
        return None if last["done"] or (last["action"], last["version"]) != (action, number) else last

    def _read(self) -> list[dict[str, Any]]:
        content = FILES.read(self.path) if self.path.exists() else None
        self._tag = FILES.tag(content)
        if content is None:
            return []
        lines = content.splitlines()
        if not lines:
            warn_once(
                f"{self.path} is empty, so the decisions before are not known; restore it from a backup"
            )
        records: list[dict[str, Any]] = []
        for n, record in enumerate(self._parse(lines), 1):
            if isinstance(record, dict):
                records.append(record)
            elif n == len(lines):  # An append of an older version was interrupted.
                warn_once(f"{record}; the lines before it are used")
            else:
                raise TornFile(
                    f"{record}; restore it from a backup, or remove the line by tutelage-verify --repair"
                )
        return records

    def torn(self) -> list[tuple[str, str]]:
        """Return the lines that are not what was written, and what `repair` does about each."""
        if not self.path.exists():
            return []
        lines = FILES.read(self.path).splitlines()
        if not lines:
            return [(f"{self.path} is empty", "restore it from a backup; --repair removes it")]
        kept = f"--repair removes the line, and keeps the file as it is in {self._aside.name}"
        return [(str(error), kept) for error in self._parse(lines) if isinstance(error, TornFile)]

    @property
    def _aside(self) -> Path:
        return self.path.with_name(f".torn-{self.path.name}")

    def repair(self) -> None:
        """Write the log without its torn lines, and a copy of what it was beside it."""
        if not self.torn():
            return
        content = FILES.read(self.path)
        records = [record for record in self._parse(content.splitlines()) if isinstance(record, dict)]
        if content:
            FILES.put(self._aside, content)
        if records:
            self._tag = FILES.tag(content)
            self._write(records)
        else:
            FILES.delete(self.path)

    def _parse(self, lines: Sequence[bytes]) -> Iterator[dict[str, Any] | TornFile]:
        """Yield the record in each line, or how it differs from what was written."""
        for n, line in enumerate(lines, 1):
            try:
                yield parse_json(line, f"{self.path}, line {n}", _checked, mend="")
            except TornFile as error:
                yield TornFile(str(error).removesuffix("; "))

    def _write(self, records: Sequence[dict[str, Any]]) -> None:
        content = "".join(json.dumps(sealed(record)) + "\n" for record in records).encode()
        FILES.replace_if(self.path, content, self._tag)
        self._tag = FILES.tag(content)


def _checked(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record as it is. Raises KeyError or TypeError for anything else."""
    for name in ("action", "version", "retires", "reason", "done"):
        record[name]
    return record


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # The user of a container may have no name.
        return str(os.getuid())
