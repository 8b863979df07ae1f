"""Files that are replaced whole: whoever reads one finds all of the old one or all of the new one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Inside, the file is written under the name that is given; then it takes the place of `path`.

    Its folder is made where there is none. The name ends as the file's own does, so that what looks for files of a
    kind, to take a user's rows out of them, finds what a killed process has left, too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
