"""The staged pieces of a day, and the search for rows among them that repeat a key."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from tutelage.pipeline.io.arrow import read_arrow

FRAME_ROWS = 1 << 19
"""Rows that a worker holds at a time, unless the source yields a larger frame."""
BUCKET_ROWS = 1 << 22
"""Rows of a day that are searched for repeats at a time."""
_REPEATS = {"piece": pl.Int64, "row": pl.UInt32, "reason": pl.String}


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one unit holds of one day: a file of rows in the staging folder, and counts.

    The file is uncompressed Arrow IPC, which is written and read at the speed of memory. It has the columns of
    `interactions` and `content`, the fingerprint of the raw row.
    """

    order: tuple[int, int]
    """The index of the unit, and the number of the frame in it. Of repeated rows the first one stays."""
    path: str = ""
    """The file; empty where every row was dropped."""
    rows: int = 0
    late: bool = False
    """Whether the rows arrived after the day was over."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Number of dropped rows by reason."""
    differences: tuple[str, ...] = ()
    """Where the columns of the unit differ from those that the source offers."""

    def read(self) -> pl.DataFrame:
        """Return the rows, memory-mapped: only the columns that are used are read."""
        return read_arrow(self.path)


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


def find_repeats(pieces: Sequence[Piece], key: Sequence[str]) -> pl.DataFrame:
    """Return the rows of a day to drop because their key occurs earlier: `piece` and `row` by number, and `reason`.

    The first row by piece and row stays. Rows with equal keys have equal ids, so one bucket of ids is searched at a
    time, and keys are only read where an id occurs more than once.
    """
    buckets = -(-sum(piece.rows for piece in pieces) // BUCKET_ROWS)
    found = [_find_in_bucket(pieces, key, bucket, buckets) for bucket in range(buckets)]
    return pl.concat(found) if found else pl.DataFrame(schema=_REPEATS)


def without_repeats(repeats: pl.DataFrame, pieces: Sequence[Piece]) -> Iterator[tuple[pl.DataFrame, int]]:
    """Yield the rows of the pieces without `repeats`, small pieces joined, and how many rows of each frame are late."""
    repeats_of = repeats.partition_by("piece", as_dict=True)
    held: list[pl.DataFrame] = []
    late = 0
    for number, piece in enumerate(pieces):
        frame = piece.read()
        if (number,) in repeats_of:
            good = np.ones(piece.rows, bool)
            good[repeats_of[number,]["row"].to_numpy()] = False
            frame = frame.filter(good)
        if held and sum(map(len, held)) + len(frame) > FRAME_ROWS:
            yield pl.concat(held), late
            held, late = [], 0
        if len(frame):
            held.append(frame)
            late += len(frame) * piece.late
    if held:
        yield pl.concat(held), late


def _find_in_bucket(pieces: Sequence[Piece], key: Sequence[str], bucket: int, buckets: int) -> pl.DataFrame:
    """Return the repeats among the rows whose id is in the bucket."""
    ids = [piece.read()["example_id"] for piece in pieces]
    if buckets > 1:
        ids = [part.filter(part % buckets == bucket) for part in ids]
    in_order = np.concatenate([part.to_numpy() for part in ids])
    in_order.sort()
    repeated = pl.Series(np.unique(in_order[1:][in_order[1:] == in_order[:-1]]))
    if repeated.is_empty():
        return pl.DataFrame(schema=_REPEATS)
    columns = list(dict.fromkeys([*key, "example_id", "content"]))
    rows = pl.concat(
        piece.read()
        .select(pl.lit(number, pl.Int64).alias("piece"), *columns)
        .with_row_index("row")
        .filter(pl.col("example_id").is_in(repeated.implode()))
        for number, piece in enumerate(pieces)
    )
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
