"""Ctrl-C at any instant of a run ends it soon and in one line; the next run goes on, and all ends the same."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.same import assert_same

pytestmark = pytest.mark.end_to_end
BIN = Path(sys.executable).parent
RUN = [str(BIN / "tutelage-run"), "--config=synthetic", "--smoke"]
MODELS = 7
SECONDS = 5.0
"""So long may a run take to end, on cores that it need not share."""
ONE_LINE = re.compile(r"tutelage-run: .*stopped by SIGINT.*; run again to go on from there\n")
CHILD = "a process of its own"
VERSIONS = "export/*/2026010301"
INSTANTS = (
    # While it starts, and while days are made: the first commits, then the last.
    "",
    "config.json",
    "lake/interactions/day=*",
    "lake/interactions/_delta_log/*1.json",
    "lake/statistics/_delta_log/*1.json",
    # While a process starts for the teacher, and trains it day after day.
    CHILD,
    "teacher/.lock",
    "teacher/checkpoints/.partial-*",
    "teacher/checkpoints/2026-01-01",
    "teacher/checkpoints/2026-01-03",
    # While the teacher's days become versions.
    "publication/teacher/staging",
    "export/teacher/2026010101",
    "export/teacher/2026010301",
    # While snapshots label days, and the students' processes start.
    "lake/soft_labels/teacher=teacher/producer=snapshot",
    "lake/soft_labels/teacher=teacher/producer=snapshot/day=2026-01-03",
    # While students train, two at a time, and are exported.
    "students/*/checkpoints/2026-01-01",
    "students/control/checkpoints/2026-01-03",
    "students/snapshot/checkpoints/2026-01-02",
    "publication/late_*/staging",
    # While the report is written.
    VERSIONS,
)


def _start(workdir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*RUN, f"--workdir={workdir}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _interrupt(workdir: Path, pattern: str, later: float) -> float | None:
    """Send Ctrl-C to all processes of a run, `later` seconds after a path of the workdir is there.

    Returns the seconds until its end; None where it had ended before.
    """
    with _start(workdir) as process:
        while not _has_handlers(process.pid):  # Until then it is Python that starts.
            assert process.poll() is None
            time.sleep(0.005)
        while process.poll() is None and not _come(process, workdir, pattern):
            time.sleep(0.005)
        time.sleep(later)
        sent = time.monotonic()
        if process.poll() is not None:
            assert process.returncode == 0, process.communicate()[1]
            return None
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
        seconds = time.monotonic() - sent
        assert ONE_LINE.fullmatch(err), f"{pattern}: {process.returncode}, {err}"
        assert process.returncode == 128 + signal.SIGINT
        return seconds


def _has_handlers(pid: int) -> bool:
    """Return whether a process handles SIGTERM: Python itself does not."""
    caught = re.search(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.M)
    return bool(caught and int(caught[1], 16) & 1 << signal.SIGTERM - 1)


def _come(process: subprocess.Popen[str], workdir: Path, pattern: str) -> bool:
    """Return whether what `pattern` stands for is there: a path, all versions, or a second process."""
    if pattern == CHILD:
        return bool(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
    return not pattern or len(list(workdir.glob(pattern))) >= (MODELS if pattern == VERSIONS else 1)


def _complete(workdir: Path) -> None:
    with _start(workdir) as process:
        _, err = process.communicate(timeout=600)
        assert (process.returncode, err) == (0, "")


def _disturb(workdir: Path, undisturbed: Path, instants: Sequence[str]) -> list[float]:
    """Interrupt a run at each of `instants`, let it end, and compare; return the seconds that each end took."""
    chance = random.Random(len(instants))
    seconds = []
    for pattern in instants:
        took = _interrupt(workdir, pattern, chance.uniform(0, 0.3))
        assert took is not None, f"{pattern}: the run had ended before"
        seconds.append(took)
    _complete(workdir)
    assert_same(undisturbed, workdir)
    assert (workdir / "report/index.html").exists()
    return seconds


@pytest.mark.slow
def test_ctrl_c_at_twenty_instants_of_all_steps_ends_the_run_soon_and_it_goes_on_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _complete(tmp_path / "undisturbed")
    seconds = _disturb(tmp_path / "disturbed", tmp_path / "undisturbed", INSTANTS)
    with capsys.disabled():
        print(f"\n{len(seconds)} times Ctrl-C: ended within {max(seconds):.1f} s")
    assert len(seconds) == 20
    shared = max(1.0, os.getloadavg()[1] / len(os.sched_getaffinity(0)))
    assert max(seconds) < SECONDS * shared
