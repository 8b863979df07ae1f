"""The staged pieces of a day: how the rows of a shard lie in them, and which of these repeat a key."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl

from tutelage.pipeline.ids import shard_of
from tutelage.pipeline.io.arrow import read_arrow, write_arrow

ROWS_PER_SHARD = 2_000_000
"""Rows of a day that one worker turns into data files (`Experiment.rows_per_shard`)."""
FRAME_ROWS = 1 << 19
"""Rows of a data file, and rows that a worker reads at a time, unless the source yields a larger frame."""
_UNPARTITIONED = 2
"""So many shards pick their rows out of pieces that hold those of all shards."""
_MOST_RANGES = 1 << 10
_REPEATS = {"row": pl.UInt32, "reason": pl.String}


def shards(rows: int, rows_per_shard: int) -> int:
    """Return the number of shards of so many rows.

    >>> [shards(rows, 10) for rows in (0, 10, 11, 35)]
    [1, 1, 2, 4]
    """
    return max(1, -(-rows // rows_per_shard))


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Rows of one day that one unit read: a staged file, or a part of it.

    The file has the columns of `interactions` and `content`, the fingerprint of the raw row.
    """

    order: tuple[int, int]
    """The index of the unit, and the number of the frame in it. Of repeated rows the first one stays."""
    path: str
    start: int = 0
    """The first row of the file that belongs to the piece."""
    rows: int
    late: bool = False
    """Whether the rows arrived after the day was over."""
    ranges: tuple[int, ...] = ()
    """Rows that begin at these places are of another range of ids: the shards of a day of that many, and the end. Empty
    where the rows have the order of the unit."""

    @classmethod
    def stage(
        cls, rows: pl.DataFrame, path: Path, *, expected: int, order: tuple[int, int], late: bool = False
    ) -> Self:
        """Write rows to a file. Of a day that is `expected` to have many shards, the rows of each lie together."""
        ranges: tuple[int, ...] = ()
        if expected > _UNPARTITIONED:
            of = min(expected, _MOST_RANGES)
            # Of 16 bits, NumPy sorts by radix.
            numbers = rows.select(shard_of(pl.col("example_id"), of)).to_series().to_numpy().astype(np.uint16)
            rows = rows.rechunk()[np.argsort(numbers, kind="stable")]
            ranges = (0, *np.cumsum(np.bincount(numbers, minlength=of)).tolist())
        write_arrow(rows, str(path))
        return cls(order=order, path=str(path), rows=rows.height, late=late, ranges=ranges)

    def of_shard(self, number: int, of: int) -> Self | None:
        """Return the part that may hold rows of a shard; None where there is no such row."""
        if not self.ranges:
            return self
        ranges = len(self.ranges) - 1
        start, end = (
            self.ranges[place] for place in (number * ranges // of, -(-(number + 1) * ranges // of))
        )
        return replace(self, start=start, rows=end - start, ranges=()) if end > start else None

    def read(self) -> pl.DataFrame:
        """Return the rows, memory-mapped."""
        return read_arrow(self.path, self.start, self.rows)


def concatenate_small(frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Join frames until they have `FRAME_ROWS` rows: one data file per small frame would be slow to write and read."""
    held: list[pl.DataFrame] = []
    for frame in frames:
        held.append(frame)
        if sum(map(len, held)) >= FRAME_ROWS:
            yield pl.concat(held)
            held = []
    if held:
        yield pl.concat(held)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRows:
    """The rows of one shard of a day, each key once, in the order of event time.

    Memory: the time, the id and the place of each row, the keys of those that repeat, and the rows of one data file.
    """

    whole: pl.DataFrame
    """All rows of the pieces, in the files."""
    late: np.ndarray
    """bool [rows of `whole`]."""
    order: np.ndarray
    """The places in `whole` of the rows that are kept."""
    arrived: Mapping[int, int]
    """Rows of the shard by the unit that read them."""
    dropped: Mapping[str, int]
    """Rows that repeat a key, by reason."""

    @classmethod
    def find(cls, pieces: Sequence[Piece], key: Sequence[str], shard: tuple[int, int]) -> Self:
        """Find the rows of a shard: its number, and the number of the day's shards."""
        number, of = shard
        pieces = sorted(pieces, key=lambda piece: piece.order)
        whole = pl.concat((piece.read() for piece in pieces), rechunk=False)
        rows = np.array([piece.rows for piece in pieces])
        mine = whole.select("event_time_us", "example_id").with_row_index("row")
        if of > 1:
            mine = mine.filter(shard_of(pl.col("example_id"), of) == number)
            ends = np.searchsorted(mine["row"].to_numpy(), np.cumsum(rows))
            arrived = np.diff(ends, prepend=0)
        else:
            arrived = rows
        by_unit: Counter[int] = Counter()
        for piece, count in zip(pieces, arrived.tolist(), strict=True):
            by_unit[piece.order[0]] += count
        repeats = find_repeats(whole, mine["example_id"], key)
        if repeats.height:
            mine = mine.join(repeats, on="row", how="anti", maintain_order="left")
        return cls(
            whole=whole,
            late=np.repeat([piece.late for piece in pieces], rows),
            order=mine.sort("event_time_us", "example_id")["row"].to_numpy(),
            arrived=+by_unit,
            dropped=dict(repeats["reason"].value_counts().iter_rows()),
        )

    def files(self) -> Iterator[tuple[pl.DataFrame, int]]:
        """Yield the rows of each data file, and how many of them are late."""
        for start in range(0, self.order.size, FRAME_ROWS):
            places = self.order[start : start + FRAME_ROWS]
            # Rows are fetched in the order of the pieces and put in order then: that takes half the time.
            wanted = np.zeros(self.whole.height, bool)
            wanted[places] = True
            place = np.cumsum(wanted, dtype=np.uint32)[places] - 1
            # What was fetched has no name, so that it is freed before the file is written.
            yield self.whole.filter(wanted).rechunk()[place], int(self.late[places].sum())


def find_repeats(rows: pl.DataFrame, ids: pl.Series, key: Sequence[str]) -> pl.DataFrame:
    """Return the rows to drop because their key occurs in an earlier one: `row` by number, and `reason`.

    Only rows with one of `ids` are looked at. Rows with equal keys have equal ids, so keys are only read where an id
    occurs more than once.
    """
    in_order = np.sort(ids.to_numpy())
    repeated = pl.Series(np.unique(in_order[1:][in_order[1:] == in_order[:-1]]))
    if repeated.is_empty():
        return pl.DataFrame(schema=_REPEATS)
    columns = list(dict.fromkeys([*key, "example_id", "content"]))
    rows = rows.select(columns).with_row_index("row").filter(pl.col("example_id").is_in(repeated.implode()))
    same = pl.col("content") == pl.col("content").first().over(key)
    rows = rows.with_columns(
        reason=pl.when(pl.struct(key).is_first_distinct())
        .then(None)
        .otherwise(pl.when(same).then(pl.lit("duplicate")).otherwise(pl.lit("conflicting_duplicate")))
    )
    # Labels are joined by example_id, so of two keys with the same hash only the first may stay.
    collision = pl.col("reason").is_null() & ~pl.col("example_id").is_first_distinct().over(
        pl.col("reason").is_null()
    )
    rows = rows.with_columns(reason=pl.when(collision).then(pl.lit("id_collision")).otherwise("reason"))
    return rows.drop_nulls("reason").select(pl.col(name).cast(dtype) for name, dtype in _REPEATS.items())
