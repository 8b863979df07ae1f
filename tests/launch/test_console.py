"""What is printed of names and texts from outside: one line each, and nothing that a terminal obeys."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from tests.launch.small import DAYS
from tutelage.launch.actions.console import echo, out
from tutelage.launch.report.summary import PrintableConsole, print_table, simple_table
from tutelage.pipeline.io.json import read_json
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
