"""How often a model's process was killed on one day: a step that was killed is done again, but not for ever."""

from datetime import date
from pathlib import Path
from typing import Any

from tutelage.pipeline.io.json import TornFile, read_json, warn_once, write_json
from tutelage.pipeline.io.store import FILES

_FILE = "killed.json"


def count(folder: Path, day: date) -> int:
    """Record in a model's folder that its process was killed on `day` once more; return how often it was.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> [count(folder, date(2026, 1, day)) for day in (2, 2, 3)]
        [1, 2, 1]
    """
    kills = 1 + _recorded(folder).get(str(day), 0)
    write_json(folder / _FILE, {str(day): kills})
    return kills


def forget(folder: Path) -> None:
    """Remove the record, because the model was trained on all of its days."""
    FILES.delete(folder / _FILE)


def _recorded(folder: Path) -> dict[str, int]:
    def checked(value: Any) -> dict[str, int]:
        return {day: int(kills) for day, kills in value.items()}

    path = folder / _FILE
    try:
        recorded: dict[str, int] = read_json(path, checked, mend="kills are counted from 1 again")
    except FileNotFoundError:
        return {}
    except TornFile as error:
        warn_once(str(error))
        return {}
    return recorded
