"""Auxiliary towers and the scale of their gradient."""

import numpy as np
import pytest
import tensorflow as tf

from tutelage.models.towers import AuxiliaryTower, gradient_scale


@pytest.mark.parametrize("beta", [0.0, 0.1, 1.0, 3.0])
def test_a_scaled_gradient_leaves_the_values_alone(beta: float) -> None:
    x = tf.constant([[0.1, -3e38], [1e-30, 7.0]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = gradient_scale(x, beta)
        loss = tf.reduce_sum(y * [[1.0, 2.0], [3.0, 4.0]])
    assert (y.numpy() == x.numpy()).all()
    expected = np.float32(beta) * np.array([[1, 2], [3, 4]], np.float32)
    assert (tape.gradient(loss, x).numpy() == expected).all()


def test_a_gradient_scale_of_one_adds_nothing_to_the_graph() -> None:
    x = tf.constant([1.0])
    assert gradient_scale(x, 1.0) is x


@pytest.mark.parametrize("hidden", [(), (3,)])
def test_a_tower_s_scale_applies_below_it_and_not_to_its_own_gradients(
    hidden: tuple[int, ...],
) -> None:
    shared = tf.constant([[1.0, 2.0], [-2.0, 1.0]])

    def gradients(scale: float) -> tuple[np.ndarray, list[np.ndarray]]:
        tf.keras.utils.set_random_seed(1)
        tower = AuxiliaryTower(hidden, outputs=3, scale=scale, name="auxiliary_watch")
        with tf.GradientTape() as tape:
            tape.watch(shared)
            loss = tf.reduce_sum(tf.square(tower(shared) - 1.0))
        below, *own = tape.gradient(loss, [shared, *tower.trainable_variables])
        return below.numpy(), [g.numpy() for g in own]

    below, own = gradients(1.0)
    assert below.any()
    # A quarter is a power of 2, by which a float is multiplied exactly.
    for scale in (0.0, 0.25):
        scaled, same = gradients(scale)
        assert (scaled == scale * below).all()
        for a, b in zip(same, own, strict=True):
            assert (a == b).all()


def test_an_auxiliary_tower_is_relu_layers_and_a_head() -> None:
    tower = AuxiliaryTower([2], outputs=1, name="auxiliary_click")
    tower(tf.zeros([1, 2]))
    kernel, bias = tf.constant([[1.0, -1.0], [2.0, 0.5]]), tf.constant([0.5, 0.0])
    tower.set_weights([kernel, bias, tf.constant([[3.0], [-2.0]]), tf.constant([0.25])])
    shared = tf.constant([[1.0, 2.0], [-2.0, 1.0], [0.0, -1.0]])
    # relu(1+4+0.5, -1+1) = (5.5, 0): 3·5.5 + 0.25. relu(-2+2+0.5, 2+0.5) = (0.5, 2.5): 1.5 - 5 + 0.25.
    # relu(-2+0.5, -0.5) = (0, 0): 0.25.
    assert tower(shared).numpy().tolist() == [[16.75], [-3.25], [0.25]]


@pytest.mark.parametrize(("hidden", "layers"), [((), 1), ((8, 4), 3)])
@pytest.mark.parametrize("outputs", [1, 3])
def test_an_auxiliary_tower_has_its_task_s_outputs_whatever_its_layers(
    hidden: tuple[int, ...], layers: int, outputs: int
) -> None:
    tower = AuxiliaryTower(hidden, outputs=outputs, name="auxiliary_watch")
    assert tower(tf.ones([5, 3])).shape == [5, outputs]
    assert len(tower.variables) == 2 * layers
