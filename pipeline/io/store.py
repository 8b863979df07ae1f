"""The small files of a workdir, by their paths: what is read, written, listed and deleted, and nothing else.

Everything that a command reads back goes through `FILES`, on a local disk and in an object store. Files that a library
writes by itself (Parquet, SavedModels, checkpoints) are brought to the disk by `io.atomic`, and to an object store by
`io.atomic` and `io.scratch`.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from tutelage.pipeline.errors import TransientError
from tutelage.pipeline.io import leases
from tutelage.pipeline.io.atomic import atomic_write, sync
from tutelage.pipeline.io.locks import locked
from tutelage.pipeline.io.paths import remote


class Files:
    """Files of this host or of an object store. A file is there whole or not at all, and what `put` wrote stays.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "record"
        >>> FILES.put_if_absent(path, b"one"), FILES.put_if_absent(path, b"two")
        (True, False)
        >>> tag = FILES.tag(FILES.read(path))
        >>> FILES.replace_if(path, b"three", tag)
        >>> FILES.read(path), [found.name for found in FILES.list(path.parent)]
        (b'three', ['record'])
        >>> FILES.delete(path)
        >>> FILES.list(path.parent)
        []
    """

    @staticmethod
    def tag(content: bytes | None) -> str:
        """Return what tells one content of a file from another, for `replace_if`; None: there is no file."""
        return "" if content is None else hashlib.sha256(content).hexdigest()

    def read(self, path: Path) -> bytes:
        """Return the content of a file. Raises FileNotFoundError where there is none."""
        return path.read_bytes()

    def put(self, path: Path, content: bytes) -> None:
        """Write a file, in the place of the one that is there."""
        if stored := remote(path):
            leases.check()
            stored.write_bytes(content)
            return
        with atomic_write(path) as partial:
            partial.write_bytes(content)

    def put_if_absent(self, path: Path, content: bytes) -> bool:
        """Write a file unless there is one; return whether it was written.

        In an object store a file that holds just this content counts as written: the answer may have been lost.
        """
        if stored := remote(path):
            leases.check()
            return stored.write_if(content, None)
        with self._alone(path):
            if path.exists():
                return False
            self.put(path, content)
            return True

    def replace_if(self, path: Path, content: bytes, tag: str) -> None:
        """Write a file if what is there has this `tag`. Raises TransientError where another process has changed it."""
        if stored := remote(path):
            leases.check()
            found, version = stored.read_versioned_if_any()
            if self.tag(found) == tag and stored.write_if(content, version):
                return
            raise _changed(path)
        with self._alone(path):
            if self.tag(self.read(path) if path.exists() else None) != tag:
                raise _changed(path)
            self.put(path, content)

    def list(self, folder: Path, pattern: str = "[!.]*") -> Sequence[Path]:
        """Return the files of a folder whose names match a glob pattern, in order; none where there is no folder."""
        if stored := remote(folder):
            return cast(Sequence[Path], [*stored.files(pattern)])
        return sorted(path for path in folder.glob(pattern) if path.is_file())

    def delete(self, path: Path) -> None:
        """Delete a file, if there is one."""
        if stored := remote(path):
            leases.check()
            stored.unlink(missing_ok=True)
        elif path.exists():
            path.unlink()
            sync(path.parent)

    @contextmanager
    def _alone(self, path: Path) -> Iterator[None]:
        """Let one process at a time compare and write in a folder. It takes milliseconds, so the others wait."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent, "", wait=None):
            yield


def _changed(path: Path) -> TransientError:
    return TransientError(f"another process has just changed {path}; run again")


FILES = Files()
