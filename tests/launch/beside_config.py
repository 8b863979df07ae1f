"""The small config with a successor, `wide`: it starts on the third day, and is judged by one."""

import dataclasses
from datetime import date

from tests.launch import small_config as small
from tutelage.launch.experiment import Experiment
from tutelage.models.backbones.mlp import MLP
from tutelage.models.config import ModelConfig
from tutelage.trainers.config import SuccessorConfig, TeacherConfig

WIDE = TeacherConfig(
    name="wide", model=ModelConfig(embedding_dim=2, backbone=MLP(hidden=(6,))), gate=small.UNGATED
)


def experiment(*, smoke: bool) -> Experiment:
    return dataclasses.replace(
        small.experiment(smoke=smoke),
        successor=SuccessorConfig(teacher=WIDE, first_day=date(2026, 1, 3), judged_days=1),
    )
