"""Event logs of a few rows: a teacher, a student without labels, one with the teacher's, and one with a snapshot's."""

from dataclasses import replace

from tests.launch import small_config
from tests.launch.small_config import MODEL, UNGATED
from tutelage.launch.experiment import Experiment
from tutelage.models.config import distil
from tutelage.trainers.config import StudentConfig


def experiment(*, smoke: bool) -> Experiment:
    small = small_config.experiment(smoke=smoke)
    return replace(
        small,
        students=(
            *small.students[:2],
            StudentConfig(
                name="snapshot", model=MODEL, distillation=distil("click"), producer="snapshot", gate=UNGATED
            ),
        ),
        serving=replace(small.serving, keep=9),
    )
