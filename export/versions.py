"""The versions of a model under `export/NAME`: numbers that are never used twice, folders that are whole."""

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from tutelage.pipeline.errors import UserError
from tutelage.trainers.checkpoints import State

_VERSION = re.compile(r"(\d{4})(\d{2})(\d{2})(\d{2})")
_CARD = "assets.extra/tutelage.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A published SavedModel. `number` is YYYYMMDDNN: NN rises when the day is built again."""

    path: Path
    number: int
    day: date
    step: int
    checkpoint: str
    """Id of the checkpoint that it was made from."""


class Versions:
    """What `export/NAME` shows: whole SavedModels only."""

    def __init__(self, folder: Path):
        self.folder = folder
        # Numbers that were ever shown, one a line: a removed version's number stays used.
        self.ledger = folder / "numbers.txt"

    def published(self) -> list[Version]:
        """In the order of their numbers."""
        found = []
        for path in sorted(self.folder.glob("[0-9]*")):
            match = _VERSION.fullmatch(path.name)
            if match and (path / _CARD).is_file():
                card = json.loads((path / _CARD).read_text())
                day = date(int(match[1]), int(match[2]), int(match[3]))
                found.append(
                    Version(
                        path=path,
                        number=int(path.name),
                        day=day,
                        step=card["step"],
                        checkpoint=card["checkpoint"],
                    )
                )
        return found

    def unpublished(self, states: Sequence[State]) -> list[State]:
        """Those that no published version was made from."""
        made = {version.checkpoint for version in self.published()}
        return [state for state in states if state.id not in made]

    def publish(self, state: State, *, write: Callable[[str], None]) -> Version:
        """Let `write` make a SavedModel in a staging folder, then show it under a new number."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(".staging-*"):
            shutil.rmtree(leftover)
        staging = self.folder / f".staging-{uuid.uuid4().hex}"
        write(str(staging))
        card = {"day": str(state.day), "step": state.step, "checkpoint": state.id}
        (staging / _CARD).parent.mkdir(exist_ok=True)
        (staging / _CARD).write_text(json.dumps(card))
        number = self._next(state.day)
        path = self.folder / str(number)
        os.rename(staging, path)
        self._used()
        return Version(path=path, number=number, day=state.day, step=state.step, checkpoint=state.id)

    def _next(self, day: date) -> int:
        prefix = day.strftime("%Y%m%d")
        last = max((int(number[8:]) for number in self._used() if number.startswith(prefix)), default=0)
        if last == 99:
            raise UserError(f"{self.folder}: day {day} was built 99 times, there is no number left for it")
        return int(f"{prefix}{last + 1:02d}")

    def _used(self) -> set[str]:
        """The numbers that were ever shown; those of the folders there are now are written down first."""
        written = set(self.ledger.read_text().split()) if self.ledger.exists() else set()
        used = written | {path.name for path in self.folder.glob("[0-9]*") if _VERSION.fullmatch(path.name)}
        if used != written:
            partial = self.ledger.with_name(".numbers.partial")
            partial.write_text("\n".join(sorted(used)) + "\n")
            os.replace(partial, self.ledger)
        return used
