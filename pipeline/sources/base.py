"""The `Source` protocol: a source lists its work units, and reads one unit as frames."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Protocol, Self

import polars as pl

from tutelage.pipeline.errors import UserError


def check_name(path: str | Path) -> None:
    """Raise UserError for a path that is not UTF-8, which neither Arrow nor Polars can open."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"{os.fsencode(path)!r}: this path is not UTF-8; rename the file or folder") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFile:
    """A local file with its state when the units were listed. Rows of two states of a file must not be mixed."""

    path: str
    size: int
    """In bytes."""
    mtime_ns: int

    @classmethod
    def of(cls, path: str | Path) -> Self:
        """Return the file with its present state.

        Raises OSError if there is no such file, and UserError if its name is not UTF-8.
        """
        check_name(path)
        stat = os.stat(path)
        return cls(path=str(path), size=stat.st_size, mtime_ns=stat.st_mtime_ns)

    def check(self) -> None:
        """Raise UserError if the file was removed or changed since."""
        try:
            now = self.of(self.path)
        except OSError:
            raise UserError(
                f"{self.path} was removed while the job ran; put it back, or run again without it"
            ) from None
        if now != self:
            raise UserError(
                f"{self.path} changed while the job ran: it had {self.size:,} bytes and has {now.size:,}, or "
                "was written again; run again once it is complete"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A piece of raw data that one worker reads at a time. The unit is pickled, its data is not."""

    index: int
    """Position among the units of a job. Of rows with the same key, the one in the lowest unit, and in the earliest row
    of that unit, stays."""
    where: str
    """What people read in messages: a file, or a file and a byte range."""
    args: Mapping[str, Any]
    """What the source needs to read the unit."""
    day: date | None = None
    """The day that the unit belongs to, where it is known. Rows of slices that ended before that day are late."""
    rows_outside: int = 0
    """Rows that are known to lie outside the requested days without being read. Nothing of such a unit is read."""
    files: tuple[RawFile, ...] = ()
    """The local files that the unit is read from."""

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Raise UserError if a file of the unit changes while the code inside reads it."""
        try:
            yield
        except (OSError, UserError):
            # A changed file explains whatever went wrong in reading it.
            self._check()
            raise
        self._check()

    def _check(self) -> None:
        for file in self.files:
            file.check()


class Source(Protocol):
    """Raw data of one kind. Implementations are frozen dataclasses: their fields are their identity."""

    def columns(self) -> Mapping[str, pl.DataType]:
        """Return every feature and label that this source can offer, with the dtype that `read` gives it."""

    def units(self, raw_dir: str, *, workdir: str, days: Sequence[date]) -> list[Unit]:
        """Return the units that may hold rows of `days`. Cheap: it looks at names, sizes and headers.

        Raises UserError if `raw_dir` is missing, or lacks a file or a column that it must have.
        """

    def read(self, unit: Unit) -> Iterator[pl.DataFrame]:
        """Yield all rows of a unit, in the order of the raw data.

        The frames have `event_time_us` (Int64, UTC; null where it cannot be parsed), every column of `columns()`,
        `content` (UInt64, a fingerprint of the whole raw row: equal rows have equal fingerprints) and `dropped`
        (String: null, or the reason to drop the row).

        Raises UserError for a file that is truncated, or not of this kind.
        """
