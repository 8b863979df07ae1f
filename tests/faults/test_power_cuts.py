"""A power cut loses what was not brought to the disk. Cut at any instant and run again, a step ends the same."""

import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.faults.forked import KILLS, STEPS, Command, Undisturbed, complete, instant, kill
from tests.faults.power import MODES, Mode, cut, record
from tests.same import assert_same, lost_and_doubled


@dataclass(frozen=True, kw_only=True)
class Cut:
    cut_short: bool
    """Whether it came before the end."""
    told: str
    """What the step wrote to stderr when it was run again."""
    lost: int
    doubled: int
    different: str
    """How the end differs from the undisturbed one; empty: it does not."""


def _go(step: str, done: Undisturbed, seconds: list[float], at: float, mode: Mode, folder: Path) -> Cut:
    """Cut the power at an instant, run the step again on what is left, and compare."""
    folder.mkdir()
    workdir = Path(shutil.copytree(done.before[step], folder / "cut"))
    cut_short, _ = kill(step, workdir, seconds, at, first=partial(record, workdir, folder / "journal"))
    left = cut(workdir, folder / "journal", folder / "left", mode=mode, chance=random.Random(at))
    code, told = Command(STEPS[step], left).end()
    lost = doubled = 0
    different = f"status {code}" if code or "Traceback" in told else ""
    if not different:
        lost, doubled = lost_and_doubled(done.after[step], left)
        try:
            assert_same(done.after[step], left)
        except AssertionError as error:
            different = str(error)
    if different:
        print(f"{step}, {at}, {mode}, {folder}: {different}; {told}")
    else:
        shutil.rmtree(folder)
    return Cut(cut_short=cut_short, told=told, lost=lost, doubled=doubled, different=different)


def test_what_a_teacher_was_trained_on_outlasts_a_power_cut_and_after_one_on_the_way_it_ends_the_same(
    tmp_path: Path,
) -> None:
    done = Undisturbed()
    done.before["materialize"] = tmp_path / "nothing"
    done.before["materialize"].mkdir()
    done.after["materialize"], _ = _finished("materialize", done, tmp_path / "materialize")
    done.before["teach"] = done.after["materialize"]
    done.after["teach"], seconds = _finished("teach", done, tmp_path / "teach")
    for mode in MODES:
        found = _go("teach", done, seconds, 0.6 * seconds[-1], mode, tmp_path / mode)
        assert (found.different, found.lost, found.doubled) == ("", 0, 0)


def _finished(step: str, done: Undisturbed, folder: Path) -> tuple[Path, list[float]]:
    """Do a step, and cut the power at its end; assert that nothing is lost.

    Returns the workdir after the step, and the seconds until each of its commits and until its end.
    """
    folder.mkdir()
    workdir = Path(shutil.copytree(done.before[step], folder / "w"))
    seconds = complete(step, workdir, first=partial(record, workdir, folder / "journal"))
    left = cut(workdir, folder / "journal", folder / "left", mode="synced", chance=random.Random(0))
    assert_same(workdir, left)
    return workdir, seconds


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_what_a_step_has_finished_outlasts_a_power_cut_and_after_one_on_the_way_it_ends_the_same(
    step: str, undisturbed: Undisturbed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started, wanted = time.monotonic(), KILLS[step]
    _, seconds = _finished(step, undisturbed, tmp_path / "timed")
    chance = random.Random(step)
    found: list[Cut] = []
    tried = 0
    with ThreadPoolExecutor(2) as pool:
        while (left := wanted - len(found)) > 0:
            assert tried < 3 * wanted + 20, "too many cuts came after the end"
            numbers = range(tried, tried + left)
            tried += left
            jobs = [
                pool.submit(
                    _go,
                    step,
                    undisturbed,
                    seconds,
                    instant(seconds, chance, near=number % 2 == 0),
                    MODES[number // 2 % 2],
                    tmp_path / str(number),
                )
                for number in numbers
            ]
            for job in jobs:
                if (each := job.result()).cut_short:
                    found.append(each)
                    with capsys.disabled():
                        print(".", end="", flush=True)
    lost, doubled = sum(each.lost for each in found), sum(each.doubled for each in found)
    different, told = sum(each.different != "" for each in found), sum(each.told != "" for each in found)
    with capsys.disabled():
        print(
            f"\n{len(found)} power cuts in {step}, {time.monotonic() - started:.0f} s: lost = {lost}, doubled = "
            f"{doubled}, different = {different}; {told} times a line told what was mended"
        )
        for line in sorted({line for each in found for line in each.told.splitlines()}):
            print(f"  {line}")
    assert (len(found), lost, doubled, different) == (wanted, 0, 0, 0)
