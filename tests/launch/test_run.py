"""The nightly graph: what it does where something fails, and which versions it makes."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.launch import small
from tutelage.launch import logging_setup, pool
from tutelage.launch.exit_codes import Failures, exit_code
from tutelage.launch.run import run
from tutelage.launch.session import Session
from tutelage.pipeline.errors import GateError, TransientError, UserError


def test_a_run_that_fails_before_any_day_is_there_does_not_tie_the_workdir_to_its_config(
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match="raw"):
        run(small.open_session(tmp_path / "w"))
    corrected = small.open_session(
        tmp_path / "w",
        config=small.GROWN,
        overrides=("teacher.model.backbone.hidden=3", "training.batch_size=7"),
    )
    assert corrected.run.training.batch_size == 7
    assert "age" in corrected.run.lake.interactions.scan().collect_schema().names()


def _run(
    workdir: Path, *overrides: str, expect: type[UserError] | None = None, end_day: str = "", **asked: Any
) -> UserError | None:
    """Run the night with all models in this process; return what it raised, which is of the class `expect`."""
    workdir.parent.mkdir(exist_ok=True)
    small.write_events(workdir.parent / "raw")
    session = small.open_session(workdir, overrides=overrides, end_day=end_day)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "train", _train)
        if expect is None:
            run(session, **asked)
            return None
        with pytest.raises(expect) as raised:
            run(session, **asked)
    return raised.value


def _train(
    session: Session, models: Sequence[str], *, progress: Callable[[str, int], None]
) -> Iterator[pool.Outcome]:
    for model in models:
        if model == KILLED:
            yield pool.Outcome(model=model, failure=pool.Killed("a process that trained teacher was killed"))
        else:
            yield pool._train(session.request, model, progress=lambda rows: None)


KILLED = ""
"""The model whose process is killed."""


def _stops(model: str, after: int, *, on_failure: str = "stop") -> list[str]:
    """Let a model's gate fail each day once it has trained on `after` days, of which the first does not count.

    So many false alarms are wanted that chance leaves no room.
    """
    gate = {"min_days": after - 1, "trailing_days": 9, "logit_shift": 0.0, "on_failure": on_failure}
    fields = [f"{model}.gate.{name}={value}" for name, value in gate.items()]
    return [*fields, "false_alarms_per_year=1e9"]


def _versions(workdir: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in sorted(workdir.glob("export/*/2*")):
        found.setdefault(path.parent.name, []).append(path.name)
    return found


def test_models_that_stop_do_not_stop_the_night_and_each_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = _run(tmp_path / "w", *_stops("teacher", 3), *_stops("students.control", 2), expect=Failures)
    assert isinstance(error, Failures)
    assert exit_code(error) == 3
    stopped, other = str(error).splitlines()
    assert stopped.startswith("teacher: 2026-01-04 did not pass its gate and is not kept: fail; click_logit")
    assert other.startswith("control: 2026-01-03 did not pass its gate and is not kept: fail; click_logit")
    out = capsys.readouterr().out
    assert f"\nReport: {tmp_path}/w/report/index.html\n" in out
    assert (tmp_path / "w/report/index.html").exists()
    # The student that reads labels waits where the teacher stopped; the one that reads none goes on.
    assert out.splitlines()[-4:] == [
        "teacher: stopped at 2026-01-04 by its gate; trained until 2026-01-03",
        "control: stopped at 2026-01-03 by its gate; trained until 2026-01-02",
        "auxiliary: waits for the teacher's labels; trained until 2026-01-03",
        "late: trained until 2026-01-05",
    ]
    # Each is served as it was before it stopped or waited.
    assert _versions(tmp_path / "w") == {
        "teacher": ["2026010301"],
        "control": ["2026010201"],
        "auxiliary": ["2026010301"],
        "late": ["2026010501"],
    }


def test_students_go_on_without_the_labels_of_a_day_that_the_teacher_skips(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(tmp_path / "w", *_stops("teacher", 3, on_failure="skip"))
    assert capsys.readouterr().out.splitlines()[-4:] == [
        "teacher: trained until 2026-01-03",
        "control: trained until 2026-01-05",
        "auxiliary: trained until 2026-01-05",
        "late: trained until 2026-01-05",
    ]
    metrics = small.open_session(tmp_path / "w").run.lake.metrics
    missing = metrics.scan(model="auxiliary", metric="labels_missing").sort("day").collect()["value"]
    assert missing.to_list() == [0, 0, 0, small.ROWS, small.ROWS]


def test_students_wait_for_a_teacher_whose_process_was_killed_and_catch_up_the_next_night(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[__name__], "KILLED", "teacher")
        error = _run(tmp_path / "w", expect=pool.Killed)
    assert error
    assert exit_code(error) == 75
    assert capsys.readouterr().out.splitlines()[-4:] == [
        "teacher: its process was killed; not trained yet",
        "control: trained until 2026-01-05",
        "auxiliary: waits for the teacher's labels; not trained yet",
        "late: trained until 2026-01-05",
    ]
    _run(tmp_path / "w")
    assert capsys.readouterr().out.splitlines()[-2] == "auxiliary: trained until 2026-01-05"
    used = small.open_session(tmp_path / "w").run.lake.metrics.scan(model="auxiliary", metric="labels_used")
    assert used.collect()["value"].to_list() == [small.ROWS] * 5


def test_only_the_newest_day_of_a_model_is_exported_unless_all_are_asked_for(tmp_path: Path) -> None:
    only = [f"students.{name}.first_day=9999-01-01" for name in ("auxiliary", "late")]
    _run(tmp_path / "w", *only)
    days = [f"2026010{day}01" for day in range(1, 6)]
    assert _versions(tmp_path / "w") == {"teacher": days[-1:], "control": days[-1:]}
    # A past day that is exported later has a lower number: what is served does not change.
    _run(tmp_path / "w", *only, export="all")
    assert _versions(tmp_path / "w") == {"teacher": days, "control": days}


def test_a_run_writes_the_report_that_the_last_one_did_not_come_to_and_removes_what_is_old_in_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only = [f"students.{name}.first_day=9999-01-01" for name in ("control", "auxiliary", "late")]
    _run(tmp_path / "w", *only, "keep.newest=2", "keep.older=0")
    lines = capsys.readouterr().out.splitlines()
    (removed,) = (
        n for n, line in enumerate(lines) if line.startswith("keep: removed 3 old checkpoints and 0")
    )
    assert lines[removed - 1].startswith("Report: ")
    assert lines[removed + 1].startswith("Done in ")
    page = tmp_path / "w/report/index.html"
    page.unlink()
    _run(tmp_path / "w", *only)
    assert f"Report: {page}\n" in capsys.readouterr().out
    _run(tmp_path / "w", *only)
    assert capsys.readouterr().out.startswith("Nothing to do: ")


def test_a_rejected_version_of_a_past_day_is_no_failure_and_the_newest_one_s_line_is_short(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only = [f"students.{name}.first_day=9999-01-01" for name in ("auxiliary", "late")]
    _run(tmp_path / "w", *only)
    capsys.readouterr()
    # No version is small enough now. The newest day's was published before.
    _run(tmp_path / "w", *only, "serving.max_bytes=1", export="all")
    out = capsys.readouterr().out
    assert "control 2026010101 is not blessed: fail; bytes is " in out
    assert out.count("; 2026010501 of 2026-01-05 stays served\n") == 4
    assert len(list((tmp_path / "w/rejected/control").iterdir())) == 4

    error = _run(tmp_path / "other/w", *only, "serving.max_bytes=1", expect=GateError)
    assert str(error).startswith("control 2026010501 is not blessed: fail; bytes is ")
    assert "; nothing is served; look into " in str(error)


def test_without_a_holdout_a_version_is_judged_and_served_a_day_later_which_is_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [
        "students.auxiliary.first_day=9999-01-01",
        "students.late.first_day=9999-01-01",
        "training.holdout=0",
    ]
    waits = "control: trained until 2026-01-0{0}; the version of 2026-01-0{0} waits for the day after it, as training."
    _run(tmp_path / "w", *asked, "end_day=2026-01-04")
    assert waits.format(4) in capsys.readouterr().out
    assert _versions(tmp_path / "w")["control"] == ["2026010301"]
    _run(tmp_path / "w", *asked)
    assert waits.format(5) in capsys.readouterr().out
    assert _versions(tmp_path / "w")["control"] == ["2026010301", "2026010401"]
    _run(tmp_path / "w", *asked)
    assert capsys.readouterr().out.startswith("Nothing to do: ")


def test_a_version_of_too_few_rows_waits_where_the_config_says_so_which_is_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["students.auxiliary.first_day=9999-01-01", "students.late.first_day=9999-01-01"]
    _run(tmp_path / "w", *asked, "end_day=2026-01-04")
    capsys.readouterr()
    _run(tmp_path / "w", *asked, "serving.undecided=wait")
    out = capsys.readouterr().out
    (line,) = [
        line
        for line in out.splitlines()
        if line.startswith("control 2026010501 waits: wait; not shown to be worse: ")
    ]
    assert line.endswith("; 2026010401 of 2026-01-04 stays served")
    assert (
        "control: trained until 2026-01-05; the version of 2026-01-05 is not served: too few rows to tell, and "
        in out
    )
    assert _versions(tmp_path / "w")["control"] == ["2026010401"]
    _run(tmp_path / "w", *asked, "serving.undecided=wait")
    assert capsys.readouterr().out.startswith("Nothing to do: ")


def test_readers_of_snapshot_labels_wait_where_labelling_fails_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> None:
        raise TransientError("a job is writing tables")

    monkeypatch.setattr("tutelage.launch.run.label_days", fail)
    days = ["end_day=2026-01-02", "students.auxiliary.producer=snapshot"]
    error = _run(tmp_path / "w", *days, expect=TransientError)
    assert str(error) == "a job is writing tables"
    assert capsys.readouterr().out.splitlines()[-4:] == [
        "teacher: trained until 2026-01-02",
        "control: trained until 2026-01-02",
        "auxiliary: waits for the teacher's labels; not trained yet",
        "late: not trained yet",
    ]


def test_the_night_as_json_is_one_event_a_line_with_day_step_model_and_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        logging_setup, "_output", [logging_setup.Output(json=True, fields={"command": "run"})]
    )
    only = [f"students.{name}.first_day=9999-01-01" for name in ("control", "late")]
    _run(tmp_path / "w", *only, end_day="2026-01-02")
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    days = [(e["step"], e.get("model"), e["day"]) for e in events if "day" in e]
    assert days == [
        (step, model, f"2026-01-0{day}")
        for step, model in (("materialize", None), ("train", "teacher"), ("train", "auxiliary"))
        for day in (1, 2)
    ]
    assert all(
        e["rows"] == small.ROWS and e["seconds"] > 0
        for e in events
        if e.get("step") == "train" and "day" in e
    )
    assert {"materialize", "train", "report", "run"} <= {
        e.get("step") for e in events if "seconds" in e or "day" not in e
    }
