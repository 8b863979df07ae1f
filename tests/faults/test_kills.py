"""Every step is killed with SIGKILL at random instants; run again, it ends as if it had not been."""

import random
import re
import shutil
import time
from bisect import bisect_right
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path

import polars as pl
import pytest

from tests.faults.forked import STEPS, Command, Undisturbed, complete
from tests.same import assert_same

KILLS = {
    "materialize": 30,
    "teach": 30,
    "export teacher": 12,
    "label": 25,
    **{step: 25 for step in STEPS if step.startswith("learn ")},
    "export control": 7,
    "export auxiliary": 7,
    "export snapshot": 7,
    "report": 7,
}
"""200 in all."""
NEAR = 0.05
"""Seconds from a commit, of half of them."""
KEYS = {
    "interactions": ["day", "example_id"],
    "histories": ["day", "user_id"],
    "soft_labels": ["teacher", "producer", "day", "example_id"],
    "metrics": ["run", "model", "day", "task", "metric", "slice", "basis"],
}


def _instant(seconds: list[float], chance: random.Random, *, near: bool) -> float:
    *commits, end = seconds
    return chance.choice(commits) + chance.uniform(-NEAR, NEAR) if near else chance.uniform(0, end)


def _kill(step: str, workdir: Path, seconds: list[float], instant: float) -> bool:
    """Whether the kill at `instant`, as the undisturbed run counts, came before the end.

    It is timed from the last commit before it: runs drift apart.
    """
    before = bisect_right(seconds[:-1], instant)
    command = Command(STEPS[step], workdir)
    commits = command.commits()
    for _ in range(before):
        next(commits, None)
    time.sleep(max(0.0, instant - (seconds[before - 1] if before else 0.0)))
    command.process.kill()
    code, err = command.end()
    assert code in (0, -9), err
    return code != 0


def _lost_and_doubled(expected: Path, found: Path) -> tuple[int, int]:
    lost = doubled = 0
    for table, keys in KEYS.items():
        wanted, rows = (pl.read_delta(str(root / "lake" / table)).select(keys) for root in (expected, found))
        lost += wanted.join(rows, on=keys, how="anti", nulls_equal=True).height
        doubled += rows.height - rows.n_unique()
    return lost, doubled


def _report(workdir: Path) -> str:
    path = workdir / "report/index.html"
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", path.read_text()) if path.exists() else ""


def _go(step: str, done: Undisturbed, folder: Callable[[], Path], instant: float) -> tuple[bool, int, int]:
    """Kill a step at an instant and run it again; whether it was cut short, rows lost and doubled."""
    workdir = shutil.copytree(done.before[step], folder())
    cut_short = _kill(step, workdir, done.seconds[step], instant)
    complete(step, workdir)
    lost, doubled = _lost_and_doubled(done.after[step], workdir)
    assert_same(done.after[step], workdir)
    assert _report(done.after[step]) == _report(workdir)
    shutil.rmtree(workdir)
    return cut_short, lost, doubled


@pytest.mark.slow
def test_killed_at_two_hundred_instants_a_step_that_is_run_again_ends_the_same(
    undisturbed: Undisturbed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = count()
    started = time.monotonic()
    kills = lost = doubled = 0
    with ThreadPoolExecutor(2) as pool:
        for step, wanted in KILLS.items():
            chance = random.Random(step)
            instants = [
                _instant(undisturbed.seconds[step], chance, near=n % 2 == 0) for n in range(2 * wanted)
            ]
            cut_short = 0
            while cut_short < wanted:
                assert instants, "too many came after its end"
                now, instants = instants[: wanted - cut_short], instants[wanted - cut_short :]
                go = partial(_go, step, undisturbed, lambda: tmp_path / str(next(numbers)))
                for cut, lost_, doubled_ in pool.map(go, now):
                    cut_short, lost, doubled = cut_short + cut, lost + lost_, doubled + doubled_
            kills += cut_short
            with capsys.disabled():
                print(
                    f"\n{kills} of {sum(KILLS.values())} kills, {time.monotonic() - started:.0f} s: {step}",
                    end="",
                )
    with capsys.disabled():
        print(
            f"\n{kills} kills, half of them within {1000 * NEAR:.0f} ms of a commit: lost = {lost}, doubled = {doubled}"
        )
    assert (kills, lost, doubled) == (200, 0, 0)
