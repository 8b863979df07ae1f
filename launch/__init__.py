"""The commands, and what they are made of: experiments, sessions, the nightly run. Nothing imports this room.

Its public names are imported when they are first used, so that `--help` stays quick.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "AlertConfig": "alert_config",
    "COMMANDS": "commands",
    "Experiment": "experiment",
    "KeepConfig": "experiment",
    "Session": "session",
    "StudyConfig": "experiment",
    "load": "config",
    "open_workdir": "workspace",
}
"""Public name → the module that defines it."""

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
