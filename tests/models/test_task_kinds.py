"""Kinds of tasks: their losses on hard labels, what they serve, and how they are judged, by hand."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import tensorflow as tf

from tutelage.models.objective import hard_loss
from tutelage.models.task_kinds import Quality, TaskKind, kind_of
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Task
from tutelage.pipeline.task_kinds import BUILT_IN, TaskSpec

CLICK = Task(name="click", label="click")
WATCH = Task(name="watch", label="watch_seconds", kind="log1p")
VALUE = Task(name="value", label="watch_seconds", kind="ziln")
TASKS = (CLICK, WATCH, VALUE)
EVERY_KIND = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)

LN3 = math.log(3.0)  # σ(ln 3) = 3/4


def _column(values: list[float] | np.ndarray) -> tf.Tensor:
    """Return [B, 1]: the raw outputs of a task that has one."""
    return tf.constant(np.asarray(values, np.float32)[:, None])


def _raw(task: Task, rows: int) -> np.ndarray:
    """Return some raw outputs [rows, k]; those of a ziln task have σ between its bounds."""
    values = np.random.default_rng(rows).normal(size=(rows, len(task.outputs)))
    if task is VALUE:
        values[:, 2] = np.clip(np.abs(values[:, 2]), 0.2, 2.8)
    return values.astype(np.float32)


def _gradient(loss: Callable[[tf.Tensor], tf.Tensor], raw: tf.Tensor | np.ndarray) -> np.ndarray:
    raw = tf.convert_to_tensor(raw, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(raw)
        value = loss(raw)
    return tf.convert_to_tensor(tape.gradient(value, raw)).numpy()


# Losses on hard labels.


def test_hard_binary_loss_is_the_mean_cross_entropy_of_logits() -> None:
    loss = hard_loss(CLICK, tf.constant([1.0, 0.0]), _column([0.0, LN3]), tf.ones([2]))
    assert float(loss) == pytest.approx((math.log(2) + math.log(4)) / 2, rel=1e-6)


def test_hard_log1p_loss_is_the_mean_squared_error() -> None:
    loss = hard_loss(WATCH, tf.constant([1.0, 0.0]), _column([3.0, 1.0]), tf.ones([2]))
    assert float(loss) == pytest.approx((4 + 1) / 2)


def test_hard_ziln_loss_is_the_mean_negative_log_likelihood_of_the_value() -> None:
    raw = tf.constant([[LN3, 5.0, 1.0], [0.0, 1.0, 1.0]])
    # −log P(Y = 0) = ln 4. P(Y > 0) = 1/2 of e^1, whose log is the mean: ln 2 + 1 + ½ ln 2π + ln 1 + 0.
    expected = (math.log(4) + math.log(2) + 1 + 0.5 * math.log(2 * math.pi)) / 2
    loss = hard_loss(VALUE, tf.constant([0.0, math.e]), raw, tf.ones([2]))
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_hard_loss_is_the_weighted_sum_over_the_number_of_rows() -> None:
    weight = tf.constant([3.0, 0.5])
    binary = hard_loss(CLICK, tf.constant([1.0, 0.0]), _column([0.0, LN3]), weight)
    assert float(binary) == pytest.approx((3 * math.log(2) + 0.5 * math.log(4)) / 2, rel=1e-6)
    log1p = hard_loss(WATCH, tf.constant([1.0, 0.0]), _column([3.0, 1.0]), weight)
    assert float(log1p) == pytest.approx((3 * 4 + 0.5 * 1) / 2)
    ziln = hard_loss(VALUE, tf.constant([0.0, 0.0]), tf.constant([[LN3, 0, 1], [0.0, 0, 1]]), weight)
    assert float(ziln) == pytest.approx((3 * math.log(4) + 0.5 * math.log(2)) / 2, rel=1e-6)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_row_of_weight_zero_has_no_effect_on_the_hard_loss_and_its_gradient(task: Task) -> None:
    raw = _raw(task, 3)
    other = raw.copy()
    other[1] += 2

    def loss(raw: tf.Tensor, label: float) -> tf.Tensor:
        return hard_loss(task, tf.constant([1.0, label, 0.0]), raw, tf.constant([1.0, 0.0, 2.0]))

    assert float(loss(raw, 0.0)) == float(loss(other, 1.0))
    gradient = _gradient(lambda raw: loss(raw, 0.0), raw)
    assert (gradient == _gradient(lambda raw: loss(raw, 1.0), other)).all()
    assert not gradient[1].any()
    assert gradient[[0, 2]].any(axis=1).all()


def test_the_offset_is_added_to_the_logit_that_is_trained() -> None:
    # The logit 0 is trained as ln 3: a positive costs −ln 3/4, a negative −ln 1/4.
    loss = hard_loss(CLICK, tf.constant([1.0, 0.0]), _column([0.0, 0.0]), tf.ones([2]), offset=LN3)
    assert float(loss) == pytest.approx((math.log(4 / 3) + math.log(4)) / 2, rel=1e-6)


def test_with_the_offset_the_logit_of_sampled_rows_is_right_for_all_rows() -> None:
    # 20 positives and 80 negatives are odds of 1/4. A quarter of the negatives is kept: odds of 1.
    labels = tf.constant([1.0] * 20 + [0.0] * 20)

    def loss(logit: tf.Tensor) -> tf.Tensor:
        return hard_loss(CLICK, labels, tf.tile(logit, [40, 1]), tf.ones([40]), offset=-math.log(0.25))

    assert _gradient(loss, _column([math.log(0.25)])) == pytest.approx(0, abs=1e-7)
    assert abs(_gradient(loss, _column([0.0]))) > 0.1


@pytest.mark.parametrize("task", [WATCH, VALUE], ids=lambda task: task.name)
def test_an_offset_of_a_task_that_is_not_binary_is_refused(task: Task) -> None:
    message = (
        f"task '{task.name}': offset is 0.5, expected 0 for a {task.kind} task; only a binary task's logit"
    )
    with pytest.raises(UserError, match=re.escape(message)):
        hard_loss(task, tf.ones([1]), tf.ones([1, len(task.outputs)]), tf.ones([1]), offset=0.5)


@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_hard_losses_and_their_gradients_are_finite_at_extreme_outputs(logit: float) -> None:
    for task, raw in ((CLICK, [logit]), (WATCH, [logit]), (VALUE, [logit, logit, 0.1])):
        raws = tf.constant([raw, raw])

        def loss(raw: tf.Tensor, task: Task = task) -> tf.Tensor:
            return hard_loss(task, tf.constant([1.0, 0.0]), raw, tf.ones([2]))

        assert math.isfinite(float(loss(raws)))
        assert np.isfinite(_gradient(loss, raws)).all()


# What the tables, the gates and the export ask a kind.


@EVERY_KIND
def test_a_built_in_kind_has_the_columns_that_the_tables_know(task: Task) -> None:
    spec, kind = BUILT_IN[str(task.kind)], kind_of(task)
    for name in ("outputs", "score_suffix", "is_binary"):
        assert getattr(kind, name) == getattr(spec, name)
    assert kind == type(kind)()


@EVERY_KIND
def test_unconstrained_is_the_inverse_of_parameters(task: Task) -> None:
    kind, raw = kind_of(task), _raw(task, 5)
    np.testing.assert_allclose(kind.parameters(kind.unconstrained(tf.constant(raw))), raw, rtol=1e-5)


@EVERY_KIND
def test_what_is_served_is_the_same_in_numpy(task: Task) -> None:
    kind, raw = kind_of(task), _raw(task, 5)
    score = kind.score(raw)
    assert score.dtype == np.float64
    np.testing.assert_allclose(kind.served(tf.constant(raw)), score, rtol=1e-5)


@EVERY_KIND
def test_a_kind_s_metrics_hold_its_loss_and_whatever_gates_compare(task: Task) -> None:
    kind, raw, label = kind_of(task), _raw(task, 5), np.array([0.0, 1.0, 1.0, 0.0, 1.0], np.float32)
    found = kind.metrics(kind.target(label), raw)
    assert {kind.loss_name, *(quality.metric for quality in kind.qualities)} <= found.keys()
    assert found[kind.loss_name] == pytest.approx(np.mean(kind.row_loss(kind.target(label), raw)))


def test_what_is_served_is_a_probability_the_log1p_itself_or_an_expectation() -> None:
    assert float(kind_of(CLICK).served(_column([LN3]))[0]) == pytest.approx(3 / 4)
    assert float(kind_of(WATCH).served(_column([0.5]))[0]) == 0.5
    # P(Y > 0) is 1/2, exp(1 + 2²/2) the mean of a positive value.
    served = kind_of(VALUE).served(tf.constant([[0.0, 1.0, 2.0]]))
    assert float(served[0]) == pytest.approx(math.exp(1 + 2**2 / 2) / 2, rel=1e-6)


def test_a_log1p_task_alone_is_trained_on_another_value_than_its_label_and_predicts_no_expectation() -> None:
    label = np.array([0.0, math.e - 1], np.float32)
    assert kind_of(WATCH).target(label) == pytest.approx([0, 1])
    assert np.isnan(kind_of(WATCH).predicted(np.zeros([2, 1]))).all()
    for task in (CLICK, VALUE):
        assert kind_of(task).target(label) is label
        assert kind_of(task).predicted(_raw(task, 2)) == pytest.approx(kind_of(task).score(_raw(task, 2)))


# A user's own kind.


@dataclass(frozen=True, slots=True, kw_only=True)
class Count(TaskKind):
    """Poisson, of counts of up to `most`."""

    most: float = 10.0
    outputs = ("log_rate",)
    loss_name = "poisson_loss"

    def hard_loss(self, target: tf.Tensor, raw: tf.Tensor) -> tf.Tensor:
        return tf.exp(raw[:, 0]) - tf.minimum(target, self.most) * raw[:, 0]

    def served(self, raw: tf.Tensor) -> tf.Tensor:
        return tf.exp(raw[:, 0])


LIKES = Task(name="likes", label="likes", kind=Count(most=3.0))


def test_the_metrics_of_a_user_s_own_kind_come_from_its_loss_and_its_served_value() -> None:
    kind = kind_of(LIKES)
    assert (LIKES.outputs, LIKES.score, LIKES.is_binary) == (("likes_log_rate",), "likes", False)
    raw, label = np.array([[0.0], [math.log(2)]], np.float32), np.array([1.0, 5.0], np.float32)
    # 1 − 1·0 and 2 − 3·ln 2; 1 + 2 were predicted of 6.
    found = kind.metrics(kind.target(label), raw)
    assert found == {
        "poisson_loss": pytest.approx((1 + 2 - 3 * math.log(2)) / 2),
        "calibration": pytest.approx(3 / 6),
    }
    loss = hard_loss(LIKES, tf.constant(label), tf.constant(raw), tf.constant([1.0, 3.0]))
    assert float(loss) == pytest.approx((1 + 3 * (2 - 3 * math.log(2))) / 2)
    assert found["poisson_loss"] == pytest.approx(
        float(hard_loss(LIKES, tf.constant(label), tf.constant(raw), tf.ones([2])))
    )
    assert kind.qualities[0] == Quality("poisson_loss", "lower", "squared_error_rise")


def test_kinds_of_equal_parameters_are_equal() -> None:
    assert kind_of(LIKES) == Count(most=3.0) != Count()
    assert Task(name="likes", label="likes", kind=Count(most=3.0)) == LIKES


def test_a_kind_that_lacks_something_is_refused() -> None:
    class Nameless(Count):
        loss_name = "deviance"

    with pytest.raises(
        UserError, match=r"^task 'n': loss_name of .* is 'deviance', expected a name that ends in"
    ):
        kind_of(Task(name="n", label="n", kind=Nameless()))

    class OnlyColumns(TaskSpec):
        outputs = ("x",)

    with pytest.raises(UserError, match=r"^task 'n': kind is .*OnlyColumns.*, expected a name or a models\."):
        kind_of(Task(name="n", label="n", kind=OnlyColumns()))

    class Unserved(TaskKind):
        outputs = ("x",)
        loss_name = "x_loss"

        def hard_loss(self, target: tf.Tensor, raw: tf.Tensor) -> tf.Tensor:
            return target - raw[:, 0]

    with pytest.raises(
        UserError, match=r"^task 'n': Unserved has no `served` of its own; see models\.task_kinds"
    ):
        kind_of(Task(name="n", label="n", kind=Unserved()))
