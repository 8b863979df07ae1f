"""Everything that is taken from TensorFlow Recommenders and from the Keras that it needs, in one place.

TFRS 0.7 needs Keras 2. When keras-rs replaces it, this is the file that changes: a model base class, the cross layers
of DCN-v2, the ranking task, and a symbolic input.
"""

import tensorflow as tf
import tensorflow_recommenders as tfrs

Model = tfrs.Model
"""A Keras model whose `train_step` is made of `compute_loss`."""
MultiLayerDCN = tfrs.layers.feature_interaction.MultiLayerDCN
"""`num_layers` cross layers of rank `projection_dim` (DCN-v2, arXiv 2008.13535, equation 2)."""
RankingTask = tfrs.tasks.Ranking
"""A loss and its metrics; called with labels and predictions float32 [batch, 1], it returns a scalar."""


def keras_input(*shape: int) -> tf.Tensor:
    """Return a symbolic float32 [batch, *shape]."""
    return tf.keras.Input(shape)
