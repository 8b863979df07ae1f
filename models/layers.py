"""Layers that Keras and TensorFlow Recommenders do not have: the shared table, the auxiliary tower."""

from collections.abc import Sequence

import tensorflow as tf


class SharedTable(tf.keras.layers.Layer):
    """One embedding table for all id features: one gather a batch, and one sparse update.

    The gradient is IndexedSlices, so that a step costs what the batch holds, never the vocabulary.
    """

    def __init__(self, rows: int, dim: int):
        super().__init__(name="embeddings")
        self.rows = rows
        self.dim = dim

    def build(self, _: tf.TensorShape) -> None:
        self.table = self.add_weight(
            name="table",
            shape=(self.rows, self.dim),
            initializer=tf.keras.initializers.RandomUniform(-0.05, 0.05),
        )

    def call(self, rows: tf.Tensor) -> tf.Tensor:
        """float32 [batch, features * dim] from int32 rows [batch, features]."""
        return tf.reshape(tf.gather(self.table, rows), [-1, rows.shape[1] * self.dim])


class AuxiliaryTower(tf.keras.layers.Layer):
    """A tower and a logit of its own for one distilled task, fed by soft labels only.

    What the teacher says reaches the student's shared layers through it, and never the served
    tower: the teacher's bias stays here and is thrown away at export (arXiv 2408.14678, section 3).
    """

    def __init__(self, hidden: Sequence[int], name: str):
        super().__init__(name=name)
        self.tower = [tf.keras.layers.Dense(units, activation="relu") for units in hidden]
        self.logit = tf.keras.layers.Dense(1)

    def call(self, shared: tf.Tensor) -> tf.Tensor:
        """float32 [batch] from the shared layer's output [batch, units]."""
        for layer in self.tower:
            shared = layer(shared)
        return tf.squeeze(self.logit(shared), axis=1)
