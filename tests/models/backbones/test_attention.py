"""The pooling of lists and histories, against values worked out by hand."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from tutelage.models.backbones.attention import TargetAttention, masked_mean


def test_a_bag_s_mean_is_that_of_its_items_and_zeros_without_any() -> None:
    values = tf.constant([[[1.0, 2.0], [9.0, 9.0], [3.0, 5.0]], [[7.0, 7.0], [7.0, 7.0], [7.0, 7.0]]])
    # (1 + 3) / 2 and (2 + 5) / 2.
    assert masked_mean(values, tf.constant([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])).numpy().tolist() == [
        [2, 3.5],
        [0, 0],
    ]


def _attention() -> TargetAttention:
    layer = TargetAttention(4)
    layer(tf.zeros([1, 1, 4]), tf.zeros([1, 4]), tf.zeros([1, 1]))
    # The candidate's second number, twice, asks for the items' first.
    layer.query.kernel.assign([[0, 0, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    return layer


HISTORY = tf.constant([[[1.0, 0.0, 0.0, 0.0], [9.0, 9.0, 9.0, 9.0], [0.0, 4.0, 0.0, 0.0]]])
CANDIDATE = tf.constant([[0.0, math.log(3), 0.0, 0.0]])
MASK = tf.constant([[1.0, 0.0, 1.0]])


def test_items_weigh_by_the_softmax_of_their_scaled_product_with_the_candidate() -> None:
    # Query (2 ln 3, 0, 0, 0). Over √4 = 2, the items score ln 3 and 0 and weigh 3/4 and 1/4:
    # 3/4 · (1, 0, 0, 0) + 1/4 · (0, 4, 0, 0).
    attended = _attention()(HISTORY, CANDIDATE, MASK)
    np.testing.assert_allclose(attended, [[0.75, 1, 0, 0]], rtol=1e-6)


def test_an_empty_history_is_zeros_and_trains_nothing() -> None:
    layer = _attention()
    with tf.GradientTape() as tape:
        tape.watch([HISTORY, CANDIDATE])
        attended = layer(HISTORY, CANDIDATE, tf.zeros([1, 3]))
        # d/dx of (x + 1)² is 2 where x is 0: what comes back is not zero at the outset.
        loss = tf.reduce_sum(tf.square(attended + 1.0))
    assert attended.numpy().tolist() == [[0, 0, 0, 0]]
    for gradient in tape.gradient(loss, [HISTORY, CANDIDATE, *layer.trainable_variables]):
        assert (gradient.numpy() == 0).all()  # which NaN is not


@pytest.mark.parametrize(
    "pool",
    [lambda values, mask: _attention()(values, CANDIDATE, mask), masked_mean],
    ids=["attention", "mean"],
)
def test_padding_changes_nothing_and_gets_no_gradient(
    pool: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
) -> None:
    other = HISTORY + 50.0 * (1.0 - MASK)[..., None]
    with tf.GradientTape() as tape:
        tape.watch(other)
        pooled = pool(other, MASK)
        loss = tf.reduce_sum(tf.square(pooled + 1.0))
    assert (pooled.numpy() == pool(HISTORY, MASK).numpy()).all()
    gradient = tape.gradient(loss, other).numpy()[0]
    assert (gradient[1] == 0).all()
    assert gradient[[0, 2]].all()


def test_a_history_of_batch_one_is_shared_by_all_candidates() -> None:
    candidates = tf.concat([CANDIDATE, -CANDIDATE, 0 * CANDIDATE], axis=0)
    layer = _attention()
    repeated = layer(tf.repeat(HISTORY, 3, axis=0), candidates, tf.repeat(MASK, 3, axis=0))
    np.testing.assert_allclose(layer(HISTORY, candidates, MASK), repeated, rtol=1e-6)
    # Weights 3/4 and 1/4, then 1/4 and 3/4, then 1/2 and 1/2.
    np.testing.assert_allclose(repeated[:, 0], [0.75, 0.25, 0.5], rtol=1e-6)
