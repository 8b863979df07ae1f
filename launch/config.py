"""An experiment: what it is made of, how one is found by name, and how single fields are changed."""

import dataclasses
import importlib
import importlib.util
import pkgutil
import sys
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from tutelage.export.config import ServingConfig
from tutelage.launch import configs
from tutelage.models.config import Distillation
from tutelage.models.losses import BUILT_IN, SoftLoss
from tutelage.models.task_kinds import kind_of
from tutelage.pipeline.errors import UserError
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
    """What `tutelage-study` varies, and around which students. Its first study takes all students."""

    full: str
    """A distilled student of the full history, with a baseline."""
    late: str
    """A distilled student that starts late, with a baseline; those of the same baseline go along."""
    judged_days: int = 3
    """The last days, by whose scores all arms are compared."""
    teacher_sizes: tuple[int, ...] = (1, 2, 4, 8)
    """Times the late student's embeddings and hidden units."""
    label_ages: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)
    """Days that a label's snapshot is older than the day before."""
    refresh_days: int = 7
    """Days between two snapshots of the weekly teacher."""
    biased_task: str
    """A binary task whose negatives the biased teacher lacks."""
    negatives_rate: float = 0.5
    """The share of them that it learns from."""
    domain: str
    """`feature=value`: the only rows that the teacher of another domain learns from."""
    item: str
    """The id feature that says what is recommended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One teacher and its students on one source. A config file's `experiment(smoke)` returns one."""

    name: str
    """The `run` of its rows in `metrics`."""
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
    slice_by: tuple[str, ...] = ()
    """Id features by whose values metrics are computed too, as far as a day has 1,000 rows of one."""
    quality: QualityConfig = DEFAULT_QUALITY
    study: StudyConfig | None = None
    successor: SuccessorConfig | None = None
    """A teacher that learns beside the present one until it is as good, then takes its place."""

    def __post_init__(self) -> None:
        self._check_kinds()
        names = [student.name for student in self.students]
        for student in self.students:
            if names.count(student.name) > 1:
                raise UserError(f"student {student.name!r} is named twice; give every student its own name")
            if student.baseline is not None and student.baseline not in names:
                raise UserError(
                    f"student {student.name!r}: baseline {student.baseline!r} is no student; "
                    f"the students are {', '.join(names)}"
                )
            self._check_distillation(student)
        if self.successor and self.successor.teacher.name == self.teacher.name:
            raise UserError(
                f"successor {self.teacher.name!r}: that is the teacher's name; give the successor another"
            )
        models: list[TeacherConfig | StudentConfig] = [self.teacher, *self.students]
        if self.successor:
            models.append(self.successor.teacher)
        for model in models:
            self.schema.inputs(model.model.without)
            self.schema.for_model(model.model.without)
        ids = [feature.name for feature in self.schema.single_ids]
        for name in self.slice_by:
            if name not in ids:
                raise UserError(f"slice_by: {name!r} is no id feature; these are {', '.join(ids)}")
        for model in models:
            self._check_sampling(model.sampling, ids)
        self.serving.check(self.schema)
        for student in self.students:
            served = [task.score for task in self.schema.for_model(student.model.without).tasks]
            for name, _ in self.serving.score:
                if name not in served:
                    raise UserError(
                        f"serving: score names {name!r}, and the model of {student.name!r} is without that task; "
                        "let the score do without it, as long as there is such a student"
                    )

    def _check_distillation(self, student: StudentConfig) -> None:
        if student.producer == "leaked":
            raise UserError(
                f"student {student.name!r}: producer is 'leaked', which only a study may read; "
                "expected pre_update or snapshot"
            )
        for distillation in student.distillation:
            (task,) = self.schema.select_tasks([distillation.task])
            whole = [(student.name, student.model), ("teacher", self.teacher.model)]
            if self.successor:
                whole.append((self.successor.teacher.name, self.successor.teacher.model))
            for whose, model in whole:
                if task.name in model.without:
                    raise UserError(
                        f"student {student.name!r}: task {task.name!r} is distilled, and the model of {whose!r} "
                        "is without it; distil what both have"
                    )
            try:
                distillation.loss_for(task).check_inputs(self.schema, student.model.without)
            except UserError as error:
                raise UserError(f"student {student.name!r}: {error}") from None

    def _check_kinds(self) -> None:
        for task in self.schema.tasks:
            for quality in kind_of(task).qualities:
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

    def student(self, name: str) -> StudentConfig:
        """Raises UserError for a name that no student has."""
        for student in self.students:
            if student.name == name:
                return student
        have = ", ".join(student.name for student in self.students) or "none"
        raise UserError(f"unknown student {name!r}; this config has {have}")

    @property
    def fixed(self) -> dict[str, Any]:
        """What a workdir is made with, and cannot be changed in: all but students, a successor, serving and days."""
        return {name: getattr(self, name) for name in ("name", "source", "schema", "training", "teacher")}

    @property
    def identity(self) -> dict[str, Any]:
        """`fixed`, as it is recorded."""
        return typing.cast(dict[str, Any], plain(self.fixed))


def load(config: str, *, smoke: bool = False, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment of a config's name or of a Python file, with `field=value` overrides.

    Raises UserError for an unknown config or field, or a value that does not fit the field.
    """
    if config.endswith(".py"):
        path = Path(config)
        if not path.is_file():
            raise UserError(
                f"--config={config}: there is no such file; give a path to a .py file or a config's name"
            )
        spec = importlib.util.spec_from_file_location(f"tutelage_config_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        # A dataclass with postponed annotations looks its module up. Afterwards it goes: Beam sends its
        # workers a class whole only where its module cannot be imported.
        sys.modules[spec.name] = module
        try:
            spec.loader.exec_module(module)
        finally:
            del sys.modules[spec.name]
    else:
        known = sorted(info.name for info in pkgutil.iter_modules(configs.__path__))
        if config not in known:
            raise UserError(
                f"--config={config}: unknown; give one of {', '.join(known)}, or a path to a .py file"
            )
        module = importlib.import_module(f"{configs.__name__}.{config}")
    if not hasattr(module, "experiment"):
        raise UserError(f"--config={config}: the file has no function experiment(smoke); see launch/configs/")
    experiment = module.experiment(smoke=smoke)
    for override in overrides:
        path_, separator, text = override.partition("=")
        if not separator:
            raise UserError(
                f"--set={override}: expected field=value, as in --set=students.auxiliary.distillation.click.alpha=3"
            )
        experiment = _replace(
            experiment, path_.split("."), text, flag=f"--set={override}", schema=experiment.schema
        )
    return typing.cast(Experiment, experiment)


def _replace(node: Any, path: Sequence[str], text: str, *, flag: str, schema: Schema) -> Any:
    """Return `node` with the field at `path` replaced; an item of a tuple is found by its `name`."""
    head, rest = path[0], path[1:]
    if isinstance(node, tuple):
        names = [getattr(item, "name", None) for item in node]
        if head not in names:
            have = ", ".join(map(str, names)) or "none"
            raise UserError(f"{flag}: no {head!r} here; there are {have}")
        if not rest:
            raise UserError(f"{flag}: {head!r} is no single value; name one of its fields")
        return tuple(
            _replace(item, rest, text, flag=flag, schema=schema) if name == head else item
            for item, name in zip(node, names, strict=True)
        )
    fields = [field.name for field in dataclasses.fields(node)]
    if head not in fields:
        raise UserError(
            f"{flag}: {type(node).__name__} has no field {head!r}; it has {', '.join(fields) or 'none'}"
        )
    value = getattr(node, head)
    if value is None and rest and isinstance(node, Distillation):
        value = node.loss_for(*schema.select_tasks([node.task]))
    items = value if isinstance(value, tuple) else (value,)
    if rest and not all(map(dataclasses.is_dataclass, items)):
        raise UserError(f"{flag}: {head!r} is a single value and has no field {rest[0]!r}")
    new = (
        _replace(value, rest, text, flag=flag, schema=schema)
        if rest
        else _parse(typing.get_type_hints(type(node))[head], text, flag)
    )
    return dataclasses.replace(node, **{head: new})


def _parse(kind: Any, text: str, flag: str) -> Any:
    """`text` as a value of the field's type."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return (
            None if text in ("", "None") else _parse(next(a for a in args if a is not type(None)), text, flag)
        )
    if kind is SoftLoss:
        if text not in BUILT_IN:
            raise UserError(f"{flag}: expected one of {', '.join(BUILT_IN)}")
        return BUILT_IN[text]()
    if origin is typing.Literal:
        return text  # The dataclass says which values it takes.
    if origin is tuple and args[0] in (int, float, str):
        return tuple(_parse(args[0], item, flag) for item in text.split(",") if item)
    if kind is bool and text in ("true", "false"):
        return text == "true"
    if kind in (int, float, str, date):
        try:
            return date.fromisoformat(text) if kind is date else kind(text)
        except ValueError:
            pass
    raise UserError(f"{flag}: {text!r} does not fit a field of type {getattr(kind, '__name__', kind)}")


# They decide whether a day is kept, when it is put down, and what a change of teacher is to be, not what was learnt.
_CHANGEABLE = ("gate", "checkpoint_minutes", "judged_days", "margin", "new_teacher", "mask_days")


def plain(value: Any) -> Any:
    """What a config makes, as JSON takes it; a dataclass carries its class name, for a source is told by it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.name not in _CHANGEABLE
        }
        return {"type": type(value).__name__, **fields}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, date) else value


_RENAMED = {"Feature": {"rows": "capacity"}}
"""Fields by their class and the name that an older version recorded them under."""

_SOFT_LOSSES = {
    "cross_entropy": "CrossEntropy",
    "logit_mse": "LogitMSE",
    "listwise": "Listwise",
    "squared_error": "SquaredError",
    "kl": "ZilnKL",
}
"""Classes by the names that an older version recorded in `Distillation.loss`; empty was the default."""


def _with_loss_object(distillation: dict[str, Any]) -> dict[str, Any]:
    """Return a recorded `Distillation` with its loss as an object: its parameters stood beside it before."""
    parameters = {"temperature": 1.0, "label_scale": 1.0}
    ours = parameters | {name: distillation[name] for name in parameters if name in distillation}
    rest = {name: value for name, value in distillation.items() if name not in parameters}
    name = rest.get("loss") or ("cross_entropy" if ours != parameters else "")
    if isinstance(name, str):
        kind = _SOFT_LOSSES.get(name)
        rest["loss"] = kind and {"type": kind, **(ours if kind == "CrossEntropy" else {})}
    return rest


_CONVERTED = {"Distillation": _with_loss_object}
"""By class, how what an older version recorded becomes what is recorded today, where more than a name changed."""


def completed(recorded: Any, now: Any) -> Any:
    """What `plain` recorded, with the fields that the classes of `now` have besides as their defaults.

    An older version did not have these fields, and did what their defaults say; renamed ones have their new names.
    """
    if isinstance(recorded, list):
        if isinstance(now, tuple):
            # In whatever order: items are told by their name.
            by_name = {getattr(item, "name", None): item for item in now}
            return [
                completed(item, by_name.get(item.get("name", item.get("task"))))
                if isinstance(item, dict)
                else item
                for item in recorded
            ]
        return recorded
    if not isinstance(recorded, dict):
        return recorded
    renamed = _RENAMED.get(recorded.get("type", ""), {})
    recorded = {renamed.get(name, name): value for name, value in recorded.items()}
    recorded = _CONVERTED.get(recorded.get("type", ""), dict)(recorded)
    if isinstance(now, dict):
        return {name: completed(value, now.get(name)) for name, value in recorded.items()}
    if recorded.get("type") != type(now).__name__:
        return recorded
    defaults = {
        field.name: plain(field.default)
        for field in dataclasses.fields(now)
        if field.name not in _CHANGEABLE and field.default is not dataclasses.MISSING
    }
    known = {name: completed(value, getattr(now, name, None)) for name, value in recorded.items()}
    return known | {name: value for name, value in defaults.items() if name not in known}
