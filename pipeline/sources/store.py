"""Raw files below a folder, or below a URL of any store that fsspec knows."""

import glob
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import unquote

import fsspec
import polars as pl
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from tutelage.pipeline.errors import UserError

TEXT = (".csv", ".csv.gz", ".csv.zst", ".jsonl", ".jsonl.gz", ".jsonl.zst")
RECORDS = (".tfrecord", ".tfrecord.gz")
_CODECS = {".gz": "gzip", ".zst": "zstd"}
_HEAD = 1 << 16  # bytes of a remote file that are fetched for its header line


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A raw file. It is pickled: each worker opens the store itself, and reads as much as it holds at a time."""

    name: str
    """A path, or the whole URL."""
    path: str
    """What the store calls it."""
    below: str
    """Its path below the raw folder."""
    store: str = ""
    """The URL that it was found below; empty: the local disk."""
    partition: Mapping[str, Any] = field(default_factory=dict)
    """Columns of a Delta table that are not in its files, with the value of all rows."""

    def __str__(self) -> str:
        return self.name

    @property
    def suffix(self) -> str:
        return PurePath(self.path).suffix

    @property
    def suffixes(self) -> list[str]:
        return PurePath(self.path).suffixes

    def open(self) -> pa.NativeFile:
        """For reading in any order."""
        return pa.PythonFile(self._open(), mode="r") if self.store else pa.OSFile(self.path)

    def stream(self, *, head: bool = False) -> pa.NativeFile:
        """From the start, unpacked as the suffix says; `head`: little of it will be read."""
        source = self._open(**({"block_size": _HEAD} if head else {})) if self.store else self.path
        return pa.input_stream(source, compression=_CODECS.get(self.suffix))

    def _open(self, **how: Any) -> Any:
        fs, _ = _opened(self.store)
        return fs.open(self.path, "rb", **how)


def check_pattern(whose: str, pattern: str) -> None:
    """Raise UserError for a pattern whose end names no format, or that leaves the raw folder."""
    if (
        not pattern.endswith((".parquet", *TEXT, *RECORDS, "/"))
        or Path(pattern).is_absolute()
        or "://" in pattern
    ):
        raise UserError(
            f"{whose}: pattern is {pattern!r}, expected a path below --raw_dir that ends in .parquet, "
            f"{', '.join((*TEXT, *RECORDS))}, or in / for Delta tables"
        )


def find(raw_dir: str, pattern: str) -> list[File]:
    """The files below `raw_dir` in the order of their paths; of a Delta table those of its newest version.

    Raises UserError where there is none, for a URL that will not do, and a Delta table that cannot be read.
    """
    delta = pattern.endswith("/")
    if delta:
        pattern += "_delta_log"
    if remote := "://" in raw_dir:
        found = _find_remote(raw_dir, pattern, "directory" if delta else "file")
    else:
        names = glob.glob(pattern, root_dir=raw_dir, recursive=True)
        paths = [Path(raw_dir, name) for name in sorted(names)]
        found = [
            File(name=str(path), path=str(path), below=path.relative_to(raw_dir).as_posix())
            for path in paths
            if (path.is_dir if delta else path.is_file)()
        ]
    if delta:
        found = [file for log in found for file in _delta(log)]
    if not found:
        why = "" if remote or Path(raw_dir).is_dir() else ", which is no folder"
        raise UserError(
            f"no files {pattern.removesuffix('_delta_log')} in {raw_dir!r}{why}; see --raw_dir and the config's pattern"
        )
    return found


@lru_cache(maxsize=1)
def _opened(url: str) -> tuple[Any, str]:
    """The store and the path in it; kept, as an archive would else be closed under its files."""
    fs, path = fsspec.url_to_fs(url)
    return fs, path


def _find_remote(url: str, pattern: str, kind: str) -> list[File]:
    try:
        _opened.cache_clear()
        fs, root = _opened(url)
        fs.invalidate_cache()
        # The root is a name, whatever is in it.
        found = fs.glob(f"{glob.escape(root.rstrip('/'))}/{pattern}" if root else pattern, detail=True)
    except (ValueError, ImportError, OSError) as error:
        raise UserError(
            f"--raw_dir={url}: {_first_line(error)}; give a folder, or a URL like s3://bucket/logs that this machine "
            "may read"
        ) from None
    return [
        File(name=fs.unstrip_protocol(path), path=path, below=path[len(root) :].strip("/"), store=url)
        for path, info in sorted(found.items())
        if info["type"] == kind and not PurePath(path).name.startswith(".")  # as for a folder
    ]


def _delta(log: File) -> list[File]:
    """The data files of the newest version, each with the values that it has of the partition columns."""
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
    # Their files are not to be read as they are: rows are deleted, columns have other names.
    if found := {"deletionVectors", "columnMapping"} & set(table.protocol().reader_features or ()):
        raise UserError(f"{name} has Delta's {min(found)}, which is not supported; write it without")
    keys = table.metadata().partition_columns
    return [
        File(
            name=f"{name}/{unquote(add['path'])}",
            path=f"{path}/{unquote(add['path'])}",
            below=f"{below}/{unquote(add['path'])}",
            store=log.store,
            partition={key: add[f"partition.{key}"] for key in keys},
        )
        for add in adds.sort("path").to_dicts()
    ]


@contextmanager
def readable(name: File | str) -> Iterator[None]:
    """What the libraries say of a file that is damaged, as one line."""
    try:
        yield
    except (OSError, UnicodeDecodeError, pa.ArrowException, pl.exceptions.PolarsError) as error:
        kind = "".join(PurePath(str(name)).suffixes[-2:])
        raise UserError(
            f"cannot read {name}: {_first_line(error)}; expected a whole {kind} file; fetch it again"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
