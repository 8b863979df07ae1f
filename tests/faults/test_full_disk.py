"""The disk fills up in the middle of a step."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.forked import STEPS, Command, Undisturbed, complete
from tests.same import assert_same

_PAGE = 4096
_LARGE = 1 << 30


def _resize(disk: Path, size: int, *, how: str = "remount,") -> None:
    command = ["mount", "-t", "tmpfs", "-o", f"{how}size={size}", "tutelage-test", str(disk)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    _resize(path, _LARGE, how="")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def _size(root: Path) -> int:
    """Return the size in whole pages, as tmpfs counts it."""
    return sum(-(-path.stat().st_size // _PAGE) * _PAGE for path in root.rglob("*") if path.is_file())


def _finished(root: Path) -> set[Path]:
    """Return the finished days, versions and Delta commits."""
    patterns = ("**/checkpoints/2*", "export/*/2*", "lake/*/_delta_log/*.json")
    return {path.relative_to(root) for pattern in patterns for path in root.glob(pattern)}


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_a_full_disk_is_reported_in_one_line_and_with_room_again_the_step_ends_the_same(
    step: str, undisturbed: Undisturbed, disk: Path
) -> None:
    workdir = shutil.copytree(undisturbed.before[step], disk / "workdir")
    before = _finished(workdir)
    used = shutil.disk_usage(disk).used
    grown = _size(undisturbed.after[step]) - _size(undisturbed.before[step])
    _resize(disk, used + grown // 2)
    command = Command(STEPS[step], workdir)
    says = (
        f"tutelage-{STEPS[step].split()[0]}: {workdir}: its disk is full; "
        "free some space, then run again: what was finished stays\n"
    )
    assert command.end() == (75, says)
    halfway = _finished(workdir)
    assert before <= halfway
    _resize(disk, _LARGE)
    complete(step, workdir)
    assert halfway <= _finished(workdir)
    assert_same(undisturbed.after[step], workdir)
