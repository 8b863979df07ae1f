"""Dot products and gated experts, against values worked out by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_recommenders as tfrs

from tutelage.models.backbones.interactions import DotInteraction, MultiGate
from tutelage.pipeline.errors import UserError


def _dot() -> DotInteraction:
    layer = DotInteraction(2)
    layer(tf.zeros([1, 4]), tf.zeros([1, 1]))
    layer.bottom.kernel.assign([[2.0, -1.0]])
    layer.bottom.bias.assign([1.0, 0.5])
    return layer


def test_a_dot_interaction_is_the_numbers_vector_and_the_products_of_all_pairs() -> None:
    # Of the number 3: relu(2·3 + 1, −3 + 0.5) = (7, 0). With (1, 2): 7. With (3, 4): 21. (1, 2)·(3, 4) = 11.
    # Of −1: relu(−1, 1.5) = (0, 1.5). With (5, 6): 9. With (7, 8): 12. (5, 6)·(7, 8) = 83.
    embeddings = tf.constant([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    interacted = _dot()(embeddings, tf.constant([[3.0], [-1.0]]))
    assert interacted.numpy().tolist() == [[7, 0, 7, 21, 11], [0, 1.5, 9, 12, 83]]


def test_without_numbers_it_is_the_products_of_the_embeddings_alone() -> None:
    layer = DotInteraction(2)
    embeddings = tf.constant([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    # (3, 4)·(1, 2), then (5, 6)·(1, 2) and (5, 6)·(3, 4).
    assert layer(embeddings, tf.zeros([1, 0])).numpy().tolist() == [[11, 17, 39]]
    assert not layer.variables


def test_a_dot_interaction_s_products_and_gradients_are_those_of_tfrs() -> None:
    x = tf.random.stateless_normal([7, 5 * 3], seed=[1, 2])
    theirs = tfrs.layers.feature_interaction.DotInteraction()
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        ours, tfrs_ = DotInteraction(3)(x, tf.zeros([7, 0])), theirs(tf.split(x, 5, axis=1))
        losses = [tf.reduce_sum(tf.exp(y)) for y in (ours, tfrs_)]
    np.testing.assert_allclose(ours, tfrs_, rtol=1e-5)
    np.testing.assert_allclose(*(tape.gradient(loss, x) for loss in losses), rtol=1e-4)


def test_one_feature_has_nothing_to_interact_with() -> None:
    with pytest.raises(UserError, match="dot_interaction has 1 vectors to multiply, expected at least two"):
        DotInteraction(2)(tf.zeros([3, 2]), tf.zeros([3, 0]))


def _gates() -> MultiGate:
    layer = MultiGate(experts=2, units=2, tasks=2)
    layer(tf.zeros([1, 1]))
    # Experts relu(x, 2x) and relu(4x, 6 − x). Gate logits (ln 3 · x, 0) and (0, 0).
    layer.experts.kernel.assign([[1.0, 2.0, 4.0, -1.0]])
    layer.experts.bias.assign([0.0, 0.0, 0.0, 6.0])
    layer.gates.kernel.assign([[math.log(3), 0.0, 0.0, 0.0]])
    return layer


def test_each_task_s_gate_mixes_the_experts() -> None:
    first, second = _gates()(tf.constant([[1.0], [-1.0]]))
    # x = 1: experts (1, 2) and (4, 5); gates (3/4, 1/4) and (1/2, 1/2).
    # x = −1: experts (0, 0) and (0, 7); gates (1/4, 3/4) and (1/2, 1/2).
    np.testing.assert_allclose(first, [[1.75, 2.75], [0, 5.25]], rtol=1e-6)
    np.testing.assert_allclose(second, [[2.5, 3.5], [0, 3.5]], rtol=1e-6)


def test_a_task_trains_all_experts_and_no_other_task_s_gate() -> None:
    layer = _gates()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(tf.constant([[1.0]]))[0])
    experts, _, gates = (g.numpy() for g in tape.gradient(loss, layer.trainable_variables))
    # The experts' weights in the first task, once for each of their two units.
    np.testing.assert_allclose(experts, [[0.75, 0.75, 0.25, 0.25]], rtol=1e-6)
    # Softmax' derivative 3/4 · 1/4 times the difference of the experts' sums, 3 − 9, and its opposite.
    np.testing.assert_allclose(gates, [[-1.125, 1.125, 0, 0]], rtol=1e-5, atol=0)


def test_an_expert_starts_as_wide_as_a_layer_of_its_own() -> None:
    layer = MultiGate(experts=8, units=10, tasks=2)
    layer(tf.zeros([1, 50]))
    # Glorot: √(6 / (50 + 10)) = 0.316; one layer of all 80 units would stop at √(6 / 130) = 0.215.
    assert 0.3 < np.abs(layer.experts.kernel).max() <= math.sqrt(6 / 60)
