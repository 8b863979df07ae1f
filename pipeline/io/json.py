"""JSON files: read with an error of one line that names the file, written as a whole."""

import functools
import json
import logging
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.atomic import atomic_write

_log = logging.getLogger(__name__)
RESTORE = "restore it from a copy, or remove it"


class TornFile(UserError):
    """A file does not hold what was written to it: a disk lost some of it, or somebody changed it."""


def read_json(path: Path, parse: Callable[[Any], Any] = lambda value: value, *, mend: str = RESTORE) -> Any:
    """Return the content of a JSON file, as `parse` makes it of what the JSON holds.

    Raises TornFile, which ends with `mend`, where the file is not JSON or `parse` does not find what it looks for.
    Raises OSError where there is no such file.
    """
    return parse_json(path.read_bytes(), str(path), parse, mend=mend)


def parse_json(
    text: bytes, what: str, parse: Callable[[Any], Any] = lambda value: value, *, mend: str
) -> Any:
    """Return what `parse` makes of the JSON in `text`. Raises TornFile, which begins with `what`, as `read_json`."""
    try:
        value = json.loads(text)
    except ValueError as error:
        why = f"is not JSON ({error})" if text.strip(b"\0 \r\n") else "is empty"
        raise TornFile(f"{what} {why}; {mend}") from None
    try:
        return parse(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        missing = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise TornFile(f"{what} does not hold what was written there ({missing}); {mend}") from None


def json_object(value: Any) -> dict[str, Any]:
    """Return a JSON object as it is. Raises TypeError for any other value."""
    if not isinstance(value, dict):
        raise TypeError(f"it is a {type(value).__name__} and not an object")
    return value


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, once in a process: what is torn is read more than once."""
    _log.warning(message)


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
