"""The tensors that a model is trained on."""

from typing import NamedTuple

import tensorflow as tf


class Batch(NamedTuple):
    """B examples to train on: a whole day, or those of one update."""

    rows: tf.Tensor
    """int32 [B, fields]: indices into the embedding table, -1 where a list is padded (`HashedIdMap.lookup`)."""
    numbers: tf.Tensor
    """float32 [B, number features]."""
    labels: tf.Tensor
    """float32 [B, tasks]: the hard targets, log1p taken for a `log1p` task. NaN where one of `Schema.masked` has no
    label: the example then does not train that task."""
    weight: tf.Tensor
    """float32 [B]: weight of the example in every loss; an example of weight 0 is scored and not trained on."""
    soft: tf.Tensor
    """float32 [B, raw outputs]: the teacher's raw outputs; unspecified where `mask` is 0."""
    mask: tf.Tensor
    """float32 [B]: 0 where there is no soft label, else its weight, 1 where nothing says otherwise."""

    def cut(self, start: tf.Tensor, size: int) -> "Batch":
        """Return examples `start` to `start + size`, fewer at the end of the day."""
        return Batch(*(tensor[start : start + size] for tensor in self))

    @classmethod
    def spec(cls, *, fields: int, numbers: int, tasks: int, outputs: int) -> "Batch":
        """Return the shapes and dtypes, for any B."""
        return cls(
            rows=tf.TensorSpec([None, fields], tf.int32),
            numbers=tf.TensorSpec([None, numbers], tf.float32),
            labels=tf.TensorSpec([None, tasks], tf.float32),
            weight=tf.TensorSpec([None], tf.float32),
            soft=tf.TensorSpec([None, outputs], tf.float32),
            mask=tf.TensorSpec([None], tf.float32),
        )
