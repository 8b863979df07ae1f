"""One pass over a day: one update after another, and what they have left behind so far."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # what was interrupted is also listed without TensorFlow
    from tutelage.trainers.feed import Day
    from tutelage.trainers.trainer import Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What training on a day, or on its first part, has left behind."""

    outputs: Mapping[str, np.ndarray]
    """Raw served outputs [examples] by name, of each batch before its update."""
    losses: np.ndarray
    """float32 [updates]."""
    teacher_step: np.ndarray
    """int64 [examples]: the updates made before the example's batch, counted from the model's first."""
    seconds: float
    """Time that the updates took."""
    waited: float
    """Seconds that the trainer waited for the day to be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt at a day, as far as it has come."""

    ahead: Mapping[str, np.ndarray]
    """Raw served outputs [examples] by name, scored before any of the day was trained on."""
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
        self._outputs: list[Mapping[str, Any]] = [resume_from.outputs] if resume_from else []
        self.examples = len(resume_from.teacher_step) if resume_from else 0
        """Examples that are trained on."""

    @property
    def finished(self) -> bool:
        return self.examples >= self._day.size

    def update(self) -> int:
        """Train on the next batch; return the number of its examples."""
        start = self.examples
        loss, outputs = self._trainer.update(self._day.tensors, start)
        self._losses.append(loss)
        self._outputs.append(outputs)
        self.examples = min(start + self._trainer.batch_size, self._day.size)
        return self.examples - start

    def result(self) -> TrainResult:
        """Return what the updates so far have left behind."""
        losses = np.array([loss.numpy() for loss in self._losses], np.float32)
        seconds = time.monotonic() - self._started
        if self._resumed:
            losses = np.concatenate([self._resumed.losses, losses])
            seconds += self._resumed.seconds
        return TrainResult(
            outputs=concatenated(self._outputs),
            losses=losses,
            teacher_step=self._trainer.steps_before(len(losses), self.examples),
            seconds=seconds,
            waited=self._day.waited,
        )


def concatenated(outputs: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Return the outputs of several batches as one array [examples] for each name."""
    return {name: np.concatenate([np.asarray(batch[name]) for batch in outputs]) for name in outputs[0]}
