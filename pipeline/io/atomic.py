"""Files that are replaced as a whole: a reader finds all of the old file or all of the new one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path. When the block ends, what was written there replaces `path`; if it fails, nothing does.

    The folder is created if it does not exist. The temporary name keeps the suffix of `path`, so that a search for
    files of that kind, for example to delete a user's rows, also finds what a killed process left behind.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "report.txt"
        >>> with atomic_write(path) as partial:
        ...     _ = partial.write_text("done")
        >>> path.read_text()
        'done'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
