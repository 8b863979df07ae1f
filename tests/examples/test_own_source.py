"""The example of a source runs, from raw logs to a served version."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

pytestmark = pytest.mark.end_to_end
EXAMPLE = Path(__file__).parents[2] / "examples/own_source.py"


def test_logs_of_two_days_become_a_served_version_and_a_broken_line_is_counted(tmp_path: Path) -> None:
    raw = tmp_path / "my_logs"
    raw.mkdir()
    midnight = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
    for day in range(2):
        lines = [
            f"{midnight + 86_400 * day + 200 * row} user={row % 40} item={row % 17}{' click' * (row % 3 == 0)}"
            for row in range(400)
        ]
        (raw / f"{day}.log").write_text("\n".join([*lines, "user=1 item=2"]) + "\n")
    flags = [f"--config={EXAMPLE}", "--smoke", f"--raw_dir={raw}", f"--workdir={tmp_path / 'W'}"]
    run = [Path(sys.executable).parent / "tutelage-run", *flags]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "802 rows in = 800 kept + 2 dropped (2 unreadable)" in done.stdout
    interactions = pl.read_delta(str(tmp_path / "W/lake/interactions"))
    assert interactions["click"].sum() == 2 * 134
    assert len(list((tmp_path / "W/export/student").glob("20260102*/saved_model.pb"))) == 1
