"""Experiments are found by name or by file, overridden field by field, checked, and told apart by their identity."""

import dataclasses
import json
import pkgutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from apache_beam.internal import cloudpickle_pickler

from tutelage.launch import configs
from tutelage.launch.config import load
from tutelage.launch.experiment import Experiment, plain
from tutelage.launch.recorded import completed
from tutelage.models.config import Distillation, distil
from tutelage.models.losses import CrossEntropy, Listwise, SoftLoss, ZilnKL
from tutelage.pipeline.days import parse_day, slices_between
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Growth
from tutelage.pipeline.sources.kuairand import KuaiRand
from tutelage.trainers.config import StudentConfig

NAMES = sorted(info.name for info in pkgutil.iter_modules(configs.__path__))
STUDENTS = ", ".join(student.name for student in load("synthetic").students)


def _synthetic(*overrides: str) -> Experiment:
    return load("synthetic", overrides=overrides)


def _days(experiment: Experiment) -> list[date]:
    zone, length = experiment.schema.time_zone, experiment.schema.slice_days
    start, end = (parse_day(day, time_zone=zone) for day in (experiment.start_day, experiment.end_day))
    return slices_between(start, end, slice_days=length)


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_config_is_found_by_its_name_and_smoke_is_the_same_but_smaller(name: str) -> None:
    full, smoke = load(name), load(name, smoke=True)
    assert full.name == smoke.name == name
    assert [s.name for s in smoke.students] == [s.name for s in full.students]
    assert smoke.schema == full.schema
    days = _days(smoke)
    assert days == _days(full)[: len(days)]
    assert len(days) < len(_days(full))
    # In both sizes late students have days to train on and days that they missed.
    for experiment in (full, smoke):
        for late in (s.first_day for s in experiment.students if s.first_day):
            assert _days(experiment)[0] < late <= _days(experiment)[-1]


def test_smoke_of_the_synthetic_world_has_fewer_rows_a_day() -> None:
    full, smoke = load("synthetic").source, load("synthetic", smoke=True).source
    assert smoke.rows_per_day < full.rows_per_day  # type: ignore[attr-defined]


MINE = """
from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date

from tutelage.launch.configs import synthetic


@dataclass(frozen=True, kw_only=True)
class Mine:
    since: date


def experiment(*, smoke: bool):
    bundled = synthetic.experiment(smoke=smoke)
    return replace(bundled, name="small" if smoke else "large", source=Mine(since=date(2026, 1, 2)))
"""


def test_a_file_may_hold_a_config_and_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    mine = load("my.py", overrides=["training.batch_size=64"])
    assert (mine.name, mine.training.batch_size) == ("large", 64)
    assert load(str(tmp_path / "my.py"), smoke=True).name == "small"
    assert mine.identity["source"] == {"type": "Mine", "since": "2026-01-02"}


def test_a_source_of_a_files_own_reaches_a_worker_that_has_no_such_file(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(MINE)
    pickled = cloudpickle_pickler.dumps(load(str(tmp_path / "my.py")).source)
    code = (
        "import sys\n"
        "from apache_beam.internal import cloudpickle_pickler\n"
        "print(cloudpickle_pickler.loads(sys.stdin.buffer.read()).since)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickled, capture_output=True, check=True)
    assert done.stdout == b"2026-01-02\n"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("nonesuch", f"unknown; give one of {', '.join(NAMES)}, or a path to a .py file"),
        ("", f"unknown; give one of {', '.join(NAMES)}, or a path to a .py file"),
        ("nonesuch.py", "there is no such file; give a path to a .py file or a config's name"),
        ("empty.py", "the file has no function experiment(smoke); see launch/configs/"),
    ],
)
def test_what_is_no_config_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str, says: str
) -> None:
    (tmp_path / "empty.py").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        load(config)
    assert str(error.value) == f"--config={config}: {says}"


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("name", "other", "other"),
        ("end_day", "yesterday", "yesterday"),
        ("training.batch_size", "64", 64),
        ("source.first_day", "2026-02-03", date(2026, 2, 3)),
        ("teacher.model.embedding_dim", "16", 16),
        ("teacher.model.dense_rate", "7.5e-4", 0.00075),
        ("teacher.model.backbone.hidden", "8", (8,)),
        ("teacher.model.backbone.hidden", "32,16", (32, 16)),
        ("schema.features.user_id.capacity", "50", 50),
        ("schema.features.video_seconds.log1p", "false", False),
        ("schema.features.video_id.scope", "user", "user"),
        ("schema.time_zone", "Asia/Shanghai", "Asia/Shanghai"),
        ("students.auxiliary.distillation.click.alpha", "3", 3.0),
        ("students.auxiliary.distillation.click.through", "direct", "direct"),
        ("students.auxiliary.distillation.watch.hidden", "8,4", (8, 4)),
        ("students.auxiliary.distillation.click.loss", "Listwise", Listwise()),
        ("students.auxiliary.label_half_life", "2.5", 2.5),
        ("students.control.first_day", "2026-01-03", date(2026, 1, 3)),
        ("students.late_control.first_day", "None", None),
        ("students.late_control.first_day", "", None),
        ("students.snapshot.baseline", "direct", "direct"),
        ("students.snapshot.baseline", "None", None),
    ],
)
def test_a_single_field_is_set_and_all_others_stay(field: str, text: str, value: Any) -> None:
    changed = plain(_synthetic(f"{field}={text}"))
    expected = plain(_synthetic())
    at = expected
    *path, last = field.split(".")
    for name in path:
        at = (
            at[name]
            if isinstance(at, dict)
            else next(item for item in at if name in (item.get("name"), item.get("task")))
        )
    assert at[last] != plain(value)
    at[last] = plain(value)
    assert changed == expected


def test_an_override_has_the_fields_type() -> None:
    changed = _synthetic(
        "students.auxiliary.distillation.click.alpha=3", "students.auxiliary.first_day=2026-01-03"
    )
    student = changed.student("auxiliary")
    assert (type(student.distillation[0].alpha), type(student.first_day)) == (float, date)


def test_of_two_values_for_one_field_the_last_holds() -> None:
    assert _synthetic("training.seed=2", "training.batch_size=8", "training.seed=3").training == (
        dataclasses.replace(_synthetic().training, seed=3, batch_size=8)
    )


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("alpha", "expected field=value, as in --set=students.auxiliary.distillation.click.alpha=3"),
        ("teacher.modl.x=1", "TeacherConfig has no field 'modl'; it has model, name, min_examples"),
        ("source.rows=1", "Synthetic has no field 'rows'; it has seed, first_day, rows_per_day, users, "),
        ("=1", "Experiment has no field ''; it has name, source, schema, training, teacher, students, "),
        ("students.nobody.alpha=3", f"no 'nobody' here; there are {STUDENTS}"),
        ("students.control=3", "'control' is no single value; name one of its fields"),
        ("teacher=3", "'3' does not fit a field of type TeacherConfig"),
        ("students=3", "'3' does not fit a field of type tuple"),
        ("training.batch_size=big", "'big' does not fit a field of type int"),
        ("training.batch_size=1.5", "'1.5' does not fit a field of type int"),
        ("training.batch_size=", "'' does not fit a field of type int"),
        ("students.auxiliary.distillation.click.alpha=much", "'much' does not fit a field of type float"),
        ("teacher.model.backbone.hidden=8,wide", "'wide' does not fit a field of type int"),
        ("source.first_day=2026-13-01", "'2026-13-01' does not fit a field of type date"),
        ("students.late_control.first_day=soon", "'soon' does not fit a field of type date"),
        ("schema.features.video_seconds.log1p=yes", "'yes' does not fit a field of type bool"),
        ("name.first=x", "'name' is a single value and has no field 'first'"),
        ("students.control.first_day.year=1", "'first_day' is a single value and has no field 'year'"),
        ("teacher.model.backbone.hidden.0=3", "'hidden' is a single value and has no field '0'"),
    ],
)
def test_an_override_that_cannot_be_applied_is_refused(override: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        _synthetic(override)
    assert str(error.value).startswith(f"--set={override}: {says}")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "students.direct.distillation.click.through=both",
            "through is 'both', expected auxiliary or direct",
        ),
        ("students.direct.baseline=nobody", f"baseline 'nobody' is no student; the students are {STUDENTS}"),
        ("students.direct.name=control", "student 'control' is named twice; give every student its own name"),
        (
            "students.direct.distillation.click.task=clck",
            "unknown task 'clck'; this schema has click, long_view, watch",
        ),
        ("serving.keep=0", "serving: keep is 0, expected at least 1"),
        (
            "schema.tasks.watch.kind=ziln",
            "serving: score names 'watch_log1p'; the served outputs are click, long_view, watch",
        ),
        ("schema.features.user_id.scope=me", "scope is 'me', expected 'user' or 'candidate'"),
        (
            "teacher.model.without=user_id,hour,day",
            "without names 'day', expected inputs of the schema: user_id, video_id, author_id, topic, country, "
            "position, hour, video_seconds, video_age_days, user_age_days; or tasks: click, long_view, watch",
        ),
        (
            "students.control.model.without=watch",
            "serving: score names 'watch_log1p', and the model of 'control' leaves that task out; take it out of "
            "the score, or give the student the task",
        ),
        (
            "students.direct.model.without=watch",
            "student 'direct': task 'watch' is distilled, but the model of 'direct' leaves it out; distil tasks "
            "that both models have",
        ),
        (
            "teacher.model.without=watch",
            "student 'direct': task 'watch' is distilled, but the model of 'teacher' leaves it out; distil tasks "
            "that both models have",
        ),
        ("training.batch_size=0", "batch_size is 0, expected at least 1"),
        ("teacher.sampling.negatives_of=watch", "sampling: negatives_of 'watch' is no binary task"),
        (
            "students.direct.sampling.only=price=3",
            "sampling: only names 'price', which is no id feature; these are user_id, video_id, author_id, "
            "topic, country, position, hour",
        ),
        (
            "students.direct.distillation.watch.loss=Listwise",
            "student 'direct': task 'watch' is log1p and cannot be distilled by Listwise; expected SquaredError",
        ),
        (
            "students.direct.distillation.click.loss=listwise",
            "click.loss=listwise: expected one of CrossEntropy, Listwise, LogitMSE, SquaredError, ZilnKL",
        ),
        (
            "students.direct.distillation.click.loss.temperature=0",
            "CrossEntropy: temperature is 0.0 and label_scale 1.0, expected numbers above 0",
        ),
        (
            "students.direct.distillation.watch.loss.temperature=2",
            "SquaredError has no field 'temperature'; it has none",
        ),
        ("students.direct.producer=leaked", "producer is 'leaked', expected pre_update or snapshot"),
    ],
)
def test_an_override_is_checked_as_the_config_itself_is(override: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        _synthetic(override)
    assert str(error.value).endswith(says)


def test_a_student_of_which_a_request_would_be_empty_is_refused() -> None:
    experiment = _synthetic("schema.features.position.serve_as=3")
    student = experiment.students[0]
    others = tuple(f.name for f in experiment.schema.inputs() if f.name != "position")
    blind = dataclasses.replace(student, model=dataclasses.replace(student.model, without=others))
    with pytest.raises(
        UserError, match=r"^student 'control': each of its features has serve_as, and a request"
    ):
        dataclasses.replace(experiment, students=(blind,))


def test_a_student_is_found_by_its_name_or_refused() -> None:
    experiment = _synthetic()
    assert experiment.student("direct") is experiment.students[1]
    with pytest.raises(UserError, match=f"^unknown student 'nobody'; this config has {STUDENTS}$"):
        experiment.student("nobody")
    with pytest.raises(UserError, match=r"^unknown student 'nobody'; this config has none$"):
        dataclasses.replace(experiment, students=()).student("nobody")


def test_a_baseline_may_come_after_its_student() -> None:
    experiment = _synthetic()
    last = StudentConfig(name="last", model=experiment.students[0].model)
    first = dataclasses.replace(last, name="first", baseline="last")
    assert dataclasses.replace(experiment, students=(first, last)).student("first").baseline == "last"


@pytest.mark.parametrize(
    "override",
    [
        "students.auxiliary.distillation.click.alpha=3",
        "start_day=2026-01-02",
        "end_day=yesterday",
        "serving.max_bytes=1000",
        "schema.features.position.serve_as=3",
    ],
)
def test_students_serving_and_days_are_no_part_of_the_identity(override: str) -> None:
    changed = _synthetic(override)
    assert changed != _synthetic()
    assert changed.identity == _synthetic().identity
    assert dataclasses.replace(changed, students=()).identity == _synthetic().identity


@pytest.mark.parametrize(
    "override",
    [
        "name=other",
        "source.seed=2",
        "schema.features.user_id.capacity=50",
        "training.seed=2",
        "teacher.min_examples=1",
        "teacher.model.backbone.hidden=8",
    ],
)
def test_name_source_schema_training_and_teacher_are_the_identity(override: str) -> None:
    assert _synthetic(override).identity != _synthetic().identity


def test_a_source_of_another_class_is_another_identity_even_with_the_same_fields() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Other(KuaiRand):
        pass

    kuairand = load("kuairand")
    other = dataclasses.replace(kuairand, source=Other())
    assert other.identity["source"] == {**kuairand.identity["source"], "type": "Other"}
    assert kuairand.identity["source"]["type"] == "KuaiRand"


@pytest.mark.parametrize("name", NAMES)
def test_a_plain_config_comes_back_from_json_as_it_was(name: str) -> None:
    config = plain(load(name))
    assert json.loads(json.dumps(config, allow_nan=False)) == config
    assert config["type"] == "Experiment"
    assert config["students"][3]["type"] == "StudentConfig"


def test_a_student_that_is_without_an_input_is_another_and_the_identity_is_not() -> None:
    changed = _synthetic("students.control.model.without=hour,position")
    assert changed.student("control").model.without == ("hour", "position")
    assert changed.identity == _synthetic().identity


def test_metrics_are_not_sliced_by_a_list() -> None:
    experiment = _synthetic("schema.features.topic.length=3")
    with pytest.raises(
        UserError, match=r"^slice_by: 'topic' is no id feature; these are user_id, video_id, "
    ):
        dataclasses.replace(experiment, slice_by=("topic",))


def test_a_listwise_loss_without_the_user_is_refused() -> None:
    with pytest.raises(UserError) as error:
        _synthetic(
            "students.auxiliary.model.without=user_id", "students.auxiliary.distillation.click.loss=Listwise"
        )
    assert str(error.value) == (
        "student 'auxiliary': Listwise needs 'user_id', and the model is without it; leave it out of `without`"
    )


def test_a_listwise_loss_is_refused_where_new_users_share_an_embedding_index() -> None:
    experiment = load("synthetic")
    features = tuple(
        dataclasses.replace(f, grows=Growth()) if f.name == "user_id" else f
        for f in experiment.schema.features
    )
    listwise = dataclasses.replace(
        experiment.student("auxiliary"), distillation=distil("click", loss=Listwise())
    )
    with pytest.raises(UserError) as refused:
        dataclasses.replace(
            experiment,
            schema=dataclasses.replace(experiment.schema, features=features),
            students=(experiment.student("control"), listwise),
        )
    assert str(refused.value) == (
        "student 'auxiliary': Listwise tells users apart by their embedding indices, and those of 'user_id' grow: "
        "all new users share one; use another loss, or no `grows`"
    )


def test_a_listwise_loss_needs_to_know_the_user() -> None:
    experiment = _synthetic()
    nameless = dataclasses.replace(experiment.schema, user=None)
    listwise = dataclasses.replace(
        experiment.student("auxiliary"), distillation=distil("click", loss=Listwise())
    )
    with pytest.raises(UserError, match=r"^student 'auxiliary': Listwise needs the schema's `user`, and"):
        dataclasses.replace(experiment, schema=nameless, students=(experiment.student("control"), listwise))


def test_a_parameter_of_the_default_loss_is_set_where_the_config_names_no_loss() -> None:
    experiment = _synthetic("students.auxiliary.distillation.click.loss.temperature=2")
    click, long_view, watch = experiment.student("auxiliary").distillation
    assert click.loss == CrossEntropy(temperature=2.0)
    assert long_view.loss is watch.loss is None


@pytest.mark.parametrize(
    ("recorded", "loss"),
    [
        ({"loss": "", "temperature": 1.0, "label_scale": 1.0}, None),
        ({"loss": "", "temperature": 2.0, "label_scale": 1.0}, CrossEntropy(temperature=2.0)),
        ({"loss": "cross_entropy", "temperature": 1.0, "label_scale": 1.0}, CrossEntropy()),
        ({"loss": "cross_entropy", "temperature": 1.0, "label_scale": 1.5}, CrossEntropy(label_scale=1.5)),
        ({"loss": "listwise", "temperature": 1.0, "label_scale": 1.0}, Listwise()),
        ({"loss": "kl", "temperature": 1.0, "label_scale": 1.0}, ZilnKL()),
        ({"label_scale": 1.5}, CrossEntropy(label_scale=1.5)),
        ({}, None),
        ({"loss": None}, None),
        (
            {"loss": {"type": "CrossEntropy", "temperature": 2.0, "label_scale": 1.0}},
            CrossEntropy(temperature=2.0),
        ),
    ],
)
def test_a_loss_that_an_older_version_recorded_by_name_is_the_object(
    recorded: dict[str, Any], loss: SoftLoss | None
) -> None:
    now = Distillation(task="t", loss=loss)
    assert completed({"type": "Distillation", "task": "t", **recorded}, now) == plain(now)


def test_a_loss_that_is_another_one_than_an_older_version_recorded_is_not_the_same() -> None:
    old = {"type": "Distillation", "task": "t", "loss": "logit_mse", "temperature": 1.0, "label_scale": 1.0}
    for loss in (None, CrossEntropy(), Listwise()):
        now = Distillation(task="t", loss=loss)
        assert completed(old, now) != plain(now)


OWN_KIND = """
from dataclasses import dataclass, replace

from tutelage.launch.configs import synthetic
from tutelage.models.task_kinds import Quality, TaskKind
from tutelage.pipeline.schema import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Count(TaskKind):
    most: float = 10.0
    outputs = ("log_rate",)
    loss_name = "poisson_loss"
    qualities = (Quality("poisson_loss", "lower", "MARGIN"),)

    def hard_loss(self, target, raw):
        return target

    def served(self, raw):
        return raw


def experiment(*, smoke: bool):
    bundled = synthetic.experiment(smoke=smoke)
    tasks = (*bundled.schema.tasks, Task(name="likes", label="likes", kind=Count()))
    return replace(bundled, schema=replace(bundled.schema, tasks=tasks))
"""


def test_a_task_kind_of_a_files_own_is_recorded_by_its_class_and_parameters(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN_KIND.replace("MARGIN", "squared_error_rise"))
    experiment = load(str(tmp_path / "own.py"), overrides=["schema.tasks.likes.kind.most=3"])
    *_, likes = experiment.identity["schema"]["tasks"]
    assert likes["kind"] == {"type": "Count", "most": 3.0}
    assert experiment.schema.tasks[-1].outputs == ("likes_log_rate",)


def test_a_quality_whose_margin_is_not_a_field_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN_KIND.replace("MARGIN", "poisson_rise"))
    with pytest.raises(
        UserError, match=r"^task 'likes': the margin of 'poisson_loss' is 'poisson_rise', expected"
    ):
        load(str(tmp_path / "own.py"))


def test_a_task_kind_of_a_files_own_reaches_a_worker_that_has_no_such_file(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN_KIND.replace("MARGIN", "squared_error_rise"))
    pickled = cloudpickle_pickler.dumps(load(str(tmp_path / "own.py")).schema)
    code = (
        "import sys\n"
        "from apache_beam.internal import cloudpickle_pickler\n"
        "print(cloudpickle_pickler.loads(sys.stdin.buffer.read()).outputs[-1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickled, capture_output=True, check=True)
    assert done.stdout == b"likes_log_rate\n"


OWN = """
{future}
from dataclasses import dataclass, replace
from functools import partial
from tutelage.launch.configs import synthetic
from tutelage.models import Backbone

@dataclass(frozen=True, slots=True, kw_only=True)
class Wide(Backbone):
    hidden: tuple[int, ...] = (8,)
    rate: float = 0.5
    margin: int = 1

def network(spec, *, units):
    ...

def experiment(*, smoke):
    made = synthetic.experiment(smoke=smoke)
    first, second, *_ = made.students
    first = replace(first, model=replace(first.model, backbone=partial(network, units=3)))
    teacher = replace(made.teacher, model=replace(made.teacher.model, backbone=Wide()))
    return replace(made, teacher=teacher, students=(first, second), study=None)
"""


@pytest.mark.parametrize("future", ["", "from __future__ import annotations"])
def test_a_backbone_of_a_config_file_is_set_and_recorded_by_its_class_and_fields(
    tmp_path: Path, future: str
) -> None:
    path = tmp_path / "own.py"
    path.write_text(OWN.format(future=future))
    sets = ("teacher.model.backbone.hidden=64,32", "students.direct.model.backbone.hidden=4")
    experiment = load(str(path), overrides=sets)
    recorded = plain(experiment.teacher)["model"]["backbone"]
    assert recorded == {"type": "Wide", "hidden": [64, 32], "rate": 0.5, "margin": 1}
    assert plain(experiment.students[1])["model"]["backbone"] == {"type": "MLP", "hidden": [4]}
    function = plain(experiment.students[0])["model"]["backbone"]
    assert function == {"type": "function", "function": "network", "args": [], "keywords": {"units": 3}}
    assert completed(plain(experiment.fixed), experiment.fixed) == plain(experiment.fixed)
    assert completed(plain(experiment.students[0]), experiment.students[0]) == plain(experiment.students[0])
    with pytest.raises(UserError, match="'backbone' is a single value and has no field 'units'"):
        load(str(path), overrides=["students.control.model.backbone.units=4"])


@pytest.mark.parametrize(
    ("network", "backbone"),
    [
        ({}, {"type": "MLP", "hidden": [8, 4]}),
        ({"cross_layers": 0, "dot_interaction": False, "experts": 0}, {"type": "MLP", "hidden": [8, 4]}),
        ({"cross_layers": 2}, {"type": "DCNv2", "hidden": [8, 4], "cross_layers": 2}),
        ({"dot_interaction": True, "experts": 0}, {"type": "DLRM", "hidden": [8, 4]}),
        (
            {"cross_layers": 1, "experts": 3},
            {"type": "MMoE", "hidden": [8, 4], "experts": 3, "cross_layers": 1, "dot_interaction": False},
        ),
    ],
)
def test_a_network_that_an_older_version_recorded_is_the_equal_backbone(
    network: dict[str, Any], backbone: dict[str, Any]
) -> None:
    now = _synthetic().teacher
    recorded = plain(now)
    model = {name: value for name, value in recorded["model"].items() if name != "backbone"}
    old = {**recorded, "model": {**model, "hidden": [8, 4], **network}}
    assert completed(old, now) == {**recorded, "model": {**model, "backbone": backbone}}


BASE = """
from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from typing import Literal

from tutelage.launch.configs import synthetic


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossEntropy(Loss):
    temperature: float = 1.0
    kind: Literal["hard", "soft"] = "soft"
    until: date | int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mine:
    loss: Loss


def experiment(*, smoke: bool):
    return replace(synthetic.experiment(smoke=smoke), source=Mine(loss=CrossEntropy()))
"""


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("source.loss.temperature=2", 2.0),
        ("source.loss.kind=hard", "hard"),
        ("source.loss.until=2026-01-02", date(2026, 1, 2)),
        ("source.loss.until=7", 7),
        ("source.loss.until=None", None),
    ],
)
def test_a_field_of_a_users_own_class_is_set_behind_a_field_of_its_base_class(
    tmp_path: Path, override: str, value: Any
) -> None:
    (tmp_path / "my.py").write_text(BASE)
    loss = load(str(tmp_path / "my.py"), overrides=[override]).source.loss  # type: ignore[attr-defined]
    found = getattr(loss, override.partition("=")[0].rsplit(".", 1)[1])
    assert (found, type(found)) == (value, type(value))


def test_a_field_that_the_users_own_class_has_not_is_refused_with_those_it_has(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(BASE)
    with pytest.raises(
        UserError, match=r"CrossEntropy has no field 'heat'; it has temperature, kind, until$"
    ):
        load(str(tmp_path / "my.py"), overrides=["source.loss.heat=2"])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "TASK = Task(name='click')",
            "TypeError: Task.__init__() missing 1 required keyword-only argument: 'label'",
        ),
        (
            "TASK = Task(name='click', label='click', lable=1)",
            "TypeError: Task.__init__() got an unexpected keyword argument 'lable'",
        ),
        ("TASK = Tsk(name='click')", "NameError: name 'Tsk' is not defined"),
        ("TASK = Task(name='click'", "SyntaxError: '(' was never closed"),
        ("import tutelage.modles", "ModuleNotFoundError: No module named 'tutelage.modles'"),
    ],
)
def test_a_mistake_in_a_config_file_is_one_line_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, says: str
) -> None:
    path = tmp_path / "my.py"
    path.write_text(f"from tutelage.pipeline.schema import Task\n\n{line}\n")
    with pytest.raises(UserError) as error:
        load(str(path))
    assert str(error.value) == f"{path}, line 3: {says}"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"my\.py, line 3: "):
        load("my.py")


def test_a_mistake_in_the_function_of_a_config_file_is_one_line_too(tmp_path: Path) -> None:
    path = tmp_path / "my.py"
    path.write_text("def experiment(*, smoke):\n    return nothing(smoke)\n")
    with pytest.raises(UserError, match=r"my\.py, line 2: NameError: name 'nothing' is not defined$"):
        load(str(path))
    path.write_text("def experiment(*, smoke):\n    return 7\n")
    with pytest.raises(UserError, match=r"experiment\(smoke\) returned 7, expected an Experiment$"):
        load(str(path))


def test_an_error_in_code_that_a_config_file_calls_keeps_its_traceback(tmp_path: Path) -> None:
    path = tmp_path / "my.py"
    path.write_text("import json\n\njson.loads(7)\n")
    with pytest.raises(TypeError, match="the JSON object must be str"):
        load(str(path))
