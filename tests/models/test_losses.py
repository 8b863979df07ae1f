"""Losses on soft labels against values worked out by hand."""

import math
import pickle
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.models.losses import (
    BUILT_IN,
    CrossEntropy,
    Listwise,
    LogitMSE,
    Rows,
    SoftLoss,
    SquaredError,
    ZilnKL,
)
from tutelage.models.objective import hard_loss
from tutelage.models.task_kinds import TaskKind, kind_of
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Feature, Growth, Schema, Task

CLICK = Task(name="click", label="click")
WATCH = Task(name="watch", label="watch_seconds", kind="log1p")
VALUE = Task(name="value", label="watch_seconds", kind="ziln")
TASKS = (CLICK, WATCH, VALUE)
SOFT = [
    (CLICK, CrossEntropy()),
    (CLICK, CrossEntropy(temperature=2.0)),
    (CLICK, CrossEntropy(label_scale=1.5)),
    (CLICK, LogitMSE()),
    (CLICK, Listwise()),
    (WATCH, SquaredError()),
    (VALUE, ZilnKL()),
    (VALUE, SquaredError()),
]
EVERY_LOSS = pytest.mark.parametrize(
    ("task", "loss"), SOFT, ids=lambda x: x.name if isinstance(x, Task) else repr(x)
)

LN3 = math.log(3.0)  # σ(ln 3) = 3/4, σ(−ln 3) = 1/4
LOGIT = st.floats(-5, 5, width=32)


def _column(values: list[float] | np.ndarray) -> tf.Tensor:
    """Return [B, 1]: the raw outputs of a task that has one."""
    return tf.constant(np.asarray(values, np.float32)[:, None])


def _raw(task: Task, rows: int) -> np.ndarray:
    """Return some raw outputs [rows, k]; those of a ziln task have σ > 0."""
    values = np.random.default_rng(rows).normal(size=(rows, len(task.outputs)))
    if task is VALUE:
        values[:, 2] = 0.5 + np.abs(values[:, 2])
    return values.astype(np.float32)


def _gradient(loss: Callable[[tf.Tensor], tf.Tensor], raw: tf.Tensor | np.ndarray) -> np.ndarray:
    raw = tf.convert_to_tensor(raw, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(raw)
        value = loss(raw)
    return tf.convert_to_tensor(tape.gradient(value, raw)).numpy()


def _mean(loss: SoftLoss, task: Task, teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
    """Return the loss of a batch whose examples all have a label and a weight of 1."""
    ones = tf.ones([student.shape[0]])
    return loss(teacher, student, kind=kind_of(task), weight=ones, mask=ones)


def _cross_entropy(teacher: list[float], student: tf.Tensor, **settings: float) -> tf.Tensor:
    return _mean(CrossEntropy(**settings), CLICK, _column(teacher), student)


def _listwise(
    teacher: list[float] | np.ndarray,
    student: tf.Tensor,
    user: list[int],
    weight: list[float] | None = None,
) -> tf.Tensor:
    return Listwise()(
        _column(teacher),
        student,
        kind=kind_of(CLICK),
        weight=tf.constant(weight or [1.0] * len(user)),
        mask=tf.ones([len(user)]),
        user=tf.constant(user),
    )


# What holds for every loss.


def _soft(
    task: Task,
    loss: SoftLoss,
    teacher: np.ndarray,
    student: tf.Tensor,
    *,
    weight: list[float],
    mask: list[float],
) -> tf.Tensor:
    return loss(
        tf.constant(teacher),
        student,
        kind=kind_of(task),
        weight=tf.constant(weight, tf.float32),
        mask=tf.constant(mask, tf.float32),
        user=tf.zeros([len(weight)], tf.int32),
    )


@EVERY_LOSS
@pytest.mark.parametrize("junk", [math.nan, math.inf])
def test_a_row_without_a_label_has_no_loss_and_no_gradient_whatever_the_teacher_s_output(
    task: Task, loss: SoftLoss, junk: float
) -> None:
    teacher, student = _raw(task, 3), _raw(task, 4)[:3]
    teacher[1] = junk

    def mean(student: tf.Tensor) -> tf.Tensor:
        return _soft(task, loss, teacher, student, weight=[1, 1, 1], mask=[1, 0, 1])

    def without(student: tf.Tensor) -> tf.Tensor:
        return _soft(task, loss, teacher[[0, 2]], student, weight=[1, 1], mask=[1, 1])

    assert float(mean(student)) == pytest.approx(float(without(student[[0, 2]])), rel=1e-6)
    gradient = _gradient(mean, student)
    assert gradient[[0, 2]] == pytest.approx(_gradient(without, student[[0, 2]]), rel=1e-5, abs=1e-7)
    assert gradient[[0, 2]].any()
    assert not gradient[1].any()


@EVERY_LOSS
def test_a_batch_without_a_label_has_a_loss_of_zero_and_no_gradient(task: Task, loss: SoftLoss) -> None:
    teacher, student = np.full_like(_raw(task, 2), np.nan), _raw(task, 2)

    def mean(student: tf.Tensor) -> tf.Tensor:
        return _soft(task, loss, teacher, student, weight=[1, 1], mask=[0, 0])

    assert float(mean(student)) == 0.0
    assert not _gradient(mean, student).any()


@EVERY_LOSS
def test_a_row_of_weight_zero_has_no_effect_on_the_soft_loss_and_its_gradient(
    task: Task, loss: SoftLoss
) -> None:
    teacher, student = _raw(task, 3), _raw(task, 4)[:3]
    other_teacher, other_student = teacher.copy(), student.copy()
    other_teacher[1] = math.nan
    other_student[1] += 2

    def mean(student: tf.Tensor, teacher: np.ndarray = teacher) -> tf.Tensor:
        return _soft(task, loss, teacher, student, weight=[1, 0, 2], mask=[1, 1, 1])

    assert float(mean(student)) == float(mean(other_student, other_teacher))
    gradient = _gradient(mean, student)
    assert (gradient == _gradient(lambda student: mean(student, other_teacher), other_student)).all()
    assert gradient[[0, 2]].any()
    assert not gradient[1].any()


@EVERY_LOSS
def test_a_row_of_weight_two_counts_as_two_rows(task: Task, loss: SoftLoss) -> None:
    teacher, student = _raw(task, 3), _raw(task, 4)[:3]
    twice = [0, 1, 2, 2]

    def weighted(student: tf.Tensor) -> tf.Tensor:
        return _soft(task, loss, teacher, student, weight=[1, 1, 2], mask=[1, 1, 1])

    def copied(student: tf.Tensor) -> tf.Tensor:
        rows = tf.gather(student, twice)
        return _soft(task, loss, teacher[twice], rows, weight=[1, 1, 1, 1], mask=[1, 1, 1, 1])

    # By the gradient: that of the list's cross-entropy is the same, its least value is not.
    assert _gradient(weighted, student) == pytest.approx(_gradient(copied, student), rel=1e-4, abs=1e-6)


@EVERY_LOSS
def test_the_teacher_gets_no_gradient(task: Task, loss: SoftLoss) -> None:
    teacher, student = tf.Variable(_raw(task, 2)), _raw(task, 3)[:2]
    ones, user = tf.ones([2]), tf.zeros([2], tf.int32)
    with tf.GradientTape() as tape:
        mean = loss(teacher, tf.constant(student), kind=kind_of(task), weight=ones, mask=ones, user=user)
    assert tape.gradient(mean, teacher) is None


# A label scale asks for more than the teacher's probability.
@pytest.mark.parametrize(
    ("task", "loss"), [pair for pair in SOFT if pair[1] != CrossEntropy(label_scale=1.5)]
)
def test_a_student_that_agrees_with_the_teacher_has_no_gradient(task: Task, loss: SoftLoss) -> None:
    teacher = _raw(task, 3)

    def mean(student: tf.Tensor) -> tf.Tensor:
        return _soft(task, loss, teacher, student, weight=[1, 1, 1], mask=[1, 1, 1])

    assert _gradient(mean, teacher) == pytest.approx(0, abs=1e-6)


@EVERY_LOSS
@pytest.mark.parametrize("signs", [(1, -1), (-1, 1), (-1, -1)])
def test_soft_losses_and_their_gradients_are_finite_at_extreme_outputs(
    task: Task, loss: SoftLoss, signs: tuple[int, int]
) -> None:
    teacher, student = (
        np.array([[sign * 1e4] * len(task.outputs), [0.0] * len(task.outputs)], np.float32) for sign in signs
    )
    if task is VALUE:
        teacher[:, 2] = student[:, 2] = 0.1

    def mean(student: tf.Tensor) -> tf.Tensor:
        return _soft(task, loss, teacher, student, weight=[1, 1], mask=[1, 1])

    assert math.isfinite(float(mean(tf.constant(student))))
    assert np.isfinite(_gradient(mean, student)).all()


def test_a_soft_loss_is_divided_by_the_weights_of_the_rows_that_have_a_label() -> None:
    loss = SquaredError()(
        _column([1.0, 5.0, 2.0]),
        _column([0.0, 0.0, 0.0]),
        kind=kind_of(WATCH),
        weight=tf.constant([3.0, 7.0, 2.0]),
        mask=tf.constant([1.0, 0.0, 0.5]),
    )
    # The masked row is in neither sum; the last label counts by half above, its row in full below.
    assert float(loss) == pytest.approx((3 * 1 + 2 * 0.5 * 4) / (3 + 2))


def test_a_soft_loss_of_fewer_rows_than_one_is_not_blown_up() -> None:
    quarter, one = tf.constant([0.25]), tf.ones([1])
    loss = SquaredError()(_column([2.0]), _column([0.0]), kind=kind_of(WATCH), weight=quarter, mask=one)
    assert float(loss) == pytest.approx(0.25 * 4 / 1)


@EVERY_LOSS
def test_a_loss_is_recorded_by_its_class_and_parameters_and_survives_pickling(
    task: Task, loss: SoftLoss
) -> None:
    assert BUILT_IN[type(loss).__name__](**asdict(loss)) == loss
    assert pickle.loads(pickle.dumps(loss)) == loss


# What a loss refuses.


@pytest.mark.parametrize(
    ("task", "loss", "message"),
    [
        (CLICK, ZilnKL(), "'click' is binary and cannot be distilled by ZilnKL; expected CrossEntropy or"),
        (CLICK, SquaredError(), "'click' is binary and cannot be distilled by SquaredError; expected"),
        (WATCH, ZilnKL(), "'watch' is log1p and cannot be distilled by ZilnKL; expected SquaredError"),
        (WATCH, CrossEntropy(), "'watch' is log1p and cannot be distilled by CrossEntropy; expected"),
        (VALUE, LogitMSE(), "'value' is ziln and cannot be distilled by LogitMSE; expected SquaredError or"),
        (VALUE, Listwise(), "'value' is ziln and cannot be distilled by Listwise; expected SquaredError or"),
    ],
    ids=lambda x: x.name if isinstance(x, Task) else repr(x),
)
def test_a_task_whose_kind_does_not_fit_is_refused(task: Task, loss: SoftLoss, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"task {message}")):
        loss.check_kind(task, kind_of(task))


@pytest.mark.parametrize(("task", "loss"), SOFT)
def test_a_task_whose_kind_fits_passes(task: Task, loss: SoftLoss) -> None:
    loss.check_kind(task, kind_of(task))


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("name", ["temperature", "label_scale"])
def test_a_temperature_or_a_label_scale_that_is_not_above_zero_is_refused(name: str, bad: float) -> None:
    given = {"temperature": 1.0, "label_scale": 1.0, name: bad}
    expected = f"temperature is {given['temperature']} and label_scale {given['label_scale']}, expected numbers above 0"
    with pytest.raises(UserError, match=f"^CrossEntropy: {expected}$"):
        CrossEntropy(**{name: bad})


def test_a_loss_that_compares_the_rows_of_one_user_needs_the_user() -> None:
    schema = Schema(
        features=(Feature(name="user", dtype="int64", capacity=9), Feature(name="age", dtype="float32")),
        tasks=(CLICK,),
        key=("user",),
        user="user",
    )
    Listwise().check_inputs(schema)
    CrossEntropy().check_inputs(replace(schema, user=None), without=["user"])
    with pytest.raises(UserError, match=r"^Listwise needs the schema's `user`, and the schema names none$"):
        Listwise().check_inputs(replace(schema, user=None))
    with pytest.raises(UserError, match=r"^Listwise needs 'user', and the model is without it"):
        Listwise().check_inputs(schema, without=["user"])
    grows = (replace(schema.features[0], grows=Growth()), schema.features[1])
    with pytest.raises(UserError, match=r"those of 'user' grow: all new users share one; use another loss"):
        Listwise().check_inputs(replace(schema, features=grows))


# A user's own loss.


@dataclass(frozen=True, slots=True, kw_only=True)
class Huber(SoftLoss):
    delta: float = 1.0

    def loss(self, teacher: tf.Tensor, student: tf.Tensor, rows: Rows) -> tf.Tensor:
        error = tf.abs(teacher[:, 0] - student[:, 0])
        return tf.where(error < self.delta, error**2 / 2, self.delta * (error - self.delta / 2))


def test_a_user_s_own_loss_is_one_method_the_base_does_masks_weights_and_the_mean() -> None:
    # Errors of 0.5 and 3 with delta 2: 1/8, and 2·(3 − 1). The third has no label.
    loss = Huber(delta=2.0)(
        _column([0.5, 3.0, math.nan]),
        _column([0.0, 0.0, 1.0]),
        kind=kind_of(WATCH),
        weight=tf.constant([1.0, 2.0, 5.0]),
        mask=tf.constant([1.0, 1.0, 0.0]),
    )
    assert float(loss) == pytest.approx((1 / 8 + 2 * 4) / 3)
    Huber().check_kind(VALUE, kind_of(VALUE))
    assert asdict(Huber()) == {"delta": 1.0}


def test_a_kind_that_no_built_in_loss_fits_needs_a_loss_of_the_user_s_own() -> None:
    class Count(TaskKind):
        outputs = ("log_rate",)
        loss_name = "poisson_loss"

    task = Task(name="likes", label="likes", kind=Count())
    Huber().check_kind(task, Count())
    with pytest.raises(
        UserError, match=r"^task 'likes' is .*Count.* by LogitMSE; expected a SoftLoss of your own$"
    ):
        LogitMSE().check_kind(task, Count())


def test_a_loss_without_its_method_says_so() -> None:
    class Empty(SoftLoss):
        pass

    with pytest.raises(NotImplementedError, match="Empty has no method `loss`"):
        _mean(Empty(), WATCH, _column([0.0]), _column([0.0]))


# Cross-entropy, and squared error of logits.


def test_soft_binary_loss_is_the_cross_entropy_of_two_probabilities() -> None:
    # The teacher predicts 3/4, the student 1/2: -(3/4 ln 1/2 + 1/4 ln 1/2) = ln 2.
    assert float(_cross_entropy([LN3], _column([0.0]))) == pytest.approx(math.log(2), rel=1e-6)


def test_temperature_divides_both_logits_and_multiplies_the_loss_by_its_square() -> None:
    # ln 9 / 2 = ln 3: the teacher predicts 3/4 and the student 1/4, four times −(3/4 ln 1/4 + 1/4 ln 3/4).
    loss = _cross_entropy([math.log(9)], _column([-math.log(9)]), temperature=2.0)
    assert float(loss) == pytest.approx(4 * (0.75 * math.log(4) + 0.25 * math.log(4 / 3)), rel=1e-6)


def test_the_label_scale_multiplies_the_teacher_s_probability_up_to_one() -> None:
    # 1.2 · 3/4 = 0.9. At the student's 3/4: −(0.9 ln 3/4 + 0.1 ln 1/4).
    loss = _cross_entropy([LN3], _column([LN3]), label_scale=1.2)
    assert float(loss) == pytest.approx(0.9 * math.log(4 / 3) + 0.1 * math.log(4), rel=1e-5)
    # 2 · 3/4 is cut to 1: −ln 3/4.
    loss = _cross_entropy([LN3], _column([LN3]), label_scale=2.0)
    assert float(loss) == pytest.approx(math.log(4 / 3), rel=1e-5)


def test_logit_mse_is_the_squared_difference_of_logits() -> None:
    loss = _mean(LogitMSE(), CLICK, _column([1.0, -2.0]), _column([0.5, 1.0]))
    assert float(loss) == pytest.approx((0.25 + 9) / 2)


def test_with_a_rising_temperature_the_gradient_goes_to_an_eighth_of_that_of_logit_mse() -> None:
    # T²·(σ(s/T) − σ(t/T))/T → (s − t)/4, as σ'(0) = 1/4; (s − t)² has 2(s − t). Here s − t = −3.
    student = _column([-1.0])
    gradients = [
        _gradient(lambda student, t=t: _cross_entropy([2.0], student, temperature=t), student).item()
        for t in (1.0, 4.0, 64.0)
    ]
    # σ(−1) − σ(2) = 0.268941 − 0.880797, and 4·(σ(−1/4) − σ(1/2)) = 4·(0.437823 − 0.622459).
    assert gradients == pytest.approx([-0.611856, -0.738544, -3 / 4], rel=1e-3)
    squared = _gradient(lambda student: _mean(LogitMSE(), CLICK, _column([2.0]), student), student)
    assert squared.item() == pytest.approx(8 * -3 / 4)


# Listwise.


def test_listwise_loss_is_the_cross_entropy_of_the_shares_of_a_list_for_each_of_its_rows() -> None:
    # Probabilities 3/4 and 1/4 of the teacher, 1/2 and 1/4 of the student: shares (3/4, 1/4), (2/3, 1/3).
    loss = _listwise([LN3, -LN3], _column([0.0, -LN3]), [7, 7])
    assert float(loss) == pytest.approx(0.75 * math.log(3 / 2) + 0.25 * math.log(3), rel=1e-5)


def test_a_list_weighs_as_much_as_it_has_rows_and_a_single_row_gives_zero() -> None:
    # Group 5: shares (1/3, 1/3, 1/3) of both, ln 3. Group 2: shares (3/4, 1/4) against halves, ln 2.
    teacher, student = [0.0, LN3, 0.0, -LN3, 0.0, 1.0], _column([1.0, 0.0, 1.0, 0.0, 1.0, -2.0])
    loss = _listwise(teacher, student, [5, 2, 5, 2, 5, 9])
    assert float(loss) == pytest.approx((3 * math.log(3) + 2 * math.log(2) + 1 * 0) / 6, rel=1e-5)
    single = _gradient(lambda student: _listwise(teacher, student, [5, 2, 5, 2, 5, 9]), student)[5]
    assert single.tolist() == [0.0]


@pytest.mark.parametrize("weight", [0.5, 1.0, 3.0])
def test_a_single_row_gives_zero_whatever_its_weight(weight: float) -> None:
    assert float(_listwise([1.0], _column([-2.0]), [0], [weight])) == 0.0


def test_the_weight_of_a_row_is_in_its_list_s_shares_and_in_the_sum() -> None:
    # Weight 2: shares (2·3/4, 1/4)/(7/4) = (6/7, 1/7) of the teacher, (2/3, 1/3) of the student's halves.
    loss = _listwise([LN3, -LN3], _column([0.0, 0.0]), [0, 0], [2.0, 1.0])
    assert float(loss) == pytest.approx(6 / 7 * math.log(3 / 2) + 1 / 7 * math.log(3), rel=1e-5)


def test_probabilities_too_small_for_float32_keep_their_shares_of_a_list() -> None:
    # For z ≪ 0, σ(z) ≈ exp(z): shares of 3/4 and 1/4 against halves, ln 2; gradient: 1/2 − share.
    teacher, student = [-200 + LN3, -200], _column([-300.0, -300.0])
    assert float(_listwise(teacher, student, [0, 0])) == pytest.approx(math.log(2), rel=1e-4)
    gradient = _gradient(lambda student: _listwise(teacher, student, [0, 0]), student)
    assert gradient[:, 0] == pytest.approx([0.5 - 0.75, 0.5 - 0.25], rel=1e-4)


@given(logits=st.lists(LOGIT, min_size=2, max_size=6), factor=st.floats(0.125, 1, width=32))
def test_listwise_loss_is_least_at_the_teacher_s_probabilities_times_a_factor(
    logits: list[float], factor: float
) -> None:
    p = factor / (1 + np.exp(-np.array(logits)))
    student = np.log(p / (1 - p))
    group = [0] * len(logits)
    gradient = _gradient(lambda student: _listwise(logits, student, group), _column(student))
    assert gradient == pytest.approx(0, abs=1e-5)


@given(rows=st.lists(st.tuples(LOGIT, LOGIT), min_size=2, max_size=6))
def test_no_student_has_a_lower_listwise_loss_than_the_teacher(rows: list[tuple[float, float]]) -> None:
    teacher, student = np.array(rows).T
    group = [0] * len(rows)
    assert float(_listwise(teacher, _column(student), group)) >= (
        float(_listwise(teacher, _column(teacher), group)) - 1e-5
    )


def _both(p: np.ndarray, student: tf.Tensor) -> tf.Tensor:
    """Return the expected hard loss at click rates p, plus the listwise loss of a teacher that predicts p."""
    rates = tf.constant(p.astype(np.float32))
    hard = hard_loss(CLICK, rates, student, tf.ones([len(p)]))
    return hard + _listwise(np.log(p / (1 - p)), student, [0] * len(p))


@settings(max_examples=40)
@given(rows=st.lists(st.tuples(st.floats(0.05, 0.95), LOGIT), min_size=2, max_size=6))
def test_pointwise_and_listwise_loss_together_are_least_at_calibrated_probabilities(
    rows: list[tuple[float, float]],
) -> None:
    p, moved = np.array(rows).T
    calibrated = _column(np.log(p / (1 - p)))
    assert _gradient(lambda student: _both(p, student), calibrated) == pytest.approx(0, abs=1e-5)
    assert float(_both(p, calibrated + _column(moved))) >= float(_both(p, calibrated)) - 1e-5


def test_pointwise_loss_keeps_the_level_that_listwise_loss_leaves_free() -> None:
    p = np.array([0.5, 0.25])
    halved = _column(np.log(p / 2 / (1 - p / 2)))
    # The expected hard loss alone: (1/4 − 1/2)/2 and (1/8 − 1/4)/2.
    assert _gradient(lambda student: _both(p, student), halved)[:, 0] == pytest.approx(
        [-0.125, -0.0625], rel=1e-5
    )


# Of a value.


def test_soft_log1p_loss_is_the_squared_difference() -> None:
    loss = _mean(SquaredError(), WATCH, _column([1.0, 2.0]), _column([3.0, 1.5]))
    assert float(loss) == pytest.approx((4 + 0.25) / 2)


def test_soft_ziln_losses_are_of_its_three_parameters() -> None:
    # μ far above 0 makes log1p(Y) ≈ log Y: E = 3/4·20 and 1/2·18, squared difference 36.
    teacher, student = tf.constant([[LN3, 20.0, 1.0]]), tf.constant([[0.0, 18.0, 1.0]])
    squared = _mean(SquaredError(), VALUE, teacher, student)
    assert float(squared) == pytest.approx((15 - 9) ** 2, rel=1e-5)
    # KL: 3/4 ln(3/4 / 1/2) + 1/4 ln(1/4 / 1/2), and 3/4 of (20 − 18)²/2.
    kl = _mean(ZilnKL(), VALUE, teacher, student)
    assert float(kl) == pytest.approx(0.75 * math.log(1.5) - 0.25 * math.log(2) + 0.75 * 2, rel=1e-5)
