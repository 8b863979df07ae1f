"""The day loop: each day is scored, trained on, judged, published and committed, one after the other.

The way of a soft label: `teacher.py` publishes the outputs that each batch had before its update,
`pipeline/soft_labels.py` stores and joins them, `student.py` says which ones a student reads of a day, `feed.py` puts
them beside their examples, and `trainer.py` takes the step in which the ranker's losses use them.
"""

import contextlib
import logging
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.atomic import atomic_write
from tutelage.pipeline.io.paths import remote
from tutelage.pipeline.io.retry import with_retries
from tutelage.pipeline.io.scratch import scratch
from tutelage.pipeline.quarantine import DayStopped, Outcome
from tutelage.trainers import gate
from tutelage.trainers.checkpoints import State, pending
from tutelage.trainers.config import StudentConfig, SuccessorConfig
from tutelage.trainers.day import Day, read_ahead
from tutelage.trainers.day_pass import Attempt, TrainResult
from tutelage.trainers.feed import Feed
from tutelage.trainers.judging import JudgedAttempt, judge_attempt
from tutelage.trainers.metrics import write_metrics
from tutelage.trainers.partial import resume_partial, save_partial
from tutelage.trainers.preemption import Preempted, noted
from tutelage.trainers.role import Role
from tutelage.trainers.run import NO_DATA, Run
from tutelage.trainers.student import Student
from tutelage.trainers.teacher import Successor, Teacher
from tutelage.trainers.tensorboard import write_events
from tutelage.trainers.trainer import Progress
from tutelage.trainers.vocabulary import Vocabulary

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """A day in quarantine that a person wants kept as it is."""

    day: date
    reason: str


def train_teacher(
    run: Run,
    days: Sequence[date],
    *,
    accept: Accept | None = None,
    progress: Progress = lambda examples: None,
) -> list[State]:
    """Train the run's teacher on `days`; its forward passes become `pre_update` soft labels. See `train`."""
    return train(Teacher(run, days), accept=accept, progress=progress)


def train_successor(
    run: Run,
    successor: SuccessorConfig,
    days: Sequence[date],
    *,
    accept: Accept | None = None,
    progress: Progress = lambda examples: None,
) -> list[State]:
    """Train a successor of the run's teacher on `days`, as `train_teacher` does. See `train`."""
    return train(Successor(run, successor, days), accept=accept, progress=progress)


def train_student(
    run: Run,
    student: StudentConfig,
    days: Sequence[date],
    *,
    accept: Accept | None = None,
    progress: Progress = lambda examples: None,
) -> list[State]:
    """Train a student on `days`, from its first day on. See `train`."""
    return train(Student(run, student, days), accept=accept, progress=progress)


def train(
    role: Role, *, accept: Accept | None = None, progress: Progress = lambda examples: None
) -> list[State]:
    """Train a model on those of its days that it was not trained on before; return the states of these days.

    Raises UserError where the days do not follow the last one or where `accept` names a day that is not next,
    DayStopped where a day does not pass its gate and the config says to stop, and Preempted after a SIGTERM or Ctrl-C.
    """
    return DayLoop(role, accept=accept, progress=progress).run()


class DayLoop:
    """Trains one model day after day, from its last sound checkpoint.

    A day's labels and metrics replace those of an earlier attempt, and its checkpoint then commits it. A day that is
    killed before that is trained on again from the same checkpoint, with the same result.
    """

    def __init__(self, role: Role, *, accept: Accept | None = None, progress: Progress):
        self.role, self.accept, self.progress = role, accept, progress
        self.lake, self.model, self.checkpoints = role.run.lake, role.model, role.checkpoints
        self.quarantine = role.run.quarantine(role.model)

    def run(self) -> list[State]:
        """Train on all days that are due; return their states."""
        with _scratch(self.role.run.scratch(self.model)) as self._scratch:
            return self._run()

    def _run(self) -> list[State]:
        self._set_damaged_aside()
        states = self.checkpoints.states()
        todo = self._days_due(states)
        if not todo:
            return []
        self.trainer = self.role.build()
        if states:
            with_retries(f"{self.model}, its checkpoint", self.trainer.restore, self.checkpoints, states[-1])
        recorded = self.quarantine.days()
        # Days whose data is in quarantine, and that the model has not gone past before.
        self._without_data = [
            day for day in self.lake.quarantined_days() if day in self.role.days and day not in recorded
        ]
        for day in read_ahead(todo, self._read, vocabulary=lambda: self.trainer.vocabulary):
            self._train_day(day)
        return self.checkpoints.states()[len(states) :]

    def _set_damaged_aside(self) -> None:
        """Return to the last sound checkpoint, and forget the skipped days after it."""
        for damaged, why in self.checkpoints.set_damaged_aside().items():
            _log.warning(
                "%s: the checkpoint of %s %s; going on from the day before it", self.model, damaged, why
            )
            for later in self.quarantine.skipped():
                if later > damaged:
                    self.quarantine.remove(later)

    def _days_due(self, states: Sequence[State]) -> list[date]:
        """Return the days still to be trained on. Raises UserError where the accepted one is not among them."""
        accept = self.accept
        skipped = [day for day in self.role.run.skipped(self.model) if accept is None or day != accept.day]
        todo = pending(
            self.role.days,
            states,
            slice_days=self.role.run.schema.slice_days,
            who=self.model,
            skipped=skipped,
        )
        if accept and (accept.day not in todo or accept.day not in self.quarantine.days()):
            raise UserError(
                f"--accept_day={accept.day}: {self.model} has no such day in quarantine that comes next; "
                "tutelage-status shows its days"
            )
        return todo

    def _read(self, day: date, vocabulary: Vocabulary | None) -> Day:
        feed = Feed(
            self.lake,
            self.trainer.transform,
            without=self.trainer.ranker.config.without,
            sampling=self.role.sampling,
            holdout=self.role.run.training.holdout,
            slice_by=self.role.run.slice_by,
            chunk_rows=self.role.run.training.whole_batches,
            scratch=self._scratch,
        )
        what, labels = f"{self.model}, the rows of {day}", self.role.soft_labels(day)
        return with_retries(what, feed.read, day, soft_labels=labels, vocabulary=vocabulary)

    def _train_day(self, day: Day) -> None:
        """Train on the day, a second time where its gate says so, and keep it or not.

        Raises DayStopped where the gate stops the model, Preempted after a SIGTERM or Ctrl-C.
        """
        before = self.quarantine.days().get(day.day, {"attempts": []})["attempts"]
        attempts: list[Mapping[str, object]] = []
        rates: float | None = 1.0
        while rates is not None:
            self.role.prepare(self.trainer, day.day)
            with noted() as asked:
                judged = judge_attempt(self.role, self.trainer, day, self._attempt(day, rates, asked))
                # A second attempt that was interrupted goes on with the record of the first.
                attempts = attempts or (before[:1] if judged.attempt.rates != 1 else [])
                attempts.append(judged.record)
                if judged.verdict.blessed or self._accepts(day, judged):
                    self._publish(day, judged)
                    self._record_kept(day, before, attempts, judged)
                    self._commit(day, judged.attempt.trained)
                    if stop := asked():
                        name = signal.Signals(stop).name
                        raise Preempted(
                            f"{self.model}: stopped by {name} after {day.day}; run again to go on from there",
                            stop,
                        )
                    return
            rates = self._reject(day, judged, attempts)

    def _accepts(self, day: Day, judged: JudgedAttempt) -> bool:
        """Whether a person wants the day kept. One that is not finite never is."""
        return self.accept is not None and self.accept.day == day.day and bool(judged.rows)

    def _attempt(self, day: Day, rates: float, asked: Callable[[], int]) -> Attempt:
        """Score the day and train on it, or go on from its partial checkpoint. Raises Preempted."""
        trainer = self.trainer
        resumed = resume_partial(trainer, self.checkpoints, day)
        ahead = resumed.ahead if resumed else trainer.score(day)
        rates = resumed.rates if resumed else rates
        trainer.scale_rates(rates)
        saved = time.monotonic()
        under_way = trainer.begin_day(day, resumed.trained if resumed else None)
        if resumed:
            self.progress(under_way.examples)
        while not under_way.finished:
            self.progress(under_way.update())
            stop = asked()
            if stop or self._partial_due(saved):
                so_far = Attempt(ahead=ahead, trained=under_way.result(), rates=rates)
                what = f"{self.model}, a checkpoint within {day.day}"
                with_retries(what, save_partial, trainer, self.checkpoints, day, so_far)
                saved = time.monotonic()
            if stop:
                raise Preempted(
                    f"{self.model}: stopped by {signal.Signals(stop).name} after {under_way.examples:,} of the "
                    f"{day.size:,} rows of {day.day}; run again to go on from there",
                    stop,
                )
        return Attempt(ahead=ahead, trained=under_way.result(), rates=rates)

    def _partial_due(self, saved: float) -> bool:
        minutes = self.role.run.training.checkpoint_minutes
        return minutes is not None and time.monotonic() - saved > 60 * minutes

    def _publish(self, day: Day, judged: JudgedAttempt) -> None:
        """Write the day's labels, predictions, metrics and TensorBoard events."""
        run, model = self.role.run, self.model
        self.trainer.scale_rates(1.0)
        trained = judged.attempt.trained
        with_retries(f"{model}, labels of {day.day}", self.role.publish, self.trainer, day, trained)
        if run.keep_predictions:
            scores = (
                pl.DataFrame({"example_id": rows["example_id"], **ahead})
                for rows, (_, (ahead,)) in zip(day.judged(), day.pieces(judged.attempt.ahead), strict=True)
            )
            write_predictions(scores, run.predictions(model, day.day))
        self._write_metrics(day, judged, judged.rows)
        folder = run.report / "tensorboard" / model
        with_retries(f"{model}, events of {day.day}", write_events, folder, judged.rows, day=day.day)

    def _write_metrics(self, day: Day, judged: JudgedAttempt, rows: list[dict[str, object]]) -> None:
        """Replace the day's rows of `metrics` by `rows` and the gate's."""
        with_retries(
            f"{self.model}, metrics of {day.day}",
            write_metrics,
            self.lake.metrics,
            rows + gate.rows(judged.verdict, judged.observed, rates=judged.attempt.rates, size=day.size),
            run=self.role.run.name,
            day=day.day,
            model=self.model,
        )

    def _record_kept(
        self,
        day: Day,
        before: list[Mapping[str, object]],
        attempts: list[Mapping[str, object]],
        judged: JudgedAttempt,
    ) -> None:
        """Record why a day is kept that was in quarantine, or that took a second attempt."""
        if self.accept and self._accepts(day, judged):
            self.quarantine.write(day.day, "accepted", [*before, *attempts], reason=self.accept.reason)
        elif judged.attempt.rates != 1:
            self.quarantine.write(day.day, "retried", attempts)
        elif before:
            self.quarantine.write(day.day, "passed", [*before, *attempts])

    def _commit(self, day: Day, trained: TrainResult) -> None:
        """Write the day's checkpoint, and record the days without data that the model has now gone past."""
        for missed in self._without_data:
            if missed < day.day:
                self.quarantine.write(missed, "skipped", [{"said": NO_DATA}])
        with_retries(
            f"{self.model}, the checkpoint of {day.day}",
            self.trainer.finish,
            day.day,
            trained,
            self.checkpoints,
            day_ids=day.day_ids,
            input_versions=day.input_versions,
            holdout=day.holdout,
        )

    def _reject(self, day: Day, judged: JudgedAttempt, attempts: list[Mapping[str, object]]) -> float | None:
        """Withdraw a day that did not pass, and restore the state before it.

        Returns the factor of the learning rates for a second attempt, or None where the day is skipped. Raises
        DayStopped where the model is to stop.
        """
        gate_config = self.role.gate
        message = f"{self.model}: {day.day} did not pass its gate and is not kept: {judged.verdict}"
        self.role.withdraw(day.day)
        self._write_metrics(day, judged, [])
        self.checkpoints.discard_partial()
        again = gate_config.on_failure == "retry" and judged.attempt.rates == 1
        outcome: Outcome = "skipped" if gate_config.on_failure == "skip" else "stopped"
        self.quarantine.write(day.day, outcome, attempts, input_versions=day.input_versions)
        if not again and outcome == "stopped":
            kept = self.trainer.state.day if self.trainer.state else None
            other = (
                "change the model's gate (its bounds, on_failure) or false_alarms_per_year, or keep it as it is with "
                f"--accept_day={day.day} --reason=..."
                if judged.rows
                else "let the model skip or retry such a day (on_failure of its gate)"
            )
            raise DayStopped(
                f"{message}. Meanwhile {self.role.meanwhile(kept)}. Correct the day and materialise it again, or "
                f"{other}",
                day.day,
            )
        if self.trainer.state:
            self.trainer.restore(self.checkpoints, self.trainer.state)
        else:
            self.trainer = self.role.build()
        if not again:
            _log.warning("%s. It is skipped, as the config says", message)
            return None
        rates = gate_config.fallback_rate
        _log.warning("%s. It is trained on again with %g times the rates, as the config says", message, rates)
        return rates


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Yield a local folder for what does not fit into memory, and remove it: `folder`, if that is local."""
    if remote(folder):
        with scratch() as local:
            yield local
        return
    shutil.rmtree(folder, ignore_errors=True)  # A killed process left it.
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_predictions(scores: Iterable[pl.DataFrame], path: Path) -> None:
    """Write example_id and raw outputs, frame by frame, as Parquet. A reader finds the whole file or none."""
    with atomic_write(path) as partial, contextlib.ExitStack() as stack:
        writer: pq.ParquetWriter | None = None
        for table in (frame.to_arrow() for frame in scores):
            writer = writer or stack.enter_context(
                pq.ParquetWriter(partial, table.schema, compression="zstd")
            )
            writer.write_table(table)
