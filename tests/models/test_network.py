"""A user's network: what is refused, with the remedy, and what is not."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tutelage.models.backbones.base import Backbone, Inputs, InputSpec
from tutelage.models.backbones.mlp import MLP
from tutelage.models.config import ModelConfig, distil
from tutelage.models.network import by_path
from tutelage.models.ranker import Ranker
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Feature, Schema, Task

SCHEMA = Schema(
    features=(
        Feature(name="user", dtype="int64", capacity=5, scope="user"),
        Feature(name="item", dtype="int64", capacity=5),
        Feature(name="age", dtype="float32"),
    ),
    tasks=(Task(name="click", label="click"), Task(name="like", label="like")),
    key=("user",),
)
layers = tf.keras.layers


def ranker(network: Any, **fields: Any) -> Ranker:
    tf.keras.utils.set_random_seed(1)
    return Ranker(SCHEMA, ModelConfig(embedding_dim=2, backbone=network), **fields)


def functional(spec: InputSpec, *, units: int = 3) -> tf.keras.Model:
    """A functional model."""
    inputs = spec.keras_inputs()
    x = layers.Concatenate()([inputs.embeddings["user"], inputs.embeddings["item"], inputs.numbers])
    return tf.keras.Model(inputs, layers.Dense(units, activation="relu")(x))


class Subclassed(tf.keras.Model):
    """A subclassed model with a representation for each task."""

    def __init__(self, units: int):
        super().__init__()
        self.towers = [layers.Dense(units), layers.Dense(units)]

    def call(self, inputs: Inputs) -> list[tf.Tensor]:
        return [tower(inputs.embeddings["item"]) for tower in self.towers]


def subclassed(spec: InputSpec, units: int) -> tf.keras.Model:
    return Subclassed(units)


def _with(*stack: Callable[[], tf.keras.layers.Layer]) -> Callable[[InputSpec], tf.keras.Model]:
    def network(spec: InputSpec) -> tf.keras.Model:
        return tf.keras.Sequential([spec.join(), *(make() for make in stack)])

    return network


ROWS, NUMBERS = tf.constant([[1, 6], [2, 7], [2, 8]]), tf.constant([[0.5], [1.0], [-3.0]])


@pytest.mark.parametrize("network", [functional, partial(functional, units=5), partial(subclassed, units=3)])
def test_a_function_that_returns_a_model_is_a_network(network: Any) -> None:
    model = ranker(network)
    outputs = model(ROWS, NUMBERS)
    assert {name: x.shape.as_list() for name, x in outputs.items()} == {"click_logit": [3], "like_logit": [3]}
    assert len(np.unique(outputs["like_logit"])) == 3
    assert {id(v) for v in model.served_variables} == {id(v) for v in model.variables}


def test_a_user_s_variables_are_told_by_their_paths() -> None:
    assert ranker(partial(subclassed, units=3)).network == {
        "towers/0/kernel": [2, 3],
        "towers/0/bias": [3],
        "towers/1/kernel": [2, 3],
        "towers/1/bias": [3],
    }
    assert ranker(MLP(hidden=(4,))).network == {}


def test_a_path_is_the_shortest_and_the_same_whatever_was_made_before() -> None:
    first, second = ranker(functional).network, ranker(functional).network
    assert list(first.values()) == [[5, 3], [3]]
    assert first == second
    module, inner = tf.Module(), tf.Module()
    inner.v = tf.Variable(1.0)
    module.deep, module.v = inner, inner.v
    assert list(by_path(module)) == ["v"]


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (_with(lambda: layers.Dropout(0.1)), "draws random numbers (RandomUniform), as dropout does"),
        (_with(lambda: layers.GaussianNoise(0.1)), "draws random numbers (RandomStandardNormal), as dropout"),
        (
            _with(lambda: layers.Lambda(lambda x: x + tf.random.uniform(tf.shape(x)))),
            "leave dropout out, or use tf.random.stateless_* with a fixed seed",
        ),
        (
            _with(layers.BatchNormalization),
            "as batch normalisation does, and a resumed day would differ; use Layer",
        ),
        (
            _with(lambda: layers.Reshape([5, 1])),
            "returns (None, 5, 1), expected one float32 [batch, width], or one",
        ),
        (
            _with(lambda: layers.Lambda(lambda x: [x] * 3)),
            "expected one float32 [batch, width], or one for each of t",
        ),
        (partial(_with), "returned function, expected a tf.keras layer or model of Keras 2"),
    ],
)
def test_a_network_that_cannot_be_resumed_or_read_is_refused(network: Any, says: str) -> None:
    with pytest.raises(UserError) as error:
        ranker(network)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_dropout_within_a_layer_is_refused_and_attention_without_it_passes() -> None:
    def network(spec: InputSpec, *, dropout: float) -> tf.keras.Model:
        inputs = spec.keras_inputs()
        tokens = tf.stack([inputs.embeddings["user"], inputs.embeddings["item"]], axis=1)
        attended = layers.MultiHeadAttention(1, 2, dropout=dropout)(tokens, tokens)
        return tf.keras.Model(inputs, layers.Flatten()(layers.LayerNormalization()(attended)))

    with pytest.raises(UserError, match="draws random numbers"):
        ranker(partial(network, dropout=0.5))
    assert ranker(partial(network, dropout=0.0))(ROWS, NUMBERS)["click_logit"].shape == [3]


def test_stateless_random_numbers_pass() -> None:
    def noisy(x: tf.Tensor) -> tf.Tensor:
        return x + tf.random.stateless_uniform(tf.shape(x), [1, 2])

    model = ranker(_with(lambda: layers.Lambda(noisy)))
    a, b = (model(ROWS, NUMBERS)["click_logit"].numpy() for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_a_model_that_was_returned_before_is_refused() -> None:
    made = _with(lambda: layers.Dense(3))(ranker(MLP(hidden=(2,))).embedder.spec)

    def same(spec: InputSpec) -> tf.keras.Model:
        return made

    ranker(same)
    with pytest.raises(
        UserError, match="same returned a layer that it had returned before, expected a new one"
    ):
        ranker(same)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wide(Backbone):
    units: int

    def build(self, spec: InputSpec) -> tf.keras.layers.Layer:
        return tf.keras.Sequential([spec.join(), layers.Dense(self.units)])


@pytest.mark.parametrize(("shared_layers", "hidden"), [(None, None), (1, None), (1, (4,)), (0, (4,))])
def test_a_plain_layer_has_two_levels(shared_layers: int | None, hidden: tuple[int, ...] | None) -> None:
    model = ranker(Wide(units=3), distillation=distil("click", shared_layers=shared_layers, hidden=hidden))
    served, auxiliary = model.forward(ROWS, NUMBERS)
    # Right above the representation, the tower is a head, and starts as the served one.
    np.testing.assert_equal(np.array_equal(auxiliary["click"], served["click"]), hidden is None)
    first = model.auxiliary["click"].variables[0].shape[0]
    assert first == (5 if shared_layers == 0 else 3)
    kept = {id(v) for v in model.served_variables}
    assert not kept & {id(v) for v in model.auxiliary["click"].variables}


@pytest.mark.parametrize(
    ("shared_layers", "says"),
    [
        (2, "shared_layers is 2, the model has 1 that its tasks share"),
        (0, "shared_layers is 0 and hidden None, expected the tower's units, as in hidden=(32,)"),
    ],
)
def test_a_tower_where_a_plain_layer_has_no_level_is_refused(shared_layers: int, says: str) -> None:
    with pytest.raises(UserError) as error:
        ranker(Wide(units=3), distillation=distil("click", shared_layers=shared_layers))
    assert says in str(error.value)


def test_a_tower_of_a_network_with_a_representation_per_task_reads_its_task_s() -> None:
    model = ranker(partial(subclassed, units=3), distillation=distil("like"))
    served, auxiliary = model.forward(ROWS, NUMBERS)
    np.testing.assert_array_equal(auxiliary["like"], served["like"])
    assert not np.array_equal(auxiliary["like"], served["click"])
