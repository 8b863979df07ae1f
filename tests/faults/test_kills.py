"""Every step is killed with SIGKILL at random instants; run again, it ends as if it had not been killed."""

import random
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.faults.forked import KILLS, NEAR, Undisturbed, complete, instant, kill
from tests.same import assert_same, lost_and_doubled


@dataclass(frozen=True, kw_only=True)
class Kill:
    cut_short: bool
    """Whether the kill came before the end."""
    since_commit: float
    """Seconds since the last commit began; infinite if none had begun."""
    lost: int
    doubled: int


def _report(workdir: Path) -> str:
    path = workdir / "report/index.html"
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", path.read_text()) if path.exists() else ""


def _go(step: str, done: Undisturbed, seconds: list[float], at: float, workdir: Path) -> Kill:
    """Kill a step at an instant, run it again, and compare."""
    shutil.copytree(done.before[step], workdir)
    cut_short, since_commit = kill(step, workdir, seconds, at)
    complete(step, workdir)
    lost, doubled = lost_and_doubled(done.after[step], workdir)
    assert_same(done.after[step], workdir)
    assert _report(done.after[step]) == _report(workdir)
    shutil.rmtree(workdir)
    return Kill(cut_short=cut_short, since_commit=since_commit, lost=lost, doubled=doubled)


@pytest.mark.slow
def test_a_step_killed_at_two_hundred_instants_and_run_again_ends_the_same(
    undisturbed: Undisturbed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    kills: list[Kill] = []
    with ThreadPoolExecutor(2) as pool:
        for step, wanted in KILLS.items():
            timed = shutil.copytree(undisturbed.before[step], tmp_path / step.replace(" ", "_"))
            seconds = complete(step, timed)
            chance = random.Random(step)
            found: list[Kill] = []
            tried = 0
            while (left := wanted - len(found)) > 0:
                assert tried < 3 * wanted + 20, "too many kills came after its end"
                instants = [instant(seconds, chance, near=n % 2 == 0) for n in range(tried, tried + left)]
                folders = [timed.with_name(f"{timed.name}-{n}") for n in range(tried, tried + left)]
                tried += left
                done = pool.map(partial(_go, step, undisturbed, seconds), instants, folders)
                found += [each for each in done if each.cut_short]
            kills += found
            with capsys.disabled():
                print(f"\n{len(kills)} kills, {time.monotonic() - started:.0f} s: {step}", end="", flush=True)
    lost, doubled = sum(each.lost for each in kills), sum(each.doubled for each in kills)
    just = sum(each.since_commit < NEAR for each in kills)
    with capsys.disabled():
        print(
            f"\n{len(kills)} kills, half of them aimed at within {1000 * NEAR:.0f} ms of a commit, "
            f"{just} came so soon after its begin: lost = {lost}, doubled = {doubled}"
        )
    assert (len(kills), lost, doubled) == (200, 0, 0)
