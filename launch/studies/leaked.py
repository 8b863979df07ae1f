"""A student that reads leaked labels: a study measures what breaking the leak rule is worth."""

from dataclasses import replace
from datetime import date

from tutelage.launch.studies.study import LEAKED
from tutelage.pipeline.soft_labels import SoftLabels
from tutelage.trainers.student import Student


class LeakedStudent(Student):
    """A student whose labels come from a teacher that was already trained on the examples."""

    def soft_labels(self, day: date) -> SoftLabels | None:
        """Return the labels of the partition that only a study writes."""
        labels = super().soft_labels(day)
        return labels and replace(labels, producer=LEAKED)
