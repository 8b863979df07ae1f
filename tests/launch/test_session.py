"""A command's request, resolved: the days, the models, and what is still to be done for each of them."""

import dataclasses
import json
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from tests.launch import small
from tutelage.launch.actions.console import out, print_holdout, print_waits
from tutelage.launch.report.status import print_status
from tutelage.launch.session import Session
from tutelage.pipeline.errors import UserError
from tutelage.trainers.checkpoints import State

DAYS = [date(2026, 1, 1), date(2026, 1, 2), date(2026, 1, 3)]
SLICES = [date(2016, *day) for day in ((1, 30), (2, 29), (3, 30), (4, 29), (5, 29))]
# What the tests count on, whatever it is in the config.
SET = {
    "synthetic": (
        f"start_day={DAYS[0]}",
        f"end_day={DAYS[2]}",
        f"students.late_control.first_day={DAYS[1]}",
        "teacher.model.backbone.hidden=7,6",
    ),
    "movielens": (
        "schema.slice_days=30",
        "start_day=2016-01-01",
        "end_day=2016-06-30",
        "students.late_control.first_day=2016-03-01",
    ),
}


def _open(workdir: Path, *overrides: str, config: str = "synthetic", **asked: Any) -> Session:
    overrides = (*SET[config], *overrides)
    return Session.open(config=config, workdir=str(workdir), overrides=overrides, **asked)


def _train(session: Session, model: str, *days: date, holdout: float = 0.02) -> list[State]:
    """Leave the states of finished days as a trainer does, without variables."""
    states = [
        State(day=day, step=10 * n, examples=5_000 * n, rows=5_000, holdout=holdout)
        for n, day in enumerate(days, 1)
    ]
    for state in states:
        folder = session.run.checkpoints(model).folder / str(state.day)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "state.json").write_text(json.dumps(state.recorded()))
    return states


def _commit(session: Session, day: date) -> None:
    """Leave a day of `interactions` in the table; its rows do not matter."""
    table = session.run.lake.interactions
    row = pl.DataFrame([dict.fromkeys(table.schema.names)], schema=pl.Schema(table.schema)).with_columns(
        example_id=pl.lit(1, pl.Int64)
    )
    counts = {"rows_in": 1, "kept": 1, "dropped": {}}
    table.commit([table.write_file(row, {"day": day}, name="part")], {"day": day}, attempt=1, metadata=counts)


def _publish(session: Session, model: str, version: str, state: State) -> None:
    card = session.run.root / "export" / model / version / "assets.extra/tutelage.json"
    card.parent.mkdir(parents=True)
    card.write_text(json.dumps({"day": str(state.day), "step": state.step, "checkpoint": state.id}))
    (card.parents[1] / "saved_model.pb").write_text("a graph")


def test_days_are_those_of_the_config_unless_others_are_asked_for(tmp_path: Path) -> None:
    assert _open(tmp_path).days == DAYS
    assert _open(tmp_path, start_day="2026-01-02").days == DAYS[1:]
    assert _open(tmp_path, end_day="2026-01-02").days == DAYS[:2]
    assert _open(tmp_path, start_day="2026-01-02", end_day="2026-01-02").days == DAYS[1:2]
    assert _open(tmp_path, "end_day=2026-01-01").days == DAYS[:1]
    assert _open(tmp_path, start_day="2025-12-31", end_day="2026-01-04").days == [
        date(2025, 12, 31),
        *DAYS,
        date(2026, 1, 4),
    ]


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Etc/GMT+12"])  # 26 hours apart: never the same day
def test_relative_days_are_those_of_the_configs_time_zone(tmp_path: Path, zone: str) -> None:
    before = datetime.now(ZoneInfo(zone)).date()
    session = _open(
        tmp_path, f"schema.time_zone={zone}", "end_day=yesterday", start_day="today-3", end_day="today"
    )
    yesterday = _open(tmp_path, f"schema.time_zone={zone}", "start_day=yesterday", "end_day=yesterday")
    today = session.days[-1]
    assert today in (before, datetime.now(ZoneInfo(zone)).date())  # which differ when midnight passes
    assert session.days == [today - timedelta(days=n) for n in (3, 2, 1, 0)]
    assert len(yesterday.days) == 1
    assert yesterday.days[0] - today in (timedelta(days=-1), timedelta(days=0))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"start_day": "tomorrow"}, "day 'tomorrow' is neither YYYY-MM-DD nor today, yesterday or today-N"),
        ({"end_day": "2026-01-32"}, "day '2026-01-32' is neither YYYY-MM-DD nor today, yesterday or today-N"),
        (
            {"end_day": "2025-12-31"},
            "end_day 2025-12-31 is before start_day 2026-01-01; give an end_day on or after it",
        ),
    ],
)
def test_days_that_cannot_be_used_are_refused_before_a_workdir_is_created(
    tmp_path: Path, asked: dict[str, str], says: str
) -> None:
    with pytest.raises(UserError) as error:
        _open(tmp_path / "w", **asked)
    assert str(error.value) == says
    assert not (tmp_path / "w").exists()


def test_models_are_the_teacher_and_the_students_in_the_configs_order(tmp_path: Path) -> None:
    session = _open(tmp_path, "students.direct.name=first", "students.auxiliary.name=a")
    assert session.models[:4] == ["teacher", "control", "first", "a"]
    assert session.models == ["teacher", *(student.name for student in session.experiment.students)]


def test_a_models_network_is_found_by_its_name_or_refused(tmp_path: Path) -> None:
    session = _open(tmp_path, "students.direct.model.backbone.hidden=5")
    assert session.model("teacher").backbone.hidden == (7, 6)
    assert session.model("direct").backbone.hidden == (5,)
    with pytest.raises(UserError, match=r"^unknown student 'nobody'; this config has control, direct, "):
        session.model("nobody")


def test_a_late_students_days_begin_with_its_first(tmp_path: Path) -> None:
    session = _open(tmp_path, "students.late_auxiliary.first_day=2026-01-04")
    assert session.days_of("teacher") == session.days_of("control") == DAYS
    assert session.days_of("late_control") == DAYS[1:]
    assert session.days_of("late_auxiliary") == []
    assert session.days_to_train("late_auxiliary") == []
    assert _open(tmp_path, start_day="2026-01-03").days_of("late_control") == DAYS[2:]


def test_days_are_slices_and_a_late_student_begins_with_the_first_whole_one(tmp_path: Path) -> None:
    session = _open(tmp_path, config="movielens")
    # 2016-01-30 is day 16,830 = 561 × 30 from 1970-01-01. The slice of 06-28 would end after 06-30.
    assert session.days == session.days_of("teacher") == SLICES
    assert session.days_of("late_control") == SLICES[2:]  # from 2016-03-01


def test_the_days_to_train_on_follow_those_that_a_model_was_trained_on(tmp_path: Path) -> None:
    session = _open(tmp_path)
    assert session.days_to_train("teacher") == DAYS
    assert session.days_to_train("late_control") == DAYS[1:]
    _train(session, "teacher", *DAYS[:2])
    _train(session, "late_control", DAYS[1])
    _train(session, "control", *DAYS)
    assert session.days_to_train("teacher") == session.days_to_train("late_control") == DAYS[2:]
    assert session.days_to_train("control") == []
    assert session.days_to_train("direct") == DAYS
    after = _open(tmp_path, start_day="2026-01-03", end_day="2026-01-05")
    assert after.days_to_train("teacher") == after.days


@pytest.mark.parametrize(
    ("start", "end", "first"),
    [
        ("2026-01-04", "2026-01-05", "2026-01-04"),
        ("2025-12-31", "2026-01-03", "2025-12-31"),
    ],
)
def test_days_that_do_not_follow_are_refused(tmp_path: Path, start: str, end: str, first: str) -> None:
    session = _open(tmp_path, start_day=start, end_day=end)
    _train(session, "control", *DAYS[:2])
    with pytest.raises(UserError) as error:
        session.days_to_train("control")
    assert str(error.value) == (
        f"control was trained on 2026-01-01 to 2026-01-02, so 2026-01-03 comes next, not {first}; "
        "give a range that goes on from there, or another workdir"
    )
    assert session.days_to_train("direct") == session.days


def test_after_a_slice_the_next_slice_comes_next(tmp_path: Path) -> None:
    session = _open(tmp_path, config="movielens")
    _train(session, "teacher", SLICES[0])
    assert session.days_to_train("teacher") == SLICES[1:]
    late = _open(tmp_path, config="movielens", start_day="2016-03-01")
    with pytest.raises(UserError, match="so 2016-02-29 comes next, not 2016-03-30"):
        late.days_to_train("teacher")


def test_of_a_student_the_newest_finished_day_is_exported_once_and_of_a_teacher_every_day(
    tmp_path: Path,
) -> None:
    session = _open(tmp_path)
    first, second = _train(session, "control", *DAYS[:2])
    assert session.to_export("control") == [second]
    _publish(session, "control", "2026010201", second)
    assert session.to_export("control") == []
    assert session.asking(every_version=True).to_export("control") == [first]
    assert session.asking(every_version=True).reopened().to_export("control") == [first]
    states = _train(session, "teacher", *DAYS[:2])
    assert session.to_export("teacher") == states


def test_without_a_holdout_the_last_day_waits_for_the_next_one_and_the_day_before_is_exported(
    tmp_path: Path,
) -> None:
    session = _open(tmp_path)
    for day in DAYS[:2]:
        _commit(session, day)
    first, second = _train(session, "control", *DAYS[:2], holdout=0.0)
    # The first is judged on the second day.
    assert session.to_export("control") == [first]
    assert session.version_waits("control") == (
        "the version of 2026-01-02 waits for the day after it, as training.holdout was 0"
    )
    _publish(session, "control", "2026010101", first)
    assert session.to_export("control") == session.asking(every_version=True).to_export("control") == []
    _commit(session, DAYS[2])
    assert session.to_export("control") == [second]
    assert session.version_waits("control") == ""


def test_a_day_of_an_older_release_whose_version_is_served_is_not_exported_again(tmp_path: Path) -> None:
    session = _open(tmp_path)
    _commit(session, DAYS[0])
    _, second = _train(session, "control", *DAYS[:2], holdout=0.0)
    _publish(session, "control", "2026010201", second)
    # The version of the first day was pruned, and would not be served.
    _commit(session, DAYS[1])
    assert session.to_export("control") == []
    assert session.version_waits("control") == ""


@pytest.mark.parametrize("asked", [[], ["training.holdout=0"]])
def test_a_holdout_that_changes_is_told_in_one_line_and_only_then(
    tmp_path: Path, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    session = _open(tmp_path, *asked)
    _train(session, "control", DAYS[0], holdout=0.0 if not asked else 0.02)
    print_holdout(session, ["teacher", "control"])
    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        "training.holdout was 0.02 and is 0 for control: versions are judged on the day after their own, and served a "
        "day later"
        if asked
        else "training.holdout was 0 and is 0.02 for control: from the next day on the rows of 2 % of the users are "
        "withheld from training, to judge versions on before they are served"
    )
    _train(session, "late_control", DAYS[0], holdout=session.run.training.holdout)
    print_holdout(session, ["late_control"])
    assert capsys.readouterr().out == ""


def test_a_student_that_reads_labels_waits_for_the_teacher_that_labels(tmp_path: Path) -> None:
    session = _open(tmp_path).asking(awaits_teacher=True)
    assert session.awaited("control") == session.awaited("teacher") == {}
    assert session.awaited("auxiliary") == dict.fromkeys(session.days, "teacher")
    assert session.days_to_train("auxiliary") == []
    _train(session, "teacher", *DAYS[:1])
    assert session.days_to_train("auxiliary") == DAYS[:1]
    # It does not wait for a day that the teacher skipped.
    session.run.quarantine("teacher").write(DAYS[1], "skipped", [{"said": "fail"}])
    assert session.days_to_train("auxiliary") == DAYS[:2]
    assert session.awaited("auxiliary") == dict.fromkeys(session.days[2:], "teacher")
    # Only a run waits: a command that trains one student masks what is missing.
    assert _open(tmp_path).days_to_train("auxiliary") == session.days


def test_a_reader_of_snapshot_labels_also_waits_for_the_exports_of_earlier_days(tmp_path: Path) -> None:
    session = _open(tmp_path).asking(awaits_teacher=True)
    first, second, _ = _train(session, "teacher", *DAYS)
    assert session.awaited("snapshot") == dict.fromkeys(DAYS[1:], "teacher")
    assert session.days_to_train("snapshot") == DAYS[:1]
    _publish(session, "teacher", "2026010101", first)
    assert session.days_to_train("snapshot") == DAYS[:2]
    _publish(session, "teacher", "2026010201", second)
    assert session.awaited("snapshot") == session.awaited("auxiliary") == {}


def test_a_successor_waits_for_the_teacher_s_days_before_its_own_and_students_for_one_that_was_killed(
    tmp_path: Path,
) -> None:
    config = Path(__file__).with_name("beside_config.py")
    session = small.open_session(tmp_path, config=config).asking(awaits_teacher=True)
    wide = "teacher-wide"
    assert session.awaited(wide) == dict.fromkeys(small.DAYS[2:], "teacher")
    assert session.days_to_train(wide) == []
    _train(session, "teacher", *small.DAYS[:2])
    assert session.awaited(wide) == {}
    assert session.days_to_train(wide) == small.DAYS[2:]
    killed = session.asking(awaits_successor=True)
    # The teacher has stopped after the second day, which makes no difference here.
    assert session.awaited("auxiliary") == dict.fromkeys(small.DAYS[2:], "teacher")
    assert killed.awaited("auxiliary") == dict.fromkeys(small.DAYS[2:], "teacher")
    _train(session, "teacher", *small.DAYS)
    assert session.awaited("auxiliary") == {}
    assert killed.awaited("auxiliary") == dict.fromkeys(small.DAYS[2:], wide)
    _train(session, wide, small.DAYS[2])
    assert killed.reopened().days_to_train("auxiliary") == small.DAYS[:3]
    assert killed.awaited("control") == {}


def test_finished_days_are_exported_once_whatever_days_are_asked_for(tmp_path: Path) -> None:
    session = _open(tmp_path, start_day="2026-01-03").asking(every_version=True)
    assert session.to_export("control") == []
    first, second = _train(session, "control", *DAYS[:2])
    assert session.to_export("control") == [first, second]
    _publish(session, "control", "2026010101", first)
    assert session.to_export("control") == [second]
    _publish(session, "control", "2026010201", second)
    assert session.to_export("control") == []


def test_a_day_that_was_trained_on_again_is_exported_again(tmp_path: Path) -> None:
    session = _open(tmp_path)
    (again,) = _train(session, "control", DAYS[0])
    _publish(session, "control", "2026010101", dataclasses.replace(again, id="of an earlier attempt"))
    assert session.to_export("control") == [again]


def test_days_that_are_moved_to_whole_slices_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = (
        "slices of 30 days: start_day moves from 2016-01-01 to 2016-01-30, "
        "end_day moves from 2016-06-30 to 2016-06-27"
    )
    session = _open(tmp_path / "a", config="movielens")
    assert session.moved == moved
    print_waits(session)
    assert capsys.readouterr().out == f"{moved}\n"
    print_status(session, out)
    assert f"Moved: {moved}\n" in capsys.readouterr().out
    print_waits(_open(tmp_path / "b"))
    assert capsys.readouterr().out == ""


def test_weeks_begin_on_the_weekday_of_the_schema_and_a_workdir_keeps_it(tmp_path: Path) -> None:
    week = "schema.slice_days=7", "end_day=2026-01-20"
    assert _open(tmp_path / "a", *week).days == [date(2026, 1, 1), date(2026, 1, 8)]
    monday = _open(tmp_path / "b", *week, "schema.slice_weekday=monday")
    assert monday.days == [date(2026, 1, 5), date(2026, 1, 12)]
