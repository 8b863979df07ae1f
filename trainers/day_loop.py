"""The life of a model: day after day, score it, learn it, report it, commit it."""

import logging
from collections.abc import Callable, Sequence
from datetime import date

from tutelage.trainers.checkpoints import State, pending, step_of_example
from tutelage.trainers.config import Sampling, StudentConfig
from tutelage.trainers.feed import Day, load_day, read_ahead, soft_label_frame, write_predictions
from tutelage.trainers.learner import Learner, Learnt, Progress
from tutelage.trainers.metrics import day_metrics, write_metrics
from tutelage.trainers.run import TEACHER, Run
from tutelage.trainers.soft_labels import SoftLabels
from tutelage.trainers.tensorboard import write_events

PRE_UPDATE = "pre_update"
_log = logging.getLogger(__name__)


def teach(run: Run, days: Sequence[date], *, progress: Progress = lambda rows: None) -> list[State]:
    """Let the teacher learn those of `days` that it has not; returns what was learnt now.

    Of each day its forward passes before the updates become `pre_update` soft labels.
    """

    def publish(learner: Learner, day: Day, learnt: Learnt) -> None:
        frame = soft_label_frame(
            day,
            learnt.outputs,
            snapshot_day=learner.state.day if learner.state else None,
            teacher_step=learnt.teacher_step,
        )
        run.lake.soft_labels.replace(
            frame, {"teacher": run.teacher.name, "producer": PRE_UPDATE, "day": day.day}
        )

    def build() -> Learner:
        return Learner(
            run.schema,
            run.teacher.model,
            batch_size=run.training.batch_size,
            seed=run.training.seed,
            offsets=run.teacher.sampling.offsets,
        )

    return _learn(
        run, TEACHER, days, build=build, sampling=run.teacher.sampling, publish=publish, progress=progress
    )


def train_student(
    run: Run, student: StudentConfig, days: Sequence[date], *, progress: Progress = lambda rows: None
) -> list[State]:
    """Let a student learn those of `days`, from its first day on, that it has not."""
    soft_labels = None
    if student.distillation:
        soft_labels = SoftLabels(
            teacher=run.teacher.name,
            producer=student.producer,
            min_step=step_of_example(
                run.checkpoints(TEACHER).states(),
                run.teacher.min_examples,
                batch_size=run.training.batch_size,
            ),
            half_life=student.label_half_life,
        )

    def build() -> Learner:
        return Learner(
            run.schema,
            student.model,
            batch_size=run.training.batch_size,
            seed=run.training.seed,
            distillation=student.distillation,
            offsets=student.sampling.offsets,
        )

    days = [day for day in days if student.first_day is None or day >= student.first_day]
    return _learn(
        run,
        student.name,
        days,
        build=build,
        sampling=student.sampling,
        soft_labels=soft_labels,
        progress=progress,
    )


def _learn(
    run: Run,
    model: str,
    days: Sequence[date],
    *,
    build: Callable[[], Learner],
    sampling: Sampling,
    progress: Progress,
    soft_labels: SoftLabels | None = None,
    publish: Callable[[Learner, Day, Learnt], None] = lambda learner, day, learnt: None,
) -> list[State]:
    """A day's labels and metrics replace their own, then the checkpoint commits it: a day killed
    anywhere before that is learnt again from the same checkpoint, with the same result."""
    checkpoints = run.checkpoints(model)
    for damaged in checkpoints.set_damaged_aside():
        _log.warning("%s: the checkpoint of %s is damaged; going on from the day before it", model, damaged)
    states = checkpoints.states()
    todo = pending(days, states, slice_days=run.schema.slice_days, who=model)
    if not todo:
        return []
    learner = build()
    if states:
        learner.restore(checkpoints, states[-1])

    def read(day: date) -> Day:
        return load_day(
            run.lake,
            day,
            run.schema,
            transform=learner.transform,
            soft_labels=soft_labels,
            sampling=sampling,
            slice_by=run.slice_by,
        )

    for day in read_ahead(todo, read):
        ahead = learner.score(day)
        learnt = learner.learn(day, progress=progress)
        publish(learner, day, learnt)
        if run.keep_predictions:
            write_predictions(day.example_id, ahead, run.predictions(model, day.day))
        rows = [
            row
            for basis, outputs in (("day_ahead", ahead), ("pre_update", learnt.outputs))
            for row in day_metrics(
                run.schema, day.targets, outputs, basis=basis, slices=day.slices, groups=day.users
            )
        ]
        rows += _label_counts(day)
        write_metrics(run.lake.metrics, rows, run=run.name, day=day.day, model=model)
        write_events(run.report / "tensorboard" / model, rows, day=day.day)
        learner.finish(day.day, learnt, checkpoints)
    return checkpoints.states()[len(states) :]


def _label_counts(day: Day) -> list[dict[str, object]]:
    values = {name: float(count) for name, count in day.counts.items()}
    if values:
        values["label_coverage"] = values["labels_used"] / day.size
    return [
        {"task": "", "metric": name, "slice": "", "basis": "pre_update", "value": value, "rows": day.size}
        for name, value in values.items()
    ]
