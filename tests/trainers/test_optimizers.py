"""Which variables of an optimizer belong to which variable of the model."""

import tensorflow as tf

from tests.tiny import BATCH, MODEL, SCHEMA
from tutelage.trainers.optimizers import adagrad, adam, slots
from tutelage.trainers.trainer import Trainer


def test_each_variable_has_its_own_slots_and_its_gradient_moves_only_them() -> None:
    # Two variables of one shape: neither the shape nor the order of the gradients tells their slots apart.
    a, b = tf.Variable([1.0, 2.0]), tf.Variable([3.0, 4.0])
    optimizer = adam(0.1, [a, b])
    optimizer.apply_gradients([(tf.constant([1.0, -2.0]), b)])
    of = slots(optimizer, [a, b])
    assert [slot.numpy().tolist() for slot in of[a.ref()]] == [[0, 0], [0, 0]]
    first, second = of[b.ref()]
    # The moments after one step: (1 - 0.9) · g and (1 - 0.999) · g².
    tf.debugging.assert_near(first, [0.1, -0.2])
    tf.debugging.assert_near(second, [0.001, 0.004])


def test_adagrad_keeps_the_sum_of_squares_from_its_start_on() -> None:
    table = tf.Variable([[1.0], [2.0]])
    optimizer = adagrad(0.1, [table])
    optimizer.apply_gradients([(tf.IndexedSlices(tf.constant([[0.5]]), tf.constant([1])), table)])
    (accumulator,) = slots(optimizer, [table])[table.ref()]
    tf.debugging.assert_near(accumulator, [[1e-6], [0.25 + 1e-6]])


def test_every_variable_of_a_trainer_has_slots_of_its_shape() -> None:
    trainer = Trainer(SCHEMA, MODEL, batch_size=BATCH, seed=1)
    (table,) = trainer.sparse
    assert [slot.shape for slot in trainer.slots(table)] == [table.shape]
    for variable in trainer.dense:
        assert [slot.shape for slot in trainer.slots(variable)] == [variable.shape] * 2
