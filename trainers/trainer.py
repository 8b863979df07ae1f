"""A model under training: a ranker, its optimizers, and the step over a batch."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from types import MappingProxyType

import numpy as np
import psutil
import tensorflow as tf

from tutelage.models.config import Distillation, ModelConfig
from tutelage.models.id_map import Entries, GrowingIdMap
from tutelage.models.inputs import INITIAL
from tutelage.models.ranker import Batch, Ranker
from tutelage.pipeline.schema import Schema
from tutelage.trainers import networks
from tutelage.trainers.checkpoints import Checkpoints, State
from tutelage.trainers.day import Day
from tutelage.trainers.day_pass import Columns, DayPass, TrainResult
from tutelage.trainers.optimizers import ADAGRAD_START, adagrad, adam, slots
from tutelage.trainers.vocabulary import DayIds, Vocabulary, VocabularyVariables

SCORE_BATCH = 4096  # examples scored at once

Progress = Callable[[int], None]
"""Called with the number of examples trained on since the last call."""


class Trainer:
    """A ranker and its optimizers: Adagrad for the embeddings, Adam for the rest.

    The same seed and the same days give the same variables, bit for bit.
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
        """Build and trace the model. `offsets`: see `Ranker`."""
        tf.keras.utils.set_random_seed(seed)
        tf.config.experimental.enable_op_determinism()
        self.batch_size, self.seed = batch_size, seed
        self.ranker = Ranker(schema, model, distillation=distillation, offsets=offsets)
        table = self.ranker.embeddings.table
        self.sparse = [table]
        self.dense = [v for v in self.ranker.trainable_variables if v is not table]
        self.adagrad = adagrad(model.embedding_rate, self.sparse)
        self.adam = adam(model.dense_rate, self.dense)
        self._slots = slots(self.adagrad, self.sparse) | slots(self.adam, self.dense)
        self.checkpoint = tf.train.Checkpoint(
            ranker=self.ranker.checkpoint_view, adagrad=self.adagrad, adam=self.adam
        )
        self.vocabulary: Vocabulary | None = None
        entries = None
        if isinstance(self.ranker.id_map, GrowingIdMap):
            self.vocabulary = Vocabulary.empty(self.ranker.id_map)
            self.checkpoint.vocabulary = VocabularyVariables(self.vocabulary)
            entries = tuple(tf.TensorSpec.from_tensor(entry) for entry in self.vocabulary.entries())
        self.state: State | None = None
        self.warm_started_from = ""
        """`State.id` of the other model's state that it started with, while it has no state of its own."""
        self._adapters = [(v, v.numpy()) for a in self.ranker.adapters.values() for v in a.variables]
        # Traced once, here, for days of any size, so that no step waits for it, not even a day's short last one.
        # Nothing branches on a tensor, and AutoGraph would take twice as long as all the rest to find that out.
        traced = partial(tf.function, autograph=False)
        self._transform = traced(self.ranker.transform).get_concrete_function(self.ranker.signature, entries)
        day = Batch.spec(
            fields=self.ranker.fields,
            numbers=len(self.ranker.numbers),
            tasks=len(self.ranker.schema.tasks),
            outputs=len(self.ranker.schema.outputs),
        )
        start = tf.TensorSpec([], tf.int32)
        self._update = traced(self._step).get_concrete_function(day, start)
        self._score = traced(self._score_batch).get_concrete_function(day, start)

    def transform(
        self, columns: Mapping[str, tf.Tensor], entries: Entries | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Call `Ranker.transform` on the model's own inputs among `columns`. Growing features need `entries`."""
        return self._transform({name: columns[name] for name in self.ranker.signature}, entries)

    def _step(self, day: Batch, start: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        # The batch is cut in the graph: otherwise a small model waits longer for Python and tf.data than it computes.
        batch = day.cut(start, self.batch_size)
        with tf.GradientTape() as tape:
            loss, outputs = self.ranker.losses_and_outputs(batch)
            # An example weighs the same in a day's short last batch as in any other. Adam steps as far by the mean of
            # a few examples as by that of many, and would leave the day with their noise.
            whole = loss * (tf.cast(tf.shape(batch.rows)[0], loss.dtype) / self.batch_size)
        gradients = tape.gradient(whole, self.sparse + self.dense)
        self.adagrad.apply_gradients(zip(gradients[:1], self.sparse, strict=True))
        self.adam.apply_gradients(zip(gradients[1:], self.dense, strict=True))
        return loss, outputs

    def _score_batch(self, day: Batch, start: tf.Tensor) -> dict[str, tf.Tensor]:
        batch = day.cut(start, SCORE_BATCH)
        return self.ranker(batch.rows, batch.numbers)

    def score(self, day: Day) -> dict[str, np.ndarray]:
        """Return raw served outputs [examples] by name, with ids as they were before the day. Trains nothing."""
        scores = Columns(day, {})
        for chunk in day.ahead():
            ahead = chunk.ahead
            for start in range(0, chunk.stop - chunk.start, SCORE_BATCH):
                scores.add(self._score(ahead, tf.constant(start)))
            scores.keep()
        return scores.keep()

    def update(self, chunk: Batch, start: int) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Train on the batch of a chunk's tensors that begins at `start`.

        Returns its loss and its raw served outputs [examples] by name, both from before the update.
        """
        return self._update(chunk, tf.constant(start))

    def begin_day(self, day: Day, resume_from: TrainResult | None = None) -> DayPass:
        """Start a pass over a day; `resume_from`: what its first part left, by the variables as they are."""
        if day.day_ids and not resume_from:
            self._reset(day.day_ids.assigned, day.day)
        return DayPass(self, day, resume_from)

    def train_day(self, day: Day, *, progress: Progress = lambda examples: None) -> TrainResult:
        """Train on all of a day, one pass over its batches in order."""
        under_way = self.begin_day(day)
        while not under_way.finished:
            progress(under_way.update())
        return under_way.result()

    def _reset(self, indices: np.ndarray, day: date) -> None:
        """Start these embeddings again, with random numbers that belong to the day."""
        (table,) = self.sparse
        (accumulator,) = self.slots(table)
        shape = [len(indices), table.shape[1]]
        fresh = tf.random.stateless_uniform(shape, [self.seed, day.toordinal()], -INITIAL, INITIAL)
        table.scatter_update(tf.IndexedSlices(fresh, indices))
        accumulator.scatter_update(tf.IndexedSlices(tf.fill(shape, ADAGRAD_START), indices))

    def scale_rates(self, factor: float) -> None:
        """Set the learning rates to `factor` times the config's."""
        self.adagrad.learning_rate = factor * self.ranker.config.embedding_rate
        self.adam.learning_rate = factor * self.ranker.config.dense_rate

    def slots(self, variable: tf.Variable) -> list[tf.Variable]:
        """Return what its optimizer keeps of a variable."""
        return self._slots[variable.ref()]

    def reset_adapters(self) -> None:
        """Set the networks that correct the teacher's labels back to how the model was built."""
        for variable, start in self._adapters:
            variable.assign(start)
            for slot in self.slots(variable):
                slot.assign(tf.zeros_like(slot))

    @property
    def begun_from(self) -> str:
        """`State.id` of the state that training goes on from; empty for a model that started from nothing."""
        return self.state.id if self.state else self.warm_started_from

    def finish(
        self,
        day: date,
        trained: TrainResult,
        checkpoints: Checkpoints,
        *,
        day_ids: DayIds | None = None,
        input_versions: Mapping[str, int] = MappingProxyType({}),
        holdout: float = 0.0,
    ) -> None:
        """Commit the day: its checkpoint is written, and its vocabulary (of `day_ids`) becomes the model's."""
        if day_ids:
            self.set_vocabulary(day_ids.vocabulary)
        step, examples = (self.state.step, self.state.examples) if self.state else (0, 0)
        state = State(
            day=day,
            step=step + len(trained.losses),
            examples=examples + trained.examples,
            rows=trained.examples,
            seconds=trained.seconds,
            waited=trained.waited,
            memory=psutil.Process().memory_info().rss,
            input_versions=dict(input_versions),
            holdout=holdout,
        )
        networks.record(checkpoints, self.ranker.network)
        self.state = checkpoints.save(self.checkpoint, state)

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Give these ids their embeddings, in the checkpoints and in the served graph too."""
        self.vocabulary = vocabulary
        self.checkpoint.vocabulary.write(vocabulary)
        self.ranker.id_map.assign(vocabulary.entries())

    def restore(self, checkpoints: Checkpoints, state: State) -> None:
        """Read the checkpoint of a day. Raises UserError where it is missing, damaged or another model's."""
        networks.check(checkpoints, self.ranker.network)
        checkpoints.restore(self.checkpoint, state.day)
        if self.vocabulary:
            self.vocabulary = self.checkpoint.vocabulary.read(self.ranker.id_map)
        self.state = state
