"""tutelage-status for programs: the JSON, the exit code of a monitor, and the metrics for Prometheus."""

import dataclasses
import json
import os
import re
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.launch import small
from tutelage.launch import last_run
from tutelage.launch.actions.status import status
from tutelage.launch.exit_codes import exit_code
from tutelage.launch.report import textfile
from tutelage.launch.report.state import problems, state_of
from tutelage.launch.session import Session
from tutelage.pipeline.errors import GateError, TransientError, UserError
from tutelage.trainers.metrics import write_metrics

NOW = datetime(2026, 1, 7, 3, tzinfo=UTC)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """Five days of data, a teacher trained on all of them, and a student on four with a version of the third."""
    session = small.materialize(tmp_path / "w", now=NOW)
    small.train(session, "teacher", small.DAYS)
    states = small.train(session, "auxiliary", small.DAYS[:4])
    small.publish(session, "auxiliary", states[2])
    for model, loss in (("teacher", 0.45), ("auxiliary", 0.5)):
        row = {
            "task": "click",
            "metric": "log_loss",
            "slice": "",
            "basis": "day_ahead",
            "value": loss,
            "rows": 40,
        }
        write_metrics(session.run.lake.metrics, [row], run="small", day=small.DAYS[3], model=model)
    return session


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shape(item) for key, item in value.items()}
    return [_shape(value[0])] if isinstance(value, list) and value else type(value).__name__


def test_the_json_has_these_fields_and_types(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    with last_run.recorded(session.run):
        pass
    status(session, json=True)
    state = json.loads(capsys.readouterr().out)
    (student,) = (each for each in state.pop("models") if each["model"] == "auxiliary")
    assert _shape(state) == {
        "format": "int",
        "experiment": "str",
        "workdir": "str",
        "time": "str",
        "status": "int",
        "problems": [{"status": "int", "message": "str"}],
        "last_run": {"started": "str", "seconds": "float", "status": "int", "succeeded": "str"},
        "days": {
            "first": "str",
            "last": "str",
            "waiting": "list",
            "to_materialize": "list",
            "quarantined": "list",
            "pruned": "list",
        },
        "data": {"days": "int", "last_day": "str", "last_rows": "int"},
    }
    assert _shape(student) == {
        "model": "str",
        "role": "str",
        "days_trained": "int",
        "last_day": "str",
        "last_rows": "int",
        "last_seconds": "float",
        "days_missing": ["str"],
        "days_failed": "list",
        "label_day": "str",
        "label_age_days": "int",
        "version": "int",
        "version_day": "str",
        "version_age_days": "int",
        "rejected_version": "NoneType",
        "teacher_lead": {"click log_loss": "float"},
    }


def test_a_student_has_its_lag_its_ages_and_the_lead_of_its_teacher(session: Session) -> None:
    (student,) = (each for each in state_of(session)["models"] if each["model"] == "auxiliary")
    assert student["last_day"] == "2026-01-04"
    assert student["days_missing"] == ["2026-01-05"]
    assert (student["version"], student["version_day"], student["version_age_days"]) == (
        2026010301,
        "2026-01-03",
        4,
    )
    assert (student["label_day"], student["label_age_days"]) == ("2026-01-05", 2)
    assert student["teacher_lead"] == {"click log_loss": 0.1}


def test_a_monitor_ends_with_the_code_of_the_worst_problem(session: Session) -> None:
    def ends_with() -> int:
        state = state_of(session)
        error = problems(state)
        assert error
        assert exit_code(error) == state["status"]
        return exit_code(error)

    assert ends_with() == 2  # Days to train.
    session.run.quarantine("auxiliary").write(date(2026, 1, 5), "stopped", [{"said": "fail; rows is 3"}])
    assert ends_with() == 3
    for error, code in ((TransientError("busy"), 75), (UserError("a mistake"), 1), (GateError("a day"), 3)):
        with pytest.raises(type(error)), last_run.recorded(session.run):
            raise error
        assert ends_with() == code


def test_a_monitor_finds_nothing_where_all_is_done(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    small.train(session, "auxiliary", small.DAYS[4:])
    small.train(session, "control", small.DAYS)
    small.train(session, "late", small.DAYS[3:])
    status(session, monitor=True)
    assert capsys.readouterr().out == f"small in {session.run.root}: nothing is wrong\n"
    version = small.publish(session, "late", session.run.checkpoints("late").states()[-1], rejected=True)
    card = json.loads((version / "assets.extra/model_card.json").read_text())
    assert card["verdict"] == ""
    with pytest.raises(UserError, match="late: version 2026010501 is not blessed"):
        status(session, monitor=True)


def test_a_run_that_fails_keeps_the_time_of_the_last_success(session: Session) -> None:
    with last_run.recorded(session.run):
        pass
    before = last_run.read(session.run)
    with pytest.raises(TransientError), last_run.recorded(session.run):
        raise TransientError("busy")
    after = last_run.read(session.run)
    assert before
    assert after
    assert (after.status, after.succeeded) == (75, before.succeeded)
    assert before.succeeded


def test_the_textfile_has_the_metrics_in_prometheus_format(session: Session, tmp_path: Path) -> None:
    with last_run.recorded(session.run):
        pass
    path = tmp_path / "tutelage.prom"
    status(session, textfile=str(path), monitor=False)
    text = path.read_text()
    sample = re.compile(r'tutelage_[a-z_]+\{experiment="small"(,[a-z]+="[^"]*")*\} -?[0-9.e+-]+')
    lines = text.splitlines()
    assert all(line.startswith("# ") or sample.fullmatch(line) for line in lines)
    named = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert named == [f"tutelage_{name}" for name in textfile._HELP]
    assert 'tutelage_days_missing{experiment="small",model="auxiliary"} 1' in lines
    assert 'tutelage_last_day_rows{experiment="small"} 40' in lines
    assert 'tutelage_version_age_days{experiment="small",model="auxiliary"} 4' in lines
    assert (
        'tutelage_teacher_lead_ratio{experiment="small",model="auxiliary",task="click",metric="log_loss"} 0.1'
        in lines
    )
    assert 'tutelage_last_day_timestamp_seconds{experiment="small"} 1767571200' in lines
    assert list(tmp_path.glob("tutelage.prom?*")) == []


def test_a_textfile_that_cannot_be_written_whole_is_left_as_it_was(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tutelage.prom"
    path.write_text("old\n")
    state = state_of(session)
    seen: list[list[str]] = []

    def full(*paths: Path) -> None:
        seen.append(sorted(each.name for each in tmp_path.glob("*.prom")))
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(textfile, "move_new", full)
    with pytest.raises(UserError, match="cannot be written"):
        textfile.write_textfile(str(path), state)
    assert seen == [["tutelage.prom"]]  # A half-written file has no name that is collected.
    assert path.read_text() == "old\n"
    assert [each.name for each in tmp_path.glob("*.prom*")] == ["tutelage.prom"]
    with pytest.raises(UserError, match=r"end in \.prom only"):
        textfile.write_textfile(str(tmp_path / "metrics.txt"), state)


def test_a_label_is_escaped(session: Session) -> None:
    state = dataclasses.replace(session)
    text = textfile.textfile({**state_of(state), "experiment": 'a"b\\c\nd'})
    assert r'tutelage_status{experiment="a\"b\\c\nd"} 2' in text.splitlines()
