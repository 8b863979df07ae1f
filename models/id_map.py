"""Ids, and buckets of numbers, to rows of one embedding table."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import tensorflow as tf

from tutelage.pipeline.schema import DEFAULTS, Feature

# 2**64 / golden ratio, odd: Fibonacci hashing (Knuth, The Art of Computer Programming 3, 6.4).
_MULTIPLIER = 0x9E3779B97F4A7C15 - 2**64
_NO_ITEM = {"int64": DEFAULTS["int64"], "string": 0x9AE16A3B2F90404F - 2**64}
"""What fills a list up, by its dtype: the default, of strings its fingerprint."""

Entries = tuple[tf.Tensor, tf.Tensor]
"""Ids with a row of their own (int64 [capacity]) and their rows (int32 [capacity]): see `GrowingIdMap.entries`."""


def fingerprint(strings: tf.Tensor) -> tf.Tensor:
    """int64 [batch] from strings [batch]: FarmHash's Fingerprint64 of a string's bytes, read as signed.

    The same on every platform and in every language that has FarmHash; BigQuery calls it FARM_FINGERPRINT.
    """
    return tf.bitcast(tf.fingerprint(strings), tf.int64)


class HashedIdMap(tf.Module):
    """Every id feature has a range of rows of its own in one table; an id is hashed into its range.

    A string stands for its fingerprint, and is hashed as that integer is. Fixed capacity: any id that
    ever comes has a row, and two ids may share one. The lookup is made of standard ops and has no
    state, so that it is the same in training, labelling and serving. The buckets of a number have a row each.
    """

    def __init__(self, features: Sequence[Feature], *, shared: Mapping[str, str] = MappingProxyType({})):
        """`shared`: the feature whose range another one is looked up in, by the latter's name."""
        super().__init__(name="id_map")
        self.features = (
            *(f for f in features if f.is_id and not f.length),
            *(f for f in features if f.buckets),
            *(f for f in features if f.length),
        )
        own = [0 if f.name in shared else f.embeddings for f in self.features]
        first = {f.name: sum(own[:i]) for i, f in enumerate(self.features)}
        self.offsets = {name: first[shared.get(name, name)] for name in first}
        self.rows = sum(own)

    def lookup(self, columns: Mapping[str, tf.Tensor], entries: Entries | None = None) -> tf.Tensor:
        """int32 rows [batch, slots] of the features that `columns` has: of ids, then of buckets, then of lists.

        Each is a tensor [batch] of int64, strings or float32, or a list's [batch, length] of as many slots,
        -1 where it is filled up. A string may be given as its fingerprint. `entries`: of a `GrowingIdMap`.
        """
        present = [f for f in self.features if f.name in columns]
        single = [f for f in present if f.is_id and not f.length]
        lists = [f for f in present if f.length]
        parts = [self._looked_up(single, columns, entries)] if single else []
        parts += [self._bucket(f, columns[f.name]) for f in present if f.buckets]
        parts += [self._looked_up(lists, columns, entries)] if lists else []
        if not parts:
            return tf.zeros([tf.size(next(iter(columns.values()))), 0], tf.int32)
        return parts[0] if len(parts) == 1 else tf.concat(parts, axis=1)

    def _bucket(self, feature: Feature, values: tf.Tensor) -> tf.Tensor:
        values = tf.where(tf.math.is_nan(values), tf.constant(feature.default, tf.float32), values)
        # LiteRT has no searchsorted.
        edges_below = tf.cast(values[:, None] >= tf.constant(feature.buckets), tf.int32)
        return tf.reduce_sum(edges_below, axis=1, keepdims=True) + self.offsets[feature.name]

    def _looked_up(
        self, features: Sequence[Feature], columns: Mapping[str, tf.Tensor], entries: Entries | None
    ) -> tf.Tensor:
        ids = tf.concat([as_ids(columns[f.name], f.fields) for f in features], axis=1)
        fields = [f for f in features for _ in range(f.fields)]
        rows = self._rows(ids, fields, entries)
        if not any(f.length for f in features):
            return rows
        filling = tf.equal(ids, tf.constant([_NO_ITEM[f.dtype] for f in fields], tf.int64))
        return tf.where(filling & tf.constant([f.length > 0 for f in fields]), -1, rows)

    def _rows(self, ids: tf.Tensor, fields: Sequence[Feature], entries: Entries | None) -> tf.Tensor:
        """int32 [batch, slots] of int64 ids, one of a feature in each slot."""
        # int64 wraps around; the upper half of the product is the well mixed one, and its share of
        # 2**32 is the row's share of the range. Ids given out one after the other lie evenly apart,
        # and share no row while there are rows enough.
        share = _upper_half(ids * _MULTIPLIER)
        rows = _upper_half(share * tf.constant([f.capacity for f in fields], tf.int64))
        return tf.cast(rows, tf.int32) + tf.constant([self.offsets[f.name] for f in fields])


class GrowingIdMap(HashedIdMap):
    """As `HashedIdMap`, but no two ids of a feature that `grows` share a row, but for its first one.

    That one, the default row, is of every id that has no row of its own: new ones, rare ones, forgotten ones,
    and those for which there was none left. Who has one is listed in `entries`, sorted, so that a lookup is a
    binary search: O(log capacity) an id. Whoever trains decides on them (`trainers.vocabulary`); here they are
    variables, part of a checkpoint and of what is served. (Monolith, arXiv 2209.07663, has a cuckoo hash table,
    an op of its own.)
    """

    def __init__(self, features: Sequence[Feature], *, shared: Mapping[str, str] = MappingProxyType({})):
        super().__init__(features, shared=shared)
        self.growing = [f for f in self.features if f.grows]
        # Of a growing feature, and of the histories that are of it, the feature's part of the entries.
        sizes = {f.name: f.capacity - 1 for f in self.growing}
        first = {name: sum(list(sizes.values())[:i]) for i, name in enumerate(sizes)}
        owners = {f.name: shared.get(f.name, f.name) for f in self.features}
        self.parts = {name: (first[owner], sizes[owner]) for name, owner in owners.items() if owner in sizes}
        ids, rows = self.entries({})
        self.ids = tf.Variable(ids, trainable=False, name="ids")
        self.own_rows = tf.Variable(rows, trainable=False, name="own_rows")

    def entries(self, known: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Entries:
        """From a growing feature's ids with rows (int64 [n], sorted) and their rows, counted in its range
        (int32 [n]), by its name. Each feature has a part of its own, filled up with the largest int64."""
        ids = np.full(sum(f.capacity - 1 for f in self.growing), np.iinfo(np.int64).max)
        rows = np.concatenate([np.full(f.capacity - 1, self.offsets[f.name], np.int32) for f in self.growing])
        for name, (of, own) in known.items():
            start = self.parts[name][0]
            ids[start : start + len(of)] = of
            rows[start : start + len(of)] += own.astype(np.int32)
        return tf.constant(ids), tf.constant(rows)

    def assign(self, entries: Entries) -> None:
        self.ids.assign(entries[0])
        self.own_rows.assign(entries[1])

    def _rows(self, ids: tf.Tensor, fields: Sequence[Feature], entries: Entries | None) -> tf.Tensor:
        """By `entries`, else by those of the variables."""
        grown = [i for i, f in enumerate(fields) if f.name in self.parts]
        if len(grown) == len(fields):
            return self._found(ids, fields, entries)
        rows = super()._rows(ids, fields, entries)
        if not grown:
            return rows
        found = self._found(tf.gather(ids, grown, axis=1), [fields[i] for i in grown], entries)
        places = list(range(len(fields)))
        for n, i in enumerate(grown):
            places[i] = len(fields) + n
        return tf.gather(tf.concat([rows, found], axis=1), places, axis=1)

    def _found(self, ids: tf.Tensor, fields: Sequence[Feature], entries: Entries | None) -> tf.Tensor:
        keys, rows = entries or (tf.convert_to_tensor(self.ids), tf.convert_to_tensor(self.own_rows))
        parts = [self.parts[f.name] for f in fields]
        last = tf.constant([start + size - 1 for start, size in parts])
        # The last entry below each id, by halves: LiteRT has no searchsorted. Where even the part's last is
        # below, a step past it stays there, and the id is not found.
        at = tf.zeros_like(ids, tf.int32) + tf.constant([start - 1 for start, _ in parts])
        step = 2 ** (max(size for _, size in parts).bit_length() - 1)
        while step:
            further = tf.minimum(at + step, last)
            at = tf.where(tf.gather(keys, further) < ids, further, at)
            step //= 2
        at = tf.minimum(at + 1, last)
        default = tf.constant([self.offsets[f.name] for f in fields])
        return tf.where(tf.equal(tf.gather(keys, at), ids), tf.gather(rows, at), default)


def as_ids(values: tf.Tensor, fields: int) -> tf.Tensor:
    """int64 [batch, slots] of one feature's values [batch] or [batch, slots], a string's its fingerprint."""
    flat = tf.reshape(values, [-1])
    return tf.reshape(fingerprint(flat) if values.dtype == tf.string else flat, [-1, fields])


def _upper_half(values: tf.Tensor) -> tf.Tensor:
    """Bits 32 to 63 of int64, as 0 to 2**32 - 1: without a division, which is slow, and which LiteRT has not."""
    return tf.cast(tf.bitcast(values, tf.uint32)[..., 1], tf.int64)
