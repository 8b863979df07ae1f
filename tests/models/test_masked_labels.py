"""A task is not trained on a row whose label is not mature yet; the other tasks are."""

import math
from dataclasses import replace

import numpy as np
import tensorflow as tf

from tutelage.models.backbones.mlp import MLP
from tutelage.models.config import Distillation, ModelConfig
from tutelage.models.ranker import Batch, Ranker
from tutelage.pipeline.schema import Feature, Schema, Task

SCHEMA = Schema(
    features=(Feature(name="user", dtype="int64", capacity=50), Feature(name="seconds", dtype="float32")),
    tasks=(
        Task(name="click", label="click"),
        Task(name="buy", label="buy"),
        Task(name="spent", label="spent", kind="ziln"),
    ),
    key=("user",),
)
MASKED = replace(
    SCHEMA,
    tasks=tuple(replace(task, matures_after="" if task.name == "click" else "3d") for task in SCHEMA.tasks),
    release_after="1d",
)
ADAPTED = [Distillation(task="buy", adapter=True)]


def _ranker(schema: Schema) -> Ranker:
    tf.keras.utils.set_random_seed(1)
    return Ranker(schema, ModelConfig(embedding_dim=4, backbone=MLP(hidden=(8, 4))), distillation=ADAPTED)


def _batch(*labels: tuple[float, float, float], weight: tuple[float, ...] = (1, 1, 1)) -> Batch:
    return Batch(
        rows=tf.constant([[1], [2], [3]]),
        numbers=tf.constant([[0.5], [1.0], [-1.0]]),
        labels=tf.constant(labels),
        weight=tf.constant(weight, tf.float32),
        soft=tf.constant([[0.3, 1.0, 0.1, 0.2, 0.4]] * 3),
        mask=tf.constant([1.0, 1.0, 1.0]),
    )


def _trained(ranker: Ranker, batch: Batch) -> list[np.ndarray]:
    """Return the loss and its gradients."""
    with tf.GradientTape() as tape:
        loss = ranker.compute_loss(batch)
    gradients = tape.gradient(loss, ranker.trainable_variables, unconnected_gradients="zero")
    return [loss.numpy(), *(tf.convert_to_tensor(g).numpy() for g in gradients)]


def test_only_tasks_that_mature_after_the_release_are_masked() -> None:
    assert MASKED.masked == ("buy", "spent")
    assert replace(MASKED, release_after="3d").masked == ()
    assert replace(MASKED, release_after="").masked == ()


def test_a_hard_loss_is_the_sum_over_the_rows_with_a_label_divided_by_the_number_of_all_rows() -> None:
    ranker = _ranker(MASKED)
    batch = _batch((1.0, 1.0, 7.0), (0.0, math.nan, math.nan), (1.0, 0.0, 0.0), weight=(1, 1, 2))
    buy, click = MASKED.tasks[1], MASKED.tasks[0]
    raw = {name: values.numpy() for name, values in ranker(batch.rows, batch.numbers).items()}
    x, y = raw["buy_logit"], raw["click_logit"]
    # -log σ(x) where the label is 1, -log(1 - σ(x)) where it is 0; the second row has none.
    expected = (math.log1p(math.exp(-x[0])) + 2 * math.log1p(math.exp(x[2]))) / 3
    loss = ranker.objective.hard_loss(buy, batch, tf.constant(x[:, None]), batch.weight)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    expected = (
        math.log1p(math.exp(-y[0])) + math.log1p(math.exp(y[1])) + 2 * math.log1p(math.exp(-y[2]))
    ) / 3
    loss = ranker.objective.hard_loss(click, batch, tf.constant(y[:, None]), batch.weight)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_rows_without_a_label_give_their_task_no_gradient_and_nothing_that_is_not_finite() -> None:
    ranker = _ranker(MASKED)
    heads = {name: ranker.heads[name].kernel for name in ranker.heads}
    with tf.GradientTape() as tape:
        loss = ranker.compute_loss(_batch(*[(1.0, math.nan, math.nan)] * 3))
    gradients = dict(zip(heads, tape.gradient(loss, list(heads.values())), strict=True))
    assert np.isfinite(loss)
    assert gradients["click"].numpy().any()
    assert not gradients["buy"].numpy().any()
    assert not gradients["spent"].numpy().any()
    assert all(
        np.isfinite(value).all() for value in _trained(ranker, _batch(*[(1.0, math.nan, math.nan)] * 3))
    )


def test_a_missing_label_leaves_the_other_rows_and_tasks_as_they_are() -> None:
    rows = [(1.0, 0.0, 2.0), (0.0, 1.0, 0.0), (1.0, 1.0, 5.0)]
    masked = [(1.0, 0.0, 2.0), (0.0, math.nan, math.nan), (1.0, 1.0, 5.0)]
    # The loss of the whole batch less the second row's share of two tasks, by hand.
    ranker = _ranker(MASKED)
    served, _ = ranker.forward(_batch(*rows).rows, _batch(*rows).numbers)
    shares = 0.0
    for task in MASKED.tasks[1:]:
        only = tf.constant([0.0, 1.0, 0.0])
        shares += float(ranker.objective.hard_loss(task, _batch(*rows), served[task.name], only))
    # The adapter's own hard loss of that row is left out too.
    adapted = ranker.adapters["buy"](tf.constant([[1.0]])) + 1.0
    shares += float(tf.math.softplus(-adapted[0, 0])) / 3
    whole, left = (float(ranker.compute_loss(_batch(*labels))) for labels in (rows, masked))
    np.testing.assert_allclose(left, whole - shares, rtol=1e-5)


def test_where_every_label_is_there_a_masked_schema_changes_no_bit() -> None:
    batch = _batch((1.0, 0.0, 2.0), (0.0, 1.0, 0.0), (1.0, 1.0, 5.0))
    for a, b in zip(_trained(_ranker(SCHEMA), batch), _trained(_ranker(MASKED), batch), strict=True):
        assert a.tobytes() == b.tobytes()
