"""The teacher: its forward pass over each batch, before the update, becomes the soft labels of the day."""

from collections.abc import Sequence
from datetime import date

from tutelage.pipeline.soft_labels import PRE_UPDATE, LabelPartition, labels_before_update
from tutelage.trainers.config import SuccessorConfig
from tutelage.trainers.day import Day
from tutelage.trainers.day_pass import TrainResult
from tutelage.trainers.handover import warm_start
from tutelage.trainers.role import Role
from tutelage.trainers.run import Run
from tutelage.trainers.trainer import Trainer


class Teacher(Role):
    """The run's teacher. It publishes the `pre_update` labels of each day."""

    def __init__(self, run: Run, days: Sequence[date] = ()):
        config = run.teacher
        super().__init__(run, run.teacher_model, days, sampling=config.sampling, gate=config.gate)

    def build(self) -> Trainer:
        """Return the teacher with its initial weights."""
        return Trainer(
            self.run.schema,
            self.run.teacher.model,
            batch_size=self.run.training.batch_size,
            seed=self.run.training.seed,
            offsets=self.run.teacher.sampling.offsets,
        )

    def publish(self, trainer: Trainer, day: Day, trained: TrainResult) -> None:
        """Replace the day's labels by the outputs that each batch had before its update."""
        labels = (
            labels_before_update(
                rows["example_id"],
                outputs,
                teacher_step=trained.teacher_step(at.start, at.stop),
                snapshot_day=trainer.state.day if trainer.state else None,
            )
            for rows, (at, (outputs,)) in zip(day.judged(), day.pieces(trained.outputs), strict=True)
        )
        self.run.lake.soft_labels.write_parts(self._partition(day.day), labels)

    def withdraw(self, day: date) -> None:
        """Remove the labels of a day that was published before its data was materialised again."""
        self.run.lake.soft_labels.withdraw(self._partition(day))

    def meanwhile(self, kept: date | None) -> str:
        """Say until when students have labels."""
        read = f"students read its labels until {kept}, then wait" if kept else "students wait for its labels"
        return f"{read}, served as they are, and the other models go on"

    def _partition(self, day: date) -> LabelPartition:
        return LabelPartition(self.run.teacher.name, PRE_UPDATE, day)


class Successor(Teacher):
    """A teacher that is trained beside the present one, and may start with that one's variables."""

    def __init__(self, run: Run, successor: SuccessorConfig, days: Sequence[date] = ()):
        """`run` is that of the present teacher."""
        super().__init__(run.of_successor(successor.teacher), days)
        self._present, self._config = run, successor

    def meanwhile(self, kept: date | None) -> str:
        """Say that nothing depends on it yet."""
        return "the present teacher labels, and all other models go on"

    def build(self) -> Trainer:
        """Return the successor, warm-started where its config names a first day and it has no state yet."""
        trainer = super().build()
        if self._config.first_day and not self.checkpoints.states():
            warm_start(trainer, Teacher(self._present).build(), self._present, self._config)
        return trainer
