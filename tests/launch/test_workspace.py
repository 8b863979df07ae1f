"""A workdir belongs to the experiment that its data and models were made with; a student may be reset."""

import dataclasses
import json
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tutelage.launch.config import load
from tutelage.launch.experiment import Experiment, plain
from tutelage.launch.workspace import NothingHereYet, claim_student, open_workdir, reset_student
from tutelage.models.config import Distillation, ModelConfig
from tutelage.pipeline import commits
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.json import read_json, unsealed
from tutelage.pipeline.schema import METRICS, Downsampling, Feature, Schema, Task
from tutelage.pipeline.sources.kuairand import KuaiRand
from tutelage.pipeline.sources.synthetic import Synthetic
from tutelage.trainers.config import Sampling, StudentConfig, TeacherConfig, TrainingConfig
from tutelage.trainers.run import Run

DAY = date(2026, 1, 1)
STAYS = (
    "what the tables have stays as it is: keep it, and add what is renamed or changed under a new name "
    "(a model's `without` leaves the old one out), or "
)
# What the tests change, whatever it is in the config.
BEFORE = (
    "source.seed=1",
    "source.first_day=2026-01-01",
    "schema.features.user_id.capacity=100",
    "teacher.model.backbone.hidden=16,8",
    "training.batch_size=32",
    "students.auxiliary.model.backbone.hidden=4,2",
    "students.auxiliary.distillation.click.alpha=1",
)


def _synthetic(*overrides: str) -> Experiment:
    return load("synthetic", smoke=True, overrides=(*BEFORE, *overrides))


def _contents(folder: Path) -> dict[str, bytes]:
    """All files but the records of commits, to which is appended."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != commits.FILE
    }


def _report(run: Run, model: str, value: float) -> None:
    row = {"run": run.name, "day": DAY, "task": "click", "metric": "auc", "slice": "", "basis": "day_ahead"}
    frame = pl.DataFrame([{**row, "value": value, "rows": 1}], schema=dict(pl.Schema(METRICS)))
    run.lake.metrics.replace(frame, {"model": model}, day=str(DAY))


def _train(run: Run, model: str) -> None:
    """Leave what a model that was trained and published for one day leaves, without its variables."""
    checkpoint = run.checkpoints(model).folder / str(DAY)
    checkpoint.mkdir(parents=True)
    state = {"day": str(DAY), "step": 10, "examples": 5_000, "rows": 5_000, "id": model}
    (checkpoint / "state.json").write_text(json.dumps(state))
    version = run.root / "export" / model / "2026010101"
    version.mkdir(parents=True)
    (version / "saved_model.pb").write_text(model)


def _open_trained(workdir: Path, experiment: Experiment) -> Run:
    """Return the run of a workdir whose teacher is trained on a day, so that it belongs to the experiment."""
    run = open_workdir(str(workdir), experiment)
    _train(run, "teacher")
    return run


def test_a_new_workdir_has_the_three_tables_and_the_experiments_identity(tmp_path: Path) -> None:
    experiment = _synthetic()
    run = open_workdir(str(tmp_path / "not/yet/there"), experiment)
    assert run.root == tmp_path / "not/yet/there"
    assert (run.name, run.schema, run.teacher) == ("synthetic", experiment.schema, experiment.teacher)
    assert read_json(run.root / "config.json") == experiment.identity
    for table in ("interactions", "soft_labels", "metrics"):
        assert pl.read_delta(str(run.root / "lake" / table)).height == 0
    assert sorted(path.name for path in run.root.iterdir()) == ["config.json", "lake"]


def test_a_workdir_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_workdir("w", _synthetic()).root == tmp_path / "w"


def test_the_same_experiment_opens_it_again_and_changes_nothing(tmp_path: Path) -> None:
    run = open_workdir(str(tmp_path), _synthetic())
    _report(run, "teacher", 0.7)
    before = _contents(tmp_path)
    again = open_workdir(str(tmp_path), _synthetic())
    assert again == run
    assert _contents(tmp_path) == before
    assert again.lake.metrics.scan().collect()["value"].to_list() == [0.7]


def test_days_and_students_may_change(tmp_path: Path) -> None:
    experiment = _synthetic()
    _open_trained(tmp_path, experiment)
    new = dataclasses.replace(experiment.students[0], name="new")
    open_workdir(str(tmp_path), dataclasses.replace(experiment, students=(*experiment.students, new)))
    open_workdir(str(tmp_path), dataclasses.replace(experiment, students=()))
    open_workdir(
        str(tmp_path), _synthetic("end_day=2026-02-01", "students.auxiliary.distillation.click.alpha=2")
    )
    served = open_workdir(str(tmp_path), _synthetic("schema.features.position.serve_as=3"))
    assert [f.name for f in served.schema.features if f.serve_as == 3] == ["position"]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("source.seed=2", "source.seed was 1 and is 2"),
        ("source.first_day=2026-01-02", 'source.first_day was "2026-01-01" and is "2026-01-02"'),
        ("schema.features.user_id.capacity=50", "schema.features.user_id.capacity was 100 and is 50"),
        ("schema.tasks.long_view.label=click", 'schema.tasks.long_view.label was "long_view" and is "click"'),
        ("schema.time_zone=Asia/Shanghai", 'schema.time_zone was "UTC" and is "Asia/Shanghai"'),
        ("teacher.name=other", 'teacher.name was "teacher" and is "other"'),
        ("teacher.model.backbone.hidden=16", "teacher.model.backbone.hidden was [16, 8] and is [16]"),
        ("training.batch_size=64", "training.batch_size was 32 and is 64"),
    ],
)
def test_another_experiment_is_refused_with_what_was_and_what_is(
    tmp_path: Path, override: str, says: str
) -> None:
    _open_trained(tmp_path, _synthetic())
    before = _contents(tmp_path)
    with pytest.raises(UserError) as error:
        open_workdir(str(tmp_path), _synthetic(override))
    how = STAYS if says.startswith(("schema.features", "schema.tasks")) else ""
    assert str(error.value) == (
        f"--workdir={tmp_path} was made with another config: {says}; {how}give another --workdir"
    )
    assert _contents(tmp_path) == before


def _make_old(path: Path) -> None:
    """Rewrite a record as a version would have that had none of the fields which are at their defaults."""
    kinds = (Schema, Feature, Task, Synthetic, TrainingConfig, TeacherConfig, StudentConfig)
    kinds += (ModelConfig, Distillation, Sampling)  # type: ignore[assignment]
    defaults = {kind.__name__: {f.name: plain(f.default) for f in dataclasses.fields(kind)} for kind in kinds}

    def undone(config: Any) -> Any:
        if isinstance(config, list):
            return [undone(item) for item in config]
        if not isinstance(config, dict):
            return config
        newer = defaults.get(config.get("type", ""), {})
        return {key: undone(value) for key, value in config.items() if value != newer.get(key, ...)}

    whole = path.read_text()
    path.write_text(json.dumps(undone(unsealed(json.loads(whole))), indent=1))
    assert '"sampling"' not in path.read_text()


def test_fields_that_an_older_version_did_not_record_are_their_defaults(tmp_path: Path) -> None:
    experiment = _synthetic()
    run = _open_trained(tmp_path, experiment)
    claim_student(run, experiment.student("auxiliary"))
    _train(run, "auxiliary")
    _make_old(tmp_path / "config.json")
    _make_old(tmp_path / "students/auxiliary/config.json")
    before = _contents(tmp_path)
    assert open_workdir(str(tmp_path), experiment) == run
    claim_student(run, experiment.student("auxiliary"))
    assert _contents(tmp_path) == before
    for override, says in (
        ("teacher.model.without=hour", 'teacher.model.without was [] and is ["hour"]'),
        ("teacher.sampling.rate=0.5", "teacher.sampling.rate was 1.0 and is 0.5"),
        ("schema.slice_days=2", "schema.slice_days was 1 and is 2"),
        ("source.new_ids=0.1", "source.new_ids was 0.0 and is 0.1"),
    ):
        with pytest.raises(UserError) as error:
            open_workdir(str(tmp_path), _synthetic(override))
        made = f"--workdir={tmp_path} was made with another config"
        assert str(error.value) == f"{made}: {says}; give another --workdir"
    schema = dataclasses.replace(experiment.schema, downsampling=Downsampling(task="click", rate=0.5))
    with pytest.raises(UserError, match=r'config: schema\.downsampling was null and is {"type": "Downs'):
        open_workdir(str(tmp_path), dataclasses.replace(experiment, schema=schema))
    changed = _synthetic("students.auxiliary.distillation.click.loss.temperature=2").student("auxiliary")
    with pytest.raises(
        UserError,
        match=r"distillation\.click\.loss was null and is {\"type\": \"CrossEntropy\", .*; pass --reset",
    ):
        claim_student(run, changed)


def test_the_schema_of_a_workdir_of_an_older_version_may_grow(tmp_path: Path) -> None:
    experiment = _synthetic()
    run = open_workdir(str(tmp_path), experiment)
    _train(run, "control")
    _make_old(tmp_path / "config.json")
    features = (*experiment.schema.features, Feature(name="age", dtype="float32"))
    grown = dataclasses.replace(experiment, schema=dataclasses.replace(experiment.schema, features=features))
    open_workdir(str(tmp_path), grown)
    assert read_json(tmp_path / "config.json") == grown.identity


def test_a_field_without_a_default_that_is_not_recorded_is_named(tmp_path: Path) -> None:
    _open_trained(tmp_path, _synthetic())
    path = tmp_path / "config.json"
    made = read_json(path)
    del made["source"]["seed"]
    path.write_text(json.dumps(made))
    with pytest.raises(UserError, match=r"config: source\.seed was null and is 1; give another --workdir$"):
        open_workdir(str(tmp_path), _synthetic())


def test_a_missing_feature_is_named_and_a_new_one_besides_does_not_help(tmp_path: Path) -> None:
    experiment = _synthetic()
    _open_trained(tmp_path, experiment)
    features = [f for f in experiment.schema.features if f.name != "hour"]
    new = dataclasses.replace(experiment.schema, features=(Feature(name="age", dtype="float32"), *features))
    with pytest.raises(UserError) as error:
        open_workdir(str(tmp_path), dataclasses.replace(experiment, schema=new))
    # A long value is cut to 57 characters and three dots.
    assert str(error.value) == (
        f"--workdir={tmp_path} was made with another config: "
        'schema.features.hour was {"type": "Feature", "name": "hour", "dtype": "int64", "ca... and is null; '
        f"{STAYS}give another --workdir"
    )


def test_tasks_in_another_order_are_another_schema(tmp_path: Path) -> None:
    tasks = _synthetic().schema.tasks
    schema = dataclasses.replace(_synthetic().schema, tasks=tasks[::-1])
    _open_trained(tmp_path, _synthetic())
    with pytest.raises(UserError) as error:
        open_workdir(str(tmp_path), dataclasses.replace(_synthetic(), schema=schema))
    old, new = '["click", "long_view", "watch"]', '["watch", "long_view", "click"]'
    assert f"config: the order of schema.tasks was {old} and is {new}; give" in str(error.value)


def test_of_many_changes_three_are_named(tmp_path: Path) -> None:
    _open_trained(tmp_path, _synthetic())
    with pytest.raises(UserError) as error:
        open_workdir(str(tmp_path), dataclasses.replace(_synthetic(), source=KuaiRand()))
    assert str(error.value).endswith(
        'source.type was "Synthetic" and is "KuaiRand"; source.seed was 1 and is null; '
        'source.first_day was "2026-01-01" and is null; give another --workdir'
    )


@pytest.mark.parametrize("name", ["my work", "Größe", "50%", "a#b"])
def test_a_path_below_which_no_delta_table_can_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        UserError, match=r"holds '.', and Delta tables below it could not be read; give one of"
    ):
        open_workdir(str(tmp_path / name), _synthetic())
    assert not (tmp_path / name).exists()


def test_a_workdir_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for workdir, why in ((tmp_path / "file", "File exists"), (tmp_path / "file/below", "Not a directory")):
        with pytest.raises(UserError) as error:
            open_workdir(str(workdir), _synthetic())
        assert str(error.value) == (
            f"--workdir={workdir}: cannot be written to ({why}); give a folder that can"
        )


def test_a_student_is_claimed_as_it_is_and_refused_when_changed(tmp_path: Path) -> None:
    run = open_workdir(str(tmp_path), _synthetic())
    claim_student(run, _synthetic().student("auxiliary"))
    _train(run, "auxiliary")
    claim_student(run, _synthetic().student("auxiliary"))
    changed = _synthetic(
        "students.auxiliary.distillation.click.alpha=3", "students.auxiliary.model.backbone.hidden=8,4"
    )
    with pytest.raises(UserError) as error:
        claim_student(run, changed.student("auxiliary"))
    assert str(error.value) == (
        "student 'auxiliary' was made with another config: "
        "model.backbone.hidden was [4, 2] and is [8, 4]; distillation.click.alpha was 1.0 and is 3.0; "
        "pass --reset to train auxiliary from scratch, or give the changed one a new name"
    )


def test_a_reset_removes_a_students_days_and_metrics_and_nothing_else(tmp_path: Path) -> None:
    experiment = _synthetic()
    run = open_workdir(str(tmp_path), experiment)
    models = ["teacher", "control", "late_control"]
    for model in models:
        _train(run, model)
        _report(run, model, 0.7)
    for name in models[1:]:
        claim_student(run, experiment.student(name))
    before = _contents(tmp_path)
    reset_student(run, experiment.student("control"))
    after = _contents(tmp_path)
    gone = {name for name in before if name not in after}
    assert gone == {"students/control/config.json", f"students/control/checkpoints/{DAY}/state.json"}
    assert {name: before[name] for name in before if name not in gone} == {
        name: content for name, content in after.items() if name in before
    }
    assert after["export/control/2026010101/saved_model.pb"] == b"control"
    assert run.checkpoints("control").states() == []
    assert [state.day for state in run.checkpoints("late_control").states()] == [DAY]
    assert run.lake.metrics.partitions()["model"].to_list() == ["late_control", "teacher"]


def test_a_reset_student_may_have_another_config(tmp_path: Path) -> None:
    run = open_workdir(str(tmp_path), _synthetic())
    claim_student(run, _synthetic().student("auxiliary"))
    changed = _synthetic("students.auxiliary.distillation.click.alpha=3").student("auxiliary")
    _train(run, "auxiliary")
    reset_student(run, changed)
    claim_student(run, changed)
    shutil.rmtree(run.root / "export")
    _train(run, "auxiliary")
    with pytest.raises(UserError, match=r"alpha was 3\.0 and is 1\.0"):
        claim_student(run, _synthetic().student("auxiliary"))


def test_a_student_that_is_not_trained_may_be_reset(tmp_path: Path) -> None:
    run = open_workdir(str(tmp_path), _synthetic())
    reset_student(run, _synthetic().student("control"))
    assert run.lake.metrics.scan().collect().height == 0


def _commit_a_day(run: Run) -> None:
    row = pl.DataFrame({"example_id": [1]}, schema={"example_id": pl.Int64})
    names = [name for name in run.lake.interactions.schema.names if name not in ("day", "example_id")]
    run.lake.interactions.replace(row.with_columns(pl.lit(None).alias(name) for name in names), {"day": DAY})


def test_a_workdir_without_data_and_models_takes_any_experiment(tmp_path: Path) -> None:
    run = open_workdir(str(tmp_path), _synthetic())
    claim_student(run, _synthetic().student("auxiliary"))
    schema = dataclasses.replace(
        _synthetic().schema, features=(*_synthetic().schema.features, Feature(name="age", dtype="float32"))
    )
    other = dataclasses.replace(
        _synthetic("source.seed=2", "teacher.model.backbone.hidden=16", "name=other"), schema=schema
    )
    run = open_workdir(str(tmp_path), other)
    assert read_json(tmp_path / "config.json") == other.identity
    assert "age" in pl.read_delta(str(tmp_path / "lake/interactions")).columns
    changed = _synthetic("students.auxiliary.distillation.click.alpha=3").student("auxiliary")
    claim_student(run, changed)
    assert read_json(tmp_path / "students/auxiliary/config.json") == plain(changed)


def test_a_workdir_with_data_and_no_model_keeps_its_source_and_schema(tmp_path: Path) -> None:
    _commit_a_day(open_workdir(str(tmp_path), _synthetic()))
    changed = _synthetic("teacher.model.backbone.hidden=16", "training.batch_size=64", "name=other")
    open_workdir(str(tmp_path), changed)
    assert read_json(tmp_path / "config.json") == changed.identity
    for override, says in (
        ("source.seed=2", "source.seed was 1 and is 2; give another --workdir"),
        ("schema.time_zone=Asia/Shanghai", 'schema.time_zone was "UTC" and is "Asia/Shanghai"; give'),
    ):
        with pytest.raises(UserError, match=says):
            open_workdir(str(tmp_path), _synthetic(override))


@pytest.mark.parametrize("left", ["days", "partial checkpoint"])
def test_a_workdir_with_a_model_belongs_to_its_experiment(tmp_path: Path, left: str) -> None:
    run = open_workdir(str(tmp_path), _synthetic())
    if left == "days":
        _train(run, "control")
    else:
        (run.checkpoints("control").folder / "within-000001").mkdir(parents=True)
    with pytest.raises(UserError, match=r"teacher\.model\.backbone\.hidden was \[16, 8\] and is \[16\]"):
        open_workdir(str(tmp_path), _synthetic("teacher.model.backbone.hidden=16"))


def test_reading_a_workdir_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(NothingHereYet) as error:
        open_workdir(str(tmp_path / "w"), _synthetic(), read_only=True)
    assert str(error.value) == (f"{tmp_path}/w: nothing here yet; tutelage-run begins an experiment there")
    assert list(tmp_path.iterdir()) == []
    run = _open_trained(tmp_path / "w", _synthetic())
    before = _contents(tmp_path)
    assert open_workdir(str(tmp_path / "w"), _synthetic(), read_only=True) == run
    with pytest.raises(UserError, match=r"source\.seed was 1 and is 2"):
        open_workdir(str(tmp_path / "w"), _synthetic("source.seed=2"), read_only=True)
    assert _contents(tmp_path) == before


def test_reading_a_workdir_leaves_out_what_is_new_in_the_schema(tmp_path: Path) -> None:
    experiment = _synthetic()
    _open_trained(tmp_path, experiment)
    before = _contents(tmp_path)
    features = (*experiment.schema.features, Feature(name="age", dtype="float32"))
    model = dataclasses.replace(experiment.teacher.model, without=("age",))
    grown = dataclasses.replace(
        experiment,
        schema=dataclasses.replace(experiment.schema, features=features),
        teacher=dataclasses.replace(experiment.teacher, model=model),
    )
    assert open_workdir(str(tmp_path), grown, read_only=True).schema == experiment.schema
    assert _contents(tmp_path) == before
