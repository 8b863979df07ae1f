"""What is printed of names and texts from outside: one line each, and nothing that a terminal obeys."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from tests.launch.small import DAYS
from tutelage.launch.actions.console import echo, out
from tutelage.launch.actions.materialize import materialize_days
from tutelage.launch.report.summary import PrintableConsole, print_table, simple_table
from tutelage.launch.session import Session
from tutelage.pipeline.io.json import read_json
from tutelage.pipeline.materialize import Counts, Materialized
from tutelage.pipeline.quarantine import Quarantine

ODD = "\x1b[2Jred\u202e"
SHOWN = r"\x1b[2Jred\u202e"


def test_a_line_is_one_line_without_escape_sequences(capsys: pytest.CaptureFixture[str]) -> None:
    echo(f"accepted: {ODD}\nmaterialize: 0 dropped, of ftp://me:hunter2@host")
    assert capsys.readouterr().out == f"accepted: {SHOWN}\\nmaterialize: 0 dropped, of ftp://***@host\n"


def test_a_table_shows_names_without_escape_sequences_and_keeps_its_own_style() -> None:
    console = PrintableConsole(file=io.StringIO(), force_terminal=True, width=200)
    table = simple_table("model", "days")
    table.add_row(Text(ODD), "3")
    print_table(console, table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert SHOWN in "".join(line.split(" ")[0] for line in text.splitlines()[2:])
    assert "\x1b[1m" in text  # A head is bold.
    assert "\x1b[2J" not in text
    assert "\u202e" not in text


def test_every_command_prints_through_this_console() -> None:
    assert isinstance(out, PrintableConsole)
    assert issubclass(PrintableConsole, Console)


def test_the_record_of_a_day_holds_no_password(tmp_path: Path) -> None:
    said = "click of ftp://me:hunter2@host/a.csv is missing"
    quarantine = Quarantine(tmp_path)
    quarantine.write(DAYS[0], "skipped", [{"said": said, "differences": [said]}], reason="see ftp://a:b@c")
    record = read_json(tmp_path / f"{DAYS[0]}.json")
    assert record["attempts"][0] == {
        "said": "click of ftp://***@host/a.csv is missing",
        "differences": ["click of ftp://***@host/a.csv is missing"],
    }
    assert record["reason"] == "see ftp://***@c"


def test_the_rows_of_quarantined_days_are_in_the_sum_that_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = Materialized(
        days={DAYS[0]: Counts(rows_in=10, kept=8, dropped={"bad_key": 2})},
        quarantined={DAYS[1]: "fail; rows is 5, 9 is the bound"},
        held={DAYS[1]: Counts(rows_in=7, kept=5, dropped={"bad_key": 1, "duplicate": 1})},
        elsewhere={"outside_days": 3},
        warnings=["age\x1b[2J alone ranks click"],
        seconds=1.0,
    )
    monkeypatch.setattr("tutelage.launch.steps.materialize", lambda session, days, progress: done)
    session = Session.open(config="synthetic", workdir=str(tmp_path))
    assert materialize_days(session, DAYS[:2]) == [DAYS[1]]
    # 20 = 8 + 7 + 5
    assert capsys.readouterr().out == (
        "materialize: 1 day, 20 rows in = 8 kept + 7 dropped (3 bad_key, 1 duplicate, 3 outside_days) "
        "+ 5 quarantined; 1.0 s, 20 rows/s\n"
        "warning: age\\x1b[2J alone ranks click\n"
        f"quarantine: {DAYS[1]} fail; rows is 5, 9 is the bound\n"
    )


def test_sampled_negatives_are_told_apart_from_the_rows_that_came_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = Materialized(
        days={DAYS[0]: Counts(rows_in=10, kept=24, dropped={"bad_key": 2}, sampled=16, pairs=90)},
        quarantined={},
        held={DAYS[1]: Counts(rows_in=7, kept=27, dropped={}, sampled=20, pairs=90)},
        elsewhere={},
        seconds=1.0,
    )
    monkeypatch.setattr("tutelage.launch.steps.materialize", lambda session, days, progress: done)
    session = Session.open(config="synthetic", workdir=str(tmp_path))
    materialize_days(session, DAYS[:2])
    # 17 + 36 = 24 + 2 + 27
    assert capsys.readouterr().out == (
        "materialize: 1 day, 17 rows in + 36 negatives sampled = 24 kept + 2 dropped (2 bad_key) "
        "+ 27 quarantined; 1.0 s, 17 rows/s\n"
    )
