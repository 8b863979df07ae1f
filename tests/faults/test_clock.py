"""A clock that runs backwards."""

import shutil
from pathlib import Path

import pytest

from tests.faults.forked import STEPS, Undisturbed, complete, run_the_clock_backwards
from tests.same import assert_same


@pytest.mark.slow
def test_nothing_is_lost_refused_or_out_of_order_when_the_clock_runs_backwards(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    for step in STEPS:
        complete(step, tmp_path / "workdir", first=run_the_clock_backwards)
    # What was done before the clock jumped is replaced by what is done after it.
    again = shutil.copytree(undisturbed.after["report"], tmp_path / "again")
    for step in ("materialize", "label", "report"):
        complete(step, again, first=run_the_clock_backwards)
    for workdir in (tmp_path / "workdir", again):
        assert_same(undisturbed.after["report"], workdir)
        served = [
            sorted(path.name for path in root.glob("export/control/[0-9]*"))
            for root in (undisturbed.after["report"], workdir)
        ]
        assert served[0] == served[1]
