"""What a model is to the day loop: how its trainer is built, which labels it reads, what it publishes."""

from collections.abc import Sequence
from datetime import date

from tutelage.pipeline.soft_labels import LabelRequest
from tutelage.trainers.config import GateConfig, Sampling
from tutelage.trainers.day import Day
from tutelage.trainers.day_pass import TrainResult
from tutelage.trainers.run import Run
from tutelage.trainers.trainer import Trainer


class Role:
    """A model, the days that it is to be trained on, and what is particular to it.

    `DayLoop` does what is common to all models, and calls these methods around it.
    """

    def __init__(self, run: Run, model: str, days: Sequence[date], *, sampling: Sampling, gate: GateConfig):
        """`model`: its name in folders, in `metrics` and on command lines."""
        self.run, self.model, self.days = run, model, list(days)
        self.sampling, self.gate = sampling, gate
        self.checkpoints = run.checkpoints(model)

    def build(self) -> Trainer:
        """Return the model as it is before its first day."""
        raise NotImplementedError

    def soft_labels(self, day: date) -> LabelRequest | None:
        """Return which soft labels of a day it is trained on; None: on none."""
        return None

    def prepare(self, trainer: Trainer, day: date) -> None:
        """Change the model before it is trained on a day."""

    def publish(self, trainer: Trainer, day: Day, trained: TrainResult) -> None:
        """Write what the day left for others. It is called before the day is committed, and may be repeated."""

    def withdraw(self, day: date) -> None:
        """Take back what was published of a day that is not kept."""

    def meanwhile(self, kept: date | None) -> str:
        """Return in a few words what goes on while the model stays at the day `kept`; None: it has none."""
        raise NotImplementedError
