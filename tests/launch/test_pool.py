"""Processes that train, and the message about one that ends badly."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tutelage.launch import pool
from tutelage.launch.session import Session
from tutelage.pipeline.errors import UserError

# `load` runs the config's file in the child. In a process without a main file: a child would run that again.
TRAIN = """
import sys
from tutelage.launch import pool
from types import SimpleNamespace
from tutelage.pipeline.errors import UserError

try:
    # The session is opened in the child only.
    session = SimpleNamespace(request={"config": sys.argv[1], "workdir": sys.argv[2]}, verbose=False)
    (outcome,) = pool.train(session, ["teacher"], progress=print)
    print(type(outcome.failure).__name__, outcome.failure)
except UserError as error:
    print("raised", error)
"""


def _train(tmp_path: Path, config: str) -> subprocess.Popen[str]:
    (tmp_path / "my.py").write_text(config)
    command = [sys.executable, "-c", TRAIN, str(tmp_path / "my.py"), str(tmp_path / "w")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_process_is_reported_in_one_line_with_its_model(tmp_path: Path) -> None:
    with _train(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n") as process:
        out, err = process.communicate(timeout=60)
    assert out == (
        "Killed a process that trained teacher was killed (is there memory enough for 1 model at a time?); "
        "run again to go on from the last finished day\n"
    )
    assert err == ""


def test_a_users_mistake_reaches_the_parent_as_it_was(tmp_path: Path) -> None:
    with _train(tmp_path, "x = 1\n") as process:
        out, err = process.communicate(timeout=60)
    assert (
        out
        == f"UserError --config={tmp_path}/my.py: the file has no function experiment(smoke); see launch/configs/\n"
    )
    assert err == ""


def test_a_killed_run_leaves_no_process_behind(tmp_path: Path) -> None:
    reported = tmp_path / "pid"
    config = (
        "import os, pathlib, time\n"
        f"pathlib.Path({str(reported)!r} + '.partial').write_text(str(os.getpid()))\n"
        f"os.rename({str(reported)!r} + '.partial', {str(reported)!r})\n"
        "time.sleep(60)\n"
    )
    with _train(tmp_path, config) as process:
        while not reported.exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
        try:
            # The other end of these pipes is open for as long as one of its processes lives.
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            os.kill(int(reported.read_text()), signal.SIGKILL)
            raise


def _ends(request: Mapping[str, Any], model: str, *, progress: Callable[[int], None]) -> pool.Outcome:
    """Take the place of training in a child: the model's name says how it ends."""
    progress(7)
    if model == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if model == "mistaken":
        raise UserError("a mistake")
    if model == "broken":
        raise ZeroDivisionError("an error in the code")
    return pool.Outcome(model=model, exported=2)


def test_a_model_that_is_killed_or_fails_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_train", _ends)
    session = cast(Session, SimpleNamespace(request={}, verbose=False))
    rows: list[tuple[str, int]] = []
    models = ["killed", "mistaken", "broken", "sound"]
    outcomes = {
        outcome.model: outcome
        for outcome in pool.train(session, models, progress=lambda name, more: rows.append((name, more)))
    }
    assert outcomes.keys() == {*models}
    assert outcomes["sound"] == pool.Outcome(model="sound", exported=2)
    assert ("sound", 7) in rows
    failures = {model: outcome.failure for model, outcome in outcomes.items() if outcome.failure}
    assert {model: type(failure) for model, failure in failures.items()} == {
        "killed": pool.Killed,
        "mistaken": UserError,
        "broken": ZeroDivisionError,
    }
    assert str(failures["killed"]).startswith(
        "a process that trained killed was killed (is there memory enough"
    )
    assert str(failures["mistaken"]) == "a mistake"
    # The traceback of an error in the code comes with it.
    assert "in _ends" in failures["broken"].__notes__[0]
