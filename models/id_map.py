"""Ids, and buckets of numbers, to rows of one embedding table."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import tensorflow as tf

from tutelage.pipeline.schema import DEFAULTS, Feature

# 2**64 / golden ratio, odd: Fibonacci hashing (Knuth, The Art of Computer Programming 3, 6.4).
_MULTIPLIER = 0x9E3779B97F4A7C15 - 2**64
_NO_ITEM = {"int64": DEFAULTS["int64"], "string": 0x9AE16A3B2F90404F - 2**64}
"""What fills a list up, by its dtype: the default, of strings its fingerprint."""


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

    def lookup(self, columns: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """int32 rows [batch, slots] of the features that `columns` has: of ids, then of buckets, then of lists.

        Each is a tensor [batch] of int64, strings or float32, or a list's [batch, length] of as many slots,
        -1 where it is filled up. A string may be given as its fingerprint.
        """
        present = [f for f in self.features if f.name in columns]
        single = [f for f in present if f.is_id and not f.length]
        lists = [f for f in present if f.length]
        parts = [self._hashed(single, columns)] if single else []
        parts += [self._bucket(f, columns[f.name]) for f in present if f.buckets]
        parts += [self._hashed(lists, columns)] if lists else []
        if not parts:
            return tf.zeros([tf.size(next(iter(columns.values()))), 0], tf.int32)
        return parts[0] if len(parts) == 1 else tf.concat(parts, axis=1)

    def _bucket(self, feature: Feature, values: tf.Tensor) -> tf.Tensor:
        values = tf.where(tf.math.is_nan(values), tf.constant(feature.default, tf.float32), values)
        # LiteRT has no searchsorted.
        edges_below = tf.cast(values[:, None] >= tf.constant(feature.buckets), tf.int32)
        return tf.reduce_sum(edges_below, axis=1, keepdims=True) + self.offsets[feature.name]

    def _hashed(self, features: Sequence[Feature], columns: Mapping[str, tf.Tensor]) -> tf.Tensor:
        ids = tf.concat([_ids(columns[f.name], f.slots) for f in features], axis=1)
        slots = [f for f in features for _ in range(f.slots)]
        # int64 wraps around; the upper half of the product is the well mixed one, and its share of
        # 2**32 is the row's share of the range. Ids given out one after the other lie evenly apart,
        # and share no row while there are rows enough.
        share = _upper_half(ids * _MULTIPLIER)
        rows = _upper_half(share * tf.constant([f.rows for f in slots], tf.int64))
        rows = tf.cast(rows, tf.int32) + tf.constant([self.offsets[f.name] for f in slots])
        if not any(f.length for f in features):
            return rows
        filling = tf.equal(ids, tf.constant([_NO_ITEM[f.dtype] for f in slots], tf.int64))
        return tf.where(filling & tf.constant([f.length > 0 for f in slots]), -1, rows)


def _ids(values: tf.Tensor, slots: int) -> tf.Tensor:
    """int64 [batch, slots]."""
    flat = tf.reshape(values, [-1])
    return tf.reshape(fingerprint(flat) if values.dtype == tf.string else flat, [-1, slots])


def _upper_half(values: tf.Tensor) -> tf.Tensor:
    """Bits 32 to 63 of int64, as 0 to 2**32 - 1: without a division, which is slow, and which LiteRT has not."""
    return tf.cast(tf.bitcast(values, tf.uint32)[..., 1], tf.int64)
