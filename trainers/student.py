"""A student: trained on hard labels, and on the soft labels of the teacher that labels the day."""

from collections.abc import Sequence
from datetime import date, timedelta

from tutelage.pipeline.soft_labels import LabelRequest
from tutelage.trainers.checkpoints import step_of_example
from tutelage.trainers.config import StudentConfig
from tutelage.trainers.role import Role
from tutelage.trainers.run import Run
from tutelage.trainers.trainer import Trainer


class Student(Role):
    """A model that is served. It publishes nothing."""

    def __init__(self, run: Run, config: StudentConfig, days: Sequence[date]):
        """Of `days`, those before the student's first day are left out."""
        days = [day for day in days if config.first_day is None or day >= config.first_day]
        super().__init__(run, config.name, days, sampling=config.sampling, gate=config.gate)
        self.config = config
        first = [*(state.day for state in self.checkpoints.states()[:1]), *days[:1]]
        # A student that has known no other teacher has no change of teacher behind it.
        self._changes = [t.from_day for t in run.takeovers if first and min(first) < t.from_day]
        tasks = run.schema.select_tasks(each.task for each in config.distillation)
        self._outputs = tuple(output for task in tasks for output in task.outputs)

    def build(self) -> Trainer:
        """Return the student with its initial weights."""
        return Trainer(
            self.run.schema,
            self.config.model,
            batch_size=self.run.training.batch_size,
            seed=self.run.training.seed,
            distillation=self.config.distillation,
            offsets=self.config.sampling.offsets,
        )

    def soft_labels(self, day: date) -> LabelRequest | None:
        """Return the labels of the teacher that labels `day`; None for a student without distillation.

        Labels of a teacher that was too young are masked, and so are all labels of a new teacher's first
        `mask_days`.
        """
        if not self.config.distillation:
            return None
        teacher = self.run.labeller(day)
        min_step = step_of_example(
            self.run.checkpoints(teacher.model).states(),
            teacher.min_examples,
            batch_size=self.run.training.batch_size,
        )
        masked_for = timedelta(days=self.config.mask_days)
        return LabelRequest(
            teacher=teacher.name,
            producer=self.config.producer,
            min_step=min_step,
            half_life=self.config.label_half_life,
            required=self._outputs,
            masked=any(change <= day < change + masked_for for change in self._changes),
        )

    def prepare(self, trainer: Trainer, day: date) -> None:
        """Reset the adapters where the teacher has changed since the last day and the config says `adapt`."""
        last = trainer.state.day if trainer.state else day
        if self.config.new_teacher == "adapt" and any(last < change <= day for change in self._changes):
            trainer.reset_adapters()

    def meanwhile(self, kept: date | None) -> str:
        """Say what is served."""
        served = (
            f"its version of {kept} or the last one before it stays served"
            if kept
            else "it is not served yet"
        )
        return f"{served}, and the other models go on"
