"""A bad day of data is quarantined and shown in the report, the days after it go on, and then it is accepted."""

import subprocess
import sys
from datetime import date
from pathlib import Path

import polars as pl
import pytest

pytestmark = pytest.mark.end_to_end
BIN = Path(sys.executable).parent
CONFIG = Path(__file__).with_name("drifting.py")
BAD = date(2026, 1, 5)


def _run(command: str, workdir: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / f"tutelage-{command}", f"--config={CONFIG}", f"--workdir={workdir}", *flags],
        capture_output=True,
        text=True,
        timeout=600,
    )


def _trained(workdir: Path, model: str) -> list[date]:
    folders = (workdir / model / "checkpoints").glob("2*")
    return sorted(date.fromisoformat(folder.name) for folder in folders)


def test_a_drifted_day_is_quarantined_shown_and_accepted(tmp_path: Path) -> None:
    days = [date(2026, 1, day) for day in range(1, 8)]
    others = [day for day in days if day != BAD]

    # The run goes on without the day, and its status says that a gate spoke.
    done = _run("run", tmp_path)
    assert done.returncode == 3, done.stdout + done.stderr
    said = (
        "\nquarantine: 2026-01-05 fail; nulls of country: 1 on 1,000 rows, 0 is expected and 0.1 the bound: "
    )
    assert said in f"\n{done.stdout}"
    assert "; mean of click: 0.5" in done.stdout
    assert done.stderr.startswith(
        "tutelage-run: in quarantine, so everything goes on without: 2026-01-05; look into "
    )
    assert done.stderr.count("\n") == 1
    assert _trained(tmp_path, "teacher") == _trained(tmp_path, "students/student") == others
    page = (tmp_path / "report/index.html").read_text("utf-8")
    assert "Quarantine: data: 2026-01-05 skipped (fail; nulls of country: 1 on 1,000 rows, " in page
    assert "Quarantine: teacher, student: 2026-01-05 skipped (its data is in quarantine)" in page
    assert "<h2>Data by day</h2>" in page
    assert "A day between dashed lines is in quarantine." in page

    # The next run does not try the day again.
    done = _run("run", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Nothing to do" in done.stdout
    assert "Without 2026-01-05: its data is in quarantine" in done.stdout

    done = _run("materialize", tmp_path, "--accept_day=2026-01-05", "--reason=a sale")
    assert done.returncode == 0, done.stderr
    assert "2026-01-05: 1,000 rows are in interactions now, accepted: a sale" in done.stdout
    assert (
        "teacher, student went past it and will not be trained on it, unless tutelage-rollback" in done.stdout
    )
    assert pl.read_delta(str(tmp_path / "lake/interactions")).filter(day=BAD)["click"].mean() > 0.4

    done = _run("rollback", tmp_path, "--to_day=2026-01-04")
    assert done.returncode == 0, done.stderr
    done = _run("run", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "trained on 2026-01-05 to 2026-01-07" in done.stdout
