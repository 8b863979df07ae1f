"""The experiment in which single processes are killed, for `--config`: four days, a successor and two students.

The successor starts on the second day and takes over after the third, so that the students read its labels of the
fourth.
"""

import dataclasses
from datetime import timedelta

from tests.faults.five_days import FIRST_DAY
from tests.faults.successors import experiment as successors
from tutelage.launch.experiment import Experiment
from tutelage.pipeline.sources.synthetic import Synthetic


def experiment(*, smoke: bool) -> Experiment:
    base = successors(smoke=smoke)
    assert isinstance(base.source, Synthetic)
    return dataclasses.replace(
        base,
        name="four_days",
        # A day has two updates, with a partial checkpoint after each.
        source=dataclasses.replace(base.source, rows_per_day=300),
        students=tuple(student for student in base.students if student.distillation),
        end_day=str(FIRST_DAY + timedelta(days=3)),
    )
