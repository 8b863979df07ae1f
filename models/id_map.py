"""Map ids, and buckets of numbers, to indices into one embedding table."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import tensorflow as tf

from tutelage.pipeline.schema import DEFAULTS, Feature

# 2**64 / golden ratio, odd: Fibonacci hashing (Knuth, The Art of Computer Programming 3, 6.4).
_MULTIPLIER = 0x9E3779B97F4A7C15 - 2**64
_NO_ITEM = {"int64": DEFAULTS["int64"], "string": 0x9AE16A3B2F90404F - 2**64}
"""The value that pads a list, by dtype: the default, or for strings the fingerprint of the default."""

Entries = tuple[tf.Tensor, tf.Tensor]
"""Ids with an index of their own (int64 [entries]), and these indices (int32 [entries]): see `GrowingIdMap.entries`."""


def fingerprint(strings: tf.Tensor) -> tf.Tensor:
    """Return int64 [batch] from strings [batch]: FarmHash's Fingerprint64 of the bytes, read as signed.

    It is the same on every platform and in every language that has FarmHash. BigQuery calls it FARM_FINGERPRINT.

    >>> fingerprint(tf.constant(["news"])).numpy()
    array([4561235617249876157])
    """
    return tf.bitcast(tf.fingerprint(strings), tf.int64)


class HashedIdMap(tf.Module):
    """Hash each id into its feature's own range of one embedding table.

    Capacity is fixed: every id has an index, and two ids of a feature may share one. A string is hashed by its
    fingerprint. Each bucket of a number has an index. The lookup has no state and is made of standard ops, so that it
    is the same in training, labelling and serving.

    >>> id_map = HashedIdMap([Feature(name="user", dtype="int64", capacity=10)])
    >>> id_map.lookup({"user": tf.constant([1, 2, 1], tf.int64)}).numpy().tolist()
    [[6], [2], [6]]
    """

    def __init__(self, features: Sequence[Feature], *, shared: Mapping[str, str] = MappingProxyType({})):
        """`shared` maps a feature's name to that of the feature whose range it uses: a history to what it is of."""
        super().__init__(name="id_map")
        self.features = (
            *(f for f in features if f.is_id and not f.length),
            *(f for f in features if f.buckets),
            *(f for f in features if f.length),
        )
        own = [0 if f.name in shared else f.embeddings for f in self.features]
        first = {f.name: sum(own[:i]) for i, f in enumerate(self.features)}
        self.offsets = {name: first[shared.get(name, name)] for name in first}
        self.capacity = sum(own)

    def lookup(self, columns: Mapping[str, tf.Tensor], entries: Entries | None = None) -> tf.Tensor:
        """Return int32 indices [batch, fields] of the features in `columns`: of ids, then buckets, then lists.

        A list has as many fields as its length, with -1 where it is padded.

        Args:
            columns: a tensor [batch] of int64, strings or float32 per feature; of a list [batch, length]. A string
                may be given as its fingerprint.
            entries: those of a `GrowingIdMap`; None: its variables.
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
        indices = self._indices(ids, fields, entries)
        if not any(f.length for f in features):
            return indices
        padding = tf.equal(ids, tf.constant([_NO_ITEM[f.dtype] for f in fields], tf.int64))
        return tf.where(padding & tf.constant([f.length > 0 for f in fields]), -1, indices)

    def _indices(self, ids: tf.Tensor, fields: Sequence[Feature], entries: Entries | None) -> tf.Tensor:
        """int32 [batch, fields] from int64 ids, each column of the feature that `fields` names."""
        # int64 wraps around. The upper half of the product is the well mixed one, and its share of 2**32 is the
        # index's share of the range. Consecutive ids lie evenly apart, and share no index while there are enough.
        share = _upper_half(ids * _MULTIPLIER)
        indices = _upper_half(share * tf.constant([f.capacity for f in fields], tf.int64))
        return tf.cast(indices, tf.int32) + tf.constant([self.offsets[f.name] for f in fields])


class GrowingIdMap(HashedIdMap):
    """A `HashedIdMap` in which each id of a feature that `grows` has an index of its own, or the feature's first one.

    The first index is the default: it is shared by new ids, rare ones, evicted ones, and those for which none was
    left. `entries` lists the ids that have their own, sorted, so that a lookup is a binary search, O(log capacity)
    per id. The trainer decides on them (`trainers.vocabulary`). Here they are variables, part of a checkpoint and of
    what is served. (Monolith, arXiv 2209.07663, has a cuckoo hash table, which needs an op of its own.)
    """

    def __init__(self, features: Sequence[Feature], *, shared: Mapping[str, str] = MappingProxyType({})):
        super().__init__(features, shared=shared)
        self.growing = [f for f in self.features if f.grows]
        # A growing feature and the histories of it have one part of the entries.
        sizes = {f.name: f.capacity - 1 for f in self.growing}
        first = {name: sum(list(sizes.values())[:i]) for i, name in enumerate(sizes)}
        owners = {f.name: shared.get(f.name, f.name) for f in self.features}
        self.parts = {name: (first[owner], sizes[owner]) for name, owner in owners.items() if owner in sizes}
        ids, indices = self.entries({})
        self.ids = tf.Variable(ids, trainable=False, name="ids")
        # Checkpoints know the indices by this name.
        self.own_rows = tf.Variable(indices, trainable=False, name="own_rows")

    def entries(self, known: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Entries:
        """Return the entries of the ids that are known by feature.

        Each feature has a part of its own, padded with the largest int64.

        Args:
            known: by growing feature, its ids with an index of their own (int64 [n], sorted) and these indices, counted
                within the feature's range (int32 [n]).
        """
        ids = np.full(sum(f.capacity - 1 for f in self.growing), np.iinfo(np.int64).max)
        indices = np.concatenate(
            [np.full(f.capacity - 1, self.offsets[f.name], np.int32) for f in self.growing]
        )
        for name, (of, own) in known.items():
            start = self.parts[name][0]
            ids[start : start + len(of)] = of
            indices[start : start + len(of)] += own.astype(np.int32)
        return tf.constant(ids), tf.constant(indices)

    def assign(self, entries: Entries) -> None:
        """Set the variables to these entries."""
        self.ids.assign(entries[0])
        self.own_rows.assign(entries[1])

    def _indices(self, ids: tf.Tensor, fields: Sequence[Feature], entries: Entries | None) -> tf.Tensor:
        grown = [i for i, f in enumerate(fields) if f.name in self.parts]
        if len(grown) == len(fields):
            return self._found(ids, fields, entries)
        indices = super()._indices(ids, fields, entries)
        if not grown:
            return indices
        found = self._found(tf.gather(ids, grown, axis=1), [fields[i] for i in grown], entries)
        places = list(range(len(fields)))
        for n, i in enumerate(grown):
            places[i] = len(fields) + n
        return tf.gather(tf.concat([indices, found], axis=1), places, axis=1)

    def _found(self, ids: tf.Tensor, fields: Sequence[Feature], entries: Entries | None) -> tf.Tensor:
        keys, indices = entries or (tf.convert_to_tensor(self.ids), tf.convert_to_tensor(self.own_rows))
        parts = [self.parts[f.name] for f in fields]
        last = tf.constant([start + size - 1 for start, size in parts])
        # Bisect for the last entry below each id: LiteRT has no searchsorted. Where even the part's last entry is
        # below, the search stays there, and the id is not found.
        at = tf.zeros_like(ids, tf.int32) + tf.constant([start - 1 for start, _ in parts])
        step = 2 ** (max(size for _, size in parts).bit_length() - 1)
        while step:
            further = tf.minimum(at + step, last)
            at = tf.where(tf.gather(keys, further) < ids, further, at)
            step //= 2
        at = tf.minimum(at + 1, last)
        default = tf.constant([self.offsets[f.name] for f in fields])
        return tf.where(tf.equal(tf.gather(keys, at), ids), tf.gather(indices, at), default)


def as_ids(values: tf.Tensor, fields: int) -> tf.Tensor:
    """Return int64 [batch, fields] from one feature's values [batch] or [batch, fields], strings by fingerprint."""
    flat = tf.reshape(values, [-1])
    return tf.reshape(fingerprint(flat) if values.dtype == tf.string else flat, [-1, fields])


def _upper_half(values: tf.Tensor) -> tf.Tensor:
    """Bits 32 to 63 of int64, as 0 to 2**32 - 1, without a division: it is slow, and LiteRT lacks it."""
    return tf.cast(tf.bitcast(values, tf.uint32)[..., 1], tf.int64)
