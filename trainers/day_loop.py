"""The life of a model: day after day, score it, learn it, report it, commit it."""

import logging
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from functools import cache

import numpy as np
import polars as pl

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.retry import with_retries
from tutelage.pipeline.quarantine import Outcome
from tutelage.pipeline.soft_labels import SoftLabels
from tutelage.pipeline.verdict import Verdict
from tutelage.trainers import gate as gates
from tutelage.trainers.checkpoints import State, pending, step_of_example
from tutelage.trainers.config import GateConfig, Sampling, StudentConfig
from tutelage.trainers.feed import Day, load_day, read_ahead, soft_label_frame, write_predictions
from tutelage.trainers.metrics import day_metrics, write_metrics
from tutelage.trainers.preemption import Preempted, noted
from tutelage.trainers.run import Run
from tutelage.trainers.takeovers import Labeller
from tutelage.trainers.tensorboard import write_events
from tutelage.trainers.trainer import Progress, Trainer, TrainResult
from tutelage.trainers.vocabulary import Vocabulary

PRE_UPDATE = "pre_update"
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
    start: Callable[[Trainer], object] = lambda trainer: None,
    accept: Accept | None = None,
    progress: Progress = lambda rows: None,
) -> list[State]:
    """Let the teacher learn those of `days` that it has not; returns what was learnt now.

    Of each day its forward passes before the updates become `pre_update` soft labels. `start` is called with a
    learner that has learnt nothing yet.
    Raises UserError where a day does not pass its gate and the config does not say how to go on, Preempted
    after a SIGTERM.
    """
    labels = {"teacher": run.teacher.name, "producer": PRE_UPDATE}

    def publish(trainer: Trainer, day: Day, trained: TrainResult) -> None:
        frame = soft_label_frame(
            day,
            trained.outputs,
            snapshot_day=trainer.state.day if trainer.state else None,
            teacher_step=trained.teacher_step,
        )
        run.lake.soft_labels.replace(frame, {**labels, "day": day.day})

    def withdraw(day: date) -> None:
        # A day may have been labelled before its rows were made anew.
        if run.lake.soft_labels.partitions().filter(**labels, day=day).height:
            run.lake.soft_labels.replace(
                run.lake.soft_labels.scan().limit(0).collect(), {**labels, "day": day}
            )

    def build() -> Trainer:
        trainer = Trainer.of_teacher(run)
        if not run.checkpoints(run.teacher_model).states():
            start(trainer)
        return trainer

    loop = DayLoop(
        run=run,
        model=run.teacher_model,
        build=build,
        sampling=run.teacher.sampling,
        gate=run.teacher.gate,
        accept=accept,
        progress=progress,
        publish=publish,
        withdraw=withdraw,
    )
    return loop.train_days(days)


def train_student(
    run: Run,
    student: StudentConfig,
    days: Sequence[date],
    *,
    accept: Accept | None = None,
    progress: Progress = lambda rows: None,
) -> list[State]:
    """Let a student learn those of `days`, from its first day on, that it has not. Raises as `teach` does."""
    days = [day for day in days if student.first_day is None or day >= student.first_day]
    states = run.checkpoints(student.name).states()
    resume_from = min([*(state.day for state in states[:1]), *days[:1]], default=None)
    # A new teacher is none to a student that has known no other.
    changes = [t.from_day for t in run.takeovers if resume_from and resume_from < t.from_day]
    masked = timedelta(days=student.mask_days)
    learnt_from = tuple(
        output
        for task in run.schema.select_tasks(d.task for d in student.distillation)
        for output in task.outputs
    )

    @cache
    def min_step(teacher: Labeller) -> int:
        return step_of_example(
            run.checkpoints(teacher.model).states(),
            teacher.min_examples,
            batch_size=run.training.batch_size,
        )

    def soft_labels(day: date) -> SoftLabels:
        teacher = run.labeller(day)
        return SoftLabels(
            teacher=teacher.name,
            producer=student.producer,
            min_step=min_step(teacher),
            half_life=student.label_half_life,
            outputs=learnt_from,
            masked=any(change <= day < change + masked for change in changes),
        )

    def prepare(trainer: Trainer, day: date) -> None:
        last = trainer.state.day if trainer.state else day
        if student.new_teacher == "adapt" and any(last < change <= day for change in changes):
            trainer.reset_adapters()

    def build() -> Trainer:
        return Trainer(
            run.schema,
            student.model,
            batch_size=run.training.batch_size,
            seed=run.training.seed,
            distillation=student.distillation,
            offsets=student.sampling.offsets,
        )

    loop = DayLoop(
        run=run,
        model=student.name,
        build=build,
        sampling=student.sampling,
        gate=student.gate,
        accept=accept,
        progress=progress,
        soft_labels=soft_labels if student.distillation else None,
        prepare=prepare,
    )
    return loop.train_days(days)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """A day that was gone through once: its scores before, what was learnt, the factor of the rates, its rows of
    `metrics` (none where something is not finite, which would be the end of all days after it) and the verdict."""

    ahead: Mapping[str, np.ndarray]
    trained: TrainResult
    rates: float
    rows: list[dict[str, object]]
    verdict: Verdict

    @property
    def record(self) -> dict[str, object]:
        return {"rates": self.rates, "said": str(self.verdict), **asdict(self.verdict)}


@dataclass(kw_only=True)
class DayLoop:
    """One model's: from its last sound checkpoint day after day.

    A day's labels and metrics replace their own, then the checkpoint commits it: a day killed anywhere before that is
    learnt again from the same checkpoint, with the same result.
    """

    run: Run
    model: str
    build: Callable[[], Trainer]
    sampling: Sampling
    gate: GateConfig
    accept: Accept | None
    progress: Progress
    soft_labels: Callable[[date], SoftLabels] | None = None
    prepare: Callable[[Trainer, date], None] = lambda trainer, day: None
    publish: Callable[[Trainer, Day, TrainResult], None] = lambda trainer, day, trained: None
    withdraw: Callable[[date], None] = lambda day: None
    trainer: Trainer = field(init=False)
    quarantined_days: list[date] = field(init=False)
    """Days whose data is in quarantine."""

    def __post_init__(self) -> None:
        self.checkpoints = self.run.checkpoints(self.model)
        self.quarantine = self.run.quarantine(self.model)

    def train_days(self, days: Sequence[date]) -> list[State]:
        self._set_damaged_aside()
        states = self.checkpoints.states()
        todo = self._days_to_train(days, states)
        if not todo:
            return []
        self.trainer = self.build()
        if states:
            with_retries(f"{self.model}, its checkpoint", self.trainer.restore, self.checkpoints, states[-1])
        judged = self.quarantine.days()
        self.quarantined_days = [
            day for day in self.run.lake.quarantined_days() if day in days and day not in judged
        ]
        for day in read_ahead(todo, self._read, vocabulary=lambda: self.trainer.vocabulary):
            self._train_day(day)
        return self.checkpoints.states()[len(states) :]

    def _set_damaged_aside(self) -> None:
        """Go back to the last sound checkpoint, and forget which days after it were skipped."""
        for damaged in self.checkpoints.set_damaged_aside():
            _log.warning(
                "%s: the checkpoint of %s is damaged; going on from the day before it", self.model, damaged
            )
            for later in self.quarantine.skipped():
                if later > damaged:
                    self.quarantine.remove(later)

    def _days_to_train(self, days: Sequence[date], states: Sequence[State]) -> list[date]:
        """Those of `days` that are still to be learnt. Raises UserError where the one to accept is none of them."""
        run, accept = self.run, self.accept
        skipped = [day for day in run.skipped(self.model) if accept is None or day != accept.day]
        todo = pending(days, states, slice_days=run.schema.slice_days, who=self.model, skipped=skipped)
        if accept and (accept.day not in todo or accept.day not in self.quarantine.days()):
            raise UserError(
                f"--accept_day={accept.day}: {self.model} has no such day in quarantine that comes next; "
                "tutelage-status shows its days"
            )
        return todo

    def _read(self, day: date, known: Vocabulary | None) -> Day:
        return with_retries(
            f"{self.model}, the rows of {day}",
            load_day,
            self.run.lake,
            day,
            self.run.schema,
            transform=self.trainer.transform,
            soft_labels=self.soft_labels(day) if self.soft_labels else None,
            sampling=self.sampling,
            slice_by=self.run.slice_by,
            without=self.trainer.ranker.config.without,
            vocabulary=known,
        )

    def _train_day(self, day: Day) -> None:
        """Learn the day, again where its gate says so, and keep it or leave it. Raises UserError where the gate stops
        the run, Preempted after a SIGTERM or Ctrl-C."""
        before = self.quarantine.days().get(day.day, {"attempts": []})["attempts"]
        attempts: list[Mapping[str, object]] = []
        rates: float | None = 1.0
        while rates is not None:
            self.prepare(self.trainer, day.day)
            with noted() as asked:
                attempt = self._go_through(day, rates, asked)
                # Put down during the second attempt, the day is taken up in it.
                attempts = attempts or (before[:1] if attempt.rates != 1 else [])
                attempts.append(attempt.record)
                accepted = (
                    self.accept if self.accept and self.accept.day == day.day and attempt.rows else None
                )
                if attempt.verdict.blessed or accepted:
                    self._keep(day, attempt)
                    self._record_kept(day.day, before, attempts, rates=attempt.rates, accepted=accepted)
                    self._commit(day, attempt.trained)
                    if stop := asked():
                        name = signal.Signals(stop).name
                        raise Preempted(
                            f"{self.model}: stopped by {name} after {day.day}; run again to go on from there",
                            stop,
                        )
                    return
            rates = self._leave(day, attempt, attempts)

    def _go_through(self, day: Day, rates: float, asked: Callable[[], int]) -> _Attempt:
        """Score the day, then learn it, from where it was put down, and judge it."""
        run, model, trainer = self.run, self.model, self.trainer
        resume_from = None
        if taken := trainer.resume_partial(day, self.checkpoints):
            resume_from, ahead, rates = taken
        else:
            ahead = trainer.score(day)
        trainer.scale_rates(rates)
        minutes, last = run.training.checkpoint_minutes, time.monotonic()

        def pause(snapshot: Callable[[], TrainResult]) -> None:
            nonlocal last
            stop = asked()
            if stop or (minutes is not None and time.monotonic() - last > 60 * minutes):
                trained = snapshot()
                what = f"{model}, a checkpoint within {day.day}"
                with_retries(what, trainer.save_partial, day, trained, ahead, self.checkpoints, rates=rates)
                last = time.monotonic()
            if stop:
                raise Preempted(
                    f"{model}: stopped by {signal.Signals(stop).name} after {len(trained.teacher_step):,} of the "
                    f"{day.size:,} rows of {day.day}; run again to go on from there",
                    stop,
                )

        trained = trainer.train_day(day, progress=self.progress, resume_from=resume_from, pause=pause)
        rows, verdict = self._judge(day, ahead, trained)
        return _Attempt(ahead=ahead, trained=trained, rates=rates, rows=rows, verdict=verdict)

    def _judge(
        self, day: Day, ahead: Mapping[str, np.ndarray], trained: TrainResult
    ) -> tuple[list[dict[str, object]], Verdict]:
        """The day's rows of `metrics`, none where something is not finite, and the verdict on it."""
        run, trainer = self.run, self.trainer
        bad = ~np.isfinite(trained.losses)
        step = (trainer.state.step if trainer.state else 0) + int(np.argmax(bad))
        strange = sum(int(np.sum(~np.isfinite(output))) for output in trained.outputs.values())
        checks = (
            gates.finite("losses", int(bad.sum()), f"{int(bad.sum())} of {len(bad)}, from step {step} on"),
            gates.finite("outputs", strange),
            gates.finite("weights", trainer.weights_not_finite(day)),
        )
        if not all(check.passed for check in checks):
            return [], Verdict(verdict="fail", checks=checks)
        rows = [
            row
            for basis, outputs in (("day_ahead", ahead), ("pre_update", trained.outputs))
            for row in day_metrics(
                trainer.ranker.schema,
                day.targets,
                outputs,
                basis=basis,
                slices=day.slices,
                groups=day.users,
                weight=day.example_weight,
            )
        ]
        kept = [state.day for state in self.checkpoints.states()]
        ours = run.lake.metrics.scan(model=self.model, run=run.name)
        before = gates.trailing(ours.filter(pl.col("day").is_in(kept)).collect(), self.gate)
        return rows + _counts(day), gates.judge(
            trainer.ranker.schema,
            rows,
            trained.outputs,
            before,
            self.gate,
            weight=day.example_weight,
            checks=checks,
        )

    def _keep(self, day: Day, attempt: _Attempt) -> None:
        """Publish what was made of the day: labels, predictions, metrics, events."""
        run, model = self.run, self.model
        self.trainer.scale_rates(1.0)
        with_retries(f"{model}, labels of {day.day}", self.publish, self.trainer, day, attempt.trained)
        if run.keep_predictions:
            write_predictions(day.example_id, attempt.ahead, run.predictions(model, day.day))
        self._report(day, attempt, attempt.rows)
        folder = run.report / "tensorboard" / model
        with_retries(f"{model}, events of {day.day}", write_events, folder, attempt.rows, day=day.day)

    def _report(self, day: Day, attempt: _Attempt, rows: list[dict[str, object]]) -> None:
        """Write the day's rows of `metrics`, and the gate's."""
        with_retries(
            f"{self.model}, metrics of {day.day}",
            write_metrics,
            self.run.lake.metrics,
            rows + gates.rows(attempt.verdict, rates=attempt.rates, size=day.size),
            run=self.run.name,
            day=day.day,
            model=self.model,
        )

    def _record_kept(
        self,
        day: date,
        before: list[Mapping[str, object]],
        attempts: list[Mapping[str, object]],
        *,
        rates: float,
        accepted: Accept | None,
    ) -> None:
        """Say of a day that was in quarantine, or was learnt again, why it is kept."""
        if accepted:
            self.quarantine.write(day, "accepted", [*before, *attempts], reason=accepted.reason)
        elif rates != 1:
            self.quarantine.write(day, "retried", attempts)
        elif before:
            self.quarantine.write(day, "passed", [*before, *attempts])

    def _commit(self, day: Day, trained: TrainResult) -> None:
        # From here on the model has gone past them, whatever becomes of their data.
        for missed in self.quarantined_days:
            if missed < day.day:
                self.quarantine.write(missed, "skipped", [{"said": "its data is in quarantine"}])
        with_retries(
            f"{self.model}, the checkpoint of {day.day}",
            self.trainer.finish,
            day.day,
            trained,
            self.checkpoints,
            day_ids=day.day_ids,
            input_versions=day.input_versions,
        )

    def _leave(self, day: Day, attempt: _Attempt, attempts: list[Mapping[str, object]]) -> float | None:
        """Take back what was made of a day that did not pass, and go back to the one before it; returns the factor of
        the rates to learn it again with, or None where it is skipped. Raises UserError where the run is to stop."""
        message = f"{self.model}: {day.day} did not pass its gate and is not kept: {attempt.verdict}"
        self.withdraw(day.day)
        self._report(day, attempt, [])
        self.checkpoints.discard_partial()
        again = self.gate.on_failure == "retry" and attempt.rates == 1
        outcome: Outcome = "skipped" if self.gate.on_failure == "skip" else "stopped"
        self.quarantine.write(day.day, outcome, attempts, input_versions=day.input_versions)
        if not again and outcome == "stopped":
            as_it_is = (
                f", or keep it as it is with --accept_day={day.day} --reason=..." if attempt.rows else ""
            )
            raise UserError(
                f"{message}. Mend the day and materialise it again, or change the model's gate (its bounds, "
                f"or on_failure to skip or retry){as_it_is}"
            )
        if self.trainer.state:
            self.trainer.restore(self.checkpoints, self.trainer.state)
        else:
            self.trainer = self.build()
        if not again:
            _log.warning("%s. It is skipped, as the config says", message)
            return None
        rates = self.gate.fallback_rate
        _log.warning("%s. It is learnt again with %g times the rates, as the config says", message, rates)
        return rates


def _counts(day: Day) -> list[dict[str, object]]:
    """Of its soft labels, and for each growing feature (as a slice) of its ids."""
    values = {name: float(count) for name, count in day.counts.items()}
    if values:
        values["label_coverage"] = values["labels_used"] / day.size
    return [
        {"task": "", "metric": name, "slice": part, "basis": "pre_update", "value": value, "rows": day.size}
        for part, counts in {"": values, **(day.day_ids.counts if day.day_ids else {})}.items()
        for name, value in counts.items()
    ]
