"""The two optimizers of a ranker, and what each keeps of a variable."""

from collections.abc import Sequence

import tensorflow as tf

# An example's gradient is its share of a batch's mean loss, about 1/batch_size. Keras starts Adagrad's accumulator
# at 0.1, far above the square of that, and an embedding would hardly move in the few updates that its id gets.
ADAGRAD_START = 1e-6


def adagrad(rate: float, variables: Sequence[tf.Variable]) -> tf.keras.optimizers.Adagrad:
    """Return Adagrad for embedding tables: its sparse updates cost the batch, not the table."""
    optimizer = tf.keras.optimizers.Adagrad(
        rate, initial_accumulator_value=ADAGRAD_START, epsilon=1e-10, jit_compile=False
    )
    optimizer.build(variables)  # a checkpoint is only read into slots that exist
    return optimizer


def adam(rate: float, variables: Sequence[tf.Variable]) -> tf.keras.optimizers.Adam:
    """Return Adam for the dense variables."""
    optimizer = tf.keras.optimizers.Adam(rate, jit_compile=False)
    optimizer.build(variables)
    return optimizer


def slots(
    optimizer: tf.keras.optimizers.Optimizer, variables: Sequence[tf.Variable]
) -> dict[object, list[tf.Variable]]:
    """Return, by `Variable.ref()`, the slots that a built optimizer keeps of each of its `variables`.

    These are the accumulator of Adagrad, or the first and the second moment of Adam. `Optimizer.variables`, which
    is public, lists the count of updates and then the slots, variable by variable, in the order of `build`.

    >>> weights = tf.Variable([1.0, 2.0])
    >>> [slot.shape.as_list() for slot in slots(adam(0.1, [weights]), [weights])[weights.ref()]]
    [[2], [2]]
    """
    _, *kept = optimizer.variables
    each = len(kept) // len(variables) if variables else 0
    return {variable.ref(): kept[n * each : (n + 1) * each] for n, variable in enumerate(variables)}
