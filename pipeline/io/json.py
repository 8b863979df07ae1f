"""JSON files: written as a whole with a digest inside, and read with an error of one line that names the file."""

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.store import FILES

_log = logging.getLogger(__name__)
RESTORE = "restore it from a copy, or remove it"
_DIGEST, _SHA = "content_digest", "sha256:"
"""The name under which an object holds its digest, and how the digest begins."""


class TornFile(UserError):
    """A file does not hold what was written to it: a disk lost some of it, or somebody changed it."""


def read_json(path: Path, parse: Callable[[Any], Any] = lambda value: value, *, mend: str = RESTORE) -> Any:
    """Return the content of a JSON file, as `parse` makes it of what the JSON holds.

    Raises TornFile, which ends with `mend`, where the file is not JSON or `parse` does not find what it looks for.
    Raises OSError where there is no such file.
    """
    return parse_json(FILES.read(path), str(path), parse, mend=mend)


def parse_json(
    text: bytes, what: str, parse: Callable[[Any], Any] = lambda value: value, *, mend: str
) -> Any:
    """Return what `parse` makes of the JSON in `text`, without its digest.

    Raises TornFile, which begins with `what`, as `read_json`.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        why = f"is not JSON ({error})" if text.strip(b"\0 \r\n") else "is empty"
        raise TornFile(f"{what} {why}; {mend}") from None
    try:
        return parse(unsealed(value))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        missing = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise TornFile(f"{what} does not hold what was written there ({missing}); {mend}") from None


def sealed(value: Any) -> Any:
    """Return an object of JSON with its digest, and a list with one in each object; any other value as it is.

    Example:
        >>> sealed({"day": 1})
        {'day': 1, 'content_digest': 'sha256:cf48d817e92f6d77f786e262717046f5'}
    """
    if isinstance(value, list):
        return [sealed(item) for item in value]
    return {**value, _DIGEST: _digest(value)} if isinstance(value, dict) else value


def unsealed(value: Any) -> Any:
    """Return what `sealed` was given. An object without a digest is of an older release, and returned as it is.

    Raises ValueError where a digest is not that of the object that holds it.
    """
    if isinstance(value, list):
        return [unsealed(item) for item in value]
    if not isinstance(value, dict):
        return value
    # Also under another name: one byte of the name may have changed.
    digests = {name for name, v in value.items() if isinstance(v, str) and v.startswith(_SHA)}
    if _DIGEST not in value and not digests:
        return value
    rest = {name: item for name, item in value.items() if name != _DIGEST}
    if value.get(_DIGEST) != _digest(rest):
        raise ValueError(
            f"its digest is another; where somebody has changed it on purpose, remove its {_DIGEST!r} too"
        )
    return rest


def _digest(value: Mapping[str, Any]) -> str:
    # 128 bits are enough against chance, and nothing is enough against somebody who may write the file.
    return _SHA + hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]


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
    """Write a JSON file with its digest, which appears whole or not at all. Dates are written in ISO format.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "state.json"
        >>> write_json(path, {"day": date(2026, 1, 2)})
        >>> read_json(path)
        {'day': '2026-01-02'}
    """
    FILES.put(path, json_bytes(value))


def json_bytes(value: object) -> bytes:
    """Return the content of the file that `write_json` writes."""
    # As it is read: keys are texts then, and dates too.
    plain = json.loads(json.dumps(value, default=_plain))
    return (json.dumps(sealed(plain), indent=1) + "\n").encode()


def _plain(value: object) -> object:
    """Return what JSON takes in the place of `value`."""
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{value!r} is {type(value).__name__}, which JSON cannot hold")
