"""From raw columns to a network's inputs: ids become embedding indices, numbers are cleaned, embeddings looked up."""

from collections.abc import Mapping

import tensorflow as tf

from tutelage.models.backbones.base import Inputs, InputSpec
from tutelage.models.config import ModelConfig
from tutelage.models.id_map import Entries, GrowingIdMap, HashedIdMap
from tutelage.pipeline.schema import Feature, Schema

INITIAL = 0.05
"""Embeddings start as uniform random numbers between -INITIAL and INITIAL."""


class SharedTable(tf.keras.layers.Layer):
    """One embedding table for all id features: one gather and one sparse update per batch.

    The gradient is IndexedSlices, so that a step costs what the batch holds, never the vocabulary.

    >>> table = SharedTable(capacity=10, dim=4)
    >>> table(tf.constant([[3, 0], [1, 1]])).shape
    TensorShape([2, 8])
    """

    def __init__(self, capacity: int, dim: int):
        super().__init__(name="embeddings")
        self.capacity = capacity
        self.dim = dim

    def build(self, _: tf.TensorShape) -> None:
        self.table = self.add_weight(
            name="table",
            shape=(self.capacity, self.dim),
            initializer=tf.keras.initializers.RandomUniform(-INITIAL, INITIAL),
        )

    def call(self, indices: tf.Tensor) -> tf.Tensor:
        """Return float32 [batch, fields * dim] from int32 indices [batch, fields]."""
        return tf.reshape(tf.gather(self.table, indices), [-1, indices.shape[1] * self.dim])


def sound(feature: Feature, values: tf.Tensor) -> tf.Tensor:
    """Return a number's values, float32 of any shape, with the default for NaN, infinity and what is absurdly large.

    `Feature.largest` is the largest that is taken as it is.

    >>> sound(Feature(name="age", dtype="float32"), tf.constant([float("nan"), 3.0, -3e38])).numpy().tolist()
    [0.0, 3.0, 0.0]
    """
    default = tf.fill(tf.shape(values), tf.constant(feature.default, tf.float32))
    values = tf.where(tf.abs(values) <= feature.largest, values, default)
    return tf.clip_by_value(values, -feature.cut, feature.cut) if feature.cut else values


class Embedder:
    """A model's inputs: which features it takes, their indices in the embedding table, and their embeddings."""

    def __init__(self, schema: Schema, config: ModelConfig):
        """Raise UserError where `config.without` names what the schema does not have, or half of a history."""
        self.features = schema.inputs(config.without)
        self.dim = config.embedding_dim
        self.numbers = [f for f in self.features if not f.is_id]
        names = {f.name for f in self.features}
        self.of = {history.name: history.of for history in schema.histories if history.name in names}
        kind = GrowingIdMap if any(f.grows for f in self.features) else HashedIdMap
        self.id_map = kind(self.features, shared=self.of)
        self.embedded = self.id_map.features
        self.fields = sum(f.fields for f in self.embedded)
        self.table = SharedTable(self.id_map.capacity, self.dim)
        self.spec = InputSpec(
            dim=self.dim,
            single=tuple(f.name for f in self.embedded if not f.length),
            lists={f.name: f.length for f in self.embedded if f.length},
            histories=self.of,
            numbers=tuple(f.name for f in self.numbers),
            of_user=frozenset(f.name for f in self.features if f.scope == "user"),
            tasks=tuple(task.name for task in schema.for_model(config.without).tasks),
        )

    @property
    def signature(self) -> dict[str, tf.TensorSpec]:
        """What `transform` takes: a raw tensor [batch] per feature, by name, or of a list [batch, length]."""
        return {
            f.name: tf.TensorSpec([None, *f.shape], tf.as_dtype(f.dtype), name=f.name) for f in self.features
        }

    def transform(
        self, columns: Mapping[str, tf.Tensor], entries: Entries | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return (rows, numbers) as in `Batch`, of those of the model's inputs that `columns` has.

        A number that is NaN, infinite or beyond ±`Feature.largest` counts as missing, in training as in serving.

        Args:
            columns: raw tensors as in `signature`.
            entries: of the ids of growing features; None: those that the model has.
        """
        given = [f for f in self.numbers if f.name in columns]
        columns = {**columns, **{f.name: sound(f, columns[f.name]) for f in given}}
        indices = self.id_map.lookup(columns, entries)
        numbers = [
            tf.math.log1p(tf.maximum(columns[f.name], 0.0)) if f.log1p else columns[f.name] for f in given
        ]
        return indices, tf.stack(numbers, axis=1) if numbers else tf.zeros([tf.shape(indices)[0], 0])

    def embed(self, indices: tf.Tensor, numbers: tf.Tensor, scope: str = "") -> Inputs:
        """Return the embedded inputs of a batch.

        Args:
            indices: int32 [batch, fields] of all features, or of those of one scope.
            numbers: float32 [batch, numbers] of the same.
            scope: `user` or `candidate`; empty: both.
        """
        features = [f for f in self.embedded if not scope or f.scope == scope]
        if not features:
            return Inputs(embeddings={}, items={}, masks={}, numbers=numbers)
        single = [f for f in features if not f.length]
        lists = [f for f in features if f.length]
        # The padding of a list is looked up too; the mask gives it no weight.
        flat = self.table(tf.maximum(indices, 0) if lists else indices)
        values = tf.split(flat, [f.fields * self.dim for f in features], axis=1)
        masks = (
            tf.split(tf.cast(indices[:, len(single) :] >= 0, tf.float32), [f.length for f in lists], axis=1)
            if lists
            else []
        )
        return Inputs(
            embeddings={f.name: x for f, x in zip(single, values, strict=False)},
            items={
                f.name: tf.reshape(x, [-1, f.length, self.dim])
                for f, x in zip(lists, values[len(single) :], strict=True)
            },
            masks={f.name: mask for f, mask in zip(lists, masks, strict=True)},
            numbers=numbers,
        )
