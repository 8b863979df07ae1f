"""The rows of a day in the order in which they happened, any range of them at a time."""

import numpy as np
import polars as pl

KEY = ("event_time_us", "example_id")
"""The order of a day: the time of the event, ties by example_id."""
_CELLS = 65_536
_ID_BITS = 48


class EventOrder:
    """Reads rows by their place in event order, without holding or sorting the whole day.

    The rows are counted once in cells, which follow one another in event order: spans of time, and where many rows
    have one time (a log that knows only hours), spans of their ids. A range is read from the cells that hold it. In
    files that are in event order themselves, Parquet's statistics leave out what lies before and after.
    """

    def __init__(self, rows: pl.LazyFrame, *, chunk_rows: int):
        """`rows` are those of a day, in any order. Up to `chunk_rows` of them are read as a whole."""
        self._rows, self.chunk_rows = rows, chunk_rows
        self.size = int(rows.select(pl.len()).collect().item())
        self._cells = None if self.size <= chunk_rows else _cells(rows, most=chunk_rows // 8)

    def read(self, start: int, stop: int, columns: list[str] | None = None) -> pl.DataFrame:
        """Return the rows from place `start` to before `stop`; None: all columns."""
        rows, before = self._rows, 0
        if self._cells is not None:
            first = int(np.searchsorted(self._cells["before"], start, side="right")) - 1
            end = int(np.searchsorted(self._cells["before"], stop))
            before = int(self._cells["before"][first])
            rows = rows.filter(*_from(self._cells.row(first)[:2]))
            if end < self._cells.height:
                rows = rows.filter(*_until(self._cells.row(end)[:2]))
        if columns is not None:
            rows = rows.select(list(dict.fromkeys((*KEY, *columns))))
        frame = rows.sort(*KEY).collect()
        if self._cells is not None:
            frame = frame[start - before : stop - before]
        return frame if columns is None else frame.select(columns)


def _from(key: tuple[int, int]) -> tuple[pl.Expr, ...]:
    time, example = map(pl.col, KEY)
    # The first condition alone is one that Parquet's statistics answer.
    return time >= key[0], (time > key[0]) | (example >= key[1])


def _until(key: tuple[int, int]) -> tuple[pl.Expr, ...]:
    time, example = map(pl.col, KEY)
    return time <= key[0], (time < key[0]) | (example < key[1])


def _cells(rows: pl.LazyFrame, *, most: int) -> pl.DataFrame:
    """Return the cells in order: the `time` and `id` that each begins with, and the rows `before` it.

    A cell of more than `most` rows is split by single times, and one of a single time by id.
    """
    time, example = map(pl.col, KEY)
    lowest = -(2**63)
    first, last = _counted(rows.select(first=time.min(), last=time.max())).row(0)
    width = (last - first) // _CELLS + 1
    span = (first + (time - first) // width * width).alias("time")
    by_span = _counted(rows.group_by(span).agg(rows=pl.len()))
    crowded = by_span.filter(pl.col("rows") > most)["time"]
    inside = rows.filter(span.is_in(crowded.implode()))
    by_time = _counted(inside.group_by(time.alias("time")).agg(rows=pl.len()))
    busy = by_time.filter(pl.col("rows") > most)["time"]
    of_id = (example // 2**_ID_BITS * 2**_ID_BITS).alias("id")
    same = rows.filter(time.is_in(busy.implode()))
    by_id = _counted(same.group_by(time.alias("time"), of_id).agg(rows=pl.len()))
    parts = [
        frame.with_columns(id=pl.lit(lowest, pl.Int64)).select("time", "id", "rows")
        for frame in (
            by_span.filter(~pl.col("time").is_in(crowded.implode())),
            by_time.filter(~pl.col("time").is_in(busy.implode())),
        )
    ]
    cells = pl.concat([*parts, by_id.select("time", "id", "rows")]).sort("time", "id")
    counted = pl.col("rows").cast(pl.Int64)
    return cells.select("time", "id", before=counted.cum_sum() - counted)


def _counted(rows: pl.LazyFrame) -> pl.DataFrame:
    return rows.collect(engine="streaming")
