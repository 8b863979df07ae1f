"""A successor is killed with SIGKILL while it trains or takes over; run again, it ends as if it had not been killed."""

import json
import random
import shutil
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.faults.forked import Command
from tests.same import assert_same

CONFIG = str(Path(__file__).with_name("successors.py"))
STEP = "teach --successor"


def _complete(command: str, workdir: Path) -> int:
    """Run it to its end; return how often it was about to commit something."""
    started = Command(command, workdir, config=CONFIG)
    commits = len(list(started.commits()))
    assert started.end() == (0, "")
    return commits


def _kill(workdir: Path, commit: int, seconds: float) -> bool:
    """Kill it `seconds` after it was about to make that commit; return whether that was before its end."""
    command = Command(STEP, workdir, config=CONFIG)
    for _ in islice(command.commits(), commit):
        pass
    time.sleep(seconds)
    command.process.kill()
    code, err = command.end()
    assert code in (0, -9), err
    return code != 0


def _change(workdir: Path) -> dict[str, Any]:
    (change,) = json.loads((workdir / "takeovers.json").read_text())
    return {**change, "decided_at": ""}


@pytest.mark.slow
def test_a_successor_killed_while_it_trains_or_takes_over_and_run_again_ends_the_same(
    tmp_path: Path,
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    for command in ("materialize", "teach"):
        _complete(command, before)
    shutil.copytree(before, after)
    commits = _complete(STEP, after)
    assert _change(after)["from_day"] == "2026-01-04"
    chance = random.Random(1)
    # The last commit is the change of teacher. Among the others, each day has four partial checkpoints.
    instants = [(commits, 0.0), (commits, 0.005), (commits - 1, 0.0)]
    instants += [(n, chance.uniform(0, 0.05)) for n in chance.sample(range(1, commits), 5)]
    cut_short = 0
    for number, (commit, seconds) in enumerate(instants):
        workdir = shutil.copytree(before, tmp_path / str(number))
        cut_short += _kill(workdir, commit, seconds)
        _complete(STEP, workdir)
        assert_same(after, workdir)
        assert _change(after) == _change(workdir)
    assert cut_short >= 6
