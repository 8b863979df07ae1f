"""Statistics of a day's columns, in sketches of a fixed size that add up over its files and over days."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import polars_hash as plh

from tutelage.pipeline.drift import jensen_shannon, psi
from tutelage.pipeline.schema import STATISTICS, Feature, Schema

_ID_BUCKETS = 256
"""By the upper 8 bits of an id's hash: what drift of ids is measured over."""
_SEEN = 1 << 14
_LEVELS = 3
_LEVEL_BITS = 4
"""Ids are marked by hash in bitmaps of 2^14 bits: all of them, one in 16, one in 256, so that one bitmap is of use
for a dozen ids and one for millions."""
_FULL = 0.75
"""The share of a bitmap's bits above which the next one is read."""
_BLOCK = 1 << 15
"""Rows that are hashed at once: they stay in a processor's cache."""
_TOP = 10
_MINUS_ZERO = 1 << 15
_TOP_ROWS = 4096
"""Rows of a file, evenly spaced, among which the most frequent values are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DayStatistics:
    """`columns`: rows of the table `statistics`, `drift` and `new_ids` still null. `marks`: of each id column, how
    many rows are behind each bit of its bitmaps, [levels, bits]."""

    columns: pl.DataFrame
    marks: Mapping[str, np.ndarray]


class Sketches:
    """The features and labels of a day, file after file. Memory: 400 kB for each id, 500 kB for each number."""

    def __init__(self, schema: Schema):
        self._user = schema.user
        labels = [Feature(name=label, dtype="float32") for label in schema.labels]
        self._columns: dict[str, _Ids | _Numbers] = {
            feature.name: _Ids(feature) if feature.is_id else _Numbers()
            for feature in (*schema.features, *labels)
        }

    def add(self, frame: pl.DataFrame) -> None:
        for name, column in self._columns.items():
            column.add(frame[name])

    def finish(self) -> DayStatistics:
        ids = {name: column for name, column in self._columns.items() if isinstance(column, _Ids)}
        # Who the most active users of a day were is nobody's business, nor to be forgotten one by one.
        top = _top({name: column for name, column in ids.items() if name != self._user})
        rows = [
            {"column": name, **column.row(), **top.get(name, {})} for name, column in self._columns.items()
        ]
        dtypes = pl.Schema(STATISTICS)
        return DayStatistics(
            columns=pl.DataFrame(
                [pl.Series(name, [row.get(name) for row in rows], dtype) for name, dtype in dtypes.items()]
            ),
            marks={name: column.marks.astype(np.uint32) for name, column in ids.items()},
        )


class _Ids:
    """Of a list the first `length` items count, and one without an item is a null."""

    def __init__(self, feature: Feature):
        self.feature = feature
        self.rows = self.nulls = 0
        self.marks = np.zeros([_LEVELS, _SEEN], np.int64)
        self.top: list[pl.DataFrame] = []

    def add(self, values: pl.Series) -> None:
        self.rows += values.len()
        if self.feature.length:
            items = values.list.head(self.feature.length).list.drop_nulls()
            self.nulls += values.len() - int((items.list.len() > 0).sum())
            values = items.filter(items.list.len() > 0).explode()
        else:
            self.nulls += values.null_count()
            values = values.drop_nulls()
        some = values.gather_every(max(1, values.len() // _TOP_ROWS)).alias("value").cast(pl.String)
        counts = some.value_counts(name="rows")
        self.top.append(counts.with_columns(pl.col("rows") * (values.len() / max(some.len(), 1))))
        for start in range(0, values.len(), _BLOCK):
            hashes = _hashes(values[start : start + _BLOCK])
            for level, marks in enumerate(self.marks):
                if level:
                    hashes = hashes[hashes & np.uint64((1 << _LEVEL_BITS * level) - 1) == 0]
                marks += np.bincount((hashes >> np.uint64(50)).view(np.int64), minlength=_SEEN)

    def row(self) -> dict[str, object]:
        buckets = self.marks[0].reshape(_ID_BUCKETS, -1).sum(axis=1)
        filled = np.flatnonzero(buckets)
        return {
            "rows": self.rows,
            "nulls": self.nulls,
            "distinct": _distinct(self.marks > 0),
            "bucket": pl.Series(filled, dtype=pl.Float64),
            "bucket_rows": pl.Series(buckets[filled]),
            "seen": np.packbits(self.marks > 0).tobytes(),
        }


class _Numbers:
    """The histogram's buckets are the numbers of bfloat16, 0.8 % apart: a value's is the next one towards 0."""

    def __init__(self) -> None:
        self.rows = self.nulls = self.not_finite = 0
        self.sums = np.zeros(2)
        self.low, self.high = math.inf, -math.inf
        self.histogram = np.zeros(1 << 16, np.int64)

    def add(self, values: pl.Series) -> None:
        self.rows += values.len()
        self.nulls += values.null_count()
        values, weights = values.drop_nulls(), None
        if values.dtype == pl.Int8:  # a binary label
            rows = np.bincount(values.to_numpy().view(np.uint8))
            found = np.flatnonzero(rows)
            values, weights = pl.Series(found.astype(np.uint8).view(np.int8)), rows[found]
        numbers = values.cast(pl.Float32).to_numpy()
        if not numbers.size:
            return
        if not (math.isfinite(numbers.min()) and math.isfinite(numbers.max())):
            finite = np.isfinite(numbers)
            numbers = numbers[finite]
            self.not_finite += int((~finite).sum())
            if not numbers.size:
                return
        self.low, self.high = min(self.low, float(numbers.min())), max(self.high, float(numbers.max()))
        weighted = numbers if weights is None else numbers * weights
        self.sums += weighted.sum(dtype=np.float64), np.einsum("i,i", numbers, weighted, dtype=np.float64)
        upper = np.ascontiguousarray(numbers).view(np.uint16)[1::2]
        self.histogram += np.bincount(upper, weights, minlength=1 << 16).astype(np.int64)

    def row(self) -> dict[str, object]:
        self.histogram[0] += self.histogram[_MINUS_ZERO]
        self.histogram[_MINUS_ZERO] = 0
        found: dict[str, object] = {"rows": self.rows, "nulls": self.nulls, "not_finite": self.not_finite}
        filled = np.flatnonzero(self.histogram)
        if not filled.size:
            return found
        values = (filled.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
        order = np.argsort(values)
        values, rows = values[order], self.histogram[filled][order]
        count = rows.sum()
        mean, square = self.sums / count
        deciles = values[np.searchsorted(np.cumsum(rows), np.arange(1, 10) / 10 * count)]
        return found | {
            "mean": mean,
            "sd": math.sqrt(max(square - mean * mean, 0.0)),
            "min": self.low,
            "max": self.high,
            "deciles": deciles.tolist(),
            "bucket": pl.Series(values),
            "bucket_rows": pl.Series(rows),
        }


def _top(columns: Mapping[str, _Ids]) -> dict[str, dict[str, object]]:
    """The most frequent values of each column, and their shares of all that there are."""
    counts = [part.with_columns(column=pl.lit(name)) for name, of in columns.items() for part in of.top]
    if not counts:
        return {}
    found = (
        pl.concat(counts)
        .lazy()
        .group_by("column", "value")
        .agg(pl.col("rows").sum())
        .sort("rows", "value", descending=[True, False])
        .group_by("column")
        .agg(pl.col("value", "rows").head(_TOP))
        .collect()
    )
    return {
        name: {"top": values, "top_share": np.divide(rows, columns[name].marks[0].sum()).tolist()}
        for name, values, rows in found.iter_rows()
    }


def _hashes(values: pl.Series) -> np.ndarray:
    """64 bits that are the same in every library version."""
    if values.dtype == pl.String:
        name = values.name
        return values.to_frame().select(plh.col(name).nchash.xxhash64()).to_series().to_numpy()
    # Multiply, fold, multiply: the upper bits and the lower ones each depend on all of the id.
    hashes = values.to_numpy().view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    hashes ^= hashes >> np.uint64(32)
    hashes *= np.uint64(0xD6E8FEB86659FD93)
    return hashes


def _distinct(seen: np.ndarray) -> float:
    """How many ids there are by how many bits are set (linear counting, Whang et al. 1990), within some percent."""
    level = _level(seen)
    free = max(1 - seen[level].mean(), 1 / _SEEN)
    return float(-_SEEN * math.log(free) * 2 ** (_LEVEL_BITS * level))


def _level(seen: np.ndarray) -> int:
    """The first bitmap that is not too full, else the last."""
    return int(np.argmax([*(seen.mean(axis=1) <= _FULL)[:-1], True]))


def compare(day: DayStatistics, before: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The day's rows of `statistics`, with what they are against those of the days before it; none of them: as it is.

    `drift` is the Jensen–Shannon distance (base 2, 0 to 1) of ids over 256 buckets of their hashes, and the
    population stability index of numbers over the deciles of the days before. `new_ids` is the share of the rows
    with an id that none of these days had. Null where a side has no value.
    """
    if not before:
        return day.columns
    nothing = np.zeros([2, 0]), pl.Series(dtype=pl.Binary)
    today, earlier = _by_column(day.columns), _by_column(pl.concat(before))
    drift, new = [], []
    for name in day.columns["column"]:
        (here, _), (there, seen) = today[name], earlier.get(name, nothing)
        marks = day.marks.get(name)
        measure = psi if marks is None else jensen_shannon
        drift.append(measure(here, there) if here.size and there.size else None)
        new.append(None if marks is None else _new(marks, seen))
    return day.columns.with_columns(
        pl.Series("drift", drift, pl.Float64), pl.Series("new_ids", new, pl.Float64)
    )


def _by_column(days: pl.DataFrame) -> dict[str, tuple[np.ndarray, pl.Series]]:
    """Of each column its histogram, [2, buckets]: which bucket, and how many rows, a bucket of several days several
    times; and what `seen` each day has."""
    sides = pl.col("bucket", "bucket_rows").explode().drop_nulls()
    found = days.group_by("column").agg(sides, pl.col("seen").drop_nulls())
    return {
        name: (np.array([bucket.to_numpy(), rows.to_numpy()]), seen)
        for name, bucket, rows, seen in zip(*found.get_columns(), strict=True)
    }


def _new(marks: np.ndarray, seen: Iterable[bytes]) -> float | None:
    bitmaps = [np.unpackbits(np.frombuffer(bits, np.uint8)).reshape(marks.shape) for bits in seen]
    if not bitmaps or not marks[0].any():
        return None
    union = np.bitwise_or.reduce(bitmaps).astype(bool)
    level = _level(union)
    rows = marks[level].sum()
    if not rows:
        return 0.0
    # A new id whose bit another one has set is not seen to be new.
    return float(min(1.0, marks[level][~union[level]].sum() / rows / max(1 - union[level].mean(), 1 / _SEEN)))
