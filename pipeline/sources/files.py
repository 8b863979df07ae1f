"""A user's own event logs: Parquet, Delta tables, CSV, JSON lines or TFRecord, one row an exposure."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import partial

import polars as pl
import pyarrow.parquet as pq

from tutelage.pipeline.days import slice_expr
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Schema
from tutelage.pipeline.sources.base import Unit
from tutelage.pipeline.sources.columns import Columns, TimeUnit, check_time
from tutelage.pipeline.sources.formats import check_header, check_parquet
from tutelage.pipeline.sources.store import File, check_pattern, find, readable

_THREADS = 16  # that look at the heads of remote files, most of whose time is waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Reads the files that `pattern` finds below the raw folder, or below a URL of a store that fsspec knows.

    A Parquet file whose statistics say that all its times lie outside the days asked for is not read: its rows are
    counted as `outside_days`. A file without statistics of whole numbers or timestamps is read, as is any text.

    The suffix tells the format: .parquet; .csv with a header line, commas and no line ends within fields; .jsonl
    with an object a line; the last two also as .gz and .zst; .tfrecord of tf.Example, also as .gz. A pattern that
    ends in / finds Delta tables, read as they are when the units are listed. An absent key or value, an empty text
    and a NaN are a null. Numbers may be text, `true` and `false` are 1 and 0, and 9.0 is the integer 9. A float
    beyond 2^53 is no integer, for it may have been another one. A list is one of Parquet's or of
    tf.Example's, or a JSON array, in CSV the text of one; its items are read as single values are, nulls left out.

    Rows are dropped as `bad_row` (other fields than the header's, no JSON object, no tf.Example), `bad_time` (no time
    in the years 1970 to 2099) and `bad_<column>` (not of the schema's dtype, infinite, not UTF-8, a list of many, a
    binary label that is not 0 or 1, a `log1p` label below 0).

    A unit is a file, of a Delta table one of its data files; a worker holds 65,536 rows of it at a time, of Parquet
    also one row group as it is on disk. Remote files are read where they are, by ranges: nothing is copied.
    """

    pattern: str
    """A glob, as in events/**/*.parquet, or events/ for a Delta table."""
    schema: Schema
    """The experiment's: it says which columns are read, and what they hold."""
    event_time: str
    """The raw column that says when the exposure was."""
    time_unit: TimeUnit = "iso8601"
    """Of a number since 1970 in UTC, or text like 2026-01-31T18:30:00.5+01:00. Parquet's own timestamps need none."""
    time_zone: str = "UTC"
    """Of times that name none (an IANA name); of two that are the same on the clock, the earlier is meant."""
    renamed: tuple[tuple[str, str], ...] = ()
    """Pairs of a feature or label and the raw column it is read from, where the names differ."""

    def __post_init__(self) -> None:
        check_pattern("Files", self.pattern)
        check_time("Files", self.time_unit, self.time_zone)
        ours = [name for name, _ in self.renamed]
        for name in ours:
            if name not in self.columns() or ours.count(name) > 1:
                raise UserError(
                    f"Files: renamed has {name!r}, expected features and labels of the schema, each once: "
                    f"{', '.join(self.columns())}"
                )

    def columns(self) -> Mapping[str, pl.DataType]:
        """The schema's features and labels, with its dtypes."""
        empty = pl.DataFrame(self.schema.interactions.empty_table())
        return {name: empty.schema[name] for name in empty.columns[2:]}  # the first two are no raw columns

    def units(self, raw_dir: str, *, workdir: str, days: Sequence[date]) -> list[Unit]:
        """A file each, in the order of their paths; then one of all files that hold no row of `days`, if any.

        Raises UserError where there is none, and where a Parquet or CSV file lacks a column.
        """
        files = find(raw_dir, self.pattern)
        with ThreadPoolExecutor(_THREADS) as pool:
            outside = list(pool.map(partial(self._outside, days=days), files))
        inside = [file for file, rows in zip(files, outside, strict=True) if not rows]
        units = [Unit(index=i, where=str(file), args={"file": file}) for i, file in enumerate(inside)]
        if sum(outside):
            where = f"{len(files) - len(inside)} files of other days"
            units.append(Unit(index=len(units), where=where, args={}, rows_outside=sum(outside)))
        return units

    def read(self, unit: Unit) -> Iterator[pl.DataFrame]:
        """Frames of up to 65,536 rows.

        Raises UserError for a file that is truncated or of another format, and for a column that is missing (of
        JSON lines and tf.Example: that none of the first 65,536 has) or of a type that can never fit.
        """
        file: File = unit.args["file"]
        with readable(file):
            yield from self._events.read(file)

    def _outside(self, file: File, days: Sequence[date]) -> int:
        """The rows of a Parquet file that can hold none of `days`; 0 where it may hold one, and of all others.

        Raises UserError where a wanted column is missing, or there twice. Objects have no header to look at.
        """
        events = self._events
        with readable(file):
            if ".csv" in file.suffixes:
                check_header(file, events.wanted)
            if file.suffix != ".parquet":
                return 0
            with file.open() as source, pq.ParquetFile(source) as parquet:
                check_parquet(file, parquet, events.wanted)
                bounds = events.bounds(file, parquet.metadata)
                rows = parquet.metadata.num_rows
        if not bounds or not days:
            return 0
        day = slice_expr("us", time_zone=self.schema.time_zone, slice_days=self.schema.slice_days)
        first, last = pl.DataFrame({"us": bounds}).select(day).to_series()
        return 0 if any(first <= day <= last for day in days) else rows

    @property
    def _events(self) -> Columns:
        return Columns(
            time=self.event_time,
            time_unit=self.time_unit,
            time_zone=self.time_zone,
            raw={name: name for name in self.columns()} | dict(self.renamed),
            dtypes=self.columns(),
            labels=self.schema.labels,
        )
