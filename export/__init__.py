"""From checkpoints to SavedModels: scoring snapshots of the teacher and served versions of students.

The public names are imported when they are first used, so `import tutelage.export` does not load TensorFlow.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "Exported": "publish",
    "Served": "saved_model",
    "ServingConfig": "config",
    "SkewConfig": "skew",
    "Version": "versions",
    "Versions": "versions",
    "export_student": "publish",
    "export_teacher": "publish",
    "mirror": "remote",
    "models_config": "card",
    "read_requests": "skew",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
