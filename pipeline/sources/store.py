"""Raw files below a folder, or below a URL of any store that fsspec supports."""

import glob
import logging
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path, PurePath, PurePosixPath
from typing import Any
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.paths import url_to_fs
from tutelage.pipeline.sources.base import check_name

TEXT = (".csv", ".csv.gz", ".csv.zst", ".jsonl", ".jsonl.gz", ".jsonl.zst")
RECORDS = (".tfrecord", ".tfrecord.gz")
CODECS = {".gz": "gzip", ".zst": "zstd"}
_HEAD = 1 << 16
"""Bytes of a remote file that are fetched for its header line."""
_SHOWN = 3
"""Paths that are named in the message about those that are skipped."""
_log = logging.getLogger(__name__)


class NoFiles(UserError):
    """There is no file that matches a pattern."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A raw file. It is pickled: each worker opens the store itself, and reads as much as it holds at a time."""

    name: str
    """The path, or the whole URL."""
    path: str
    """The path within the store."""
    below: str
    """The path below the raw folder."""
    store: str = ""
    """The URL that the file was found below; empty for the local disk."""
    partition: Mapping[str, Any] = field(default_factory=dict)
    """Columns of a Delta table that are not in its files, with the one value of all rows."""

    def __str__(self) -> str:
        return self.name

    @property
    def suffix(self) -> str:
        return PurePath(self.path).suffix

    @property
    def suffixes(self) -> list[str]:
        return PurePath(self.path).suffixes

    def open(self) -> pa.NativeFile:
        """Open the file for random access."""
        return pa.PythonFile(self._open(), mode="r") if self.store else pa.OSFile(self.path)

    def stream(self, *, head: bool = False) -> pa.NativeFile:
        """Open the file from its start, decompressed as its suffix says. With `head`, only little of it is read."""
        source = self._open(**({"block_size": _HEAD} if head else {})) if self.store else self.path
        return pa.input_stream(source, compression=CODECS.get(self.suffix))

    def _open(self, **how: Any) -> Any:
        fs, _ = _opened(self.store)
        try:
            return fs.open(self.path, "rb", **how)
        except (OSError, UserError):
            raise
        except Exception as error:  # Each store raises what its own library raises.
            raise OSError(f"{type(error).__name__}: {_first_line(error)}") from error


def check_pattern(whose: str, pattern: str) -> None:
    """Raise UserError for a pattern whose end names no format, or that leaves the raw folder."""
    if (
        not pattern.endswith((".parquet", *TEXT, *RECORDS, "/"))
        or Path(pattern).is_absolute()
        or ".." in Path(pattern).parts
        or "://" in pattern
    ):
        raise UserError(
            f"{whose}: pattern is {pattern!r}, expected a path below --raw_dir that ends in .parquet, "
            f"{', '.join((*TEXT, *RECORDS))}, or in / for Delta tables"
        )


def find(raw_dir: str, pattern: str) -> list[File]:
    """Return the files below `raw_dir` that match, in the order of their paths; of a Delta table its newest version.

    A local file is returned once, even if links lead to it by several paths. One warning names the paths that are
    skipped, with the reasons. Raises UserError if there is no file, for a path that is not UTF-8, for a URL that cannot
    be opened, and for a Delta table that cannot be read.
    """
    delta = pattern.endswith("/")
    if delta:
        pattern += "_delta_log"
    if remote := "://" in raw_dir:
        found = _find_remote(raw_dir, pattern, "directory" if delta else "file")
    else:
        found = _find_local(raw_dir, pattern, folders=delta)
    if delta:
        found = [file for log in found for file in _delta(log)]
    if not found:
        why = "" if remote or Path(raw_dir).is_dir() else ", which is not a folder"
        raise NoFiles(
            f"no files {pattern.removesuffix('_delta_log')} in {raw_dir!r}{why}; "
            "check --raw_dir and the config's pattern"
        )
    return found


def _find_local(raw_dir: str, pattern: str, *, folders: bool) -> list[File]:
    names = glob.glob(pattern, root_dir=raw_dir, recursive=True)
    root = os.path.realpath(raw_dir)
    real_folder = cache(os.path.realpath)

    def resolve(name: str) -> str:
        folder, last = os.path.split(os.path.join(root, name))
        path = os.path.join(real_folder(folder), last)
        return os.path.realpath(path) if os.path.islink(path) else path

    real = {name: resolve(name) for name in names}
    found: dict[str, str] = {}
    skipped: list[str] = []
    # Of several paths to one file the one without links is used, then the shortest.
    for name in sorted(names, key=lambda n: (real[n] != os.path.join(root, n), n.count("/"), n)):
        check_name(os.path.join(raw_dir, name))
        kind = _kind(real[name])
        if kind not in ("a file", "a folder"):
            skipped.append(f"{name} {kind}")
        elif kind == ("a folder" if folders else "a file"):
            if real[name] in found:
                skipped.append(f"{name} is the same file as {found[real[name]]}")
            else:
                found[real[name]] = name
    if skipped:
        more = f"; and {len(skipped) - _SHOWN} more" if len(skipped) > _SHOWN else ""
        _log.warning("%s: skipped %s%s", raw_dir, "; ".join(skipped[:_SHOWN]), more)
    paths = [Path(raw_dir, name) for name in sorted(found.values())]
    return [
        File(name=str(path), path=str(path), below=path.relative_to(raw_dir).as_posix()) for path in paths
    ]


def _kind(path: str) -> str:
    """Return "a file", "a folder", or why a path without links is neither."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "is a link to a file that does not exist"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if stat.S_ISFIFO(mode):
        return "is a FIFO"
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a file" if stat.S_ISREG(mode) else "is a socket or a device"


@lru_cache(maxsize=1)
def _opened(url: str) -> tuple[Any, str]:
    """Return the store and the path in it. Cached, because an archive would else be closed under its files."""
    return url_to_fs(url)


def _find_remote(url: str, pattern: str, kind: str) -> list[File]:
    try:
        _opened.cache_clear()
        fs, root = _opened(url)
        fs.invalidate_cache()
        # The root is a name, not a pattern, whatever characters it has.
        found = fs.glob(f"{glob.escape(root.rstrip('/'))}/{pattern}" if root else pattern, detail=True)
    except (
        Exception
    ) as error:  # Each store raises what its own library raises, for an odd URL and a refusal too.
        raise UserError(
            f"--raw_dir={url}: {_first_line(error)}; give a folder, or a URL like s3://bucket/logs that this machine "
            "may read"
        ) from None
    return [
        File(name=fs.unstrip_protocol(path), path=path, below=path[len(root) :].strip("/"), store=url)
        for path, info in sorted(found.items())
        # Hidden files are left out, as in a folder.
        if info["type"] == kind and not PurePath(path).name.startswith(".")
    ]


def _delta(log: File) -> list[File]:
    """Return the data files of a table's newest version, each with its values of the partition columns."""
    name, path, below = (
        text.removesuffix("/").removesuffix("_delta_log").removesuffix("/")
        for text in (log.name, log.path, log.below)
    )
    with readable(name):
        try:
            table = DeltaTable(name)
            adds = pl.DataFrame(table.get_add_actions(flatten=True))
        except DeltaError as error:
            raise OSError(str(error)) from None
    # With these features the files cannot be read as they are: rows are deleted, or columns have other names.
    if found := {"deletionVectors", "columnMapping"} & set(table.protocol().reader_features or ()):
        raise UserError(f"{name} has Delta's {min(found)}, which is not supported; write it without")
    keys = table.metadata().partition_columns
    files = []
    for add in adds.sort("path").to_dicts():
        part = unquote(add["path"])
        _check_below(name, part)
        files.append(
            File(
                name=f"{name}/{part}",
                path=f"{path}/{part}",
                below=f"{below}/{part}",
                store=log.store,
                partition={key: add[f"partition.{key}"] for key in keys},
            )
        )
    return files


def _check_below(table: str, part: str) -> None:
    """Raise UserError for a data file outside the folder of its table: a log must not lead to other files."""
    path = PurePosixPath(part)
    if path.is_absolute() or ".." in path.parts or "://" in part:
        raise UserError(
            f"{table}: its Delta log names the file {part!r}, expected a path below the table's folder; "
            "copy the table with its files (a shallow clone does not have them)"
        )


@contextmanager
def readable(name: File | str) -> Iterator[None]:
    """Turn what the libraries raise for a damaged file into a UserError of one line."""
    try:
        yield
    except (OSError, UnicodeDecodeError, pa.ArrowException, pl.exceptions.PolarsError) as error:
        kind = "".join(PurePath(str(name)).suffixes[-2:])
        raise UserError(
            f"cannot read {name}: {_first_line(error)}; expected a complete {kind} file; fetch it again"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
