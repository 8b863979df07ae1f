"""The real commands get SIGTERM, or Ctrl-C, within a day."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.same import assert_same

pytestmark = pytest.mark.end_to_end
BIN = Path(sys.executable).parent
# A row an update, so that the one day takes seconds; a partial checkpoint is saved every 0.2 s or so.
FLAGS = ["--config=synthetic", "--smoke", "--end_day=2026-01-01", "--set=training.batch_size=1"]
OFTEN = "--set=training.checkpoint_minutes=0.003"


def _stopped(command: str, workdir: Path, by: signal.Signals) -> str:
    """Return what the command wrote to stderr after all its processes got a signal during training."""
    checkpoints = workdir / "teacher/checkpoints"
    with subprocess.Popen(
        [BIN / f"tutelage-{command}", *FLAGS, OFTEN, f"--workdir={workdir}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        while not list(checkpoints.glob("within-*")):
            assert process.poll() is None
            time.sleep(0.01)
        started = time.monotonic()
        os.killpg(process.pid, by)
        _, err = process.communicate(timeout=60)
        assert time.monotonic() - started < 10
        assert process.returncode == 128 + by
    assert list(checkpoints.glob("within-*"))
    return err


@pytest.fixture(scope="module")
def materialized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("materialized")
    subprocess.run([BIN / "tutelage-materialize", *FLAGS, f"--workdir={path}"], check=True, timeout=300)
    return path


@pytest.fixture(scope="module")
def undisturbed(materialized: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = shutil.copytree(materialized, tmp_path_factory.mktemp("undisturbed") / "run")
    _teach(path)
    return path


def _teach(workdir: Path) -> None:
    done = subprocess.run(
        [BIN / "tutelage-teach", *FLAGS, f"--workdir={workdir}"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", ["teach", "run"])
def test_a_signal_leaves_a_partial_checkpoint_and_the_next_command_ends_the_day_the_same(
    materialized: Path, undisturbed: Path, tmp_path: Path, command: str, by: signal.Signals
) -> None:
    other = shutil.copytree(materialized, tmp_path / "other")
    err = _stopped(command, other, by)
    assert err.startswith(f"tutelage-{command}: teacher: stopped by {by.name} after ")
    assert err.endswith(" of the 5,000 rows of 2026-01-01; run again to go on from there\n")
    assert err.count("\n") == 1
    _teach(other)
    assert_same(undisturbed, other)


def test_ctrl_c_before_any_training_ends_in_one_line(tmp_path: Path) -> None:
    with subprocess.Popen(
        [BIN / "tutelage-materialize", *FLAGS, "--set=source.rows_per_day=3000000", f"--workdir={tmp_path}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        while not (tmp_path / "config.json").exists():
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert err == "tutelage-materialize: stopped by SIGINT; run again to go on from there\n"
