"""The life of a model: day after day, score it, learn it, report it, commit it."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from functools import cache

import numpy as np
import polars as pl

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.quarantine import Outcome, Quarantine
from tutelage.pipeline.retry import persistently
from tutelage.pipeline.verdict import Verdict
from tutelage.trainers import gate
from tutelage.trainers.checkpoints import Checkpoints, State, pending, step_of_example
from tutelage.trainers.config import GateConfig, Sampling, StudentConfig
from tutelage.trainers.feed import Day, load_day, read_ahead, soft_label_frame, write_predictions
from tutelage.trainers.learner import Learner, Learnt, Progress
from tutelage.trainers.metrics import day_metrics, write_metrics
from tutelage.trainers.preemption import Preempted, noted
from tutelage.trainers.run import Run
from tutelage.trainers.soft_labels import SoftLabels
from tutelage.trainers.takeovers import Labeller
from tutelage.trainers.tensorboard import write_events
from tutelage.trainers.vocabulary import Vocabulary

PRE_UPDATE = "pre_update"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """A day in quarantine that a person wants kept as it is."""

    day: date
    reason: str


def teach(
    run: Run,
    days: Sequence[date],
    *,
    start: Callable[[Learner], object] = lambda learner: None,
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

    def publish(learner: Learner, day: Day, learnt: Learnt) -> None:
        frame = soft_label_frame(
            day,
            learnt.outputs,
            snapshot_day=learner.state.day if learner.state else None,
            teacher_step=learnt.teacher_step,
        )
        run.lake.soft_labels.replace(frame, {**labels, "day": day.day})

    def withdraw(day: date) -> None:
        # A day may have been labelled before its rows were made anew.
        if run.lake.soft_labels.partitions().filter(**labels, day=day).height:
            run.lake.soft_labels.replace(
                run.lake.soft_labels.scan().limit(0).collect(), {**labels, "day": day}
            )

    def build() -> Learner:
        learner = Learner.of_teacher(run)
        if not run.checkpoints(run.teacher_model).states():
            start(learner)
        return learner

    return _learn(
        run,
        run.teacher_model,
        days,
        build=build,
        sampling=run.teacher.sampling,
        config=run.teacher.gate,
        accept=accept,
        publish=publish,
        withdraw=withdraw,
        progress=progress,
    )


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
    begun = min([*(state.day for state in states[:1]), *days[:1]], default=None)
    # A new teacher is none to a student that has known no other.
    changes = [t.from_day for t in run.takeovers if begun and begun < t.from_day]
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

    def prepare(learner: Learner, day: date) -> None:
        last = learner.state.day if learner.state else day
        if student.new_teacher == "adapt" and any(last < change <= day for change in changes):
            learner.reset_adapters()

    def build() -> Learner:
        return Learner(
            run.schema,
            student.model,
            batch_size=run.training.batch_size,
            seed=run.training.seed,
            distillation=student.distillation,
            offsets=student.sampling.offsets,
        )

    return _learn(
        run,
        student.name,
        days,
        build=build,
        sampling=student.sampling,
        config=student.gate,
        accept=accept,
        soft_labels=soft_labels if student.distillation else None,
        prepare=prepare,
        progress=progress,
    )


def _learn(
    run: Run,
    model: str,
    days: Sequence[date],
    *,
    build: Callable[[], Learner],
    sampling: Sampling,
    config: GateConfig,
    accept: Accept | None,
    progress: Progress,
    soft_labels: Callable[[date], SoftLabels] | None = None,
    prepare: Callable[[Learner, date], None] = lambda learner, day: None,
    publish: Callable[[Learner, Day, Learnt], None] = lambda learner, day, learnt: None,
    withdraw: Callable[[date], None] = lambda day: None,
) -> list[State]:
    """A day's labels and metrics replace their own, then the checkpoint commits it: a day killed
    anywhere before that is learnt again from the same checkpoint, with the same result."""
    checkpoints, quarantine = run.checkpoints(model), run.quarantine(model)
    _set_damaged_aside(model, checkpoints, quarantine)
    states = checkpoints.states()
    todo = _to_learn(run, model, days, states, quarantine, accept)
    if not todo:
        return []
    learner = build()
    if states:
        persistently(f"{model}, its checkpoint", learner.restore, checkpoints, states[-1])
    kept_out = [day for day in run.lake.kept_out() if day in days and day not in quarantine.days()]

    def read(day: date, known: Vocabulary | None) -> Day:
        return persistently(
            f"{model}, the rows of {day}",
            load_day,
            run.lake,
            day,
            run.schema,
            transform=learner.transform,
            soft_labels=soft_labels(day) if soft_labels else None,
            sampling=sampling,
            slice_by=run.slice_by,
            without=learner.ranker.config.without,
            vocabulary=known,
        )

    def vocabulary() -> Vocabulary | None:
        return learner.vocabulary

    for day in read_ahead(todo, read, vocabulary=vocabulary):
        before = quarantine.days().get(day.day, {"attempts": []})["attempts"]
        attempts: list[Mapping[str, object]] = []
        rates = 1.0
        while True:
            prepare(learner, day.day)
            with noted() as asked:
                ahead, learnt, rates = _go_through(
                    run, model, learner, day, checkpoints, rates=rates, asked=asked, progress=progress
                )
                rows, verdict = _judge(run, model, learner, day, ahead, learnt, config)
                # Put down during the second attempt, the day is taken up in it.
                attempts = attempts or (before[:1] if rates != 1 else [])
                attempts.append({"rates": rates, "said": str(verdict), **asdict(verdict)})
                # No rows: what is not finite would be the end of all days after it.
                accepted = accept is not None and accept.day == day.day and bool(rows)
                if verdict.blessed or accepted:
                    learner.scale_rates(1.0)
                    persistently(f"{model}, labels of {day.day}", publish, learner, day, learnt)
                    if run.keep_predictions:
                        write_predictions(day.example_id, ahead, run.predictions(model, day.day))
                    _report(run, model, day, rows + gate.rows(verdict, rates=rates, size=day.size))
                    folder = run.report / "tensorboard" / model
                    persistently(f"{model}, events of {day.day}", write_events, folder, rows, day=day.day)
                    reason = accept.reason if accept and accepted else None
                    _record_kept(quarantine, day.day, before, attempts, rates=rates, reason=reason)
                    # From here on the model has gone past them, whatever becomes of their data.
                    for missed in kept_out:
                        if missed < day.day:
                            quarantine.write(missed, "skipped", [{"said": "its data is in quarantine"}])
                    persistently(
                        f"{model}, the checkpoint of {day.day}",
                        learner.finish,
                        day.day,
                        learnt,
                        checkpoints,
                        met=day.met,
                        made_of=day.made_of,
                    )
                    if asked():
                        raise Preempted(
                            f"{model}: stopped by SIGTERM after {day.day}; run again to go on from there"
                        )
                    break
            said = f"{model}: {day.day} did not pass its gate and is not kept: {verdict}"
            withdraw(day.day)
            _report(run, model, day, gate.rows(verdict, rates=rates, size=day.size))
            checkpoints.forget_within()
            again = config.on_failure == "retry" and rates == 1
            outcome: Outcome = "skipped" if config.on_failure == "skip" else "stopped"
            quarantine.write(day.day, outcome, attempts, made_of=day.made_of)
            if not again and outcome == "stopped":
                as_it_is = f", or keep it as it is with --accept_day={day.day} --reason=..." if rows else ""
                raise UserError(
                    f"{said}. Mend the day and materialise it again, or change the model's gate (its bounds, "
                    f"or on_failure to skip or retry){as_it_is}"
                )
            if learner.state:
                learner.restore(checkpoints, learner.state)
            else:
                learner = build()
            if not again:
                _log.warning("%s. It is skipped, as the config says", said)
                break
            rates = config.fallback_rate
            _log.warning("%s. It is learnt again with %g times the rates, as the config says", said, rates)
    return checkpoints.states()[len(states) :]


def _set_damaged_aside(model: str, checkpoints: Checkpoints, quarantine: Quarantine) -> None:
    """Go back to the last sound checkpoint, and forget which days after it were skipped."""
    for damaged in checkpoints.set_damaged_aside():
        _log.warning("%s: the checkpoint of %s is damaged; going on from the day before it", model, damaged)
        for later in quarantine.skipped():
            if later > damaged:
                quarantine.remove(later)


def _to_learn(
    run: Run,
    model: str,
    days: Sequence[date],
    states: Sequence[State],
    quarantine: Quarantine,
    accept: Accept | None,
) -> list[date]:
    """Those of `days` that the model has still to learn. Raises UserError where the one to accept is none of them."""
    skipped = [day for day in run.skipped(model) if accept is None or day != accept.day]
    todo = pending(days, states, slice_days=run.schema.slice_days, who=model, skipped=skipped)
    if accept and (accept.day not in todo or accept.day not in quarantine.days()):
        raise UserError(
            f"--accept_day={accept.day}: {model} has no such day in quarantine that comes next; "
            "tutelage-status shows its days"
        )
    return todo


def _report(run: Run, model: str, day: Day, rows: list[dict[str, object]]) -> None:
    """Write the day's rows of `metrics`."""
    persistently(
        f"{model}, metrics of {day.day}",
        write_metrics,
        run.lake.metrics,
        rows,
        run=run.name,
        day=day.day,
        model=model,
    )


def _record_kept(
    quarantine: Quarantine,
    day: date,
    before: list[Mapping[str, object]],
    attempts: list[Mapping[str, object]],
    *,
    rates: float,
    reason: str | None,
) -> None:
    """Say of a day that was in quarantine, or was learnt again, why it is kept; `reason`: of who accepted it."""
    if reason is not None:
        quarantine.write(day, "accepted", [*before, *attempts], reason=reason)
    elif rates != 1:
        quarantine.write(day, "retried", attempts)
    elif before:
        quarantine.write(day, "passed", [*before, *attempts])


def _go_through(
    run: Run,
    model: str,
    learner: Learner,
    day: Day,
    checkpoints: Checkpoints,
    *,
    rates: float,
    asked: Callable[[], bool],
    progress: Progress,
) -> tuple[dict[str, np.ndarray], Learnt, float]:
    """Score the day, then learn it, from where it was put down; the scores, what was learnt, the rates' factor."""
    begun = None
    if taken := learner.take_up(day, checkpoints):
        begun, ahead, rates = taken
    else:
        ahead = learner.score(day)
    learner.scale_rates(rates)
    minutes, last = run.training.checkpoint_minutes, time.monotonic()

    def pause(so_far: Callable[[], Learnt]) -> None:
        nonlocal last
        stop = asked()
        if stop or (minutes is not None and time.monotonic() - last > 60 * minutes):
            learnt = so_far()
            what = f"{model}, a checkpoint within {day.day}"
            persistently(what, learner.put_down, day, learnt, ahead, checkpoints, rates=rates)
            last = time.monotonic()
        if stop:
            raise Preempted(
                f"{model}: stopped by SIGTERM after {len(learnt.teacher_step):,} of the {day.size:,} rows of "
                f"{day.day}; run again to go on from there"
            )

    return ahead, learner.learn(day, progress=progress, begun=begun, pause=pause), rates


def _judge(
    run: Run,
    model: str,
    learner: Learner,
    day: Day,
    ahead: Mapping[str, np.ndarray],
    learnt: Learnt,
    config: GateConfig,
) -> tuple[list[dict[str, object]], Verdict]:
    """The day's rows of `metrics`, none where something is not finite, and the verdict on it."""
    bad = ~np.isfinite(learnt.losses)
    step = (learner.state.step if learner.state else 0) + int(np.argmax(bad))
    strange = sum(int(np.sum(~np.isfinite(output))) for output in learnt.outputs.values())
    checks = (
        gate.finite("losses", int(bad.sum()), f"{int(bad.sum())} of {len(bad)}, from step {step} on"),
        gate.finite("outputs", strange),
        gate.finite("weights", learner.weights_not_finite(day)),
    )
    if not all(check.passed for check in checks):
        return [], Verdict(verdict="fail", checks=checks)
    rows = [
        row
        for basis, outputs in (("day_ahead", ahead), ("pre_update", learnt.outputs))
        for row in day_metrics(
            learner.ranker.schema,
            day.targets,
            outputs,
            basis=basis,
            slices=day.slices,
            groups=day.users,
            weight=day.stands_for,
        )
    ]
    kept = [state.day for state in run.checkpoints(model).states()]
    metrics = run.lake.metrics.scan(model=model, run=run.name).filter(pl.col("day").is_in(kept)).collect()
    before = gate.trailing(metrics, config)
    return rows + _counts(day), gate.judge(
        learner.ranker.schema, rows, learnt.outputs, before, config, weight=day.stands_for, checks=checks
    )


def _counts(day: Day) -> list[dict[str, object]]:
    """Of its soft labels, and for each growing feature (as a slice) of its ids."""
    values = {name: float(count) for name, count in day.counts.items()}
    if values:
        values["label_coverage"] = values["labels_used"] / day.size
    return [
        {"task": "", "metric": name, "slice": part, "basis": "pre_update", "value": value, "rows": day.size}
        for part, counts in {"": values, **(day.met.counts if day.met else {})}.items()
        for name, value in counts.items()
    ]
