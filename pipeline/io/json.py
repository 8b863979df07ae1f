"""JSON files: read with an error that names the file, written as a whole."""

import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.atomic import atomic_write


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises UserError where it is not JSON, and OSError where there is no such file.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); restore it from a copy, or remove it") from None


def write_json(path: Path, value: object) -> None:
    """Write a JSON file, which appears whole or not at all. Dates are written in ISO format.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "state.json"
        >>> write_json(path, {"day": date(2026, 1, 2)})
        >>> read_json(path)
        {'day': '2026-01-02'}
    """
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(value, indent=1, default=_plain) + "\n")


def _plain(value: object) -> object:
    """Return what JSON takes in the place of `value`."""
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{value!r} is {type(value).__name__}, which JSON cannot hold")
