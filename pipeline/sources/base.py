"""What a source is: something that lists its work units and reads one of them as a frame."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Protocol, Self

import polars as pl

from tutelage.pipeline.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFile:
    """A local file as it was when the units were listed: rows of two states of it must not be mixed."""

    path: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str | Path) -> Self:
        """Raises OSError where there is none."""
        stat = os.stat(path)
        return cls(path=str(path), size=stat.st_size, mtime_ns=stat.st_mtime_ns)

    def check(self) -> None:
        """Raises UserError where it is gone or is another one now."""
        try:
            now = self.of(self.path)
        except OSError:
            raise UserError(
                f"{self.path} was removed while the job ran; put it back, or run again without it"
            ) from None
        if now != self:
            raise UserError(
                f"{self.path} changed while the job ran: it had {self.size:,} bytes and has {now.size:,}, or "
                "was written again; run again once it is whole"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A piece of raw data that one worker reads at once; it is pickled, its data is not.

    `index` orders the units of a job: of two rows with the same key, the one in the lower unit,
    then in the earlier row, stays. `where` is for people: a file, or a file and a byte range.
    `day` is the one that the unit is of, where that is known: rows of slices that were over before it came late.
    `rows_outside` is how many rows the unit stands for that are known, unread, to lie outside the days
    asked for; nothing of such a unit is read. `files` are those that it is read from.
    """

    index: int
    where: str
    args: Mapping[str, Any]
    day: date | None = None
    rows_outside: int = 0
    files: tuple[RawFile, ...] = ()

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Inside, the unit is read. Raises UserError where a file of it is no longer what was listed."""
        try:
            yield
        except (OSError, UserError):
            # What was made of it then is no news.
            self._check()
            raise
        self._check()

    def _check(self) -> None:
        for file in self.files:
            file.check()


class Source(Protocol):
    """Raw data of one kind. Implementations are frozen dataclasses: their fields are identity."""

    def columns(self) -> Mapping[str, pl.DataType]:
        """Every feature and label that this source can offer, with the dtype `read` gives it."""

    def units(self, raw_dir: str, *, workdir: str, days: Sequence[date]) -> list[Unit]:
        """The units that may hold rows of `days`. Cheap: it looks at names, sizes and headers.

        Raises UserError where `raw_dir` is missing, or a file or a column that it must hold is.
        """

    def read(self, unit: Unit) -> Iterator[pl.DataFrame]:
        """The rows of a unit in the order of the raw data, none left out, as frames with
        `event_time_us` (Int64, UTC; null where it cannot be read), every column of `columns()`,
        `content` (UInt64, a fingerprint of the whole raw row: equal rows have equal ones) and
        `dropped` (String: null, or the reason why the row is no good).

        Raises UserError for a file that is truncated or no file of this kind at all.
        """
