"""Every layer is the same at each start with a seed, serves any batch and converts to LiteRT."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from tutelage.models.backbones.attention import TargetAttention, masked_mean
from tutelage.models.backbones.interactions import DotInteraction, MultiGate
from tutelage.models.towers import AuxiliaryTower

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
