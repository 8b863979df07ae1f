"""Days that are not released: no model is trained on them, and the commands print how long they wait."""

import io
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from rich.console import Console

from tutelage.launch import steps
from tutelage.launch.actions import console as actions_console
from tutelage.launch.actions.label import label
from tutelage.launch.actions.materialize import materialize
from tutelage.launch.report.status import print_status
from tutelage.launch.run import run
from tutelage.launch.session import Session
from tutelage.launch.studies import study
from tutelage.pipeline.errors import UserError
from tutelage.trainers.run import TEACHER

DAYS = [date(2026, 1, 1), date(2026, 1, 2), date(2026, 1, 3)]
WATCH = "schema.tasks.watch.matures_after=3d"


def _open(workdir: Path, now: datetime, *overrides: str) -> Session:
    overrides = (f"start_day={DAYS[0]}", f"end_day={DAYS[2]}", *overrides)
    return Session.open(config="synthetic", workdir=str(workdir), smoke=True, overrides=overrides, now=now)


def _at(day: int, hour: int = 0) -> datetime:
    return datetime(2026, 1, day, hour, tzinfo=UTC)


@pytest.mark.parametrize(
    ("overrides", "now", "released"),
    [
        ((), _at(1), 3),
        ((WATCH,), _at(4, 23), 0),
        ((WATCH,), _at(5), 1),  # three days after the end of the first
        ((WATCH,), _at(7), 3),
        ((WATCH, "schema.release_after=6h"), _at(2, 6), 1),
        (("schema.late_days=2",), _at(5), 2),
    ],
)
def test_days_asked_for_are_those_that_are_released(
    tmp_path: Path, overrides: tuple[str, ...], now: datetime, released: int
) -> None:
    session = _open(tmp_path, now, *overrides)
    assert session.days == DAYS[:released]
    assert list(session.waiting) == DAYS[released:]
    assert steps.to_materialize(session) == session.days_to_train(TEACHER) == DAYS[:released]
    assert session.asked == "2026-01-01 to 2026-01-03"


def test_days_are_resolved_at_the_moment_of_the_command(tmp_path: Path) -> None:
    overrides = ("start_day=today-2", "end_day=yesterday", "schema.late_days=1")
    session = _open(tmp_path, _at(4, 23), *overrides)
    assert (session.days, list(session.waiting)) == ([date(2026, 1, 2)], [date(2026, 1, 3)])


def test_status_prints_what_waits_and_until_when(tmp_path: Path) -> None:
    def says(now: datetime) -> str:
        console = Console(file=io.StringIO(), width=200)
        print_status(_open(tmp_path, now, WATCH), console)
        return console.file.getvalue()  # type: ignore[attr-defined]

    assert "\nWaits: 2026-01-01 until 2026-01-05 00:00 UTC, and 2 later days\n" in says(_at(3))
    assert "\nWaits: 2026-01-03 until 2026-01-07 00:00 UTC\n" in says(_at(6))
    assert "Waits" not in says(_at(7))
    assert "To materialise: 2026-01-01, 2026-01-02\n" in says(_at(6))


def test_a_run_before_any_day_is_released_does_nothing_and_prints_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    message = Console(file=io.StringIO(), soft_wrap=True, highlight=False)
    monkeypatch.setattr(actions_console, "out", message)
    run(_open(tmp_path, _at(3), WATCH))
    assert message.file.getvalue() == (  # type: ignore[attr-defined]
        "waits: 2026-01-01 until 2026-01-05 00:00 UTC, and 2 later days\n"
        "Nothing to do: the released days are trained on by all models, labelled and exported.\n"
    )


def test_a_day_is_not_materialised_before_it_is_released(tmp_path: Path) -> None:
    for do in (materialize, label):
        with pytest.raises(UserError) as error:
            do(_open(tmp_path, _at(3), WATCH))
        assert str(error.value) == (
            "no day asked for is released: 2026-01-01 until 2026-01-05 00:00 UTC, and 2 later days; "
            "ask for earlier days"
        )
    assert not (tmp_path / "lake/interactions/day=2026-01-01").exists()


def test_a_study_needs_mature_labels(tmp_path: Path) -> None:
    session = _open(tmp_path, _at(20), WATCH, "schema.release_after=1d")
    with pytest.raises(UserError, match="days are released before watch is mature; leave out the schema's"):
        study.judged_days(session)
