"""A backfill of 48 weeks spends its time on training, and tells what it did on one screen."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.end_to_end
BIN = Path(sys.executable).parent
CONFIG = Path(__file__).parents[1] / "faults/five_days.py"
LINES, COLUMNS = 40, 120
SHARE = 0.10
SETTINGS = {
    "schema.slice_days": 7,
    "source.rows_per_day": 2_000,
    "training.batch_size": 256,
    "training.checkpoint_minutes": None,
    # A teacher whose snapshots label needs a version of each week.
    "students.snapshot.producer": "pre_update",
    # The world drifts from week to week, with its users.
    "quality.number_drift": 9,
    "quality.id_drift": 1,
    "quality.new_ids_rise": 1,
    "quality.rate_ratio": 99,
}


@pytest.mark.slow
def test_a_backfill_of_48_weeks_exports_little_and_prints_one_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [BIN / "tutelage-run", f"--config={CONFIG}", "--end_day=2026-12-02", f"--workdir={tmp_path}"]
    command += [f"--set={name}={value}" for name, value in SETTINGS.items()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    assert (done.returncode, done.stderr) == (0, "")
    trained = re.findall(r"^(\w+): trained on 2026-01-01 to 2026-11-26, 96,000 examples", done.stdout, re.M)
    assert sorted(trained) == ["auxiliary", "control", "snapshot", "teacher"]
    exported = re.findall(r"; 1 version exported in ([\d.]+) s$", done.stdout, re.M)
    assert len(exported) == 4
    (total,) = re.findall(r"^Done in (\d+) s\.$", done.stdout, re.M)
    share = sum(map(float, exported)) / float(total)
    screen = sum(max(1, -(-len(line) // COLUMNS)) for line in done.stdout.splitlines())
    with capsys.disabled():
        print(f"\n48 weeks in {total} s: export {share:.1%}, {screen} lines of {COLUMNS} columns")
    assert share <= SHARE
    assert screen <= LINES
