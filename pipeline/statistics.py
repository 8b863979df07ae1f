"""Statistics of a day's columns, as sketches of a fixed size that can be added over files and over days."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
import polars_hash as plh

from tutelage.pipeline.drift import jensen_shannon, psi
from tutelage.pipeline.schema import STATISTICS, Feature, Schema

_ID_BUCKETS = 256
"""Buckets of the histogram of ids, by the upper 8 bits of an id's hash. Drift of ids is measured over them."""
_BITS = 1 << 14
"""Bits of a bitmap."""
_LEVELS = 3
_LEVEL_BITS = 4
"""A column of ids has three bitmaps, marked by hash: of all ids, of one id in 16, and of one in 256. So one of them is
useful for a dozen ids, and one for millions."""
_FULL = 0.75
"""Above this share of set bits in a bitmap, the next one is used."""
_BLOCK = 1 << 15
"""Rows that are hashed at a time, so that they stay in the processor's cache."""
_TOP = 10
"""Number of most frequent values that are reported."""
_TOP_ROWS = 4096
"""Rows of a file, evenly spaced, among which the most frequent values are counted."""
_MINUS_ZERO = 1 << 15
"""The bucket of -0.0."""
_MARKS = pl.Schema({**pl.Schema(STATISTICS), "marks": pl.List(pl.UInt32)})
"""Columns of a file of `DayStatistics`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DayStatistics:
    """Statistics of one day, and what is needed to compare them with other days."""

    columns: pl.DataFrame
    """Rows of the table `statistics`, one per feature and label, with `drift` and `new_ids` still null."""
    marks: Mapping[str, np.ndarray]
    """For each column of ids, the number of rows behind each bit of its bitmaps: uint32 [levels, bits]."""

    def write(self, path: Path) -> None:
        """Write them as an Arrow IPC file."""
        marks = [
            self.marks[name].ravel().tolist() if name in self.marks else None
            for name in self.columns["column"]
        ]
        self.columns.with_columns(marks=pl.Series(marks, dtype=_MARKS["marks"])).write_ipc(path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote. Raises ValueError for a file with other columns."""
        columns = pl.read_ipc(path)
        if columns.schema != _MARKS:
            raise ValueError(f"{path} has the columns {columns.schema}, expected {_MARKS}")
        marks = columns.select("column", "marks").drop_nulls()
        return cls(
            columns=columns.drop("marks"),
            marks={
                name: np.array(counts, np.uint32).reshape(_LEVELS, _BITS)
                for name, counts in zip(marks["column"], marks["marks"], strict=True)
            },
        )


class Sketches:
    """Collects the statistics of a day's features and labels, file by file.

    Memory: 400 kB for each column of ids, 500 kB for each column of numbers.
    """

    def __init__(self, schema: Schema):
        self._user = schema.user
        labels = [Feature(name=label, dtype="float32") for label in schema.labels]
        self._columns: dict[str, _Ids | _Numbers] = {
            feature.name: _Ids(feature) if feature.is_id else _Numbers()
            for feature in (*schema.features, *labels)
        }

    def add(self, frame: pl.DataFrame) -> None:
        """Add the rows of a file."""
        for name, column in self._columns.items():
            column.add(frame[name])

    def finish(self) -> DayStatistics:
        """Return the statistics of all rows that were added."""
        ids = {name: column for name, column in self._columns.items() if isinstance(column, _Ids)}
        # The most active users are left out: they are private, and would have to be forgotten one by one.
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
    """A column of ids. Of a list the first `length` items count, and a list without items is a null."""

    def __init__(self, feature: Feature):
        self.feature = feature
        self.rows = self.nulls = 0
        self.marks = np.zeros([_LEVELS, _BITS], np.int64)
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
                marks += np.bincount((hashes >> np.uint64(50)).view(np.int64), minlength=_BITS)

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
    """A column of numbers. Its histogram has a bucket per bfloat16 number (0.8 % apart); values round towards 0."""

    def __init__(self) -> None:
        self.rows = self.nulls = self.not_finite = 0
        self.sums = np.zeros(2)
        self.low, self.high = math.inf, -math.inf
        self.histogram = np.zeros(1 << 16, np.int64)

    def add(self, values: pl.Series) -> None:
        self.rows += values.len()
        self.nulls += values.null_count()
        values, weights = values.drop_nulls(), None
        if values.dtype == pl.Int8:  # A binary label.
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
    """Return the most frequent values of each column, and their shares of all values."""
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
    """Return a 64-bit hash of each value, which does not depend on the version of a library."""
    if values.dtype == pl.String:
        name = values.name
        return values.to_frame().select(plh.col(name).nchash.xxhash64()).to_series().to_numpy()
    # Multiply, fold, multiply: after that, the upper and the lower bits each depend on the whole id.
    hashes = values.to_numpy().view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    hashes ^= hashes >> np.uint64(32)
    hashes *= np.uint64(0xD6E8FEB86659FD93)
    return hashes


def _distinct(seen: np.ndarray) -> float:
    """Return the number of distinct ids, estimated within a few percent from the share of set bits.

    Linear counting: Whang et al. 1990, "A Linear-Time Probabilistic Counting Algorithm for Database Applications".
    """
    level = _level(seen)
    free = max(1 - seen[level].mean(), 1 / _BITS)
    return float(-_BITS * math.log(free) * 2 ** (_LEVEL_BITS * level))


def _level(seen: np.ndarray) -> int:
    """Return the index of the first bitmap that is not too full, or of the last one."""
    return int(np.argmax([*(seen.mean(axis=1) <= _FULL)[:-1], True]))


def compare(day: DayStatistics, before: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return the day's rows of `statistics` with `drift` and `new_ids`, measured against the days before it.

    `drift` is the Jensen–Shannon distance (base 2, 0 to 1) of ids over 256 buckets of their hashes, and the population
    stability index of numbers over the deciles of the days before, see `pipeline.drift`. `new_ids` is the share of the
    rows that have an id which none of these days had. Both are null where one side has no value, and in all columns
    where there is no day before.
    """
    if not before:
        return day.columns
    empty = np.zeros([2, 0]), pl.Series(dtype=pl.Binary)
    today, earlier = _by_column(day.columns), _by_column(pl.concat(before))
    drift, new = [], []
    for name in day.columns["column"]:
        (current, _), (reference, seen) = today[name], earlier.get(name, empty)
        marks = day.marks.get(name)
        measure = psi if marks is None else jensen_shannon
        drift.append(measure(current, reference) if current.size and reference.size else None)
        new.append(None if marks is None else _new_share(marks, seen))
    return day.columns.with_columns(
        pl.Series("drift", drift, pl.Float64), pl.Series("new_ids", new, pl.Float64)
    )


def _by_column(days: pl.DataFrame) -> dict[str, tuple[np.ndarray, pl.Series]]:
    """Return for each column its histogram, [2, buckets], and the bitmaps `seen` of each day.

    A bucket that several days have stands in the histogram several times.
    """
    sides = pl.col("bucket", "bucket_rows").explode().drop_nulls()
    found = days.group_by("column").agg(sides, pl.col("seen").drop_nulls())
    return {
        name: (np.array([bucket.to_numpy(), rows.to_numpy()]), seen)
        for name, bucket, rows, seen in zip(*found.get_columns(), strict=True)
    }


def _new_share(marks: np.ndarray, seen: Iterable[bytes]) -> float | None:
    """Return the share of rows with an id that is in none of the bitmaps; None where a side has no id."""
    bitmaps = [np.unpackbits(np.frombuffer(bits, np.uint8)).reshape(marks.shape) for bits in seen]
    if not bitmaps or not marks[0].any():
        return None
    union = np.bitwise_or.reduce(bitmaps).astype(bool)
    level = _level(union)
    rows = marks[level].sum()
    if not rows:
        return 0.0
    # A new id whose bit was already set by another id is not recognised; the division corrects for that.
    return float(min(1.0, marks[level][~union[level]].sum() / rows / max(1 - union[level].mean(), 1 / _BITS)))
