"""The layer of the backbones in this room: joined inputs, their interactions, dense layers, and experts on top."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tutelage.models.backbones.attention import CANDIDATE, USER
from tutelage.models.backbones.base import Inputs, InputSpec


class Stack(tf.keras.layers.Layer):
    """Join the inputs, let them interact, then apply dense layers that all tasks share, and experts if there are any.

    Names and order of the attributes are part of the checkpoints' format (`Ranker.checkpoint_view`).
    """

    def __init__(
        self,
        spec: InputSpec,
        hidden: Sequence[int],
        *,
        cross: tf.keras.layers.Layer | None = None,
        dot: tf.keras.layers.Layer | None = None,
        gates: tf.keras.layers.Layer | None = None,
    ):
        """`cross` maps the joined inputs [batch, width], `dot` the embeddings and the numbers; `gates` the output."""
        super().__init__(name="backbone")
        self.join = spec.join()
        self.embedded = spec.width - len(spec.numbers)
        self.cross, self.dot = cross, dot
        self.shared = [tf.keras.layers.Dense(n, activation="relu", name=f"shared_{n}") for n in hidden]
        self.gates = gates

    def call(self, inputs: Inputs) -> Any:
        """Return float32 [batch, units], or with experts a list of them, one per task."""
        return self.with_levels(inputs)[1]

    def with_levels(self, inputs: Inputs) -> tuple[list[tf.Tensor], Any]:
        """Return the input of the dense layers and the output of each, then the representation."""
        return self._from(self._interact(self.join(inputs)))

    def above(self, level: int) -> tuple[list[int], list[tf.keras.layers.Layer] | None]:
        """Return the units and the layers above a level. Experts are shared by the tasks, and not copied."""
        units = [layer.units for layer in self.shared[level:]]
        return ([*units, self.gates.units], None) if self.gates else (units, self.shared[level:])

    def call_list(self, user: Inputs, candidates: Inputs) -> Any:
        """Return the representation of N candidates for one user.

        The user's embeddings are looked up once. So is the user's share of the first dense layer, unless
        interactions come before it.
        """
        if self.cross or self.dot:
            return self._from(self._interact(self.join.call_list(user, candidates)))[1]
        first, parts = self.shared[0], self.join.by_scope(user, candidates)
        shares = {
            scope: tf.matmul(x, tf.gather(first.kernel, self.join.places(scope)))
            for scope, x in parts.items()
        }
        # As a bias, the user's share is added by the same op that multiplies the candidates' part.
        bias = tf.reshape(shares[USER] + first.bias, [-1])
        return self._top(first.activation(tf.nn.bias_add(shares[CANDIDATE], bias)), self.shared[1:])[1]

    def _interact(self, x: tf.Tensor) -> tf.Tensor:
        if self.dot:
            return self.dot(x[:, : self.embedded], x[:, self.embedded :])
        return self.cross(x) if self.cross else x

    def _from(self, x: tf.Tensor) -> tuple[list[tf.Tensor], Any]:
        return self._top(x, self.shared)

    def _top(self, x: tf.Tensor, layers: Sequence[tf.keras.layers.Layer]) -> tuple[list[tf.Tensor], Any]:
        levels = [x]
        for layer in layers:
            levels.append(layer(levels[-1]))
        return levels, self.gates(levels[-1]) if self.gates else levels[-1]
