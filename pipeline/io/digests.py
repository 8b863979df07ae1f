"""Digests of files that a library wrote: whether a file is what was written."""

import functools
import hashlib
import os
from pathlib import Path

from tutelage.pipeline.io.paths import StoreStat, as_path


def differs(path: Path, size: int | None, sha256: str | None) -> str:
    """Return how a file differs from what was written; empty where it does not, as far as is known.

    Example:
        >>> differs(Path("/nonesuch/part.parquet"), 632, None)
        'is missing'
    """
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    if not stat.st_size:
        return "is empty"
    if size is not None and stat.st_size != size:
        return f"has {stat.st_size:,} bytes, expected {size:,}"
    if sha256 and sha256 != _sha256(str(path), stat.st_size, _state(stat)):
        return "is not what was written"
    return ""


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, which is read once in a process, until its size, time or etag changes."""
    stat = path.stat()
    return _sha256(str(path), stat.st_size, _state(stat))


def _state(stat: os.stat_result | StoreStat) -> str | int:
    return stat.etag if isinstance(stat, StoreStat) else stat.st_mtime_ns


@functools.lru_cache(maxsize=1_000_000)
def _sha256(path: str, size: int, state: str | int) -> str:
    with as_path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
