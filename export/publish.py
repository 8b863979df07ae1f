"""Checkpoints become versions: stage, judge, then publish or reject, and retire what is too old."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import tensorflow as tf

from tutelage.export import card, gate, golden, inspect, judged, warmup
from tutelage.export.comparison import Comparison
from tutelage.export.config import ServingConfig
from tutelage.export.saved_model import Served
from tutelage.export.versions import Version, Versions
from tutelage.models.backbones.base import described
from tutelage.models.ranker import Ranker
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.retry import with_retries
from tutelage.pipeline.io.scratch import telling_loss
from tutelage.pipeline.verdict import Verdict
from tutelage.trainers.checkpoints import State
from tutelage.trainers.config import StudentConfig
from tutelage.trainers.metrics import served_score
from tutelage.trainers.run import Run

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What became of a checkpoint. A version that is not blessed is among the rejected ones."""

    version: Version
    verdict: Verdict | None
    """None for a teacher's version: it is not judged, because it serves no user."""
    contents: inspect.Contents


def export_teacher(
    run: Run,
    *,
    days: Sequence[date] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Exported]:
    """Publish the teacher's checkpoints of `days` (None: of all days) that are not published yet.

    Its signature returns raw outputs by task, which the labeler reads. `progress` is called with 1 after each
    version. Raises UserError for a day on which the teacher was not trained.
    """
    model = run.teacher_model
    versions = Versions(run.root / "export" / model)
    ranker = Ranker(run.schema, run.teacher.model)
    served = Served(ranker, None)
    exported = []

    def stage(state: State) -> tuple[Path, inspect.Contents]:
        _restore(run, model, ranker, state)
        folder = versions.stage(state, served.save)
        return folder, inspect.describe(folder)

    for state in _unpublished(run, model, versions, days):
        folder, contents = with_retries(f"{model}, the version of {state.day}", stage, state)
        exported.append(Exported(version=versions.publish(folder), verdict=None, contents=contents))
        progress(1)
    _replace_damaged(versions)
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
    """Judge a student's checkpoints of `days` (None: of all days) that were not judged yet; serve those that pass.

    Each is compared, on rows that neither was trained on, with the newest version that was published before its turn
    comes, of its own day or an earlier one. One that the next day judges waits for it (`State.judged_on`) and is left
    out. `new_signature` lets a version pass whose inputs or outputs differ from that one's. Versions beyond
    `serving.keep` are retired. `progress` is called with 1 after each version. Raises UserError for a day on which the
    student was not trained.
    """
    versions = Versions(run.root / "export" / student.name)
    publication = _Publication(run, student, serving, versions)
    exported = []

    def make(state: State, day: date) -> tuple[Path, Verdict, inspect.Contents]:
        folder = publication.stage(state)
        with telling_loss(folder):
            return folder, *publication.judge(state, folder, day, new_signature=new_signature)

    states = _unpublished(run, student.name, versions, days)
    judged_days = run.judged_days(states)
    for state in states:
        if (day := judged_days.get(state.day)) is None:
            continue
        folder, verdict, contents = with_retries(
            f"{student.name}, the version of {state.day}", make, state, day
        )
        version = versions.publish(folder) if verdict.blessed else versions.reject(folder)
        exported.append(Exported(version=version, verdict=verdict, contents=contents))
        progress(1)
    _replace_damaged(versions)
    versions.retire(keep=serving.keep)
    return exported


def _replace_damaged(versions: Versions) -> None:
    for why in versions.replace_damaged():
        _log.warning("%s: %s; it is set aside in %s", versions.name, why, versions.set_aside)


class _Publication:
    """The steps that make a student's version out of a checkpoint, before it is moved anywhere."""

    def __init__(self, run: Run, student: StudentConfig, serving: ServingConfig, versions: Versions):
        self._run, self._student, self._serving, self._versions = run, student, serving, versions
        self._ranker = Ranker(run.schema, student.model)
        self._served = Served(self._ranker, serving)

    def stage(self, state: State) -> Path:
        """Write the SavedModel, its golden batch and its warm-up requests into a folder that nothing serves."""
        _restore(self._run, self._student.name, self._ranker, state)
        folder = self._versions.stage(state, self._served.save)
        with telling_loss(folder):
            self._add_golden(state, folder)
        return folder

    def _add_golden(self, state: State, folder: Path) -> None:
        rows = golden.choose(_features(self._run, self._ranker, state.day)).drop("example_id")
        features = self._run.schema.arrays(rows)
        rows = golden.pad_lists(rows, features)
        golden.write_golden(
            folder / golden.PATH, rows, _trainer_scores(self._ranker, self._serving, features)
        )
        warmup.write_warmup(folder / warmup.PATH, self._student.name, features)

    def judge(
        self, state: State, folder: Path, day: date, *, new_signature: bool
    ) -> tuple[Verdict, inspect.Contents]:
        """Judge the staged version on rows of `day`, write the verdict into `metrics` and the card into its folder."""
        run, name = self._run, self._student.name
        contents = inspect.describe(folder)
        frame = judged.read_frame(run, state, day)
        candidate = gate.Candidate(
            model=name,
            folder=folder,
            schema=self._ranker.schema,
            size=contents.bytes,
            day=day,
            frame=frame,
        )
        served = [version for version in self._versions.published() if version.day <= state.day]
        reference = gate.find_reference(run, candidate, served)
        verdict = gate.judge(run, candidate, reference, self._serving, new_signature=new_signature)
        gate.record(run, name, state, verdict)
        compared = [check for check in verdict.checks if isinstance(check, Comparison)]
        facts = card.Facts(
            **_training_facts(run, self._student, state),
            judged_day=day,
            judged_rows=len(frame),
            holdout=state.holdout,
            served=reference.version.number if reference.version else None,
            comparisons=[asdict(check) for check in compared],
            verdict=str(verdict),
            checks=[asdict(check) for check in verdict.checks if not isinstance(check, Comparison)],
            served_as={f.name: f.serve_as for f in self._ranker.inputs if f.serve_as is not None},
            parameters=sum(int(np.prod(shape)) for _, shape in contents.variables),
            ops=sum(contents.ops.values()),
            units={task.name: task.unit for task in self._ranker.schema.tasks if task.unit},
            sampled_negatives=negatives.per_positive if (negatives := self._ranker.schema.negatives) else 0,
        )
        card.write_card(folder, facts)
        return verdict, contents


def _unpublished(run: Run, model: str, versions: Versions, days: Sequence[date] | None) -> list[State]:
    states = {state.day: state for state in run.checkpoints(model).states()}
    for day in days or ():
        if day not in states:
            raise UserError(f"{model} has no checkpoint of {day}; train that day first")
    return versions.unpublished([state for day, state in states.items() if days is None or day in days])


def _restore(run: Run, model: str, ranker: Ranker, state: State) -> None:
    # The optimizer and the auxiliary towers of the checkpoint are not read.
    run.checkpoints(model).restore(tf.train.Checkpoint(ranker=ranker.checkpoint_view), state.day)


def _features(run: Run, ranker: Ranker, day: date) -> pl.DataFrame:
    lake = run.lake.snapshot()
    rows = lake.interactions.scan(day=day)
    if ranker.of:
        rows = lake.with_histories(rows, day)
    return rows.select("example_id", *(f.name for f in ranker.requested)).collect()


def _trainer_scores(
    ranker: Ranker, serving: ServingConfig, features: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return float64 [rows] by served output, of the ranker as it was trained; the rest is done in NumPy.

    `features` are those of a request; the others have the value that they are served with.
    """
    rows = len(next(iter(features.values())))
    absent = {f.name: f.served_array(rows) for f in ranker.inputs if f.serve_as is not None}
    columns = {name: tf.constant(values) for name, values in {**features, **absent}.items()}
    outputs = ranker(*ranker.transform(columns))
    raw = {name: values.numpy().astype(np.float64) for name, values in outputs.items()}
    scores = {task.score: served_score(task, raw) for task in ranker.schema.tasks}
    combined = sum(weight * scores[name] for name, weight in serving.score)
    return {**scores, "score": np.asarray(combined)}


def _training_facts(run: Run, student: StudentConfig, state: State) -> dict[str, Any]:
    """Return the fields of the model card that say what the checkpoint `state` was trained on."""
    states = [s for s in run.checkpoints(student.name).states() if s.day <= state.day]
    coverage = run.lake.metrics.scan(
        model=student.name, run=run.name, day=state.day, metric="label_coverage"
    ).collect()
    return {
        "model": student.name,
        "day": state.day,
        "first_day": states[0].day,
        "rows": state.examples,
        "config": _recorded(student),
        "teacher": run.labeller(state.day).name if student.distillation else None,
        "label_coverage": coverage["value"].max(),
    }


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
