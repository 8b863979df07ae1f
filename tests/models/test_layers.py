"""The layers of our own, against values worked out by hand."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_recommenders as tfrs
from ai_edge_litert.interpreter import Interpreter

from tutelage.models.backbones.attention import TargetAttention, masked_mean
from tutelage.models.backbones.interactions import DotInteraction, MultiGate
from tutelage.models.inputs import SharedTable
from tutelage.models.towers import AuxiliaryTower, gradient_scale
from tutelage.pipeline.errors import UserError


def _table() -> SharedTable:
    layer = SharedTable(4, 2)
    layer(tf.zeros([1, 2], tf.int32))  # builds it
    layer.table.assign([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0]])
    return layer


def test_a_row_s_embeddings_stand_side_by_side_in_the_order_of_the_features() -> None:
    embedded = _table()(tf.constant([[3, 0], [1, 1], [2, 3]]))
    assert embedded.numpy().tolist() == [[6, 7, 0, 1], [2, 3, 2, 3], [4, 5, 6, 7]]


def test_an_embedding_starts_small_and_none_like_another() -> None:
    tf.keras.utils.set_random_seed(1)
    layer = SharedTable(100, 8)
    layer(tf.zeros([1, 2], tf.int32))
    table = layer.table.numpy()
    assert np.abs(table).max() <= 0.05
    assert len(np.unique(table, axis=0)) == 100


def test_the_table_s_gradient_is_sparse_and_holds_the_batch_s_rows_only() -> None:
    layer = _table()
    with tf.GradientTape() as tape:
        # d/dx of the sum of x² is 2x.
        loss = tf.reduce_sum(tf.square(layer(tf.constant([[3, 0], [3, 1]]))))
    gradient = tape.gradient(loss, layer.table)
    assert isinstance(gradient, tf.IndexedSlices)
    assert gradient.indices.numpy().tolist() == [3, 0, 3, 1]
    assert gradient.values.numpy().tolist() == [[12, 14], [0, 2], [12, 14], [4, 6]]


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


def test_an_empty_history_is_zeros_and_teaches_nothing() -> None:
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
def test_what_stands_where_there_is_no_item_changes_nothing_and_learns_nothing(
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


def test_a_history_of_batch_one_is_every_candidate_s() -> None:
    candidates = tf.concat([CANDIDATE, -CANDIDATE, 0 * CANDIDATE], axis=0)
    layer = _attention()
    repeated = layer(tf.repeat(HISTORY, 3, axis=0), candidates, tf.repeat(MASK, 3, axis=0))
    np.testing.assert_allclose(layer(HISTORY, candidates, MASK), repeated, rtol=1e-6)
    # Weights 3/4 and 1/4, then 1/4 and 3/4, then 1/2 and 1/2.
    np.testing.assert_allclose(repeated[:, 0], [0.75, 0.25, 0.5], rtol=1e-6)


def test_a_history_s_gradient_in_the_table_is_sparse_and_zero_for_the_padding() -> None:
    table = _table()
    with tf.GradientTape() as tape:
        items = tf.reshape(table(tf.constant([[3, 1, 0]])), [1, 3, 2])
        loss = tf.reduce_sum(masked_mean(items, tf.constant([[1.0, 1.0, 0.0]])))
    gradient = tape.gradient(loss, table.table)
    assert isinstance(gradient, tf.IndexedSlices)
    assert gradient.indices.numpy().tolist() == [3, 1, 0]
    assert gradient.values.numpy().tolist() == [[0.5, 0.5], [0.5, 0.5], [0, 0]]


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


def test_a_task_teaches_all_experts_and_no_other_task_s_gate() -> None:
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
def test_an_auxiliary_tower_s_scale_is_of_what_passes_below_it_and_not_of_its_own_gradients(
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
def test_an_auxiliary_tower_gives_a_row_its_task_s_outputs_whatever_its_layers(
    hidden: tuple[int, ...], layers: int, outputs: int
) -> None:
    tower = AuxiliaryTower(hidden, outputs=outputs, name="auxiliary_watch")
    assert tower(tf.ones([5, 3])).shape == [5, outputs]
    assert len(tower.variables) == 2 * layers


MASK_SHAPE = [6]
LAYERS: dict[str, tuple[Callable[[], Callable[..., tf.Tensor]], list[list[int]]]] = {
    "mean": (lambda: masked_mean, [[6, 4], MASK_SHAPE]),
    "attention": (lambda: TargetAttention(4), [[6, 4], [4], MASK_SHAPE]),
    "dot": (lambda: DotInteraction(4), [[12], [2]]),
    "gates": (lambda: MultiGate(experts=3, units=4, tasks=2), [[5]]),
    "tower": (lambda: AuxiliaryTower([4], outputs=3, scale=0.5, name="auxiliary_watch"), [[5]]),
}
"""How each is made, and the shape of a row of each of its inputs."""

every_layer = pytest.mark.parametrize(("make", "shapes"), LAYERS.values(), ids=LAYERS.keys())


def _inputs(shapes: list[list[int]], rows: int) -> list[tf.Tensor]:
    inputs = [tf.random.stateless_normal([rows, *shape], seed=[1, i]) for i, shape in enumerate(shapes)]
    return [
        tf.cast(x > 0, tf.float32) if shape == MASK_SHAPE else x
        for x, shape in zip(inputs, shapes, strict=True)
    ]


def _run(
    make: Callable[[], Callable[..., tf.Tensor]], inputs: list[tf.Tensor]
) -> tuple[Callable[..., tf.Tensor], list[np.ndarray]]:
    """The layer with its weights of seed 1, and its outputs."""
    tf.keras.utils.set_random_seed(1)
    layer = make()
    return layer, [y.numpy() for y in tf.nest.flatten(layer(*inputs))]


@every_layer
def test_the_same_seed_gives_the_same_outputs_to_the_bit(
    make: Callable[[], Callable[..., tf.Tensor]], shapes: list[list[int]]
) -> None:
    inputs = _inputs(shapes, 9)
    for a, b in zip(_run(make, inputs)[1], _run(make, inputs)[1], strict=True):
        assert a.any()
        assert (a == b).all()


@every_layer
def test_one_graph_serves_any_batch_and_converts_to_litert_with_builtin_ops_alone(
    make: Callable[[], Callable[..., tf.Tensor]], shapes: list[list[int]], tmp_path: Path
) -> None:
    layer, _ = _run(make, _inputs(shapes, 1))
    module = tf.Module()
    module.layer = layer
    module.call = tf.function(
        lambda *inputs: {f"y{i}": y for i, y in enumerate(tf.nest.flatten(layer(*inputs)))},
        input_signature=[tf.TensorSpec([None, *shape], name=f"x{i}") for i, shape in enumerate(shapes)],
    )
    graph = module.call.get_concrete_function()
    assert all(y.shape.as_list()[1:] and None not in y.shape.as_list()[1:] for y in graph.outputs)
    assert all(y.shape[0] == 0 for y in graph(*_inputs(shapes, 0)).values())

    tf.saved_model.save(module, str(tmp_path), signatures=graph)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path))
    assert converter.target_spec.supported_ops == {tf.lite.OpsSet.TFLITE_BUILTINS}
    litert = Interpreter(model_content=converter.convert()).get_signature_runner()
    for rows in (1, 9):
        inputs = _inputs(shapes, rows)
        served = graph(*inputs)
        converted = litert(**{f"x{i}": x.numpy() for i, x in enumerate(inputs)})
        for i, y in enumerate(tf.nest.flatten(layer(*inputs))):
            np.testing.assert_allclose(served[f"y{i}"], y, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(converted[f"y{i}"], y, rtol=1e-5, atol=1e-6)
