"""Losses against values worked out by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tutelage.models.losses import hard_loss, soft_loss
from tutelage.pipeline.schema import Task

CLICK = Task(name="click", label="click")
WATCH = Task(name="watch", label="watch_seconds", kind="log1p")


def test_hard_binary_loss_is_the_mean_cross_entropy_of_logits() -> None:
    loss = hard_loss(CLICK)(
        tf.constant([[1.0], [0.0]]), tf.constant([[0.0], [math.log(3.0)]]), compute_metrics=False
    )
    assert float(loss) == pytest.approx((math.log(2) + math.log(4)) / 2, rel=1e-6)


def test_hard_log1p_loss_is_the_mean_squared_error() -> None:
    loss = hard_loss(WATCH)(tf.constant([[1.0], [0.0]]), tf.constant([[3.0], [1.0]]), compute_metrics=False)
    assert float(loss) == pytest.approx(2.5)


def test_soft_binary_loss_is_the_cross_entropy_of_two_probabilities() -> None:
    # The teacher says 3/4, the student 1/2: -(3/4 ln 1/2 + 1/4 ln 1/2) = ln 2.
    loss = soft_loss(CLICK, tf.constant([math.log(3.0)]), tf.constant([0.0]), mask=tf.constant([1.0]))
    assert float(loss) == pytest.approx(math.log(2), rel=1e-6)


def test_soft_loss_is_divided_by_the_weights_of_the_rows_that_have_a_label() -> None:
    loss = soft_loss(
        WATCH,
        tf.constant([1.0, 5.0, 2.0]),
        tf.constant([0.0, 0.0, 0.0]),
        weight=tf.constant([3.0, 7.0, 1.0]),
        mask=tf.constant([1.0, 0.0, 1.0]),
    )
    assert float(loss) == pytest.approx((3 * 1 + 1 * 4) / 4)


def test_soft_loss_of_fewer_rows_than_one_is_not_blown_up() -> None:
    loss = soft_loss(WATCH, tf.constant([2.0]), tf.constant([0.0]), weight=0.25, mask=tf.constant([1.0]))
    assert float(loss) == pytest.approx(1.0)


def test_a_masked_row_gives_no_loss_and_no_gradient_whatever_stands_in_it() -> None:
    student = tf.Variable([0.3, 0.7])
    with tf.GradientTape() as tape:
        loss = soft_loss(CLICK, tf.constant([np.nan, np.inf]), student, mask=tf.constant([0.0, 0.0]))
    assert float(loss) == 0.0
    assert tape.gradient(loss, student).numpy().tolist() == [0.0, 0.0]


def test_no_gradient_goes_into_the_teacher() -> None:
    teacher = tf.Variable([0.3])
    with tf.GradientTape() as tape:
        loss = soft_loss(CLICK, teacher, tf.constant([0.1]), mask=tf.constant([1.0]))
    assert tape.gradient(loss, teacher) is None
