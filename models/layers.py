"""Layers that Keras and TensorFlow Recommenders do not have, or have slower."""

import math
from collections.abc import Sequence

import tensorflow as tf

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Feature

INITIAL = 0.05
"""Embeddings start as uniform random numbers between -INITIAL and INITIAL."""


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
            initializer=tf.keras.initializers.RandomUniform(-INITIAL, INITIAL),
        )

    def call(self, rows: tf.Tensor) -> tf.Tensor:
        """float32 [batch, features * dim] from int32 rows [batch, features]."""
        return tf.reshape(tf.gather(self.table, rows), [-1, rows.shape[1] * self.dim])


_LARGEST = 1e6


def finite(feature: Feature, values: tf.Tensor) -> tf.Tensor:
    """Values of a number, float32 of any shape, with its default where one is NaN or infinite, and cut at ±1e6."""
    default = tf.fill(tf.shape(values), tf.constant(feature.default, tf.float32))
    values = tf.where(tf.abs(values) <= tf.float32.max, values, default)
    # The products of larger ones could be infinite; a logarithm is never large. Buckets are told apart all the same.
    largest = max([_LARGEST, *map(abs, feature.buckets)])
    return values if feature.log1p else tf.clip_by_value(values, -largest, largest)


def masked_mean(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """float32 [batch, dim]: the mean of the items in a bag, zeros for an empty one.

    Args:
        values: float32 [batch, items, dim], finite where there is no item too.
        mask: float32 [batch, items], 1 where there is an item, else 0.
    """
    count = tf.maximum(tf.reduce_sum(mask, axis=1, keepdims=True), 1.0)
    return tf.linalg.matvec(values, mask, transpose_a=True) / count


class TargetAttention(tf.keras.layers.Layer):
    """A user's history as the candidate sees it: items like the candidate weigh more (DIN, arXiv 1706.06978).

    Weights are a softmax over the items there are, of (W · candidate) · item / √dim. DIN scores the pairs by
    an MLP and leaves the weights as they are, which takes four to seven times as long.
    """

    def __init__(self, dim: int):
        super().__init__(name="target_attention")
        self.dim = dim
        self.query = tf.keras.layers.Dense(dim, use_bias=False, name="query")

    def call(self, history: tf.Tensor, candidate: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """float32 [batch, dim], zeros for an empty history.

        Args:
            history: float32 [batch, items, dim], finite where there is no item too. A history of batch 1 is
                every candidate's.
            candidate: float32 [batch, dim].
            mask: float32 [batch, items], 1 where there is an item, else 0.
        """
        scores = tf.linalg.matvec(history, self.query(candidate)) / math.sqrt(self.dim)
        # Against all scores so low, those of an empty history are equal: hence the second mask.
        weights = tf.nn.softmax(scores + 1e9 * (mask - 1.0)) * mask
        return tf.linalg.matvec(history, weights, transpose_a=True)


class DotInteraction(tf.keras.layers.Layer):
    """DLRM's interaction (Naumov et al., arXiv 1906.00091): dot products of all pairs of vectors.

    The vectors are the embeddings, and the numbers after a dense layer (the paper's bottom MLP). Values and
    order are those of TFRS' DotInteraction. Picking the pairs by constant indices, where TFRS masks each
    batch, takes three quarters of its time to learn and 0.4 of it to serve; in LiteRT, a tenth.
    """

    def __init__(self, dim: int):
        super().__init__(name="dot_interaction")
        self.dim = dim
        self.bottom = tf.keras.layers.Dense(dim, activation="relu", name="bottom")

    def call(self, embeddings: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
        """float32 [batch, dim + pairs], or [batch, pairs] without numbers.

        Args:
            embeddings: float32 [batch, features * dim].
            numbers: float32 [batch, numbers], which may be none.

        Raises UserError where there are fewer than two vectors.
        """
        dense = [self.bottom(numbers)] if numbers.shape[1] else []
        vectors = tf.concat([*dense, embeddings], axis=1)
        count = vectors.shape[1] // self.dim
        if count < 2:
            raise UserError(
                f"model: dot_interaction has {count} vectors to multiply, expected at least two features"
            )
        vectors = tf.reshape(vectors, [-1, count, self.dim])
        products = tf.reshape(tf.matmul(vectors, vectors, transpose_b=True), [-1, count * count])
        pairs = [i * count + j for i in range(count) for j in range(i)]
        return tf.concat([*dense, tf.gather(products, pairs, axis=1)], axis=1)


class MultiGate(tf.keras.layers.Layer):
    """Experts that all tasks share, mixed for each task by a gate of its own (MMoE: Ma et al., KDD 2018).

    A task's gate is the softmax of a linear map of the input: so much of each expert the task takes.
    """

    def __init__(self, *, experts: int, units: int, tasks: int):
        super().__init__(name="multi_gate")
        self.sizes = (experts, units, tasks)

    def build(self, shape: tf.TensorShape) -> None:
        experts, units, tasks = self.sizes
        # All experts are one product, but each starts as a layer of its own does (Glorot).
        limit = math.sqrt(6 / (shape[-1] + units))
        self.experts = tf.keras.layers.Dense(
            experts * units,
            activation="relu",
            kernel_initializer=tf.keras.initializers.RandomUniform(-limit, limit),
            name="experts",
        )
        self.gates = tf.keras.layers.Dense(tasks * experts, use_bias=False, name="gates")

    def call(self, x: tf.Tensor) -> list[tf.Tensor]:
        """float32 [batch, units] for each task from [batch, width]."""
        experts, units, tasks = self.sizes
        mixes = tf.nn.softmax(tf.reshape(self.gates(x), [-1, tasks, experts]))
        return tf.unstack(tf.matmul(mixes, tf.reshape(self.experts(x), [-1, experts, units])), axis=1)


def gradient_scale(x: tf.Tensor, beta: float) -> tf.Tensor:
    """x itself; its gradient is multiplied by beta on the way back (ExFM, arXiv 2502.17494)."""
    if beta == 1.0:
        return x
    return tf.custom_gradient(lambda x: (tf.identity(x), lambda upstream: beta * upstream))(x)


class AuxiliaryTower(tf.keras.layers.Layer):
    """A tower of its own for one distilled task, fed by soft labels only.

    What the teacher says reaches the student's shared layers through it, multiplied by `scale`, and never the
    served tower: the teacher's bias stays here and is thrown away at export (arXiv 2408.14678, section 3).
    """

    def __init__(self, hidden: Sequence[int], *, outputs: int, scale: float = 1.0, name: str):
        super().__init__(name=name)
        self.scale = scale
        self.tower = [tf.keras.layers.Dense(units, activation="relu") for units in hidden]
        self.head = tf.keras.layers.Dense(outputs)

    def call(self, shared: tf.Tensor) -> tf.Tensor:
        """float32 [batch, outputs] from the shared layer's output [batch, units]."""
        x = gradient_scale(shared, self.scale)
        for layer in self.tower:
            x = layer(x)
        return self.head(x)
