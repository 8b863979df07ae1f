"""A source of literal rows, for tests of the materialize job."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import polars as pl

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.sources.base import Unit

DAY = 86_400_000_000
"""In microseconds."""
Row = tuple[int | None, int | None, str, int | None, str]


@dataclass(frozen=True)
class Rows:
    """A source of units of literal rows: event time, user, item, click, other content."""

    parts: tuple[tuple[Row, ...], ...]
    broken: bool = False

    def columns(self) -> Mapping[str, pl.DataType]:
        return {"user": pl.Int64(), "item": pl.String(), "click": pl.Int8()}

    def units(self, raw_dir: str, *, workdir: str, days: Sequence[date]) -> list[Unit]:
        return [Unit(index=i, where=f"part {i}", args={"rows": rows}) for i, rows in enumerate(self.parts)]

    def read(self, unit: Unit) -> Iterator[pl.DataFrame]:
        if self.broken:
            raise UserError("events.csv is truncated; fetch it again")
        schema = {
            "event_time_us": pl.Int64,
            "user": pl.Int64,
            "item": pl.String,
            "click": pl.Int8,
            "other": pl.String,
        }
        frame = pl.DataFrame(unit.args["rows"], schema=schema, orient="row")
        yield frame.with_columns(content=frame.hash_rows(), dropped=pl.lit(None, pl.String)).drop("other")
