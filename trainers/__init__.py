"""Training day after day: the feed, the step, the roles of teacher and student, checkpoints, metrics.

Public names are imported when they are first used, so that a command can import this room without TensorFlow.

>>> from tutelage import trainers
>>> trainers.TrainingConfig(batch_size=256).seed
1
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "Accept": "day_loop",
    "Checkpoints": "checkpoints",
    "Day": "day",
    "DayLoop": "day_loop",
    "Feed": "feed",
    "GateConfig": "config",
    "Preempted": "preemption",
    "Role": "role",
    "Run": "run",
    "Sampling": "config",
    "State": "checkpoints",
    "Student": "student",
    "StudentConfig": "config",
    "SuccessorConfig": "config",
    "Teacher": "teacher",
    "TeacherConfig": "config",
    "Trainer": "trainer",
    "TrainingConfig": "config",
    "TrainResult": "day_pass",
    "day_metrics": "metrics",
    "train": "day_loop",
    "train_student": "day_loop",
    "train_successor": "day_loop",
    "train_teacher": "day_loop",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
