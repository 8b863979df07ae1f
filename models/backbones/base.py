"""What a network is to the rest of the package: a `Backbone` builds a Keras layer, from `Inputs` to a representation.

Nothing here imports TensorFlow before a layer is built, so that a command line can name a backbone and exit.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from tutelage.pipeline.errors import UserError

if TYPE_CHECKING:
    import tensorflow as tf

    from tutelage.models.backbones.attention import Join


class Inputs(NamedTuple):
    """The embedded inputs of a batch, by feature name. `InputSpec` says which names there are."""

    embeddings: dict[str, tf.Tensor]
    """float32 [batch, dim] of each single id and of each bucketed number."""
    items: dict[str, tf.Tensor]
    """float32 [batch, length, dim] of each list and each history. Where the mask is 0 the values mean nothing, but
    are finite."""
    masks: dict[str, tf.Tensor]
    """float32 [batch, length] of each list and each history: 1 where there is an item, else 0."""
    numbers: tf.Tensor
    """float32 [batch, numbers], in the order of `InputSpec.numbers`; log-scaled features are already log1p."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """What a backbone's layer will be given, and for which tasks.

    >>> spec = InputSpec(dim=8, single=("user", "item"), numbers=("age",), tasks=("click",))
    >>> spec.width
    17
    >>> spec.keras_inputs().embeddings["item"].shape
    TensorShape([None, 8])
    """

    dim: int
    """Length of every embedding."""
    single: tuple[str, ...] = ()
    """Features with one embedding each: single ids, then bucketed numbers."""
    lists: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Length of each list and each history."""
    histories: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Of each history, the single id that its items are values of: the candidate's."""
    numbers: tuple[str, ...] = ()
    """Number features, in the order of the columns of `Inputs.numbers`."""
    of_user: frozenset[str] = frozenset()
    """Features and histories that belong to the user; the others belong to the candidate."""
    tasks: tuple[str, ...] = ()
    """The model's tasks, in the order in which a layer returns their representations if each has its own."""

    @property
    def width(self) -> int:
        """Columns of the joined tensor (`join`)."""
        return (len(self.single) + len(self.lists)) * self.dim + len(self.numbers)

    def join(self) -> Join:
        """Return a new layer that joins `Inputs` into one float32 [batch, width].

        A list becomes the mean of its items. A history is pooled by target attention.
        """
        from tutelage.models.backbones.attention import Join

        return Join(self)

    def keras_inputs(self) -> Inputs:
        """Return symbolic inputs for a functional model: `tf.keras.Model(inputs, outputs)`."""
        from tutelage.models.tfrs import keras_input

        return Inputs(
            embeddings={name: keras_input(self.dim) for name in self.single},
            items={name: keras_input(length, self.dim) for name, length in self.lists.items()},
            masks={name: keras_input(length) for name, length in self.lists.items()},
            numbers=keras_input(len(self.numbers)),
        )


class Backbone:
    """A kind of network and its sizes: the base of a frozen dataclass with a `build`.

    The layer that `build` returns is called with `Inputs` and returns the representation that the tasks' heads read:
    float32 [batch, width], or a list of them, one per task in the order of `InputSpec.tasks`. It must be a function of
    its inputs and its trainable weights alone. Random numbers and state that a call changes (dropout, batch
    normalisation) would make a resumed day differ from one that was never interrupted, so they are refused.

    A layer may have three more methods:

    - `with_levels(inputs)` returns (levels, representation): the tensors float32 [batch, units] after which an
      auxiliary tower may branch (`Distillation.shared_layers` counts them from 0). Without it a layer has two levels:
      its joined input, and its representation.
    - `above(level)` returns (units, layers) of the dense layers from that level to the representation. A tower without
      sizes of its own takes these, and starts as a copy of the layers; None as layers: it starts on its own.
    - `call_list(user, candidates)` returns the representation of N candidates for one user, from their `Inputs` of
      batch 1 and of batch N. Without it the user's inputs are repeated for each candidate.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True, slots=True, kw_only=True)
    ... class Wide(Backbone):
    ...     units: int = 4
    ...     def build(self, spec):
    ...         import tensorflow as tf
    ...         return tf.keras.Sequential([spec.join(), tf.keras.layers.Dense(self.units)])
    >>> spec = InputSpec(dim=2, single=("user",), tasks=("click",))
    >>> Wide(units=3).build(spec)(spec.keras_inputs()).shape
    TensorShape([None, 3])
    """

    __slots__ = ()

    def build(self, spec: InputSpec) -> tf.keras.layers.Layer:
        """Return a new layer from `Inputs` as `spec` describes them to a representation."""
        raise NotImplementedError(f"{type(self).__name__}.build(spec)")


Network = Backbone | Callable[[InputSpec], Any]
"""A backbone, or a function that returns a new `tf.keras.Model` each time it is called with an `InputSpec`."""


def described(network: Network) -> dict[str, Any]:
    """Return what a network is recorded by: the name of its class and its fields, or of its function and arguments.

    >>> from tutelage.models.backbones.mlp import MLP
    >>> described(MLP(hidden=(64, 32)))
    {'type': 'MLP', 'hidden': [64, 32]}
    """
    if isinstance(network, Backbone):
        fields = dataclasses.asdict(network)  # type: ignore[call-overload]
        return {"type": type(network).__name__, **{name: _plain(value) for name, value in fields.items()}}
    function, args, keywords = network, (), {}
    if isinstance(network, partial):
        function, args, keywords = network.func, network.args, network.keywords
    name = getattr(function, "__qualname__", repr(function))
    return {"type": "function", "function": name, "args": _plain(args), "keywords": _plain(keywords)}


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return {str(key): _plain(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def check_network(network: Any) -> None:
    """Raise UserError for what can be no network: expected is a `Backbone`, a named function, or its partial."""
    if isinstance(network, Backbone):
        if not dataclasses.is_dataclass(network):
            raise UserError(
                f"model: backbone {type(network).__name__} is no dataclass, expected its sizes as fields; "
                "decorate it with @dataclass(frozen=True, slots=True, kw_only=True)"
            )
        _check_json(network)
        return
    function = network.func if isinstance(network, partial) else network
    if not (isinstance(network, partial) or inspect.isroutine(network)):
        raise UserError(
            f"model: backbone is {network!r}, expected a backbone, as in MLP(hidden=(64, 32)), or a function of an "
            "InputSpec that returns a tf.keras.Model"
        )
    if not hasattr(function, "__qualname__") or "<lambda>" in function.__qualname__:
        raise UserError(
            f"model: backbone is {function!r}, which has no name to be recorded by; define it with def, and set its "
            "arguments by functools.partial"
        )
    _check_json(network)


def _check_json(network: Network) -> None:
    try:
        json.dumps(described(network))
    except TypeError as error:
        raise UserError(
            f"model: backbone {network!r} cannot be recorded ({error}); expected numbers, strings, booleans, and "
            "tuples of these"
        ) from None


def check_hidden(kind: str, hidden: tuple[int, ...], *, least: int = 1) -> None:
    """Raise UserError unless `hidden` names at least so many layers, of at least one unit each."""
    if len(hidden) < least or min(hidden, default=0) < 1:
        layers = "one layer" if least == 1 else f"{least} layers"
        raise UserError(f"{kind}: hidden is {hidden}, expected at least {layers} of at least 1 unit each")
