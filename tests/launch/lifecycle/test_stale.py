"""Days whose rows or labels were made again: what was built on them is found, removed, and built again."""

import dataclasses
import io
import itertools
import json
import shutil
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from tests.same import assert_same
from tests.tiny import AUXILIARY, DAYS, MODEL, SCHEMA, commit, interactions, make_run
from tutelage.export.config import ServingConfig
from tutelage.launch import run as nightly
from tutelage.launch.actions import console as actions_console
from tutelage.launch.experiment import Experiment
from tutelage.launch.lifecycle import stale
from tutelage.launch.report.status import print_status
from tutelage.launch.session import Session
from tutelage.pipeline.io.json import read_json
from tutelage.pipeline.soft_labels import LabelPartition
from tutelage.pipeline.sources.synthetic import Synthetic
from tutelage.trainers.checkpoints import State
from tutelage.trainers.config import StudentConfig
from tutelage.trainers.day_loop import train_student, train_teacher
from tutelage.trainers.run import TEACHER

ATTEMPTS = itertools.count(10)
CONTROL = StudentConfig(name="control", model=MODEL)
SNAPSHOT = dataclasses.replace(AUXILIARY, name="snapshot", producer="snapshot")
LATE = dataclasses.replace(CONTROL, name="late", first_day=DAYS[2])


def _session(root: Path, *, days: list[date] = DAYS) -> Session:
    """A workdir whose lake holds the three days, with four students."""
    run = make_run(root)
    source = Synthetic(
        seed=1,
        first_day=DAYS[0],
        rows_per_day=1,
        users=1,
        videos=1,
        new_users_per_day=1,
        new_videos_per_day=1,
    )
    experiment = Experiment(
        name=run.name,
        source=source,
        schema=SCHEMA,
        training=run.training,
        teacher=run.teacher,
        students=(CONTROL, AUXILIARY, SNAPSHOT, LATE),
        serving=ServingConfig(score=(("click", 1.0),)),
        start_day=str(days[0]),
        end_day=str(days[-1]),
    )
    return Session(experiment=experiment, run=run, days=days)


def _correct(session: Session, day: date) -> None:
    """Make a day again without its first row."""
    commit(session.run.lake, day, interactions(day)[1:], attempt=2)


def _train(session: Session, model: str, *days: date, labels: str = "") -> None:
    """Leave the states of finished days, as a trainer does; their variables apart."""
    read = (TEACHER, labels) if labels else None
    for n, (day, input_versions) in enumerate(
        session.run.lake.input_versions(days, histories=False, labels=read).items(), 1
    ):
        folder = session.run.checkpoints(model).folder / str(day)
        folder.mkdir(parents=True)
        state = State(day=day, step=4 * n, examples=60 * n, rows=60, input_versions=input_versions)
        (folder / "state.json").write_text(json.dumps(state.recorded()))


def _label(session: Session, producer: str, day: date, *, snapshot: date | None, score: float = 0.5) -> None:
    """Leave the labels of a day, as the labeler or the teacher does."""
    lake = session.run.lake
    rows = lake.interactions.scan(day=day).select("example_id").collect()
    rows = rows.with_columns(
        *(pl.lit(score, pl.Float32).alias(name) for name in SCHEMA.outputs)
    ).with_columns(
        snapshot_day=pl.lit(snapshot, pl.Date),
        teacher_step=pl.lit(1, pl.Int64),
        trained_step=pl.lit(2, pl.Int64),
    )
    partition = LabelPartition(TEACHER, producer, day)
    if producer == "pre_update":
        lake.soft_labels.write(partition, rows)
    else:
        file = lake.soft_labels.write_file(partition, rows, name="part")
        source = lake.label_sources([day])[day]
        lake.soft_labels.commit(partition, [file], attempt=next(ATTEMPTS), source=source)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Return a session whose models are trained on their days and whose labels are all there."""
    session = _session(tmp_path_factory.mktemp("made"))
    _train(session, TEACHER, *DAYS)
    for day, before in zip(DAYS, [None, *DAYS], strict=False):
        _label(session, "pre_update", day, snapshot=before)
        if before:
            _label(session, "snapshot", day, snapshot=before)
    _train(session, "control", *DAYS)
    _train(session, "auxiliary", *DAYS, labels="pre_update")
    _train(session, "snapshot", *DAYS, labels="snapshot")
    _train(session, "late", DAYS[2])
    return session


@pytest.fixture
def trained(made: Session, tmp_path: Path) -> Session:
    root = shutil.copytree(made.run.root, tmp_path / "w")
    return dataclasses.replace(
        made,
        run=dataclasses.replace(made.run, root=root),
    )


def _invalidated(session: Session) -> dict[str, list[date]]:
    """The days that each model loses."""
    found = stale.find(session)
    assert found
    return {model: found.invalidation.days(session, model) for model in found.invalidation.since}


def _left(session: Session) -> dict[str, list[date]]:
    return {
        model: [state.day for state in session.run.checkpoints(model).states()] for model in session.models
    }


def test_what_was_made_from_what_is_there_is_not_stale(trained: Session) -> None:
    assert stale.find(trained) is None
    # The same rows, in another order and in two files.
    table = trained.run.lake.interactions
    rows = interactions(DAYS[1]).reverse()
    files = [table.write_file(part, {"day": DAYS[1]}, name="part") for part in (rows[:20], rows[20:])]
    table.commit(files, {"day": DAYS[1]}, attempt=2, metadata={})
    assert stale.find(trained) is None


def test_a_corrected_day_invalidates_later_days_labels_and_their_readers(trained: Session) -> None:
    _correct(trained, DAYS[1])
    found = stale.find(trained)
    assert found
    since = dict.fromkeys((TEACHER, "control", "auxiliary", "snapshot"), DAYS[1:])
    assert _invalidated(trained) == since  # the late student is trained on the third day only
    assert found.invalidation.labels == [
        ("teacher", "pre_update", DAYS[1]),
        ("teacher", "pre_update", DAYS[2]),
        ("teacher", "snapshot", DAYS[1]),  # its rows have changed; the snapshot of the first day stays
        ("teacher", "snapshot", DAYS[2]),  # by the snapshot of the second day
    ]
    assert found.unrecoverable_days == []
    assert found.describe(trained) == (
        "teacher from 2026-01-02 on (2 days), control from 2026-01-02 on (2 days), auxiliary from 2026-01-02 on "
        "(2 days), snapshot from 2026-01-02 on (2 days), snapshot labels of 2026-01-02, snapshot labels of "
        "2026-01-03: made from other interactions of 2026-01-02"
    )


def test_corrected_labels_invalidate_only_their_readers(trained: Session) -> None:
    _label(trained, "snapshot", DAYS[2], snapshot=DAYS[0], score=0.6)
    found = stale.find(trained)
    assert found
    assert found.why == ["soft_labels of 2026-01-03"]
    assert _invalidated(trained) == {"snapshot": DAYS[2:]}
    assert found.invalidation.labels == []


def test_labels_that_came_after_a_student_was_trained_without_them_make_nothing_stale(tmp_path: Path) -> None:
    session = _session(tmp_path)
    _train(session, "auxiliary", DAYS[0], labels="pre_update")
    _label(session, "pre_update", DAYS[0], snapshot=None)
    assert stale.find(session) is None


def test_labels_of_corrected_rows_are_removed_even_where_no_model_was_trained_on_the_day(
    tmp_path: Path,
) -> None:
    session = _session(tmp_path)
    _label(session, "snapshot", DAYS[1], snapshot=DAYS[0])
    _correct(session, DAYS[1])
    found = stale.find(session)
    assert found
    assert (_invalidated(session), found.invalidation.labels) == (
        {"snapshot": []},
        [("teacher", "snapshot", DAYS[1])],
    )
    assert found.describe(session) == "snapshot labels of 2026-01-02: made from other rows of 2026-01-02"
    for step in found.actions(session):
        step.apply()
    assert stale.find(session) is None
    assert session.run.lake.soft_labels.scan().collect().is_empty()


def test_a_day_trained_on_before_versions_were_recorded_or_no_longer_there_is_not_stale(
    trained: Session,
) -> None:
    for path in trained.run.root.rglob("state.json"):
        state = read_json(path)
        del state["made_of"]
        path.write_text(json.dumps(state))
    _correct(trained, DAYS[0])
    assert stale.find(trained) is None
    _train(trained, "fresh", DAYS[2])
    empty = interactions(DAYS[2])[:0]
    trained.run.lake.interactions.replace(empty, {"day": DAYS[2]})
    assert stale.find(trained) is None


def test_a_skipped_day_that_was_corrected_is_trained_on_after_all_and_those_after_it_again(
    trained: Session,
) -> None:
    run = trained.run
    (folder,) = run.checkpoints("control").folder.glob("2026-01-02")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    input_versions = run.lake.input_versions([DAYS[1]], histories=False)[DAYS[1]]
    run.quarantine("control").write(DAYS[1], "skipped", [], input_versions=input_versions)
    assert trained.days_to_train("control") == []
    assert stale.find(trained) is None
    _correct(trained, DAYS[1])
    found = stale.find(trained)
    assert found
    steps = [step for step in found.actions(trained) if "control" in step.what]
    # The verdict goes last: while it is there, a killed run finds again what has to go.
    assert [step.what.rsplit("/", 1)[-1] for step in steps] == [
        "2026-01-03",
        "quarantine of control, 2026-01-02",
    ]
    for step in steps:
        step.apply()
    assert trained.days_to_train("control") == DAYS[1:]


def test_a_run_killed_during_the_removal_goes_on_with_the_rest(trained: Session) -> None:
    _correct(trained, DAYS[1])
    found = stale.find(trained)
    assert found
    steps = [step.what for step in found.actions(trained)]
    taken = []
    while found := stale.find(trained):
        step, *_ = found.actions(trained)  # one at a time, as if it were killed after each
        step.apply()
        taken.append(step.what)
    assert taken == steps
    everywhere = dict.fromkeys(trained.models, DAYS[:1])
    assert _left(trained) == everywhere | {"late": DAYS[2:]}


@pytest.mark.parametrize("asked", [DAYS[:2], DAYS[2:]])
def test_stale_days_that_are_not_all_asked_for_are_left_as_they_are(
    trained: Session, asked: list[date]
) -> None:
    _correct(trained, DAYS[1])
    session = dataclasses.replace(trained, days=asked)
    found = stale.find(session)
    assert found
    assert found.unrecoverable_days == [day for day in DAYS[1:] if day not in asked]


def test_status_prints_what_is_stale(trained: Session) -> None:
    console = Console(file=io.StringIO(), width=400)
    print_status(trained, console)
    assert "Stale" not in console.file.getvalue()  # type: ignore[attr-defined]
    _correct(trained, DAYS[2])
    print_status(trained, console)
    assert "\nStale: teacher from 2026-01-03 on (1 day), " in console.file.getvalue()  # type: ignore[attr-defined]


def test_after_it_is_removed_and_made_again_all_is_as_if_the_rows_had_been_there_from_the_start(
    tmp_path: Path,
) -> None:
    one, other = _session(tmp_path / "one"), _session(tmp_path / "other")
    train: Mapping[str, Callable[[Session], object]] = {
        TEACHER: lambda session: train_teacher(session.run, DAYS),
        "auxiliary": lambda session: train_student(session.run, AUXILIARY, DAYS),
    }
    for each in train.values():
        each(one)
    _correct(one, DAYS[1])
    _correct(other, DAYS[1])
    found = stale.find(one)
    assert found
    assert set(found.invalidation.since) == {TEACHER, "auxiliary"}
    first = _left(one)[TEACHER], one.run.checkpoints(TEACHER).states()[0]
    for step in found.actions(one):
        step.apply()
    assert one.run.checkpoints(TEACHER).states() == [first[1]]
    for each in train.values():
        each(one)
        each(other)
    assert stale.find(one) is None
    assert_same(one.run.root, other.run.root)


@pytest.mark.parametrize(
    ("asked", "ends"),
    [
        (DAYS, "made from other interactions of 2026-01-03; it is made again\n"),
        (
            DAYS[:2],
            "made from other interactions of 2026-01-03; left as it is, because 2026-01-03 would have to be trained "
            "on again and is not asked for\n",
        ),
    ],
)
def test_a_run_prints_in_one_line_what_it_removes(
    trained: Session, asked: list[date], ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = Console(file=io.StringIO(), soft_wrap=True, highlight=False)
    monkeypatch.setattr(actions_console, "out", message)
    _correct(trained, DAYS[2])
    session = dataclasses.replace(trained, days=asked)
    assert nightly._remove_stale(session) == (asked == DAYS)
    line = message.file.getvalue()  # type: ignore[attr-defined]
    assert line.startswith("stale: teacher from 2026-01-03 on (1 day), control from ")
    assert line.endswith(ends)
    assert line.count("\n") == 1
    assert (stale.find(session) is None) == (asked == DAYS)
