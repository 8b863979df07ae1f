"""The real commands get SIGTERM within a day."""

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
# A row an update, so that the one day takes seconds; it is put down every 0.2 s or so.
FLAGS = ["--config=synthetic", "--smoke", "--end_day=2026-01-01", "--set=training.batch_size=1"]
OFTEN = "--set=training.checkpoint_minutes=0.003"


def _stopped(command: str, workdir: Path) -> str:
    """What the command wrote to stderr after all its processes got SIGTERM while the teacher learnt."""
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
        os.killpg(process.pid, signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert time.monotonic() - started < 10
        assert process.returncode == (1 if command == "run" else 128 + signal.SIGTERM)
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


@pytest.mark.parametrize("command", ["teach", "run"])
def test_sigterm_puts_the_day_down_and_the_next_command_ends_it_the_same(
    materialized: Path, undisturbed: Path, tmp_path: Path, command: str
) -> None:
    other = shutil.copytree(materialized, tmp_path / "other")
    err = _stopped(command, other)
    assert err.startswith(f"tutelage-{command}: teacher: stopped by SIGTERM after ")
    assert err.endswith(" of the 5,000 rows of 2026-01-01; run again to go on from there\n")
    assert err.count("\n") == 1
    _teach(other)
    assert_same(undisturbed, other)
