"""A store in memory whose objects are fetched by ranges, like those of S3."""

from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractBufferedFile


class _Object(AbstractBufferedFile):
    def _fetch_range(self, start: int, end: int) -> bytes:
        data: bytes = Bucket.store[self.path].getvalue()[start:end]
        Bucket.fetched.append((self.path, len(data)))
        return data


class Bucket(MemoryFileSystem):
    protocol = "bucket"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    fetched: ClassVar[list[tuple[str, int]]] = []
    """The object and the number of bytes of each request."""

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("bucket://")))

    def _open(self, path: str, mode: str = "rb", block_size: Any = None, **kwargs: Any) -> Any:
        if mode != "rb":
            return super()._open(path, mode, block_size, **kwargs)
        return _Object(self, self._strip_protocol(path), mode, block_size or "default")


def make() -> Bucket:
    """Return an empty bucket, which fsspec knows in this process as bucket://."""
    fsspec.register_implementation("bucket", Bucket, clobber=True)
    Bucket.store.clear()
    Bucket.fetched.clear()
    return Bucket()
