"""The numbers that versions were ever given."""

import hashlib
from collections.abc import Collection, Sequence
from datetime import date
from pathlib import Path

from tutelage.export.versions.version import is_number, numbered
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.json import warn_once
from tutelage.pipeline.io.store import FILES

_CHECK = "sha256:"


class Numbers:
    """Gives out version numbers, and never one of them twice.

    `ledger` is a file with one number a line, and last a line with their digest, which older releases did not
    write. A number counts as used if it is in the ledger or is the name of
    something in one of `folders`: a process that was killed after its rename has not written its number down.
    """

    def __init__(self, ledger: Path, folders: Sequence[Path]):
        self.ledger, self._folders = ledger, folders

    def used(self) -> set[str]:
        """Return all numbers that were ever given."""
        whole, torn = self._read()
        if torn:
            warn_once(
                f"{self.ledger} is torn, so the numbers of removed versions may be given again; restore it from a "
                "backup"
            )
        return whole.union(path.name for folder in self._folders for path in numbered(folder))

    def _read(self) -> tuple[set[str], bool]:
        """Return the numbers that the ledger holds, and whether it is not what was written."""
        if not self.ledger.exists():
            return set(), False
        numbers, _, check = FILES.read(self.ledger).decode(errors="replace").partition(_CHECK)
        written = set(numbers.split())
        whole = {number for number in written if is_number(number)}
        return whole, whole != written or not whole or bool(check and check.strip() != _checksum(whole))

    def torn(self) -> str:
        """Return how the ledger differs from what was written; empty where it does not."""
        if not self.ledger.exists():
            return f"{self.ledger} is missing" if self.used() else ""
        return f"{self.ledger} is not what was written" if self._read()[1] else ""

    def next(self, day: date) -> int:
        """Return the next free number of `day`. Raises UserError when the day has used 99 numbers."""
        prefix = f"{day:%Y%m%d}"
        last = max((int(number[8:]) for number in self.used() if number.startswith(prefix)), default=0)
        if last == 99:
            raise UserError(
                f"{self.ledger.parent}: {day} was exported 99 times, so no version number is left for it; "
                "export another day"
            )
        return int(f"{prefix}{last + 1:02d}")

    def write_down(self) -> None:
        """Write all used numbers into the ledger."""
        used = self.used()
        FILES.put(self.ledger, "".join(f"{n}\n" for n in [*sorted(used), _CHECK + _checksum(used)]).encode())


def _checksum(numbers: Collection[str]) -> str:
    return hashlib.sha256("".join(sorted(numbers)).encode()).hexdigest()[:32]
