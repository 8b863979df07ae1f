"""The public names of the room, and that a command can import it without TensorFlow."""

import subprocess
import sys

import pytest

from tutelage import trainers

PUBLIC = [
    "Accept",
    "Checkpoints",
    "Day",
    "DayLoop",
    "Feed",
    "GateConfig",
    "Preempted",
    "Role",
    "Run",
    "Sampling",
    "State",
    "Student",
    "StudentConfig",
    "SuccessorConfig",
    "Teacher",
    "TeacherConfig",
    "TrainResult",
    "Trainer",
    "TrainingConfig",
    "day_metrics",
    "train",
    "train_student",
    "train_successor",
    "train_teacher",
]


def test_the_public_names_are_these_and_each_can_be_imported() -> None:
    assert trainers.__all__ == dir(trainers) == PUBLIC
    for name in PUBLIC:
        assert getattr(trainers, name).__name__ == name


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'tutelage\.trainers' has no attribute 'Learner'$"):
        _ = trainers.Learner


def test_what_commands_import_loads_no_tensorflow() -> None:
    modules = ("checkpoints", "config", "gate", "handover", "partial", "preemption", "run", "streaming")
    code = (
        f"import sys; from tutelage.trainers import {', '.join(modules)}; print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
