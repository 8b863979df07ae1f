"""Checkpoints: one folder a day, there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.atomic import atomic_write

if TYPE_CHECKING:  # Where a model stands can be told without TensorFlow.
    import tensorflow as tf

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Where a model stands after a day. Steps are updates, counted from the model's first one."""

    day: date
    step: int
    examples: int
    """Rows learnt since the model's first day."""
    rows: int
    """Rows of this day."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Of this attempt at the day: a day learnt again has another."""
    seconds: float = 0.0
    """Spent on its updates."""
    waited: float = 0.0
    """Seconds before these, spent waiting until the day was read."""
    memory: int = 0
    """Bytes that its process held when it had learnt the day; 0: the day is from before this was recorded."""
    size: int = 0
    """Bytes of the variables' files; 0 as above."""
    sha256: str = ""
    """Of the variables' files."""
    input_versions: Mapping[str, int] = field(default_factory=dict)
    """What the day was learnt from (`Lake.input_versions`); empty: it was learnt before this was recorded."""
    pruned: bool = False
    """Only where the model stood is left: the variables were removed."""

    def recorded(self) -> dict[str, Any]:
        """As `state.json` has it, where `input_versions` keeps its first name, `made_of`."""
        values = {**asdict(self), "day": str(self.day)}
        values["made_of"] = values.pop("input_versions")
        return values

    @classmethod
    def read(cls, recorded: Mapping[str, Any]) -> State:
        """From what `recorded` gave; fields that it lacks have their defaults."""
        values = {**recorded, "day": date.fromisoformat(recorded["day"])}
        return cls(**{("input_versions" if name == "made_of" else name): v for name, v in values.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialDay:
    """Where a model stands within a day."""

    day: date
    after: str
    """`State.id` of the day before, be it another model's that this one started from; empty: there is none."""
    digest: str
    """Of the day's rows: others are not gone on with."""
    rows: int
    """Of the day that are learnt."""
    rates: float
    """Times which the config's they are learnt with."""
    seconds: float
    """Spent on its updates."""
    sha256: str = ""
    """Of the files."""


class Checkpoints:
    """The checkpoints of one model, under `folder`/YYYY-MM-DD, and where it stands within the day after them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._looked_at: date | None = None  # Found to be sound, and not restored since.

    def states(self) -> list[State]:
        """Of every finished day, in order."""
        paths = sorted(self.folder.glob("[0-9]*-[0-9]*-[0-9]*/state.json"))
        return [State.read(json.loads(path.read_text())) for path in paths]

    def save(self, checkpoint: tf.train.Checkpoint, state: State) -> State:
        """Write under a temporary name, then rename: a killed writer leaves nothing that is read.

        Returns the state with the size and the hash of what was written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(".partial-*"):
            shutil.rmtree(leftover)
        partial = self.folder / f".partial-{state.id}"
        checkpoint.write(str(partial / "variables"))
        size = sum(path.stat().st_size for path in partial.iterdir())
        state = replace(state, size=size, sha256=_sha256(partial))
        (partial / "state.json").write_text(json.dumps(state.recorded()))
        self.discard_partial()
        os.rename(partial, self.folder / str(state.day))
        return state

    def save_partial(
        self, checkpoint: tf.train.Checkpoint, partial_day: PartialDay, arrays: Mapping[str, np.ndarray]
    ) -> None:
        """Put a day down where it stands, with `arrays` beside the variables; it takes the place of the one before."""
        partial = self.folder / ".partial-within"
        shutil.rmtree(partial, ignore_errors=True)
        checkpoint.write(str(partial / "variables"))
        np.savez(partial / "arrays.npz", allow_pickle=False, **arrays)
        partial_day = replace(partial_day, sha256=_sha256(partial))
        (partial / "state.json").write_text(json.dumps({**asdict(partial_day), "day": str(partial_day.day)}))
        # The names are in order, so that of two, where this is killed before the older one goes, the newer is read.
        final = self.folder / f"within-{1 + max(map(_number, self._partial()), default=0):06}"
        os.rename(partial, final)
        for path in self._partial()[:-1]:
            shutil.rmtree(path)

    def partial_day(self) -> tuple[PartialDay, Path] | None:
        """Where the model stands within a day, and its folder. One whose files are not those that were
        written is told, and removed."""
        for path in reversed(self._partial()):
            values = json.loads((path / "state.json").read_text())
            if values["sha256"] == _sha256(path):
                return PartialDay(**{**values, "day": date.fromisoformat(values["day"])}), path
            _log.warning("%s: a checkpoint within %s is damaged", self.folder, values["day"])
            shutil.rmtree(path)
        return None

    def restore_partial(self, checkpoint: tf.train.Checkpoint, path: Path) -> dict[str, np.ndarray]:
        """Read the variables; returns the arrays that lie beside them."""
        checkpoint.read(str(path / "variables")).assert_existing_objects_matched().expect_partial()
        with np.load(path / "arrays.npz") as arrays:
            return dict(arrays)

    def discard_partial(self) -> None:
        for path in self._partial():
            shutil.rmtree(path)

    def _partial(self) -> list[Path]:
        return sorted(self.folder.glob("within-*"))

    def restore(self, checkpoint: tf.train.Checkpoint, day: date) -> None:
        """Read the variables of a day. Raises UserError where it is not there or not this model's."""
        path = self.folder / str(day) / "variables"
        if any(state.pruned for state in self.states() if state.day == day):
            raise UserError(
                f"the checkpoint of {day} in {self.folder} was pruned; put its folder back from a copy, or "
                "train the model anew"
            )
        if not path.with_suffix(".index").exists():
            raise UserError(f"no checkpoint of {day} in {self.folder}; train that day first")
        if day != self._looked_at and not self._sound(day):
            raise UserError(
                f"the checkpoint of {day} in {self.folder} is damaged: its files are not those that were "
                "written; put them back from a copy"
            )
        self._looked_at = None
        status = checkpoint.read(str(path))
        # The file may hold more (an export reads no optimizer), never less.
        status.assert_existing_objects_matched().expect_partial()

    def set_damaged_aside(self) -> list[date]:
        """Days at the end whose files are not those that were written, forgotten so that they are learnt again.

        Their folders stay, as .damaged-YYYY-MM-DD, for whoever looks into the disk.
        """
        damaged = []
        for state in reversed(self.states()):
            if state.pruned or self._sound(state.day):
                # To hash it a second time would take as long as to read it.
                self._looked_at = state.day
                break
            aside = self.folder / f".damaged-{state.day}"
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(self.folder / str(state.day), aside)
            damaged.append(state.day)
        return damaged[::-1]

    def _sound(self, day: date) -> bool:
        folder = self.folder / str(day)
        return bool(json.loads((folder / "state.json").read_text())["sha256"] == _sha256(folder))

    def prune(self, day: date) -> None:
        """Remove the variables of a day; where the model stood stays known."""
        folder = self.folder / str(day)
        values = json.loads((folder / "state.json").read_text())
        with atomic_write(folder / "state.json") as partial:
            partial.write_text(json.dumps({**values, "pruned": True}))
        for path in folder.iterdir():
            if path.name != "state.json":
                path.unlink()

    def to_prune(self, before: date) -> list[date]:
        """Days before that one, the newest of all left out, that have files besides where the model stood."""
        return [
            state.day
            for state in self.states()[:-1]
            if state.day < before
            and (not state.pruned or len(list((self.folder / str(state.day)).iterdir())) > 1)
        ]

    def remove(self) -> None:
        """Forget all days."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _number(path: Path) -> int:
    return int(path.name.removeprefix("within-"))


def _sha256(folder: Path) -> str:
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.name != "state.json"):
        whole.update(path.name.encode())
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def pending(
    days: Sequence[date], states: Sequence[State], *, slice_days: int, who: str, skipped: Sequence[date] = ()
) -> list[date]:
    """Those of `days` (in order) that are still to be learnt; `skipped` ones never are.

    Raises UserError where they do not follow the last finished day: days are learnt in order, each once.
    """
    done = {*(state.day for state in states), *skipped}
    left = [day for day in days if day not in done]
    if not left or not states:
        return left
    last = states[-1].day
    while (following := last + timedelta(days=slice_days)) in skipped:
        last = following
    if left[0] != following:
        raise UserError(
            f"{who} has learnt {states[0].day} to {last}, so {following} comes next, not {left[0]}; "
            f"give a range that goes on from there, or another workdir"
        )
    return left


def step_of_example(states: Sequence[State], examples: int, *, batch_size: int) -> int:
    """The first step before which a model had learnt at least this many rows.

    Every day's last batch is smaller, so the days are walked. Past the last day it is counted on in
    full batches: no label of a later day is there yet.
    """
    step, trained = 0, 0
    for state in states:
        if state.examples >= examples:
            break
        step, trained = state.step, state.examples
    last = next((s for s in states if s.examples >= examples), None)
    steps = -(-max(0, examples - trained) // batch_size)
    return min(step + steps, last.step) if last else step + steps
