"""A model that learns a day: its variables, its optimizers, and the loop over batches."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType

import numpy as np
import tensorflow as tf

from tutelage.models.config import Distillation, ModelConfig
from tutelage.models.ranker import Batch, Ranker
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Schema
from tutelage.trainers.checkpoints import Checkpoints, State
from tutelage.trainers.feed import Day, predictions

_SCORE_BATCH = 4096
"""Rows scored at once when nothing is learnt."""

# A row's gradient is its share of a batch's mean loss, about 1/batch_size. Keras starts the accumulator
# at 0.1, far above the square of that, and an id would learn next to nothing from its few examples.
_ADAGRAD_START = 1e-6

Progress = Callable[[int], None]
"""Called with the rows learnt since the last call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """What a day of training left behind."""

    outputs: dict[str, np.ndarray]
    """Raw served outputs [rows] of each batch before its update."""
    teacher_step: np.ndarray
    """int64 [rows]: updates made before the row's batch."""
    seconds: float
    waited: float


class Learner:
    """A ranker and its optimizers. Same seed, same days: the same variables, bit for bit.

    Embeddings learn by Adagrad, whose sparse updates cost the batch and not the table; the rest by Adam.
    """

    def __init__(
        self,
        schema: Schema,
        model: ModelConfig,
        *,
        batch_size: int,
        seed: int,
        distillation: Sequence[Distillation] = (),
        offsets: Mapping[str, float] = MappingProxyType({}),
    ):
        tf.keras.utils.set_random_seed(seed)
        tf.config.experimental.enable_op_determinism()
        self.batch_size = batch_size
        self.ranker = Ranker(schema, model, distillation=distillation, offsets=offsets)
        table = self.ranker.embeddings.table
        self.sparse = [table]
        self.dense = [v for v in self.ranker.trainable_variables if v is not table]
        self.adagrad = tf.keras.optimizers.Adagrad(
            model.embedding_rate, initial_accumulator_value=_ADAGRAD_START, epsilon=1e-10, jit_compile=False
        )
        self.adam = tf.keras.optimizers.Adam(model.dense_rate, jit_compile=False)
        # Slots must be there before a checkpoint is read.
        self.adagrad.build(self.sparse)
        self.adam.build(self.dense)
        self.checkpoint = tf.train.Checkpoint(ranker=self.ranker, adagrad=self.adagrad, adam=self.adam)
        self.state: State | None = None
        # Traced once, here, for days of any size: no step waits for it, the day's last one neither.
        self.transform = tf.function(self.ranker.transform).get_concrete_function(self.ranker.signature)
        day = Batch.spec(
            ids=len(schema.ids),
            numbers=len(schema.numbers),
            tasks=len(schema.tasks),
            outputs=len(schema.outputs),
        )
        start = tf.TensorSpec([], tf.int32)
        self._update = tf.function(self._step).get_concrete_function(day, start)
        self._score = tf.function(self._score_batch).get_concrete_function(day, start)

    def _step(self, day: Batch, start: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        # The batch is cut here, in the graph: a small model would else wait for Python and tf.data
        # for longer than it learns.
        batch = day.cut(start, self.batch_size)
        with tf.GradientTape() as tape:
            loss, outputs = self.ranker.losses_and_outputs(batch)
        gradients = tape.gradient(loss, self.sparse + self.dense)
        self.adagrad.apply_gradients(zip(gradients[:1], self.sparse, strict=True))
        self.adam.apply_gradients(zip(gradients[1:], self.dense, strict=True))
        return loss, outputs

    def _score_batch(self, day: Batch, start: tf.Tensor) -> dict[str, tf.Tensor]:
        batch = day.cut(start, _SCORE_BATCH)
        return self.ranker(batch.rows, batch.numbers)

    def score(self, day: Day) -> dict[str, np.ndarray]:
        """Raw served outputs [rows] by name; nothing is learnt."""
        starts = range(0, day.size, _SCORE_BATCH)
        return predictions([self._score(day.tensors, tf.constant(start)) for start in starts])

    def learn(self, day: Day, *, progress: Progress = lambda rows: None) -> Learnt:
        """One pass over the day. Raises UserError where the loss is no number any more."""
        started = time.monotonic()
        losses, outputs = [], []
        for start in range(0, day.size, self.batch_size):
            loss, output = self._update(day.tensors, tf.constant(start))
            losses.append(loss)
            outputs.append(output)
            progress(min(self.batch_size, day.size - start))
        values = tf.stack(losses).numpy()
        first = self.state.step if self.state else 0
        if not np.isfinite(values).all():
            bad = first + int(np.argmin(np.isfinite(values)))
            raise UserError(
                f"the loss is not finite from step {bad} on, on {day.day}; that day was not kept. "
                "Lower the model's embedding_rate or dense_rate, or look for bad values in that day"
            )
        step = first + np.arange(len(losses), dtype=np.int64).repeat(self.batch_size)[: day.size]
        seconds = time.monotonic() - started
        return Learnt(outputs=predictions(outputs), teacher_step=step, seconds=seconds, waited=day.waited)

    def finish(self, day: date, learnt: Learnt, checkpoints: Checkpoints) -> None:
        """Commit the day: from here on it is learnt."""
        step, examples = (self.state.step, self.state.examples) if self.state else (0, 0)
        state = State(
            day=day,
            step=step + len(np.unique(learnt.teacher_step)),
            examples=examples + len(learnt.teacher_step),
            rows=len(learnt.teacher_step),
            seconds=learnt.seconds,
            waited=learnt.waited,
        )
        self.state = checkpoints.save(self.checkpoint, state)

    def restore(self, checkpoints: Checkpoints, state: State) -> None:
        checkpoints.restore(self.checkpoint, state.day)
        self.state = state
