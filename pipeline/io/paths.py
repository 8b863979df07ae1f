"""Paths of a workdir: folders of this host, and folders of an object store (S3, GCS, Azure) with the same methods."""

import errno
import fnmatch
import functools
import io
import ipaddress
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, Self, cast
from urllib.parse import urlsplit

from tutelage.pipeline.errors import TransientError, UserError
from tutelage.pipeline.io.printable import masked

if TYPE_CHECKING:
    from obstore import UpdateVersion

EXTRAS: Mapping[str, str] = MappingProxyType({"s3": "s3", "gs": "gcs", "abfs": "azure", "abfss": "azure"})
"""The schemes of object stores, and the extra of the package that installs their driver."""
_ENDPOINTS = {
    "AWS_ENDPOINT_URL": "AWS_ALLOW_HTTP",
    "AWS_ENDPOINT_URL_S3": "AWS_ALLOW_HTTP",
    "AZURE_STORAGE_ENDPOINT": "AZURE_ALLOW_HTTP",
}
_ATTEMPTS = 10
"""How often a request is sent, with growing pauses, before the store counts as unavailable."""


class StoreError(TransientError, OSError):
    """The object store did not answer, or refused, after all attempts of its client."""

    def __init__(self, message: str):
        super().__init__(message)
        self.errno = errno.EIO


@dataclass(frozen=True, slots=True)
class StoreStat:
    """The part of `os.stat_result` that an object has."""

    st_size: int
    st_mtime: float
    etag: str

    @classmethod
    def of(cls, meta: Any) -> Self:
        """Return what the client says of an object."""
        return cls(meta["size"], meta["last_modified"].timestamp(), meta["e_tag"] or "")

    @property
    def st_mtime_ns(self) -> int:
        """The time at which it was written, by the clock of the store, in nanoseconds."""
        return int(self.st_mtime * 1e9)


def remote(path: object) -> "StorePath | None":
    """Return `path` where it lies in an object store; None: it is a local one."""
    return path if isinstance(path, StorePath) else None


def as_path(text: str | Path, *, flag: str = "") -> Path:
    """Return the absolute path that `text` names: a local one, or a `StorePath` where it is a URL of an object store.

    A `StorePath` has the methods of `Path`, and is typed as one. `flag` begins the messages.

    Raises UserError for a scheme that is not one of `EXTRAS`, for one whose driver is not installed, and for a URL
    that holds a password.

    Example:
        >>> as_path("/data/workdir").name
        'workdir'
        >>> as_path("ftp://host/workdir", flag="--workdir")
        Traceback (most recent call last):
        tutelage.pipeline.errors.UserError: --workdir=ftp://host/workdir: 'ftp' is no scheme that can be used; \
expected a local folder, or a URL that begins with s3://, gs://, abfs:// or abfss://
    """
    if not isinstance(text, str):
        return text.resolve()
    shown = f"{flag}={masked(text)}" if flag else masked(text)
    scheme, found, rest = text.partition(":/")
    if not found or not (rest.startswith("/") or scheme in EXTRAS):
        return Path(text).resolve()
    if scheme not in EXTRAS:
        known = ", ".join(f"{name}://" for name in EXTRAS)
        raise UserError(
            f"{shown}: {scheme!r} is no scheme that can be used; expected a local folder, or a URL that begins with "
            f"{' or '.join(known.rsplit(', ', 1))}"
        )
    bucket, _, key = rest.removeprefix("/").partition("/")
    if not rest.startswith("/") or not bucket:
        raise UserError(f"{shown}: it names no bucket; write {scheme}://BUCKET/FOLDER")
    if ":" in bucket or re.search(r"[?#]", text):
        raise UserError(
            f"{shown}: expected {scheme}://BUCKET/FOLDER and nothing else; credentials come from the environment"
        )
    try:
        import obstore  # noqa: F401
    except ImportError:
        raise UserError(
            f"{shown}: the driver of {scheme}:// is not installed; run pip install 'tutelage[{EXTRAS[scheme]}]'"
        ) from None
    _allow_http_on_loopback()
    return cast(Path, StorePath(f"{scheme}://{bucket}", PurePosixPath(key)).resolve())


def url_to_fs(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of a URL, and the path in it.

    It is that of the workdir's driver where fsspec's own for an object store (s3fs, gcsfs, adlfs) is not installed.
    Raises ImportError, which names the extra to install, where neither is.
    """
    import fsspec

    scheme = url.partition("://")[0]
    try:
        fsspec.get_filesystem_class(scheme if "://" in url else "file")
    except ImportError:
        if scheme not in EXTRAS:
            raise
        try:
            from obstore.fsspec import register
        except ImportError:
            how = f"run pip install 'tutelage[{EXTRAS[scheme]}]'"
            raise ImportError(f"the driver of {scheme}:// is not installed; {how}") from None
        _allow_http_on_loopback()
        register(scheme)
    fs, path = fsspec.url_to_fs(url)
    return fs, path


def _allow_http_on_loopback() -> None:
    """Let all clients of object stores (obstore, Delta Lake, Polars) speak HTTP with a server on this host.

    They read it from the environment, as they do credentials and endpoints, so worker processes have it too.
    """
    for endpoint, allow in _ENDPOINTS.items():
        host = urlsplit(os.environ.get(endpoint, "")).hostname
        try:
            loopback = host == "localhost" or ipaddress.ip_address(host or "").is_loopback
        except ValueError:
            loopback = False
        if loopback:
            os.environ.setdefault(allow, "true")


@functools.lru_cache(maxsize=16)
def _client(bucket: str, process: int) -> Any:
    """Return the client of a bucket; `process` is the id of this one, because a client does not survive a fork."""
    from obstore.store import from_url

    # Options that are passed replace those of the environment.
    http = any(os.environ.get(allow, "").lower() == "true" for allow in _ENDPOINTS.values())
    with _readable_errors(bucket):
        return from_url(
            bucket,
            retry_config={"max_retries": _ATTEMPTS},
            client_options={"timeout": "120s", "allow_http": http},
        )


@contextmanager
def _readable_errors(what: object) -> Iterator[None]:
    """Raise what the client raises as an OSError of one line."""
    from obstore import exceptions

    try:
        yield
    except (FileNotFoundError, exceptions.GenericError) as error:
        if "NoSuchBucket" in str(error):
            raise UserError(f"{what}: there is no such bucket; create it, or correct the URL") from None
        if not isinstance(error, FileNotFoundError):
            raise _unavailable(what, error) from None
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(what)) from None
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError):
        raise UserError(
            f"{what}: the store refuses the credentials of this environment; give it some that may read and write there"
        ) from None
    except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
        raise
    except exceptions.BaseError as error:
        raise _unavailable(what, error) from None


def _unavailable(what: object, error: Exception) -> StoreError:
    line = masked(str(error).strip().split("\n")[0])[:300]
    return StoreError(f"{what}: {line}; look after the network and the store, then run again")


def _matches(names: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not names
    if pattern[0] == "**":
        return any(_matches(names[start:], pattern[1:]) for start in range(len(names) + 1))
    return bool(names) and fnmatch.fnmatchcase(names[0], pattern[0]) and _matches(names[1:], pattern[1:])


def _version(meta: Any) -> "UpdateVersion":
    return cast(
        "UpdateVersion", {name: meta[name] for name in ("e_tag", "version") if meta[name] is not None}
    )


@functools.total_ordering
class StorePath:
    """A path in an object store, with the methods of `pathlib.Path` that make sense there.

    It is no `os.PathLike`: what takes local files only fails at once. A folder exists as long as a file lies in it.
    Every request asks the store: nothing is cached.
    """

    __slots__ = ("_bucket", "_key")

    def __init__(self, bucket: str, key: PurePosixPath):
        self._bucket = bucket
        """As in s3://bucket."""
        self._key = key

    def __str__(self) -> str:
        return self._bucket if self._key == PurePosixPath() else f"{self._bucket}/{self._key}"

    def __repr__(self) -> str:
        return f"StorePath({str(self)!r})"

    def __hash__(self) -> int:
        return hash(str(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StorePath) and str(self) == str(other)

    def __lt__(self, other: "StorePath") -> bool:
        return (self._bucket, self._key) < (other._bucket, other._key)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._bucket, self._key)

    # The name.

    def _with(self, key: PurePosixPath) -> Self:
        return type(self)(self._bucket, key)

    def __truediv__(self, other: str | PurePosixPath) -> Self:
        return self._with(self._key / other)

    def joinpath(self, *others: str | PurePosixPath) -> Self:
        return self._with(self._key.joinpath(*others))

    @property
    def bucket(self) -> str:
        """The bucket, as in s3://bucket."""
        return self._bucket

    @property
    def name(self) -> str:
        return self._key.name

    @property
    def stem(self) -> str:
        return self._key.stem

    @property
    def suffix(self) -> str:
        return self._key.suffix

    @property
    def suffixes(self) -> list[str]:
        return self._key.suffixes

    @property
    def parts(self) -> tuple[str, ...]:
        return (self._bucket, *self._key.parts)

    @property
    def parent(self) -> Self:
        return self._with(self._key.parent)

    @property
    def parents(self) -> Sequence[Self]:
        return [self._with(key) for key in self._key.parents]

    def with_name(self, name: str) -> Self:
        return self._with(self._key.with_name(name))

    def with_suffix(self, suffix: str) -> Self:
        return self._with(self._key.with_suffix(suffix))

    def as_posix(self) -> str:
        return str(self)

    def relative_to(self, other: Self) -> PurePosixPath:
        if other._bucket != self._bucket:
            raise ValueError(f"{self} is not below {other}")
        return self._key.relative_to(other._key)

    def is_relative_to(self, other: object) -> bool:
        return (
            isinstance(other, StorePath)
            and other._bucket == self._bucket
            and self._key.is_relative_to(other._key)
        )

    def resolve(self) -> Self:
        """Return the path without `..`."""
        text = os.path.normpath(f"/{self._key}").lstrip("/")
        return self._with(PurePosixPath(text))

    absolute = resolve

    def is_absolute(self) -> bool:
        return True

    # What is there.

    @property
    def store(self) -> Any:
        """The client of its bucket."""
        return _client(self._bucket, os.getpid())

    @property
    def key(self) -> str:
        """Its name in the bucket."""
        return "" if self._key == PurePosixPath() else str(self._key)

    def stat(self) -> StoreStat:
        """Return size, time and etag of a file. Raises FileNotFoundError where there is none."""
        import obstore

        with _readable_errors(self):
            return StoreStat.of(obstore.head(self.store, self.key))

    def is_file(self) -> bool:
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        return any(True for _ in self._listed(chunk=1))

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def is_symlink(self) -> bool:
        return False

    def _listed(self, *, chunk: int = 1000) -> Iterator[tuple[PurePosixPath, StoreStat]]:
        """Yield the files at any depth, by their paths below this folder, each with what `stat` returns of it."""
        import obstore

        with _readable_errors(self):
            prefix = f"{self.key}/" if self.key else None
            for batch in obstore.list(self.store, prefix, chunk_size=chunk):
                for meta in batch:
                    yield PurePosixPath(meta["path"]).relative_to(self._key), StoreStat.of(meta)

    def stats(self) -> dict[str, StoreStat]:
        """Return what `stat` returns of each file at any depth, by its path below this folder, as `sizes` does."""
        return {str(below): stat for below, stat in self._listed()}

    def sizes(self) -> dict[str, int]:
        """Return the size of each file at any depth, by its path below this folder; one request per 1,000 files."""
        return {str(below): stat.st_size for below, stat in self._listed()}

    def iterdir(self) -> Iterator[Self]:
        """Yield what is in the folder. Raises FileNotFoundError where nothing is."""
        import obstore

        with _readable_errors(self):
            found = obstore.list_with_delimiter(self.store, self.key or None)
        names = {*found["common_prefixes"], *(meta["path"] for meta in found["objects"])}
        if not names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        for name in sorted(names):
            yield self._with(PurePosixPath(name))

    def files(self, pattern: str) -> Iterator[Self]:
        """Yield the files of this folder whose names match, in order."""
        import obstore

        with _readable_errors(self):
            found = obstore.list_with_delimiter(self.store, self.key or None)["objects"]
        names = sorted(PurePosixPath(meta["path"]) for meta in found)
        yield from (self._with(name) for name in names if fnmatch.fnmatchcase(name.name, pattern))

    def glob(self, pattern: str) -> Iterator[Self]:
        """Yield the files and folders below this one that match, in order. `**` stands for any number of folders."""
        if "/" in pattern:
            names = PurePosixPath(pattern).parts
            yield from (self / path for path in sorted(self._below()) if _matches(path.parts, names))
        else:
            try:
                yield from (path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, pattern))
            except FileNotFoundError:
                return

    def rglob(self, pattern: str) -> Iterator[Self]:
        """Yield the files and folders at any depth below this one whose last names match, in order."""
        yield from self.glob(f"**/{pattern}")

    def _below(self) -> set[PurePosixPath]:
        files = {path for path, _ in self._listed()}
        folders = {folder for path in files for folder in path.parents}
        return (files | folders) - {PurePosixPath()}

    # What it holds.

    def read_versioned(self) -> "tuple[bytes, UpdateVersion]":
        """Return the content of a file, and what tells it from another content: etag, generation or both."""
        import obstore

        with _readable_errors(self):
            found = obstore.get(self.store, self.key)
            return bytes(found.bytes()), _version(found.meta)

    def read_versioned_if_any(self) -> "tuple[bytes, UpdateVersion] | tuple[None, None]":
        """Return what `read_versioned` does; (None, None) where there is no file."""
        try:
            return self.read_versioned()
        except FileNotFoundError:
            return None, None

    def read_bytes(self) -> bytes:
        return self.read_versioned()[0]

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self.read_bytes().decode(encoding, errors)

    def write_bytes(self, content: bytes | memoryview) -> int:
        """Write a file, which appears as a whole."""
        self._put(content)
        return len(content)

    def write_text(self, content: str, encoding: str = "utf-8") -> int:
        return self.write_bytes(content.encode(encoding))

    def upload(self, source: Path) -> None:
        """Write a file with the content of a local one, in parts where it is large; it appears as a whole."""
        self._put(source)

    def _put(self, content: bytes | memoryview | Path) -> None:
        import obstore

        with _readable_errors(self):
            obstore.put(self.store, self.key, content)

    def download(self, target: Path) -> None:
        """Write the content to a local file, as it arrives."""
        import obstore

        with _readable_errors(self), target.open("wb") as file:
            for part in obstore.get(self.store, self.key).stream(min_chunk_size=8 << 20):
                file.write(part)

    def write_if(self, content: bytes, version: "UpdateVersion | None") -> bool:
        """Write a file if there is one of this version; None: if there is none. Return whether it was written.

        The store compares and writes in one step. A write whose answer was lost counts as written.
        """
        import obstore
        from obstore import exceptions

        mode: Any = version or "create"
        for left in reversed(range(_ATTEMPTS)):
            try:
                with _readable_errors(self):
                    obstore.put(self.store, self.key, content, mode=mode, use_multipart=False)
                return True
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                return self._holds(content)
            except StoreError:
                if self._holds(content):
                    return True
                if not left:
                    raise
        raise AssertionError

    def _holds(self, content: bytes) -> bool:
        try:
            return self.read_bytes() == content
        except FileNotFoundError:
            return False

    def open(self, mode: str = "r", encoding: str = "utf-8") -> IO[Any]:
        """Open a file to read it by ranges. To write one, use `FILES.put` or `atomic_write`."""
        if mode not in ("r", "rb"):
            raise ValueError(f"{self}: mode is {mode!r}, expected 'r' or 'rb'; a file is written as a whole")
        binary = io.BufferedReader(_Ranges(self), 1 << 20)
        return binary if mode == "rb" else io.TextIOWrapper(binary, encoding=encoding)

    def touch(self) -> None:
        self.write_bytes(b"")

    def mkdir(self, *_: Any, **__: Any) -> None:
        """Do nothing: a folder exists where a file lies in it."""

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete a file. The store does not tell whether there was one."""
        import obstore

        if not missing_ok:
            self.stat()
        with _readable_errors(self):
            obstore.delete(self.store, self.key)

    def remove(self, first: str = "") -> None:
        """Delete a folder with everything in it, the files named `first` before all others."""
        import obstore

        keys = [(self / path).key for path, _ in self._listed()]
        with _readable_errors(self):
            if ahead := [key for key in keys if first and PurePosixPath(key).name == first]:
                obstore.delete(self.store, ahead)
            if rest := [key for key in keys if key not in ahead]:
                obstore.delete(self.store, rest)

    def copy_to(self, target: "StorePath") -> None:
        """Copy a file within the bucket, without reading it."""
        import obstore

        with _readable_errors(self):
            obstore.copy(self.store, self.key, target.key)


class _Ranges(io.RawIOBase):
    """A file in an object store, read by ranges."""

    def __init__(self, path: StorePath):
        self._path, self._at, self._size = path, 0, path.stat().st_size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        import obstore

        if not (length := min(len(buffer), max(self._size - self._at, 0))):
            return 0
        with _readable_errors(self._path):
            part = obstore.get_range(self._path.store, self._path.key, start=self._at, length=length)
        buffer[:length] = memoryview(part)
        self._at += length
        return length
