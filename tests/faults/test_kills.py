"""Every step is killed with SIGKILL at random instants; run again, it ends as if it had not been killed."""

import math
import random
import re
import shutil
import time
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import pytest

from tests.faults.forked import STEPS, Command, Undisturbed, complete
from tests.same import assert_same, lost_and_doubled

KILLS = {
    "materialize": 30,
    "teach": 30,
    "export teacher": 12,
    "label": 25,
    **{step: 25 for step in STEPS if step.startswith("train ")},
    "export control": 7,
    "export auxiliary": 7,
    "export snapshot": 7,
    "report": 7,
}
"""200 in all."""
NEAR = 0.05
"""Half of the kills are aimed to within this many seconds of a commit."""


def _instant(seconds: list[float], chance: random.Random, *, near: bool) -> float:
    *commits, end = seconds
    return chance.choice(commits) + chance.uniform(-NEAR, NEAR) if near else chance.uniform(0, end)


@dataclass(frozen=True, kw_only=True)
class Kill:
    cut_short: bool
    """Whether the kill came before the end."""
    since_commit: float
    """Seconds since the last commit began; infinite if none had begun."""
    lost: int
    doubled: int


def _kill(step: str, workdir: Path, seconds: list[float], instant: float) -> tuple[bool, float]:
    """Kill a step at `instant` on the clock of the undisturbed run.

    Returns whether that was before its end, and the seconds since its last commit began. The instant is timed from the
    last commit before it, because the clocks of two runs drift apart.
    """
    before = bisect_right(seconds[:-1], instant)
    command = Command(STEPS[step], workdir)
    commits = command.commits()
    made = [-math.inf, *islice(commits, before)]
    time.sleep(max(0.0, instant - (seconds[before - 1] if before else 0.0)))
    command.process.kill()
    killed = time.monotonic() - command.started
    code, err = command.end()
    assert code in (0, -9), err
    return code != 0, killed - [*made, *commits][-1]


def _report(workdir: Path) -> str:
    path = workdir / "report/index.html"
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", path.read_text()) if path.exists() else ""


def _go(step: str, done: Undisturbed, seconds: list[float], instant: float, workdir: Path) -> Kill:
    """Kill a step at an instant, run it again, and compare."""
    shutil.copytree(done.before[step], workdir)
    cut_short, since_commit = _kill(step, workdir, seconds, instant)
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
                instants = [_instant(seconds, chance, near=n % 2 == 0) for n in range(tried, tried + left)]
                folders = [timed.with_name(f"{timed.name}-{n}") for n in range(tried, tried + left)]
                tried += left
                done = pool.map(partial(_go, step, undisturbed, seconds), instants, folders)
                found += [kill for kill in done if kill.cut_short]
            kills += found
            with capsys.disabled():
                print(f"\n{len(kills)} kills, {time.monotonic() - started:.0f} s: {step}", end="", flush=True)
    lost, doubled = sum(kill.lost for kill in kills), sum(kill.doubled for kill in kills)
    just = sum(kill.since_commit < NEAR for kill in kills)
    with capsys.disabled():
        print(
            f"\n{len(kills)} kills, half of them aimed at within {1000 * NEAR:.0f} ms of a commit, "
            f"{just} came so soon after its begin: lost = {lost}, doubled = {doubled}"
        )
    assert (len(kills), lost, doubled) == (200, 0, 0)
