"""Statistics of a day's columns, as sketches of a fixed size that can be added over files and over days."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import polars_hash as plh

from tutelage.pipeline.drift import jensen_shannon, most_changed, psi
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
SAMPLED_ROWS = 1 << 16
"""Rows of a day, by hash, among which those that repeat another are counted."""
MANY_VALUES = 32
"""A column of at least so many values, or buckets of them, has a `drift_rest`."""
_MINUS_ZERO = 1 << 15
"""The bucket of -0.0."""
_MOST_VALUES = 1 << 16
"""Values of a column whose rows are counted at a time; beyond, the less frequent half is dropped."""
_PARTS = pl.Schema(
    {
        "column": pl.String(),
        "counts": pl.List(pl.Int64()),
        "moments": pl.List(pl.Float64()),
        "bucket": pl.List(pl.UInt64()),
        "bucket_rows": pl.List(pl.Int64()),
        "value": pl.List(pl.String()),
        "value_rows": pl.List(pl.Float64()),
    }
)
"""Columns of `Sketches.parts`: a line for each column, and a last one, without a name, for the repeats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DayStatistics:
    """Statistics of one day, and what is needed to compare them with other days."""

    columns: pl.DataFrame
    """Rows of the table `statistics`, one per feature and label, with `drift` and `new_ids` still null."""
    marks: Mapping[str, np.ndarray]
    """For each column of ids, the number of rows behind each bit of its bitmaps: uint32 [levels, bits]."""


class Sketches:
    """Collects the statistics of a day's features and labels, file by file and shard by shard.

    The sketches of shards add up to those of the whole day: means and deviations to the last bits of a float64, most
    frequent values as far as they are among the 65,536 that are counted, all else exactly.

    Memory: 400 kB for each column of ids, and up to 131,072 of its values; 500 kB for each column of numbers.
    """

    def __init__(self, schema: Schema):
        self._user = schema.user
        self._columns: dict[str, _Ids | _Numbers] = {
            feature.name: _Ids(feature) if feature.is_id else _Numbers(feature.largest)
            for feature in schema.features
        }
        self._columns |= {label: _Numbers(math.inf) for label in schema.labels}
        names = [*self._columns, "event_time_us"]
        self._repeats = _Repeats([name for name in names if name not in schema.key])

    def add(self, frame: pl.DataFrame) -> None:
        """Add the rows of a file."""
        for name, column in self._columns.items():
            column.add(frame[name])
        self._repeats.add(frame)

    def parts(self) -> pl.DataFrame:
        """Return what was added, for `add_parts`."""
        columns = {**self._columns, "": self._repeats}
        rows = [column.parts() for column in columns.values()]
        lists = {
            name: [pl.Series(row.get(name, ()), dtype=of.inner).implode() for row in rows]
            for name, of in _PARTS.items()
            if isinstance(of, pl.List)
        }
        names = pl.Series("column", list(columns))
        return pl.DataFrame([names, *(pl.concat(values).alias(name) for name, values in lists.items())])

    def add_parts(self, parts: pl.DataFrame) -> None:
        """Add the rows of another shard: its `parts`. Raises ValueError for a frame with other columns."""
        names = [*self._columns, ""]
        if parts.schema != _PARTS or parts["column"].to_list() != names:
            raise ValueError(f"sketches have the columns {parts.schema}, expected {_PARTS}, of {names}")
        for index, column in enumerate((*self._columns.values(), self._repeats)):
            column.add_parts({name: parts[name][index] for name in _PARTS})

    def finish(self) -> DayStatistics:
        """Return the statistics of all rows that were added."""
        ids = {name: column for name, column in self._columns.items() if isinstance(column, _Ids)}
        # The most active users are left out: they are private, and would have to be forgotten one by one.
        top = _top({name: column for name, column in ids.items() if name != self._user})
        repeats = self._repeats.share()
        rows = [
            {"column": name, **column.row(), **top.get(name, {}), "repeats": repeats}
            for name, column in self._columns.items()
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
        self._add_top(counts.with_columns(pl.col("rows") * (values.len() / max(some.len(), 1))))
        for start in range(0, values.len(), _BLOCK):
            hashes = _hashes(values[start : start + _BLOCK])
            for level, marks in enumerate(self.marks):
                if level:
                    hashes = hashes[hashes & np.uint64((1 << _LEVEL_BITS * level) - 1) == 0]
                marks += np.bincount((hashes >> np.uint64(50)).view(np.int64), minlength=_BITS)

    def _add_top(self, counts: pl.DataFrame) -> None:
        """Add rows by value. Many are brought down to the more frequent half of as many as are kept."""
        self.top.append(counts)
        if sum(map(len, self.top)) > _MOST_VALUES:
            summed = pl.concat(self.top).group_by("value").agg(pl.col("rows").sum())
            if summed.height > _MOST_VALUES // 2:
                summed = summed.sort("rows", "value", descending=[True, False]).head(_MOST_VALUES // 2)
            self.top = [summed]

    def parts(self) -> dict[str, Any]:
        counts = self.marks.ravel()
        filled = np.flatnonzero(counts)
        top = (
            pl.concat(self.top) if self.top else pl.DataFrame(schema={"value": pl.String, "rows": pl.Float64})
        )
        return {
            "counts": [self.rows, self.nulls],
            "bucket": pl.Series(filled, dtype=pl.UInt64),
            "bucket_rows": pl.Series(counts[filled]),
            "value": top["value"],
            "value_rows": top["rows"],
        }

    def add_parts(self, parts: Mapping[str, Any]) -> None:
        rows, nulls = parts["counts"]
        self.rows, self.nulls = self.rows + rows, self.nulls + nulls
        self.marks.reshape(-1)[parts["bucket"].to_numpy()] += parts["bucket_rows"].to_numpy()
        self._add_top(pl.DataFrame({"value": parts["value"], "rows": parts["value_rows"]}))

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
    """A column of numbers. Its histogram has a bucket per bfloat16 number (0.8 % apart); values round towards 0.

    Of numbers beyond ±`largest`, which models take as missing, only the extremes are kept.
    """

    def __init__(self, largest: float) -> None:
        self.largest = largest
        self.rows = self.nulls = self.not_finite = self.absurd = 0
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
        low, high = float(numbers.min()), float(numbers.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        if max(-low, high) > self.largest:
            sound = np.abs(numbers) <= self.largest
            self.absurd += int((~sound).sum())
            numbers = numbers[sound]
        weighted = numbers if weights is None else numbers * weights
        self.sums += weighted.sum(dtype=np.float64), np.einsum("i,i", numbers, weighted, dtype=np.float64)
        upper = np.ascontiguousarray(numbers).view(np.uint16)[1::2]
        self.histogram += np.bincount(upper, weights, minlength=1 << 16).astype(np.int64)

    def parts(self) -> dict[str, Any]:
        filled = np.flatnonzero(self.histogram)
        return {
            "counts": [self.rows, self.nulls, self.not_finite, self.absurd],
            "moments": [*self.sums, self.low, self.high],
            "bucket": pl.Series(filled, dtype=pl.UInt64),
            "bucket_rows": pl.Series(self.histogram[filled]),
        }

    def add_parts(self, parts: Mapping[str, Any]) -> None:
        rows, nulls, not_finite, absurd = parts["counts"]
        self.rows, self.nulls = self.rows + rows, self.nulls + nulls
        self.not_finite, self.absurd = self.not_finite + not_finite, self.absurd + absurd
        total, squares, low, high = parts["moments"]
        self.sums += total, squares
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.histogram[parts["bucket"].to_numpy()] += parts["bucket_rows"].to_numpy()

    def row(self) -> dict[str, object]:
        self.histogram[0] += self.histogram[_MINUS_ZERO]
        self.histogram[_MINUS_ZERO] = 0
        found: dict[str, object] = {
            name: getattr(self, name) for name in ("rows", "nulls", "not_finite", "absurd")
        }
        if math.isfinite(self.low):
            found |= {"min": self.low, "max": self.high}
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
            "deciles": deciles.tolist(),
            "bucket": pl.Series(values),
            "bucket_rows": pl.Series(rows),
        }


class _Repeats:
    """How many rows repeat another one in some columns, counted among rows with certain hashes of these columns.

    So rows that are equal are in the sample together, and only those of one day are compared: hashes need not stay the
    same from one version of a library to the next.
    """

    def __init__(self, columns: Sequence[str]):
        self.columns = columns
        self.bits = 0
        self.hashes = np.zeros(0, np.uint64)

    def add(self, frame: pl.DataFrame) -> None:
        if not self.columns:
            return
        hashes = frame.select(name for name in self.columns if name in frame.columns).hash_rows().to_numpy()
        self._add(hashes)

    def _add(self, hashes: np.ndarray) -> None:
        self.hashes = np.concatenate([self.hashes, self._sample(hashes)])
        while self.hashes.size > SAMPLED_ROWS and self.bits < 63:
            self.bits += 1
            self.hashes = self._sample(self.hashes)

    def _sample(self, hashes: np.ndarray) -> np.ndarray:
        return hashes[hashes & np.uint64((1 << self.bits) - 1) == 0] if self.bits else hashes

    def parts(self) -> dict[str, Any]:
        return {"counts": [self.bits], "bucket": pl.Series(self.hashes)}

    def add_parts(self, parts: Mapping[str, Any]) -> None:
        self.bits = max(self.bits, *parts["counts"])
        self.hashes = self._sample(self.hashes)
        self._add(parts["bucket"].to_numpy())

    def share(self) -> float | None:
        """Return the share of the rows that repeat another; None where no row is known."""
        return 1 - pl.Series(self.hashes).n_unique() / self.hashes.size if self.hashes.size else None


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
    """Return the day's rows of `statistics`, compared with the days before it.

    `drift` is the Jensen–Shannon distance (base 2, 0 to 1) of ids over 256 buckets of their hashes, and the population
    stability index of numbers over the deciles of the days before, see `pipeline.drift`. `new_ids` is the share of the
    rows that have an id which none of these days had. `mix` says how much the shares of ids changed
    (`drift.most_changed`).

    One video that everybody watches today moves all columns, and tells nothing of them. So `drift_rest`, of columns of
    many values, is the drift without the value whose share changed most, and the new id with the most rows does not
    count for `new_ids` there.

    All are null where one side has no value, and where there is no day before.
    """
    if not before:
        return day.columns
    empty = np.zeros([2, 0]), pl.Series(dtype=pl.Binary)
    today, earlier = _by_column(day.columns), _by_column(pl.concat(before))
    found: dict[str, list[float | None]] = {name: [] for name in ("drift", "drift_rest", "new_ids", "mix")}
    for name in day.columns["column"]:
        (current, _), (reference, seen) = today[name], earlier.get(name, empty)
        marks = day.marks.get(name)
        measure = psi if marks is None else jensen_shannon
        both = bool(current.size and reference.size)
        mix, *rest = most_changed(current, reference) if both else (0.0, current, reference)
        many = both and rest[1].shape[1] >= MANY_VALUES - 1
        found["drift"].append(measure(current, reference) if both else None)
        found["drift_rest"].append(measure(*rest) if many else None)
        found["new_ids"].append(None if marks is None else _new_share(marks, seen, without_top=many))
        found["mix"].append(mix if both and marks is not None else None)
    return day.columns.with_columns(pl.Series(name, values, pl.Float64) for name, values in found.items())


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


def _new_share(marks: np.ndarray, seen: Iterable[bytes], *, without_top: bool) -> float | None:
    """Return the share of rows with an id that is in none of the bitmaps; None where a side has no id.

    The most frequent new id does not count `without_top`.
    """
    bitmaps = [np.unpackbits(np.frombuffer(bits, np.uint8)).reshape(marks.shape) for bits in seen]
    if not bitmaps or not marks[0].any():
        return None
    union = np.bitwise_or.reduce(bitmaps).astype(bool)
    level = _level(union)
    new, rows = marks[level][~union[level]], marks[level].sum()
    top = new.max(initial=0) if without_top else 0
    if rows == top:
        return 0.0
    # A new id whose bit was already set by another id is not recognised; the division corrects for that.
    return float(min(1.0, (new.sum() - top) / (rows - top) / max(1 - union[level].mean(), 1 / _BITS)))
