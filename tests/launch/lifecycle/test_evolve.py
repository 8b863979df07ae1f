"""A schema grows in a workdir: the tables get the columns, and trained models stay as they are."""

import dataclasses
import logging
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from tests.launch import small, small_config
from tests.launch.grown_config import NEW
from tests.launch.grown_config import SCHEMA as GROWN
from tutelage.launch import steps
from tutelage.launch.actions.report import report
from tutelage.launch.config import load
from tutelage.launch.experiment import Experiment, plain
from tutelage.launch.lifecycle import evolve
from tutelage.launch.session import Session
from tutelage.launch.workspace import claim_student, claim_successor, open_workdir
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.json import read_json
from tutelage.pipeline.io.locks import locked
from tutelage.trainers.config import SuccessorConfig, TeacherConfig
from tutelage.trainers.handover import TakeOver, read_takeovers, write_takeovers
from tutelage.trainers.run import is_teacher

DAYS = small.DAYS
OLD = str(DAYS[1])
TABLES = ("interactions", "soft_labels", "histories")


def _grown(workdir: Path, **asked: str) -> Session:
    return small.open_session(workdir, config=small.GROWN, **asked)


def _experiment(config: Path = small.GROWN, **fields: object) -> Experiment:
    return dataclasses.replace(load(str(config)), **fields)  # type: ignore[arg-type]


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_old_days_have_a_null_and_new_days_what_the_raw_data_has_without_a_replay(tmp_path: Path) -> None:
    workdir = tmp_path / "w"
    before = small.materialize(workdir, end_day=OLD).run.lake.interactions.attempts(DAYS[:2])
    session = _grown(workdir, end_day="2026-01-03")
    assert steps.to_materialize(session) == DAYS[2:3]
    steps.materialize(session, DAYS[2:3])
    frame = pl.read_delta(str(workdir / "lake/interactions"))
    old, new = frame.filter(pl.col("day") < DAYS[2]), frame.filter(day=DAYS[2])
    assert (old["age"].null_count(), old["tags"].null_count(), old.height) == (80, 80, 80)
    assert (old["liked"].null_count(), new["liked"].sum()) == (80, 20)
    assert sorted(new["age"].unique()) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert new["tags"].to_list() == [["new"]] * 40
    assert session.run.lake.interactions.attempts(DAYS[:2]) == before
    # A model that takes them sees the declared defaults: a list filled up, a number of 0.
    lake = session.run.lake
    first = lake.with_histories(lake.interactions.scan(day=DAYS[0]), DAYS[0]).collect()
    arrays = GROWN.arrays(first)
    assert arrays["age"].tolist() == [0.0] * 40
    assert arrays["tags"].tolist() == [["", ""]] * 40
    assert arrays["clicked"].tolist() == [[-1, -1]] * 40
    made = pl.read_delta(str(workdir / "lake/histories")).sort("day", "user_id")
    assert made.filter(pl.col("day") < DAYS[2])["clicked"].null_count() == 14  # 7 users on each
    assert made.filter(day=DAYS[2])["clicked"].null_count() == 0


def test_a_grown_schema_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _forge(small.open_session(tmp_path), "control")
    with caplog.at_level(logging.WARNING):
        open_workdir(str(tmp_path), _experiment())
        open_workdir(str(tmp_path), _experiment())
    assert caplog.messages == [
        "age, tags, like, clicked: added to the tables, null for the days that are there"
    ]
    assert read_json(tmp_path / "config.json") == _experiment().identity


def test_a_first_history_makes_the_table_of_histories(tmp_path: Path) -> None:
    plain = dataclasses.replace(small_config.SCHEMA, histories=())
    source = dataclasses.replace(_experiment(small.CONFIG).source, schema=plain)  # type: ignore[type-var]
    open_workdir(str(tmp_path), _experiment(small.CONFIG, schema=plain, source=source))
    assert not (tmp_path / "lake/histories").exists()
    run = open_workdir(str(tmp_path), _experiment(small.CONFIG))
    assert pl.read_delta(str(run.root / "lake/histories")).columns == ["user_id", "seen", "day"]


def test_a_teacher_that_is_trained_must_stay_without_what_is_new(tmp_path: Path) -> None:
    workdir = tmp_path / "w"
    session = small.open_session(workdir)
    before = _contents(workdir)
    model = dataclasses.replace(small_config.MODEL, without=("tags",))
    greedy = _experiment(teacher=dataclasses.replace(_experiment().teacher, model=model))
    _forge(session, "teacher")
    with pytest.raises(UserError) as error:
        open_workdir(str(workdir), greedy)
    assert str(error.value) == (
        "age, like, clicked: new in the schema, and the teacher was trained without: put them into its model's "
        "`without` (new students may take what is new), or give another --workdir"
    )
    assert {name: _contents(workdir)[name] for name in before} == before
    open_workdir(str(workdir), _experiment())


def test_a_teacher_that_is_not_trained_yet_may_take_what_is_new(tmp_path: Path) -> None:
    _forge(small.open_session(tmp_path), "control")
    greedy = _experiment(teacher=_experiment(small.CONFIG).teacher)
    open_workdir(str(tmp_path), greedy)
    with pytest.raises(UserError, match=r"teacher.model.without was \[\] and is \["):
        open_workdir(str(tmp_path), _experiment())


def _forge(session: Session, model: str) -> None:
    """Leave a checkpoint of the first day, and a student's config."""
    if not is_teacher(model):
        claim_student(session.run, session.experiment.student(model))
    folder = session.run.checkpoints(model).folder / str(DAYS[0])
    folder.mkdir(parents=True)
    (folder / "state.json").write_text('{"day": "2026-01-01", "step": 1, "examples": 1, "rows": 1}')


def test_a_student_that_is_trained_stays_without_what_is_new_or_is_reset(tmp_path: Path) -> None:
    session = small.open_session(tmp_path / "w")
    _forge(session, "control")
    claim_student(session.run, session.experiment.student("late"))  # It is not trained yet.
    session = _grown(tmp_path / "w")
    claim_student(session.run, session.experiment.student("control"))
    greedy = _experiment(small.CONFIG).student("control")
    with pytest.raises(UserError) as error:
        claim_student(session.run, greedy)
    assert str(error.value) == (
        "student 'control' was made with another config: "
        'model.without was ["age", "tags", "like", "clicked"] and is []; '
        "pass --reset to train control from scratch, or give the changed one a new name"
    )
    claim_student(session.run, _experiment(small.CONFIG).student("late"))
    claim_student(session.run, session.experiment.student("keen"))


def _successors(config: Path, teacher: str, successor: str = "", **fields: object) -> Experiment:
    """The config's experiment with teachers of these names; in `fields`, their `without`."""
    base = _experiment(config)

    def named(name: str) -> TeacherConfig:
        model = dataclasses.replace(small_config.MODEL, without=fields.get(name, base.teacher.model.without))
        return dataclasses.replace(base.teacher, name=name, model=model)

    beside = SuccessorConfig(teacher=named(successor)) if successor else None
    return dataclasses.replace(base, teacher=named(teacher), successor=beside)


def _beside(root: Path, experiment: Experiment) -> Session:
    run = open_workdir(str(root), experiment)
    session = Session(experiment=experiment, run=run, days=DAYS)
    assert session.successor
    claim_successor(run, session.successor)
    return session


def _take_over(root: Path, experiment: Experiment) -> None:
    """Train both on the first day; the successor labels from the second on."""
    session = _beside(root, experiment)
    assert session.successor
    for model in session.teachers:
        if not session.run.checkpoints(model).states():
            _forge(session, model)
    change = TakeOver(
        before=session.run.labeller(DAYS[0]),
        name=session.successor.teacher.name,
        teacher=plain(session.successor.teacher),
        first_day=None,
        judged=[DAYS[0]],
        checks=[],
        from_day=DAYS[1],
        decided_at="",
    )
    write_takeovers(root, [*session.run.takeovers, change])


def test_after_changes_of_teacher_the_schema_grows_and_the_teachers_before_may_be_restored(
    tmp_path: Path,
) -> None:
    _take_over(tmp_path, _successors(small.CONFIG, "teacher", "wide"))
    _take_over(tmp_path, _successors(small.CONFIG, "wide", "wider"))
    with pytest.raises(
        UserError, match=r"^age: new in the schema, and the teacher was trained without: put it"
    ):
        open_workdir(str(tmp_path), _successors(small.GROWN, "wider", wider=("tags", "like", "clicked")))
    run = open_workdir(str(tmp_path), _successors(small.GROWN, "wider"))
    assert (run.teacher_model, run.teacher.model.without) == ("teacher-wider", NEW)
    assert run.takeovers == read_takeovers(tmp_path)
    assert [change.teacher["model"]["without"] for change in run.takeovers] == [list(NEW)] * 2
    assert "age" in pl.read_delta(str(tmp_path / "lake/interactions")).columns
    # A rollback takes one change back, and then the other.
    for left, teachers in ((1, ("wide", "wider")), (0, ("teacher", "wide"))):
        experiment = _successors(small.GROWN, *teachers)
        assert open_workdir(str(tmp_path), experiment).teacher.name == teachers[1]
        write_takeovers(tmp_path, read_takeovers(tmp_path)[:left])
        assert _beside(tmp_path, experiment).run.teacher.name == teachers[0]


def test_a_successor_may_take_what_is_new_as_long_as_it_is_not_trained_yet(tmp_path: Path) -> None:
    beside = _successors(small.CONFIG, "teacher", "wide")
    greedy, modest = (
        _successors(small.GROWN, "teacher", "wide", wide=()),
        _successors(small.GROWN, "teacher", "wide"),
    )
    _forge(_beside(tmp_path / "one", beside), "teacher")
    assert _beside(tmp_path / "one", greedy).model("teacher-wide").without == ()

    _forge(_beside(tmp_path / "other", beside), "teacher-wide")
    with pytest.raises(UserError, match="new in the schema, and teacher-wide was trained without: put them"):
        open_workdir(str(tmp_path / "other"), greedy)
    assert _beside(tmp_path / "other", modest).model("teacher-wide").without == NEW


def test_killed_anywhere_it_ends_the_same_when_it_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    write = evolve.write

    def write_no_workdirs(path: Path, content: dict[str, object]) -> None:
        if path.parent.name != "control":  # The students' come before the workdir's own.
            raise KeyboardInterrupt
        write(path, content)

    for place, killed in (
        ("", None),
        ("tutelage.pipeline.table.Table.add_columns", _killed),
        ("tutelage.launch.lifecycle.evolve.write", _killed),
        ("tutelage.launch.lifecycle.evolve.write", write_no_workdirs),
    ):
        workdir = tmp_path / str(len(results))
        _forge(small.open_session(workdir), "control")
        if place:
            monkeypatch.setattr(place, killed)
            with pytest.raises(KeyboardInterrupt):
                open_workdir(str(workdir), _experiment())
            monkeypatch.undo()
            # The old schema still opens the workdir.
            open_workdir(str(workdir), _experiment(small.CONFIG))
        open_workdir(str(workdir), _experiment())
        tables = [
            pl.read_delta(str(workdir / "lake" / name)).schema for name in ("interactions", "histories")
        ]
        configs = [(workdir / name).read_text() for name in ("config.json", "students/control/config.json")]
        results.append((tables, configs))
    assert results == results[:1] * 4


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_no_column_is_added_while_a_job_writes_with_the_schema_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _forge(small.open_session(tmp_path), "control")
    monkeypatch.setattr("tutelage.launch.workspace._PATIENCE", 0)
    with locked(tmp_path / "lake/.lock", ""), pytest.raises(UserError) as error:
        open_workdir(str(tmp_path), _experiment())
    assert str(error.value) == (
        f"age, tags, like, clicked: new in the schema, and a job is writing tables in {tmp_path}/lake; wait for it, "
        "or stop it"
    )
    assert "age" not in [field.name for field in DeltaTable(tmp_path / "lake/interactions").schema().fields]


def test_a_renamed_feature_is_refused_with_the_remedy(tmp_path: Path) -> None:
    _forge(small.open_session(tmp_path), "control")
    *others, last = small_config.SCHEMA.features
    renamed = dataclasses.replace(
        small_config.SCHEMA, features=(*others, dataclasses.replace(last, name="length"))
    )
    with pytest.raises(UserError) as error:
        open_workdir(str(tmp_path), _experiment(small.CONFIG, schema=renamed))
    assert str(error.value).startswith(f"--workdir={tmp_path} was made with another config: ")
    assert 'schema.features.seconds was {"type": "Feature"' in str(error.value)
    assert str(error.value).endswith(
        "; what the tables have stays as it is: keep it, and add what is renamed or changed under a new name "
        "(a model's `without` leaves the old one out), or give another --workdir"
    )


@pytest.mark.slow
def test_trained_models_go_on_and_new_students_take_what_is_new(tmp_path: Path) -> None:
    session = small.materialize(tmp_path / "w", end_day=OLD)
    for model in ("teacher", "auxiliary"):
        steps.train(session, model)
    session = _grown(tmp_path / "w", end_day="2026-01-03")
    steps.materialize(session, steps.to_materialize(session))
    trained = {"teacher": DAYS[:3], "auxiliary": DAYS[:3], "keen": DAYS[:3], "fan": DAYS[2:3]}
    for model, days in trained.items():
        steps.train(session, model)
        assert [state.day for state in session.run.checkpoints(model).states()] == days
        assert session.days_to_train(model) == []
    labels = pl.read_delta(str(tmp_path / "w/lake/soft_labels"))
    assert (labels["click_logit"].null_count(), labels["like_logit"].null_count()) == (0, 120)
    metrics = session.run.lake.metrics.scan(metric="log_loss", basis="day_ahead").collect()
    tasks = {model: set(frame["task"]) for (model,), frame in metrics.group_by("model")}
    assert tasks == {
        "teacher": {"click"},
        "auxiliary": {"click"},
        "keen": {"click"},
        "fan": {"like", "click"},
    }
    used = session.run.lake.metrics.scan(metric="labels_used", model="keen").collect()
    assert used["value"].to_list() == [40] * 3
    for model, expected in (
        ("keen", {"expected_click", "expected_score"}),
        ("fan", {"expected_like", "expected_click", "expected_score"}),
    ):
        (*_, last) = steps.export(session, model)
        assert last.verdict
        assert last.verdict.blessed, str(last.verdict)
        columns = set(pl.read_parquet(last.version.path / "assets.extra/golden.parquet").columns)
        assert {name for name in columns if name.startswith("expected_")} == expected
        assert {"age", "tags", "clicked"} < columns
    report(small.open_session(tmp_path / "w", config=small.GROWN, end_day="2026-01-03"))
