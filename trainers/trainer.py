"""A model that learns a day: its variables, its optimizers, and the loop over batches."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from tutelage.trainers.checkpoints import Checkpoints, PartialDay, State
from tutelage.trainers.feed import Day, predictions
from tutelage.trainers.run import Run
from tutelage.trainers.vocabulary import DayIds, Vocabulary, VocabularyVariables

_SCORE_BATCH = 4096
"""Rows scored at once when nothing is learnt."""

# A row's gradient is its share of a batch's mean loss, about 1/batch_size. Keras starts the accumulator
# at 0.1, far above the square of that, and an id would learn next to nothing from its few examples.
_ADAGRAD_START = 1e-6

Progress = Callable[[int], None]
"""Called with the rows learnt since the last call."""
Pause = Callable[[Callable[[], "TrainResult"]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a day of training left behind."""

    outputs: dict[str, np.ndarray]
    """Raw served outputs [rows] of each batch before its update."""
    losses: np.ndarray
    """float32 [updates]."""
    teacher_step: np.ndarray
    """int64 [rows]: updates made before the row's batch."""
    seconds: float
    waited: float


class Trainer:
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
        self.batch_size, self.seed = batch_size, seed
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
        self.started_from = ""
        """`State.id` of what of another model it has, before it has a state of its own."""
        self._adapters = [(v, v.numpy()) for a in self.ranker.adapters.values() for v in a.variables]
        # Traced once, here, for days of any size: no step waits for it, the day's last one neither. Nothing
        # branches on a tensor, and AutoGraph would take twice as long as all the rest to find that out.
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

    @classmethod
    def of_teacher(cls, run: Run) -> "Trainer":
        """The teacher's of the run, before it has learnt or restored anything."""
        return cls(
            run.schema,
            run.teacher.model,
            batch_size=run.training.batch_size,
            seed=run.training.seed,
            offsets=run.teacher.sampling.offsets,
        )

    def transform(
        self, columns: Mapping[str, tf.Tensor], entries: Entries | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """As `Ranker.transform`; what is no input of this model is not looked at. Growing features need `entries`."""
        return self._transform({name: columns[name] for name in self.ranker.signature}, entries)

    def _step(self, day: Batch, start: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        # The batch is cut here, in the graph: a small model would else wait for Python and tf.data
        # for longer than it learns.
        batch = day.cut(start, self.batch_size)
        with tf.GradientTape() as tape:
            loss, outputs = self.ranker.losses_and_outputs(batch)
            # A row weighs the same in a day's last, short batch as in any other: Adam's step follows a
            # few rows' mean as far as that of many, and would leave the day with their noise.
            whole = loss * (tf.cast(tf.shape(batch.rows)[0], loss.dtype) / self.batch_size)
        gradients = tape.gradient(whole, self.sparse + self.dense)
        self.adagrad.apply_gradients(zip(gradients[:1], self.sparse, strict=True))
        self.adam.apply_gradients(zip(gradients[1:], self.dense, strict=True))
        return loss, outputs

    def _score_batch(self, day: Batch, start: tf.Tensor) -> dict[str, tf.Tensor]:
        batch = day.cut(start, _SCORE_BATCH)
        return self.ranker(batch.rows, batch.numbers)

    def score(self, day: Day) -> dict[str, np.ndarray]:
        """Raw served outputs [rows] by name, as the day is before any of it is met; nothing is learnt."""
        starts = range(0, day.size, _SCORE_BATCH)
        return predictions([self._score(day.ahead, tf.constant(start)) for start in starts])

    def train_day(
        self,
        day: Day,
        *,
        progress: Progress = lambda rows: None,
        resume_from: TrainResult | None = None,
        pause: Pause = lambda snapshot: None,
    ) -> TrainResult:
        """One pass over the day; `begun`: what was learnt of it before, by the variables as they are.

        `pause` is called after each update with a function that says what was learnt so far.
        """
        started = time.monotonic()
        rows = len(resume_from.teacher_step) if resume_from else 0
        losses: list[tf.Tensor] = []
        outputs: list[Mapping[str, tf.Tensor]] = []
        if resume_from:
            outputs.append({name: tf.constant(values) for name, values in resume_from.outputs.items()})

        def snapshot() -> TrainResult:
            values = np.array([loss.numpy() for loss in losses], np.float32)
            if resume_from:
                values = np.concatenate([resume_from.losses, values])
            return TrainResult(
                outputs=predictions(outputs),
                losses=values,
                teacher_step=self._steps(len(values), rows),
                seconds=time.monotonic() - started + (resume_from.seconds if resume_from else 0.0),
                waited=day.waited,
            )

        if resume_from:
            progress(rows)
        elif day.day_ids:
            self._reset(day.day_ids.given, day.day)
        for start in range(rows, day.size, self.batch_size):
            loss, output = self._update(day.tensors, tf.constant(start))
            losses.append(loss)
            outputs.append(output)
            rows = min(start + self.batch_size, day.size)
            progress(rows - start)
            pause(snapshot)
        return snapshot()

    def _steps(self, updates: int, rows: int) -> np.ndarray:
        """int64 [rows]: updates made before the batch of each row, of a day's first rows."""
        first = self.state.step if self.state else 0
        return first + np.arange(updates, dtype=np.int64).repeat(self.batch_size)[:rows]

    def _reset(self, rows: np.ndarray, day: date) -> None:
        """Let these rows of the table start anew, with random numbers of their day's own."""
        (table,) = self.sparse
        (accumulator,) = (v for v in self.adagrad.variables if v.shape == table.shape)
        shape = [len(rows), table.shape[1]]
        fresh = tf.random.stateless_uniform(shape, [self.seed, day.toordinal()], -INITIAL, INITIAL)
        table.scatter_update(tf.IndexedSlices(fresh, rows))
        accumulator.scatter_update(tf.IndexedSlices(tf.fill(shape, _ADAGRAD_START), rows))

    def scale_rates(self, factor: float) -> None:
        """Learn with `factor` times the config's rates."""
        self.adagrad.learning_rate = factor * self.ranker.config.embedding_rate
        self.adam.learning_rate = factor * self.ranker.config.dense_rate

    def slots(self, variable: tf.Variable) -> list[tf.Variable]:
        """What its optimizer keeps of a variable."""
        if variable is self.sparse[0]:
            return [self.adagrad._accumulators[0]]
        (place,) = (i for i, v in enumerate(self.dense) if v is variable)
        return [self.adam._momentums[place], self.adam._velocities[place]]

    def reset_adapters(self) -> None:
        """The networks that correct the teacher's labels, as they were before the model's first day."""
        for variable, start in self._adapters:
            variable.assign(start)
            for slot in self.slots(variable):
                slot.assign(tf.zeros_like(slot))

    def weights_not_finite(self, day: Day) -> int:
        """Of the dense variables and of the rows of the table that the day has; a row counts as often as it is met."""
        (table,) = self.sparse
        touched = (
            tf.gather(table, tf.maximum(day.tensors.rows[start : start + _SCORE_BATCH], 0))
            for start in range(0, day.size, _SCORE_BATCH)
        )
        parts = itertools.chain(self.dense, touched)
        return sum(int(tf.math.count_nonzero(~tf.math.is_finite(part))) for part in parts)

    def save_partial(
        self,
        day: Day,
        trained: TrainResult,
        ahead: Mapping[str, np.ndarray],
        checkpoints: Checkpoints,
        *,
        rates: float,
    ) -> None:
        """Write down where the model stands within the day, with the scores made before it."""
        arrays = {"losses": trained.losses}
        arrays |= {f"outputs {name}": values for name, values in trained.outputs.items()}
        arrays |= {f"ahead {name}": values for name, values in ahead.items()}
        partial_day = PartialDay(
            day=day.day,
            after=self._after,
            digest=day.digest,
            rows=len(trained.teacher_step),
            rates=rates,
            seconds=trained.seconds,
        )
        networks.record(checkpoints, self.ranker.network)
        checkpoints.save_partial(self.checkpoint, partial_day, arrays)

    @property
    def _after(self) -> str:
        return self.state.id if self.state else self.started_from

    def resume_partial(
        self, day: Day, checkpoints: Checkpoints
    ) -> tuple[TrainResult, dict[str, np.ndarray], float] | None:
        """What was learnt of the day before it was put down, the scores made before it, and the factor of
        the rates. None where it was not, or where its rows or what came before it have changed since."""
        found = checkpoints.partial_day()
        if found is None:
            return None
        partial_day, path = found
        if (partial_day.day, partial_day.after, partial_day.digest) != (day.day, self._after, day.digest):
            checkpoints.discard_partial()
            return None
        networks.check(checkpoints, self.ranker.network)
        arrays = checkpoints.restore_partial(self.checkpoint, path)
        named = {
            kind: {n.removeprefix(kind): a for n, a in arrays.items() if n.startswith(kind)}
            for kind in ("outputs ", "ahead ")
        }
        losses = arrays["losses"]
        resume_from = TrainResult(
            outputs=named["outputs "],
            losses=losses,
            teacher_step=self._steps(len(losses), partial_day.rows),
            seconds=partial_day.seconds,
            waited=day.waited,
        )
        return resume_from, named["ahead "], partial_day.rates

    def finish(
        self,
        day: date,
        trained: TrainResult,
        checkpoints: Checkpoints,
        *,
        day_ids: DayIds | None = None,
        input_versions: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Commit the day: from here on it is learnt, and the ids that it `met` are known."""
        if day_ids:
            self.set_vocabulary(day_ids.vocabulary)
        step, examples = (self.state.step, self.state.examples) if self.state else (0, 0)
        state = State(
            day=day,
            step=step + len(np.unique(trained.teacher_step)),
            examples=examples + len(trained.teacher_step),
            rows=len(trained.teacher_step),
            seconds=trained.seconds,
            waited=trained.waited,
            memory=psutil.Process().memory_info().rss,
            input_versions=dict(input_versions),
        )
        networks.record(checkpoints, self.ranker.network)
        self.state = checkpoints.save(self.checkpoint, state)

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Let these ids have rows of their own, in the checkpoints and in what is served too."""
        self.vocabulary = vocabulary
        self.checkpoint.vocabulary.write(vocabulary)
        self.ranker.id_map.assign(vocabulary.entries())

    def restore(self, checkpoints: Checkpoints, state: State) -> None:
        networks.check(checkpoints, self.ranker.network)
        checkpoints.restore(self.checkpoint, state.day)
        if self.vocabulary:
            self.vocabulary = self.checkpoint.vocabulary.read(self.ranker.id_map)
        self.state = state
