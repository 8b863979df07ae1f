"""An experiment: the frozen dataclasses that a config file returns, and the checks across them."""

import dataclasses
import inspect
import math
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any

from tutelage.export.config import ServingConfig
from tutelage.launch.alert_config import AlertConfig
from tutelage.models.backbones.base import Backbone, described
from tutelage.models.task_kinds import kind_of
from tutelage.pipeline.alarms import AlarmBudget
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.pieces import ROWS_PER_SHARD
from tutelage.pipeline.quality import DEFAULT_QUALITY, QualityConfig
from tutelage.pipeline.schema import Schema
from tutelage.pipeline.sources.base import Source
from tutelage.trainers.config import (
    Sampling,
    StudentConfig,
    SuccessorConfig,
    TeacherConfig,
    TrainingConfig,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyConfig:
    """What `tutelage-study` varies, and the students it varies. Its first study takes all students."""

    full: str
    """A distilled student that trains on the full history and has a baseline."""
    late: str
    """A distilled student that starts late and has a baseline. Students with the same baseline join it."""
    judged_days: int = 3
    """All arms are compared by their scores of this many last days."""
    teacher_sizes: tuple[int, ...] = (1, 2, 4, 8)
    """Multiples of the late student's embedding dimension and hidden units."""
    label_ages: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)
    """Days by which a label's snapshot is older than the day before."""
    refresh_days: int = 7
    """Days between two snapshots of the weekly teacher."""
    biased_task: str
    """The binary task whose negatives are withheld from the biased teacher."""
    negatives_rate: float = 0.5
    """The share of these negatives that the biased teacher trains on."""
    domain: str
    """`feature=value`: the teacher of another domain trains on these examples only."""
    item: str
    """The id feature that identifies the recommended item."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepConfig:
    """Which checkpoints a run leaves of each model. It may be changed in a workdir at any time.

    A version that is out of service goes with its checkpoint, and so does a teacher's version. `ServingConfig.keep`
    says how many versions stay in service. Rows and labels always stay.

    >>> KeepConfig(newest=14).older
    8
    """

    newest: int | None = 7
    """The checkpoints of so many newest days (or slices) stay; None: all."""
    older: int = 8
    """So many checkpoints of the days before stay: the last of each seven, and the model's first."""

    def __post_init__(self) -> None:
        if (self.newest is not None and self.newest < 1) or self.older < 0:
            raise UserError(
                f"keep: newest is {self.newest} and older {self.older}, expected at least 1 (or None: all) and at "
                "least 0"
            )


DEFAULT_KEEP = KeepConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One teacher and its students on one source. A config file's `experiment(smoke)` returns one.

    Raises UserError where the parts contradict one another, with both values and the remedy.
    """

    name: str
    """The `run` column of its entries in `metrics`."""
    source: Source
    schema: Schema
    training: TrainingConfig
    teacher: TeacherConfig
    students: tuple[StudentConfig, ...]
    serving: ServingConfig
    start_day: str
    """As `--start_day`: YYYY-MM-DD, today, yesterday or today-N."""
    end_day: str
    """As `--end_day`."""
    rows_per_shard: int = ROWS_PER_SHARD
    """A day of more rows is made by several workers, a share each. The memory of a worker follows it. It may change in
    a workdir at any time."""
    slice_by: tuple[str, ...] = ()
    """Metrics are also computed per value of these id features, for values with at least 1,000 examples a day."""
    quality: QualityConfig = DEFAULT_QUALITY
    false_alarms_per_year: float = 1.0
    """How many sound days (or slices) a year the gates of data and of training may stop by chance, all together."""
    keep: KeepConfig = DEFAULT_KEEP
    """Which checkpoints stay, and with them the versions that are out of service."""
    study: StudyConfig | None = None
    successor: SuccessorConfig | None = None
    """A teacher that trains beside the present one until it is as good, then takes its place."""
    alerts: AlertConfig | None = None
    """Who is told of bad days, models that stop or lag, and changes of teacher; None: nobody."""

    def __post_init__(self) -> None:
        if self.rows_per_shard < 1:
            raise UserError(f"rows_per_shard is {self.rows_per_shard}, expected at least 1")
        if not 0 < self.false_alarms_per_year < math.inf:
            raise UserError(
                f"false_alarms_per_year is {self.false_alarms_per_year}, expected a number above 0, as in 1.0"
            )
        self._check_names()
        self._check_kinds()
        models: list[TeacherConfig | StudentConfig] = [self.teacher, *self.students]
        if self.successor:
            models.append(self.successor.teacher)
        for model in models:
            self.schema.inputs(model.model.without)
            self.schema.for_model(model.model.without)
        for student in self.students:
            self._check_distillation(student)
        ids = [feature.name for feature in self.schema.single_ids]
        for name in self.slice_by:
            if name not in ids:
                raise UserError(f"slice_by: {name!r} is no id feature; these are {', '.join(ids)}")
        for model in models:
            self._check_sampling(model.sampling, ids)
        self._check_serving()

    def _check_names(self) -> None:
        names = [student.name for student in self.students]
        for student in self.students:
            if names.count(student.name) > 1:
                raise UserError(f"student {student.name!r} is named twice; give every student its own name")
            if student.baseline is not None and student.baseline not in names:
                raise UserError(
                    f"student {student.name!r}: baseline {student.baseline!r} is no student; "
                    f"the students are {', '.join(names)}"
                )
        if self.successor and self.successor.teacher.name == self.teacher.name:
            raise UserError(
                f"successor {self.teacher.name!r}: that is the teacher's name; give the successor another"
            )

    def _check_distillation(self, student: StudentConfig) -> None:
        for distillation in student.distillation:
            (task,) = self.schema.select_tasks([distillation.task])
            models = [(student.name, student.model), ("teacher", self.teacher.model)]
            if self.successor:
                models.append((self.successor.teacher.name, self.successor.teacher.model))
            for name, model in models:
                if task.name in model.without:
                    raise UserError(
                        f"student {student.name!r}: task {task.name!r} is distilled, but the model of {name!r} leaves "
                        "it out; distil tasks that both models have"
                    )
            try:
                distillation.loss_for(task).check_inputs(self.schema, student.model.without)
            except UserError as error:
                raise UserError(f"student {student.name!r}: {error}") from None

    def _check_kinds(self) -> None:
        for task in self.schema.tasks:
            kind = kind_of(task)
            for quality in (*kind.qualities, *kind.served_qualities):
                if not (hasattr(self.serving, quality.margin) and hasattr(self.teacher.gate, quality.margin)):
                    raise UserError(
                        f"task {task.name!r}: the margin of {quality.metric!r} is {quality.margin!r}, expected a field "
                        "of GateConfig and ServingConfig, as in squared_error_rise"
                    )

    def _check_sampling(self, sampling: Sampling, ids: Sequence[str]) -> None:
        if sampling.negatives_of and not self.schema.select_tasks([sampling.negatives_of])[0].is_binary:
            raise UserError(f"sampling: negatives_of {sampling.negatives_of!r} is no binary task")
        name = sampling.only.partition("=")[0]
        if name and name not in ids:
            raise UserError(
                f"sampling: only names {name!r}, which is no id feature; these are {', '.join(ids)}"
            )

    def _check_serving(self) -> None:
        self.serving.check(self.schema)
        for student in self.students:
            inputs = self.schema.inputs(student.model.without)
            if all(feature.serve_as is not None for feature in inputs):
                raise UserError(
                    f"student {student.name!r}: each of its features has serve_as, and a request would be empty; "
                    "expected one without"
                )
            served = [task.score for task in self.schema.for_model(student.model.without).tasks]
            for name, _ in self.serving.score:
                if name not in served:
                    raise UserError(
                        f"serving: score names {name!r}, and the model of {student.name!r} leaves that task out; "
                        "take it out of the score, or give the student the task"
                    )

    @property
    def alarms(self) -> AlarmBudget:
        """The share of one gate of the false alarms: the data's gate, and one gate for each model's training."""
        gates = 2 + len(self.students) + (self.successor is not None)
        return AlarmBudget(per_year=self.false_alarms_per_year, slice_days=self.schema.slice_days).shared(
            gates
        )

    def student(self, name: str) -> StudentConfig:
        """Return the student of this name. Raises UserError where there is none."""
        for student in self.students:
            if student.name == name:
                return student
        have = ", ".join(student.name for student in self.students) or "none"
        raise UserError(f"unknown student {name!r}; this config has {have}")

    @property
    def fixed(self) -> dict[str, Any]:
        """The parts that cannot change in a workdir: not students, successor, serving, gates, keep, alerts and days."""
        return {name: getattr(self, name) for name in ("name", "source", "schema", "training", "teacher")}

    @property
    def identity(self) -> dict[str, Any]:
        """`fixed`, in the form in which `config.json` records it."""
        return typing.cast(dict[str, Any], plain(self.fixed))


CHANGEABLE = (
    "gate",
    "checkpoint_minutes",
    "chunk_rows",
    "holdout",
    "judged_days",
    "margin",
    "max_kills",
    "new_teacher",
    "mask_days",
    "serve_as",
    "unit",
)
"""Fields that may change in a workdir. They decide whether a day is kept, how often a checkpoint is saved, how many
rows are read at once, how a change of teacher goes, which few rows of the next days are withheld, and what is served or
shown, not what a model is."""


def plain(value: Any) -> Any:
    """Return a config as JSON takes it. A dataclass carries its class name, which identifies a source."""
    if isinstance(value, Backbone | partial) or inspect.isroutine(value):
        return described(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.name not in CHANGEABLE
        }
        return {"type": type(value).__name__, **fields}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, date) else value
