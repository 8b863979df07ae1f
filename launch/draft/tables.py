"""The tables of raw files below a folder: files whose paths differ in numbers only, and a sample of their rows."""

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from tutelage.launch.draft.columns import Column, columns, raw_rows
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.sources.sample import Sampled, evenly
from tutelage.pipeline.sources.store import RECORDS, TEXT, File, NoFiles, find, readable

_SIZE = 1 << 24
"""Bytes of a table that are read."""
_PEEK = 1 << 18
"""Bytes that are read of a table to see what it is."""
_FILES = 64
"""Files of a table that are looked into."""
_TABLES = 32
"""Tables that are looked into."""
_TIME = re.compile(r"time|date|(^|_)(ts|at|when|created|since)($|_)")
_UUID = r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawTable:
    """Files of one format and place, with a sample of their rows."""

    pattern: str
    files: Sequence[File]
    sampled: Sequence[Sampled]
    columns: Sequence[Column]
    sample_rows: int
    bad_rows: int
    """Rows of the sample that cannot be parsed, beside `sample_rows`."""

    @property
    def share(self) -> float:
        """The share of the table's rows that the sample holds, estimated from bytes."""
        return self.sample_rows / max(self.rows, 1)

    @property
    def rows(self) -> int:
        """The number of the table's rows: exact where all of it was read, else estimated."""
        if self.whole:
            return self.sample_rows
        read = sum(len(file.content) for file in self.sampled)
        every = sum(len(file.content) / file.share for file in self.sampled)
        return round(self.sample_rows * every / max(read, 1) * len(self.files) / len(self.sampled))

    @property
    def whole(self) -> bool:
        """Whether the sample is the whole table."""
        return len(self.files) == len(self.sampled) and all(file.share == 1 for file in self.sampled)

    @property
    def time(self) -> Column | None:
        """The column that is most likely the time of its rows: by its type, its name, then its values."""
        times = [column for column in self.columns if column.kind == "time"]
        return max(
            times,
            key=lambda c: (bool(_TIME.search(c.name)), c.unit in ("", "iso8601"), c.distinct),
            default=None,
        )


def find_tables(raw_dir: str) -> tuple[list[RawTable], dict[str, str]]:
    """Return the tables below a folder or URL with a sample of their first bytes, and why others cannot be read.

    Raises UserError if there is no file of a known format, or no table can be read.
    """
    tables, unread = list[RawTable](), dict[str, str]()
    for pattern, files in list(_groups(raw_dir).items())[:_TABLES]:
        try:
            tables.append(sample(pattern, files, _PEEK))
        except UserError as error:
            unread[pattern] = str(error)
    if not tables:
        raise UserError("; ".join(unread.values()))
    return tables, unread


def sample(pattern: str, files: Sequence[File], size: int = _SIZE) -> RawTable:
    """Return a table with a sample of about `size` bytes. Raises UserError if a file cannot be read."""
    chosen = evenly(files, _FILES)
    sampled = [Sampled.of(file, max(size // len(chosen), 1)) for file in chosen]
    with readable(sampled[0]):
        rows, bad = raw_rows(sampled)
    return RawTable(
        pattern=pattern,
        files=files,
        sampled=sampled,
        columns=columns(rows),
        sample_rows=len(rows),
        bad_rows=bad,
    )


def _groups(raw_dir: str) -> dict[str, list[File]]:
    """Return the files of each format by a pattern that finds them."""
    groups: dict[str, list[File]] = {}
    for suffix in ("/", ".parquet", *TEXT, *RECORDS):
        try:
            files = find(raw_dir, "**/" if suffix == "/" else f"**/*{suffix}")
        except NoFiles:
            continue
        deltas = [pattern.removeprefix("**/") for pattern in groups if pattern.endswith("/")]
        for file in files:
            if suffix == "/":
                groups.setdefault(_delta_pattern(file.below), []).append(file)
            elif not any(file.below.startswith(folder) for folder in deltas):
                groups.setdefault(_pattern(file.below, suffix), []).append(file)
    if not groups:
        raise UserError(
            f"--raw_dir={raw_dir}: expected a folder or URL with files that end in .parquet, "
            f"{', '.join((*TEXT, *RECORDS))}, or with Delta tables, and found none; give that of your logs"
        )
    return dict(sorted(groups.items(), key=lambda group: -len(group[1])))


def _delta_pattern(path: str) -> str:
    """Return the pattern of the Delta table that a data file belongs to."""
    folders = [part for part in PurePosixPath(path).parent.parts if "=" not in part]
    return "".join(f"{glob.escape(part)}/" for part in folders) or "**/"


def _pattern(path: str, suffix: str) -> str:
    """Return a pattern of the paths that differ from `path` in numbers only.

    Example:
        >>> _pattern("logs/day=2026-01-31/part-00001.csv", ".csv")
        'logs/*/part-*.csv'
    """
    *folders, name = PurePosixPath(path).parts
    folders = ["*" if re.search(r"\d", part) else glob.escape(part) for part in folders]
    stem = re.sub(rf"{_UUID}|\d+", "\0", name.removesuffix(suffix))
    stem = re.sub(r"\*([-_.T]?\*)+", "*", glob.escape(stem).replace("\0", "*"))
    return "/".join((*folders, stem + suffix))
