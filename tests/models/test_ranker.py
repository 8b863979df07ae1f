"""Which label trains which part of the ranker, and what serving computes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import tensorflow as tf

from tutelage.models.backbones.base import Backbone, Inputs, InputSpec
from tutelage.models.backbones.dcn import DCNv2
from tutelage.models.backbones.dlrm import DLRM
from tutelage.models.backbones.mlp import MLP
from tutelage.models.backbones.mmoe import MMoE
from tutelage.models.config import Distillation, ModelConfig, distil
from tutelage.models.losses import Listwise
from tutelage.models.ranker import Batch, Ranker
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Feature, History, Schema, Task

SCHEMA = Schema(
    features=(
        Feature(name="user", dtype="int64", capacity=50),
        Feature(name="topic", dtype="string", capacity=10),
        Feature(name="seconds", dtype="float32", log1p=True),
    ),
    tasks=(Task(name="click", label="click"), Task(name="watch", label="watch_seconds", kind="log1p")),
    key=("user",),
    user="user",
)
CONFIG = ModelConfig(embedding_dim=4, backbone=DCNv2(hidden=(8, 4), cross_layers=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain(Backbone):
    """A user's network of the least code: no levels, no split of a list."""

    units: int = 4

    def build(self, spec: InputSpec) -> tf.keras.layers.Layer:
        return tf.keras.Sequential([spec.join(), tf.keras.layers.Dense(self.units, activation="relu")])


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower(Backbone):
    """A user's network with a representation per task, that reads a single input and the lists by their names."""

    units: int = 4

    def build(self, spec: InputSpec) -> tf.keras.layers.Layer:
        class Net(tf.keras.layers.Layer):
            def __init__(self) -> None:
                super().__init__()
                self.towers = [tf.keras.layers.Dense(units) for _ in spec.tasks]

            def call(self, inputs: Inputs) -> list[tf.Tensor]:
                bags = [tf.einsum("bld,bl->bd", inputs.items[n], inputs.masks[n]) for n in spec.lists]
                singles = [inputs.embeddings[name] for name in spec.single]
                x = tf.concat([*singles, *bags, inputs.numbers], axis=1)
                return [tower(x) for tower in self.towers]

        units = self.units
        return Net()


def _batch(mask: float) -> Batch:
    return Batch(
        rows=tf.constant([[1, 52], [2, 53]]),
        numbers=tf.constant([[0.5], [1.0]]),
        labels=tf.constant([[1.0, 2.0], [0.0, 0.0]]),
        weight=tf.ones([2]),
        soft=tf.constant([[0.3, 1.0], [-0.2, 0.5]]),
        mask=tf.fill([2], mask),
    )


HIDDEN = (8, 4)
MLP_ONLY = MLP(hidden=HIDDEN)
EXPERTS = MMoE(hidden=HIDDEN, experts=3, cross_layers=1)


def _ranker(distillation: Sequence[Distillation] = (), schema: Schema = SCHEMA, **fields: object) -> Ranker:
    tf.keras.utils.set_random_seed(1)
    return Ranker(schema, replace(CONFIG, **fields), distillation=distillation)  # type: ignore[arg-type]


def _gradients(ranker: Ranker, batch: Batch, variables: list[tf.Variable]) -> list[np.ndarray]:
    with tf.GradientTape() as tape:
        loss = ranker.compute_loss(batch)
    return [
        tf.convert_to_tensor(g).numpy() for g in tape.gradient(loss, variables, unconnected_gradients="zero")
    ]


def _auxiliary(alpha: float = 1.0) -> Ranker:
    return _ranker(distil("click", "watch", alpha=alpha))


def test_soft_labels_give_the_served_heads_exactly_no_gradient() -> None:
    ranker = _auxiliary()
    heads = [v for head in ranker.heads.values() for v in head.variables]
    with_labels = _gradients(ranker, _batch(1.0), heads)
    without = _gradients(ranker, _batch(0.0), heads)
    for a, b in zip(with_labels, without, strict=True):
        assert (a == b).all()
    assert any(np.any(g) for g in with_labels)


def test_hard_labels_give_the_auxiliary_towers_exactly_no_gradient() -> None:
    ranker = _auxiliary()
    towers = [v for tower in ranker.auxiliary.values() for v in tower.variables]
    assert not any(np.any(g) for g in _gradients(ranker, _batch(0.0), towers))
    assert any(np.any(g) for g in _gradients(ranker, _batch(1.0), towers))


def test_with_and_without_towers_a_student_starts_from_the_same_served_weights() -> None:
    student = _auxiliary()
    tf.keras.utils.set_random_seed(1)
    control = Ranker(SCHEMA, CONFIG)
    for a, b in zip(student.served_variables, control.served_variables, strict=True):
        assert (a.numpy() == b.numpy()).all()


def test_the_loss_of_alpha_zero_is_the_loss_without_distillation() -> None:
    assert float(_auxiliary(0.0).compute_loss(_batch(1.0))) == float(
        _auxiliary(1.0).compute_loss(_batch(0.0))
    )


def test_served_variables_hold_no_auxiliary_tower_and_everything_else() -> None:
    ranker = _auxiliary()
    served = {id(v) for v in ranker.served_variables}
    towers = {id(v) for tower in ranker.auxiliary.values() for v in tower.variables}
    assert towers
    assert not served & towers
    assert served | towers == {id(v) for v in ranker.variables}


@pytest.mark.parametrize("shared_layers", [0, 1, 2, None])
def test_an_auxiliary_tower_starts_as_a_copy_of_the_served_one(shared_layers: int | None) -> None:
    batch = _batch(1.0)
    served, auxiliary = _ranker(distil("click", "watch", shared_layers=shared_layers)).forward(
        batch.rows, batch.numbers
    )
    for task in ("click", "watch"):
        np.testing.assert_array_equal(auxiliary[task], served[task])
        assert np.any(served[task])


def test_an_auxiliary_tower_of_another_shape_starts_on_its_own() -> None:
    batch = _batch(1.0)
    ranker = _ranker(distil("click", hidden=(4,), shared_layers=0))
    served, auxiliary = ranker.forward(batch.rows, batch.numbers)
    assert [tuple(v.shape) for v in ranker.auxiliary["click"].variables] == [(9, 4), (4,), (4, 1), (1,)]
    assert np.all(auxiliary["click"].numpy() != served["click"].numpy())


def test_a_tower_that_branches_above_the_last_shared_layer_is_refused() -> None:
    with pytest.raises(
        UserError,
        match=r"^distillation of 'click': shared_layers is 3, the model has 2 that its tasks share$",
    ):
        _ranker(distil("click", shared_layers=3))
    # The experts are not shared by the tasks.
    with pytest.raises(UserError, match=r"shared_layers is 2, the model has 1 that"):
        _ranker(distil("click", shared_layers=2), backbone=EXPERTS)


def test_an_example_of_weight_0_trains_nothing() -> None:
    ranker = _ranker(distil("click", "watch", adapter=True))
    batch = _batch(1.0)
    other = batch._replace(
        labels=tf.constant([[1.0, 2.0], [1.0, 9.0]]), soft=tf.constant([[0.3, 1.0], [np.nan, 7.0]])
    )
    weight = tf.constant([1.0, 0.0])
    variables = ranker.trainable_variables
    a = _gradients(ranker, batch._replace(weight=weight), variables)
    b = _gradients(ranker, other._replace(weight=weight, mask=tf.constant([1.0, 0.0])), variables)
    for one, two in zip(a, b, strict=True):
        np.testing.assert_array_equal(one, two)
    assert any(np.any(g) for g in a)


def test_the_gradient_scale_holds_for_the_layers_below_a_tower_alone() -> None:
    ranker, halved = (_ranker(distil("click", gradient_scale=scale, shared_layers=1)) for scale in (1.0, 0.5))

    def soft_gradients(ranker: Ranker) -> list[np.ndarray]:
        """Of the first shared layer and of the tower, with and without soft labels: what these add."""
        variables = [*ranker.backbone.shared[0].variables, *ranker.auxiliary["click"].variables]
        both = (_gradients(ranker, _batch(mask), variables) for mask in (1.0, 0.0))
        return [a - b for a, b in zip(*both, strict=True)]

    full, half = soft_gradients(ranker), soft_gradients(halved)
    for a, b in zip(full[:2], half[:2], strict=True):
        np.testing.assert_allclose(b, a / 2, rtol=1e-4, atol=1e-6)
        assert np.any(a)
    for a, b in zip(full[2:], half[2:], strict=True):
        np.testing.assert_array_equal(b, a)


def test_an_adapter_is_trained_on_hard_labels_and_its_tower_on_the_adapter() -> None:
    ranker = _ranker(distil("watch", adapter=True))
    adapter, tower = ranker.adapters["watch"].variables, ranker.auxiliary["watch_adapted"].variables
    batch = _batch(1.0)
    changed = batch._replace(labels=batch.labels + 1.0)
    # Other hard labels: the adapter's gradient changes, the tower's does not.
    before, after = (_gradients(ranker, b, adapter) for b in (batch, changed))
    assert any(np.any(a != b) for a, b in zip(before, after, strict=True))
    before, after = (_gradients(ranker, b, tower) for b in (batch, changed))
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(np.any(g) for g in before)
    # Without soft labels neither is trained.
    assert not any(np.any(g) for g in _gradients(ranker, _batch(0.0), adapter + tower))


def test_a_listwise_loss_compares_the_examples_of_one_user() -> None:
    ranker = _ranker(distil("click", loss=Listwise()))
    tower = ranker.auxiliary["click"].variables
    batch = _batch(1.0)
    assert not any(np.any(g) for g in _gradients(ranker, batch, tower))
    one_user = batch._replace(rows=tf.constant([[1, 52], [1, 53]]))
    assert any(np.any(g) for g in _gradients(ranker, one_user, tower))


@pytest.mark.parametrize(
    "backbone",
    [EXPERTS, DLRM(hidden=HIDDEN), MLP_ONLY, Plain(), Tower()],
)
def test_every_network_scores_a_list_as_it_scores_rows(backbone: Backbone) -> None:
    features = tuple(replace(f, scope="user" if f.name == "user" else "candidate") for f in SCHEMA.features)
    ranker = _ranker(distil("click"), schema=replace(SCHEMA, features=features), backbone=backbone)
    rows, numbers = tf.constant([[7, 51], [7, 52], [7, 53]]), tf.constant([[0.1], [0.2], [2.0]])
    listed = ranker.call_list((rows[:1, :1], tf.zeros([1, 0])), (rows[:, 1:], numbers))
    for name, values in ranker(rows, numbers).items():
        np.testing.assert_allclose(listed[name], values, rtol=1e-5)
    assert {id(v) for v in ranker.served_variables} == {id(v) for v in _served(ranker)}


def _served(ranker: Ranker) -> list[tf.Variable]:
    towers = {id(v) for tower in ranker.auxiliary.values() for v in tower.variables}
    return [v for v in ranker.variables if id(v) not in towers]


def test_a_ziln_task_has_three_raw_outputs_and_is_trained_on_both_kinds_of_labels() -> None:
    tasks = (Task(name="click", label="click"), Task(name="watch", label="watch_seconds", kind="ziln"))
    ranker = _ranker(distil("click", "watch"), schema=replace(SCHEMA, tasks=tasks))
    batch = _batch(1.0)._replace(soft=tf.constant([[0.3, 0.5, 1.0, 0.8], [-0.2, -1.0, 2.0, 0.5]]))
    outputs = ranker(batch.rows, batch.numbers)
    assert list(outputs) == ["click_logit", "watch_logit", "watch_mu", "watch_sigma"]
    assert np.all(outputs["watch_sigma"] > 0)
    for layer in (ranker.heads["watch"], ranker.auxiliary["watch"]):
        assert any(np.any(g) for g in _gradients(ranker, batch, layer.variables))


def test_an_offset_is_added_to_a_task_s_logit_in_training_only() -> None:
    tf.keras.utils.set_random_seed(1)
    offset = Ranker(SCHEMA, CONFIG, offsets={"click": 0.7})
    batch = _batch(0.0)
    logit = offset(batch.rows, batch.numbers)["click_logit"].numpy()
    plain = _ranker()
    np.testing.assert_array_equal(plain(batch.rows, batch.numbers)["click_logit"], logit)

    def cross_entropy(z: np.ndarray) -> float:  # Of the labels 1 and 0.
        return float(np.mean([np.log1p(np.exp(-z[0])), np.log1p(np.exp(z[1]))]))

    difference = cross_entropy(logit + 0.7) - cross_entropy(logit)
    np.testing.assert_allclose(
        float(offset.compute_loss(batch)) - float(plain.compute_loss(batch)), difference, rtol=1e-4
    )


def test_ids_stay_in_their_feature_s_range_and_numbers_are_log_scaled() -> None:
    rows, numbers = _auxiliary().transform(
        {
            "user": tf.constant([-(2**63), -1, 0, 2**63 - 1]),
            "topic": tf.constant(["", "a", "b", "日本"]),
            "seconds": tf.constant([-1.0, 0.0, 1.0, 9.0]),
        }
    )
    rows = rows.numpy()
    assert ((rows[:, 0] >= 0) & (rows[:, 0] < 50)).all()
    assert ((rows[:, 1] >= 50) & (rows[:, 1] < 60)).all()
    np.testing.assert_allclose(numbers.numpy()[:, 0], np.log1p([0.0, 0.0, 1.0, 9.0]), rtol=1e-6)


def test_the_embedding_gradient_is_sparse() -> None:
    ranker = _auxiliary()
    with tf.GradientTape() as tape:
        loss = ranker.compute_loss(_batch(1.0))
    assert isinstance(tape.gradient(loss, ranker.embeddings.table), tf.IndexedSlices)


LISTS = Schema(
    features=(
        Feature(name="user", dtype="int64", capacity=1, scope="user"),
        Feature(name="item", dtype="int64", capacity=3),
        Feature(name="tags", dtype="int64", capacity=2, length=3),
        Feature(name="seconds", dtype="float32", buckets=(10.0,)),
    ),
    tasks=(Task(name="click", label="click"),),
    key=("user",),
    user="user",
    histories=(History(of="item", length=2),),
)


def _lists(**fields: object) -> Ranker:
    """Index 0: user; 1 to 3: items; 4 and 5: seconds below and from 10; 6 and 7: tags."""
    ranker = _ranker(schema=LISTS, **{"embedding_dim": 2, "backbone": MLP_ONLY, **fields})
    table = [[1, 1], [2, 0], [0, 2], [3, 3], [5, 6], [7, 8], [4, 0], [0, 4]]
    ranker.embeddings.table.assign(tf.constant(table, tf.float32))
    # A candidate asks for items like itself: over √2, the products are the scores.
    ranker.backbone.join.attention["history"].query.kernel.assign(math.sqrt(2) * np.eye(2))
    return ranker


# user, item 2, second bucket; tags 6, none, 7; history: items 1 and 2.
ROWS = [[0, 2, 5, 6, -1, 7, 1, 2], [0, 2, 4, -1, -1, -1, -1, -1]]


def _joined(ranker: Ranker, rows: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    """What the dense layers of an MLP read."""
    return ranker.backbone.join(ranker.embedder.embed(rows, numbers))


def test_a_list_is_the_mean_of_its_items_and_a_history_weighs_them_by_the_candidate() -> None:
    x = _joined(_lists(), tf.constant(ROWS), tf.constant([[12.0], [0.5]]))
    # Tags: the mean of (4, 0) and (0, 4). History: item 2 is (0, 2), items 1 and 2 are (2, 0) and (0, 2), so they
    # score 0 and 4 and weigh 1/(1 + e⁴) and e⁴/(1 + e⁴). An empty one is zeros.
    low = 1 / (1 + math.exp(4))
    expected = [
        [1, 1, 0, 2, 7, 8, 2, 2, 2 * low, 2 * (1 - low), 12],
        [1, 1, 0, 2, 5, 6, 0, 0, 0, 0, 0.5],
    ]
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)


def test_raw_lists_and_buckets_become_the_fields_of_a_batch() -> None:
    ranker = _lists()
    rows, numbers = ranker.transform(
        {
            "user": tf.constant([1, 1], tf.int64),
            "item": tf.constant([5, 5], tf.int64),
            "tags": tf.constant([[3, -1, 3], [-1, -1, -1]], tf.int64),
            "seconds": tf.constant([10.0, 9.0]),
            "history": tf.constant([[5, -1], [-1, -1]], tf.int64),
        }
    )
    rows = rows.numpy()
    assert rows.shape == (2, ranker.fields) == (2, 8)
    assert rows[:, 2].tolist() == [5, 4]
    assert (rows[:, 3:6] >= 0).tolist() == [[True, False, True], [False] * 3]
    assert rows[0, 6] == rows[0, 1]  # the history's item is the candidate
    assert numbers.numpy().tolist() == [[10.0], [9.0]]


def test_the_padding_of_a_list_gets_exactly_no_gradient() -> None:
    ranker = _lists()
    batch = Batch(
        rows=tf.constant(ROWS[1:]),
        numbers=tf.constant([[0.5]]),
        labels=tf.constant([[1.0]]),
        weight=tf.ones([1]),
        soft=tf.zeros([1, 1]),
        mask=tf.zeros([1]),
    )
    (gradient,) = _gradients(ranker, batch, [ranker.embeddings.table])
    # Looked up are the user's, the item's and the bucket's index; the five empty fields point at index 0.
    full = batch._replace(rows=tf.constant([[0, 2, 4, 6, -1, -1, 1, -1]]))
    (with_items,) = _gradients(ranker, full, [ranker.embeddings.table])
    assert np.flatnonzero(gradient.any(axis=1)).tolist() == [0, 2, 4]
    assert np.flatnonzero(with_items.any(axis=1)).tolist() == [0, 1, 2, 4, 6]
    alone = _ranker(schema=LISTS, embedding_dim=2, backbone=MLP_ONLY, without=("tags", "history"))
    alone.embeddings.table.assign(ranker.embeddings.table[:6])
    for layer, like in zip([*alone.backbone.shared, *alone.heads.values()], _tops(ranker), strict=True):
        kernel = like.kernel.numpy()
        layer.kernel.assign(np.delete(kernel, [6, 7, 8, 9], axis=0) if len(kernel) == 11 else kernel)
        layer.bias.assign(like.bias)
    (same,) = _gradients(alone, batch._replace(rows=batch.rows[:, :3]), [alone.embeddings.table])
    np.testing.assert_allclose(gradient[:6], same, rtol=1e-5)


def _tops(ranker: Ranker) -> list[tf.keras.layers.Layer]:
    return [*ranker.backbone.shared, *ranker.heads.values()]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"backbone": CONFIG.backbone},
        {"backbone": DLRM(hidden=HIDDEN)},
        {"backbone": MMoE(hidden=HIDDEN, experts=2)},
        {"backbone": Plain()},
        {"backbone": Tower()},
        {"without": ("tags",)},
    ],
)
@pytest.mark.parametrize("of", ["item", "place"])
def test_a_list_of_candidates_sees_the_one_history_as_rows_do(fields: dict[str, object], of: str) -> None:
    place = Feature(name="place", dtype="int64", capacity=2, scope="user")
    schema = replace(
        LISTS,
        features=(*LISTS.features, place),
        histories=(History(of=of, length=2), History(name="more", of="item", length=1)),
    )
    ranker = _ranker(schema=schema, **{"backbone": MLP_ONLY, **fields})
    rng = np.random.default_rng(1)
    for variable in ranker.variables:
        variable.assign(rng.normal(scale=0.5, size=variable.shape))
    columns = {
        "user": tf.constant([1], tf.int64),
        "place": tf.constant([5], tf.int64),
        "item": tf.constant([5, 6, 7], tf.int64),
        "tags": tf.constant([[3, 4, -1], [-1, -1, -1], [4, -1, -1]], tf.int64),
        "seconds": tf.constant([1.0, 10.0, 5.0]),
        "history": tf.constant([[5, 6]], tf.int64),
        "more": tf.constant([[7]], tf.int64),
    }
    user = {name: columns[name] for name in ("user", "place", "history", "more")}
    others = {name: columns[name] for name in columns if name not in user}
    listed = ranker.call_list(ranker.transform(user), ranker.transform(others))
    rows = others | {name: tf.repeat(values, 3, axis=0) for name, values in user.items()}
    for name, values in ranker(*ranker.transform(rows)).items():
        assert len(np.unique(values)) == 3
        np.testing.assert_allclose(listed[name], values, rtol=1e-5, atol=1e-5)
    assert {id(v) for v in ranker.served_variables} == {id(v) for v in ranker.variables}


def test_a_model_is_without_what_its_config_says() -> None:
    ranker = _lists_without("tags", "history", "seconds")
    assert list(ranker.signature) == ["user", "item"]
    assert (ranker.fields, ranker.numbers, ranker.id_map.capacity) == (2, [], 4)
    with pytest.raises(
        UserError, match=r"^model: without names 'tag', expected inputs of the schema: user, "
    ):
        _lists_without("tag")
    with pytest.raises(
        UserError, match=r"^model: without names 'item', which 'history' is made of; leave that out too$"
    ):
        _lists_without("item")


def _lists_without(*names: str) -> Ranker:
    return _ranker(schema=LISTS, without=names)
