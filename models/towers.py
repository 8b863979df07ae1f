"""What a student has besides its served outputs: auxiliary towers fed by soft labels, and adapters of these labels."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tutelage.models.config import Distillation
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Schema


def gradient_scale(x: tf.Tensor, beta: float) -> tf.Tensor:
    """Return x itself; its gradient is multiplied by beta on the way back (ExFM, arXiv 2502.17494).

    >>> x = tf.Variable(3.0)
    >>> with tf.GradientTape() as tape:
    ...     y = gradient_scale(x, 0.25) ** 2
    >>> float(y), float(tape.gradient(y, x))
    (9.0, 1.5)
    """
    if beta == 1.0:
        return x
    return tf.custom_gradient(lambda x: (tf.identity(x), lambda upstream: beta * upstream))(x)


class AuxiliaryTower(tf.keras.layers.Layer):
    """A tower for one distilled task, trained on soft labels only.

    Through it the teacher's labels reach the student's shared layers, with their gradient multiplied by `scale`, and
    never the served tower. The teacher's bias stays in the tower, which export leaves out (arXiv 2408.14678,
    section 3).

    >>> AuxiliaryTower((8,), outputs=3, name="auxiliary_watch")(tf.zeros([5, 16])).shape
    TensorShape([5, 3])
    """

    def __init__(self, hidden: Sequence[int], *, outputs: int, scale: float = 1.0, name: str):
        super().__init__(name=name)
        self.scale = scale
        self.tower = [tf.keras.layers.Dense(units, activation="relu") for units in hidden]
        self.head = tf.keras.layers.Dense(outputs)

    def call(self, shared: tf.Tensor) -> tf.Tensor:
        """Return float32 [batch, outputs] from a level of the network, float32 [batch, units]."""
        x = gradient_scale(shared, self.scale)
        for layer in self.tower:
            x = layer(x)
        return self.head(x)

    def start_as(self, layers: Sequence[tf.keras.layers.Layer], head: tf.keras.layers.Layer) -> None:
        """Copy the initial weights of the served tower, which has the same shape.

        Towers that start apart ask the layers below them for different things. What the teacher then trains into
        those layers the served tower cannot read: late students of KuaiRand were worse for it (docs/decisions.md).
        """
        for layer, like in zip([*self.tower, self.head], [*layers, head], strict=True):
            for variable, value in zip(layer.variables, like.variables, strict=True):
                variable.assign(value)


def with_towers(distillation: Sequence[Distillation]) -> dict[str, Distillation]:
    """Return the distillation of each auxiliary tower, by the tower's name; an adapter has a second tower."""
    return {
        name: d
        for d in distillation
        if d.through == "auxiliary"
        for name in ([d.task, f"{d.task}_adapted"] if d.adapter else [d.task])
    }


def auxiliary_tower(
    name: str, d: Distillation, *, outputs: int, backbone: tf.keras.layers.Layer, levels: int
) -> AuxiliaryTower:
    """Return a new tower that branches at the level of the backbone's layer that `d` says, out of `levels`.

    Raises UserError where the network has no such level, or does not say what a tower from there is made of.
    """
    level = branch_level(d, levels)
    if level >= levels:
        raise UserError(
            f"distillation of {d.task!r}: shared_layers is {level}, "
            f"the model has {levels - 1} that its tasks share"
        )
    units: Sequence[int] | None = d.hidden
    if units is None:
        if level < levels - 1 and not hasattr(backbone, "above"):
            raise UserError(
                f"distillation of {d.task!r}: shared_layers is {level} and hidden None, expected the tower's units, as "
                "in hidden=(32,), because the model's network does not say what lies above that level"
            )
        units = _above(backbone, level)[0]
    return AuxiliaryTower(units, outputs=outputs, scale=d.gradient_scale, name=f"auxiliary_{name}")


def branch_level(d: Distillation, levels: int) -> int:
    """Return the level at which a tower branches; unless `d` says so, the last."""
    return levels - 1 if d.shared_layers is None else d.shared_layers


def start_as_served(
    tower: AuxiliaryTower, d: Distillation, *, backbone: tf.keras.layers.Layer, levels: int, head: Any
) -> None:
    """Let a tower start as the served one, where it is made of the same layers."""
    if d.hidden is None:
        layers = _above(backbone, branch_level(d, levels))[1]
        if layers is not None:
            tower.start_as(layers, head)


def _above(backbone: tf.keras.layers.Layer, level: int) -> tuple[Sequence[int], Any]:
    return backbone.above(level) if hasattr(backbone, "above") else ((), ())


def adapters(schema: Schema, distillation: Sequence[Distillation]) -> dict[str, AuxiliaryTower]:
    """Return, by task, a small network for each distillation that corrects the teacher's labels by hard ones."""
    return {
        d.task: AuxiliaryTower(
            (16,),
            outputs=len(schema.select_tasks([d.task])[0].outputs),
            name=f"auxiliary_adapter_{d.task}",
        )
        for d in distillation
        if d.adapter
    }
