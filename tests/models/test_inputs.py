"""The shared embedding table, against values worked out by hand."""

import numpy as np
import tensorflow as tf

from tutelage.models.backbones.attention import masked_mean
from tutelage.models.inputs import SharedTable


def _table() -> SharedTable:
    layer = SharedTable(4, 2)
    layer(tf.zeros([1, 2], tf.int32))  # builds it
    layer.table.assign([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0]])
    return layer


def test_an_example_s_embeddings_stand_side_by_side_in_the_order_of_the_features() -> None:
    embedded = _table()(tf.constant([[3, 0], [1, 1], [2, 3]]))
    assert embedded.numpy().tolist() == [[6, 7, 0, 1], [2, 3, 2, 3], [4, 5, 6, 7]]


def test_an_embedding_starts_small_and_none_like_another() -> None:
    tf.keras.utils.set_random_seed(1)
    layer = SharedTable(100, 8)
    layer(tf.zeros([1, 2], tf.int32))
    table = layer.table.numpy()
    assert np.abs(table).max() <= 0.05
    assert len(np.unique(table, axis=0)) == 100


def test_the_table_s_gradient_is_sparse_and_holds_the_batch_s_indices_only() -> None:
    layer = _table()
    with tf.GradientTape() as tape:
        # d/dx of the sum of x² is 2x.
        loss = tf.reduce_sum(tf.square(layer(tf.constant([[3, 0], [3, 1]]))))
    gradient = tape.gradient(loss, layer.table)
    assert isinstance(gradient, tf.IndexedSlices)
    assert gradient.indices.numpy().tolist() == [3, 0, 3, 1]
    assert gradient.values.numpy().tolist() == [[12, 14], [0, 2], [12, 14], [4, 6]]


def test_a_history_s_gradient_in_the_table_is_sparse_and_zero_for_the_padding() -> None:
    table = _table()
    with tf.GradientTape() as tape:
        items = tf.reshape(table(tf.constant([[3, 1, 0]])), [1, 3, 2])
        loss = tf.reduce_sum(masked_mean(items, tf.constant([[1.0, 1.0, 0.0]])))
    gradient = tape.gradient(loss, table.table)
    assert isinstance(gradient, tf.IndexedSlices)
    assert gradient.indices.numpy().tolist() == [3, 1, 0]
    assert gradient.values.numpy().tolist() == [[0.5, 0.5], [0.5, 0.5], [0, 0]]
