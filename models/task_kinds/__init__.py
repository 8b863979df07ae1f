"""The kinds of tasks: a file each, and what they have in common.

A kind of your own derives from `TaskKind` in your own file; nothing here has to be changed for it.
"""

from collections.abc import Mapping
from types import MappingProxyType

from tutelage.models.task_kinds.base import CALIBRATION, Quality, TaskKind, ValueKind
from tutelage.models.task_kinds.binary import Binary
from tutelage.models.task_kinds.log1p import Log1p
from tutelage.models.task_kinds.ziln import Ziln
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Task

__all__ = ["CALIBRATION", "Binary", "Log1p", "Quality", "TaskKind", "ValueKind", "Ziln", "kind_of"]

_BUILT_IN: Mapping[str, TaskKind] = MappingProxyType({"binary": Binary(), "log1p": Log1p(), "ziln": Ziln()})


def kind_of(task: Task) -> TaskKind:
    """Return the task's kind. Raises UserError for one that is not a `TaskKind`, or that is not whole.

    >>> kind_of(Task(name="click", label="click")).loss_name
    'log_loss'
    """
    if isinstance(task.kind, str):
        return _BUILT_IN[task.kind]
    if not isinstance(task.kind, TaskKind):
        raise UserError(
            f"task {task.name!r}: kind is {task.kind!r}, expected a name or a models.task_kinds.TaskKind"
        )
    task.kind.check(task.name)
    return task.kind
