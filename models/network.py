"""From a config's backbone to its layer: checks that the layer is one that can be trained, resumed and served."""

import weakref
from collections import deque
from functools import partial
from typing import Any

import tensorflow as tf

from tutelage.models.backbones.base import Backbone, InputSpec, Network
from tutelage.models.backbones.stack import Stack
from tutelage.pipeline.errors import UserError

_taken: weakref.WeakSet[tf.keras.layers.Layer] = weakref.WeakSet()
"""Layers that are some model's already."""
_READS = ("ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VarHandleOp", "VariableShape")


def name_of(network: Network) -> str:
    """Return what errors call a network by: the name of its class or function."""
    if isinstance(network, Backbone):
        return type(network).__name__
    function = network.func if isinstance(network, partial) else network
    return str(function.__qualname__)


def build(network: Network, spec: InputSpec) -> tf.keras.layers.Layer:
    """Return the network's new layer. Raises UserError where it returns none, or one that was returned before."""
    layer = network.build(spec) if isinstance(network, Backbone) else network(spec)
    name = name_of(network)
    if not isinstance(layer, tf.keras.layers.Layer):
        raise UserError(
            f"model: backbone {name} returned {type(layer).__name__}, expected a tf.keras layer or model of Keras 2"
        )
    if layer in _taken:
        raise UserError(
            f"model: backbone {name} returned a layer that it had returned before, expected a new one at each call; "
            "make the layers inside the function"
        )
    _taken.add(layer)
    return layer


def is_foreign(layer: tf.keras.layers.Layer) -> bool:
    """Return whether a layer is the user's: it is checked, and its variables are recorded."""
    return not isinstance(layer, Stack)


def edges(layer: tf.keras.layers.Layer) -> dict[str, Any]:
    """Return what a checkpoint calls the parts of a network by: its own parts by name, a user's as `backbone`."""
    if is_foreign(layer):
        return {"backbone": layer}
    parts = {"cross": layer.cross, "dot": layer.dot, "shared": layer.shared, "gates": layer.gates}
    return {"attention": layer.join.attention, **parts}


def check(network: Network, layer: tf.keras.layers.Layer, spec: InputSpec) -> None:
    """Raise UserError for a user's layer whose representation no head can read, or that resumes differently.

    A day that was interrupted must end as one that was not, bit for bit. State outside the trainable weights and
    random numbers of a hidden generator do not allow that, so neither may be in the layer's graph, as it is called in
    training.
    """
    name, inputs = name_of(network), spec.keras_inputs()
    types = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, tf.float32), inputs)
    probe = _Probe(layer)
    traced = tf.function(lambda x: probe(x, training=True), autograph=False).get_concrete_function(types)
    outputs = traced.structured_outputs
    shapes = [x.shape for x in outputs] if isinstance(outputs, list | tuple) else [outputs.shape]
    if any(shape.rank != 2 or shape[1] is None for shape in shapes) or len(shapes) not in (
        1,
        len(spec.tasks),
    ):
        raise UserError(
            f"model: backbone {name} returns {', '.join(map(str, shapes))}, expected one float32 [batch, width], or "
            f"one for each of the {len(spec.tasks)} tasks"
        )
    graph = traced.graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    for op in sorted({node.op for node in nodes}):
        if _is_random(op):
            raise UserError(
                f"model: backbone {name} draws random numbers ({op}), as dropout does, and a resumed day would "
                "differ; leave dropout out, or use tf.random.stateless_* with a fixed seed"
            )
        if op.startswith(("Assign", "Resource", "Scatter")) and op not in _READS:
            raise UserError(
                f"model: backbone {name} changes a variable when it is called ({op}), as batch normalisation does, "
                "and a resumed day would differ; use LayerNormalization"
            )


class _Probe(tf.keras.layers.Layer):
    """Calls a layer as in training: what it is made of is told so too."""

    def __init__(self, layer: tf.keras.layers.Layer):
        super().__init__()
        self.layer = layer

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.layer(inputs)


def _is_random(op: str) -> bool:
    stems = ("Random", "TruncatedNormal", "Multinomial", "StatefulUniform", "StatefulStandardNormal", "Rng")
    return not op.startswith("Stateless") and any(stem in op for stem in stems)


def by_path(root: Any) -> dict[str, tf.Variable]:
    """Return the variables below an object, by their shortest way from it.

    A way is made of attributes, so it is the same in every process. Keras' own names are counted by process.
    """
    found: dict[str, tf.Variable] = {}
    view = tf.train.TrackableView(root)
    seen, queue = {id(root)}, deque([("", root)])
    while queue:
        path, node = queue.popleft()
        for name, child in view.children(node).items():
            if id(child) not in seen:
                seen.add(id(child))
                queue.append((f"{path}/{name}".lstrip("/"), child))
                if isinstance(child, tf.Variable):
                    found[queue[-1][0]] = child
    return found
