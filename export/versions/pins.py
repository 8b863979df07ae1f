"""Versions that stay served until they are unpinned."""

from collections.abc import Sequence
from pathlib import Path

from tutelage.export.versions.version import is_number
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.store import FILES


class Pins:
    """The pinned versions of the model `name`. Each is a file in `folder`: its name is the version's number, its
    text the reason."""

    def __init__(self, folder: Path, name: str):
        self._folder, self._name = folder, name

    def reasons(self) -> dict[int, str]:
        """Return the reason of each pinned version, by its number."""
        return {
            int(path.name): FILES.read(path).decode(errors="replace").strip()
            for path in FILES.list(self._folder)
            if is_number(path.name)
        }

    def add(self, number: int, reason: str) -> None:
        FILES.put(self._folder / str(number), f"{reason}\n".encode())

    def remove(self, number: int) -> None:
        FILES.delete(self._folder / str(number))

    def check_none(self, numbers: Sequence[int]) -> None:
        """Raise UserError if one of the versions that are to be retired is pinned."""
        reasons = self.reasons()
        for pinned in sorted(reasons.keys() & set(numbers)):
            why = f" ({reasons[pinned]})" if reasons[pinned] else ""
            raise UserError(
                f"{self._name} {pinned} is pinned{why} and would be retired; --unpin={pinned} first"
            )
