"""One pass over a day: one update after another, and what they have left behind so far."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # what was interrupted is also listed without TensorFlow
    from tutelage.trainers.day import Chunk, Day
    from tutelage.trainers.trainer import Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What training on a day, or on its first part, has left behind."""

    outputs: Mapping[str, np.ndarray]
    """Raw served outputs [examples] by name, of each batch before its update. Of a day of several chunks they lie on
    the disk (`Day.new_column`); see `Day.pieces`."""
    losses: np.ndarray
    """float32 [updates]."""
    examples: int
    """Examples that are trained on."""
    first_step: int
    """The updates made before the day, counted from the model's first."""
    batch_size: int
    """Examples of an update."""
    seconds: float
    """Time that the updates took."""
    waited: float
    """Seconds that the trainer waited for the day to be read."""

    def teacher_step(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return int64 [examples]: the updates made before the batch of each example from `start` to before `stop`."""
        return self.first_step + np.arange(start, self.examples if stop is None else stop) // self.batch_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt at a day, as far as it has come."""

    ahead: Mapping[str, np.ndarray]
    """Raw served outputs [examples] by name, scored before any of the day was trained on; as `TrainResult.outputs`."""
    trained: TrainResult
    rates: float
    """The factor of the config's learning rates."""


class DayPass:
    """A pass over a day that is under way.

    `Trainer.begin_day` makes one. Call `update` until `finished`; `result` may be asked for at any time.
    """

    def __init__(self, trainer: "Trainer", day: "Day", resume_from: TrainResult | None = None):
        """Start at the first example, or after those of `resume_from`, by the variables as they are."""
        self._trainer, self._day, self._resumed = trainer, day, resume_from
        self._started = time.monotonic()
        self._losses: list[Any] = []
        self._outputs = Columns(day, resume_from.outputs if resume_from else {})
        self.examples = resume_from.examples if resume_from else 0
        """Examples that are trained on."""
        self._chunks = day.chunks(self.examples)
        self._chunk: Chunk | None = None

    @property
    def finished(self) -> bool:
        return self.examples >= self._day.size

    def update(self) -> int:
        """Train on the next batch; return the number of its examples."""
        start = self.examples
        if self._chunk is None or start >= self._chunk.stop:
            self._outputs.keep()
            self._chunk = next(self._chunks)
        loss, outputs = self._trainer.update(self._chunk.tensors, start - self._chunk.start)
        self._losses.append(loss)
        self._outputs.add(outputs)
        self.examples = min(start + self._trainer.batch_size, self._day.size)
        return self.examples - start

    def result(self) -> TrainResult:
        """Return what the updates so far have left behind."""
        losses = np.array([loss.numpy() for loss in self._losses], np.float32)
        seconds = time.monotonic() - self._started
        if self._resumed:
            losses = np.concatenate([self._resumed.losses, losses])
            seconds += self._resumed.seconds
        state = self._trainer.state
        return TrainResult(
            outputs=self._outputs.keep(),
            losses=losses,
            examples=self.examples,
            first_step=state.step if state else 0,
            batch_size=self._trainer.batch_size,
            seconds=seconds,
            waited=self._day.waited,
        )


class Columns:
    """Outputs of one batch after the other, as one column [examples] for each name."""

    def __init__(self, day: "Day", begun: Mapping[str, np.ndarray]):
        """Go on with columns that were begun by another pass."""
        self._day, self._kept = day, 0
        self._columns: dict[str, np.ndarray] = {}
        self._batches: list[Mapping[str, Any]] = []
        for name, values in begun.items():
            self._kept = len(values)
            self._columns[name] = day.new_column()
            for at, (part,) in day.pieces({name: values}):
                self._columns[name][at.start : at.start + len(part[name])] = part[name]
        day.unmap(self._columns)

    def add(self, outputs: Mapping[str, Any]) -> None:
        """Add the outputs [examples] of the next batch by name."""
        self._batches.append(outputs)

    def keep(self) -> dict[str, np.ndarray]:
        """Put what was added since the last call in its place; return the columns up to here."""
        if self._batches:
            kept = self._kept
            for name, values in concatenated(self._batches).items():
                if name not in self._columns:
                    self._columns[name] = self._day.new_column()
                self._kept = kept + len(values)
                self._columns[name][kept : self._kept] = values
            self._day.unmap(self._columns)
            self._batches = []
        return {name: values[: self._kept] for name, values in self._columns.items()}


def concatenated(outputs: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Return the outputs of several batches as one array [examples] for each name."""
    return {name: np.concatenate([np.asarray(batch[name]) for batch in outputs]) for name in outputs[0]}
