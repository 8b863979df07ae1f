"""The experiment of the fault tests with a successor that takes over after the third day, for `--config`."""

import dataclasses
from datetime import timedelta

from tests.faults.five_days import FIRST_DAY, WIDE
from tests.faults.five_days import experiment as five_days
from tutelage.launch.experiment import Experiment
from tutelage.models.backbones.mlp import MLP
from tutelage.models.config import ModelConfig
from tutelage.trainers.config import SuccessorConfig, TeacherConfig


def experiment(*, smoke: bool) -> Experiment:
    teacher = TeacherConfig(
        name="wide", model=ModelConfig(embedding_dim=4, backbone=MLP(hidden=(24, 8))), gate=WIDE
    )
    return dataclasses.replace(
        five_days(smoke=smoke),
        successor=SuccessorConfig(
            teacher=teacher, first_day=FIRST_DAY + timedelta(days=1), judged_days=1, margin=99
        ),
        end_day=str(FIRST_DAY + timedelta(days=2)),
    )
