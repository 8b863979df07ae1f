"""From a checkpoint to a version: staged, given its golden batch, its warm-up and its card, judged, shown."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import tensorflow as tf

from tutelage.export import card, gate, golden, inspect, warmup
from tutelage.export.config import ServingConfig
from tutelage.export.saved_model import Served
from tutelage.export.versions import Version, Versions
from tutelage.models.backbones.base import described
from tutelage.models.ranker import Ranker
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.retry import with_retries
from tutelage.pipeline.verdict import Verdict
from tutelage.trainers.checkpoints import State
from tutelage.trainers.config import StudentConfig
from tutelage.trainers.metrics import served_score
from tutelage.trainers.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What became of a checkpoint. Not blessed, it lies among the rejected versions."""

    version: Version
    verdict: Verdict | None
    """None: the teacher's, which no user meets, is not judged."""
    contents: inspect.Contents


def export_teacher(
    run: Run,
    *,
    days: Sequence[date] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Exported]:
    """Publish the teacher's checkpoints of `days` (None: of all days) that are not published yet.

    Its signature gives raw outputs by task: it is what the labeler reads.
    Raises UserError where a day was asked for and never trained.
    """
    model = run.teacher_model
    versions = Versions(run.root / "export" / model)
    ranker = Ranker(run.schema, run.teacher.model)
    served = Served(ranker, None)
    exported = []

    def stage(state: State) -> Path:
        _restore(run, model, ranker, state)
        return versions.stage(state, served.save)

    for state in _todo(run, model, versions, days):
        version = versions.publish(with_retries(f"{model}, the version of {state.day}", stage, state))
        exported.append(Exported(version=version, verdict=None, contents=inspect.describe(version.path)))
        progress(1)
    return exported


def export_student(
    run: Run,
    student: StudentConfig,
    serving: ServingConfig,
    *,
    days: Sequence[date] | None = None,
    new_signature: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Exported]:
    """Judge a student's checkpoints of `days` (None: of all days) that were not, and serve the blessed.

    Each is compared with the version that is served when its turn comes. Versions beyond `serving.keep`
    are retired. Raises UserError where a day was asked for and never trained.
    """
    versions = Versions(run.root / "export" / student.name)
    ranker = Ranker(run.schema, student.model)
    served = Served(ranker, serving)
    exported = []

    def stage(state: State) -> tuple[Path, Verdict, inspect.Contents]:
        _restore(run, student.name, ranker, state)
        folder = versions.stage(state, served.save)
        rows = golden.choose(_features(run, ranker, state.day)).drop("example_id")
        features = run.schema.arrays(rows)
        rows = golden.filled(rows, features)
        golden.write_golden(folder / golden.PATH, rows, _trainer_scores(ranker, serving, features))
        warmup.write_warmup(folder / warmup.PATH, student.name, features)
        last = max(versions.published(), key=lambda version: version.number, default=None)
        contents = inspect.describe(folder)
        now = gate.day_ahead(run, student.name, state.day)
        before = None if last is None else gate.day_ahead(run, student.name, last.day)
        verdict = gate.judge(
            ranker.schema,
            folder,
            size=contents.bytes,
            now=now,
            before=before,
            last=last,
            serving=serving,
            new_signature=new_signature,
        )
        gate.record(run, student.name, state, verdict)
        card.write_card(folder, _facts(run, student, state, now, before, verdict, contents))
        return folder, verdict, contents

    for state in _todo(run, student.name, versions, days):
        what = f"{student.name}, the version of {state.day}"
        folder, verdict, contents = with_retries(what, stage, state)
        version = versions.publish(folder) if verdict.blessed else versions.reject(folder)
        exported.append(Exported(version=version, verdict=verdict, contents=contents))
        progress(1)
    versions.retire(keep=serving.keep)
    return exported


def _todo(run: Run, model: str, versions: Versions, days: Sequence[date] | None) -> list[State]:
    states = {state.day: state for state in run.checkpoints(model).states()}
    for day in days or ():
        if day not in states:
            raise UserError(f"{model} has no checkpoint of {day}; train that day first")
    return versions.unpublished([state for day, state in states.items() if days is None or day in days])


def _restore(run: Run, model: str, ranker: Ranker, state: State) -> None:
    # No optimizer and no auxiliary tower: what the checkpoint has of them is not read.
    run.checkpoints(model).restore(tf.train.Checkpoint(ranker=ranker.checkpoint_view), state.day)


def _features(run: Run, ranker: Ranker, day: date) -> pl.DataFrame:
    lake = run.lake.snapshot()
    rows = lake.interactions.scan(day=day)
    if ranker.of:
        rows = lake.with_histories(rows, day)
    return rows.select("example_id", *(f.name for f in ranker.inputs)).collect()


def _trainer_scores(
    ranker: Ranker, serving: ServingConfig, features: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """float64 [rows] by served output, of the model as it was trained: the rest in NumPy."""
    outputs = ranker(*ranker.transform({name: tf.constant(values) for name, values in features.items()}))
    raw = {name: values.numpy().astype(np.float64) for name, values in outputs.items()}
    scores = {task.score: served_score(task, raw) for task in ranker.schema.tasks}
    combined = sum(weight * scores[name] for name, weight in serving.score)
    return {**scores, "score": np.asarray(combined)}


def _facts(
    run: Run,
    student: StudentConfig,
    state: State,
    now: gate.Metrics,
    before: gate.Metrics | None,
    verdict: Verdict,
    contents: inspect.Contents,
) -> card.Facts:
    states = [s for s in run.checkpoints(student.name).states() if s.day <= state.day]
    coverage = run.lake.metrics.scan(
        model=student.name, run=run.name, day=state.day, metric="label_coverage"
    ).collect()
    return card.Facts(
        model=student.name,
        day=state.day,
        first_day=states[0].day,
        rows=state.examples,
        config=_recorded(student),
        teacher=run.labeller(state.day).name if student.distillation else None,
        label_coverage=coverage["value"].max(),  # type: ignore[arg-type]
        metrics=_by_task(now),
        blessed=None if before is None else _by_task(before),
        verdict=str(verdict),
        checks=[asdict(check) for check in verdict.checks],
        parameters=sum(int(np.prod(shape)) for _, shape in contents.variables),
        ops=sum(contents.ops.values()),
    )


def _recorded(config: Any) -> Any:
    """Return a config as dicts and lists; a dataclass carries its class name, which tells losses and networks."""
    if is_dataclass(config):
        return {
            "type": type(config).__name__,
            **{field.name: _recorded(getattr(config, field.name)) for field in fields(config)},
        }
    if callable(config):
        return described(config)
    return [_recorded(item) for item in config] if isinstance(config, tuple) else config


def _by_task(metrics: gate.Metrics) -> dict[str, dict[str, Any]]:
    """Of all rows."""
    tasks: dict[str, dict[str, Any]] = {}
    for (task, metric, part), value in metrics.items():
        if not part:
            tasks.setdefault(task, {})[metric] = value
    return tasks
