"""The real study on the smoke size of the synthetic data: killed, resumed, and read."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from tests import golden

pytestmark = pytest.mark.end_to_end
COMMAND = [Path(sys.executable).parent / "tutelage-study", "--config=synthetic", "--smoke"]
# The base teacher, the plans by which its snapshots label, and all students of the config are trained.
FLAGS = ["--seeds=1", "--studies=1", "--studies=4"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a study that was killed once and resumed."""
    workdir = tmp_path_factory.mktemp("study")
    command = [*COMMAND, *FLAGS, f"--workdir={workdir}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        trained = workdir / "study/units"
        deadline = time.monotonic() + 120
        while not list(trained.glob(".base-1-*/students/*/checkpoints/2*")) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
    assert not (workdir / "study/results.md").exists()
    assert [path.name[:7] for path in trained.iterdir()] == [".base-1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "1 unit to train" in done.stdout
    assert f"Results: {workdir}/study/results.md and {workdir}/study/results.html" in done.stdout
    return workdir / "study"


def test_an_arm_is_the_student_that_a_run_trains(study: Path, tmp_path: Path) -> None:
    found = pl.read_delta(str(study / "comparisons")).filter(pl.col("arm") == "late_control")
    # A study serves nothing and withholds nothing.
    flags = ["--config=synthetic", "--smoke", f"--workdir={tmp_path}", "--set=training.holdout=0"]
    for command in (["tutelage-materialize"], ["tutelage-student", "--student=late_control"]):
        subprocess.run([COMMAND[0].with_name(command[0]), *command[1:], *flags], check=True, timeout=300)
    # Judged on the one day that all students were trained for a day before.
    wanted = golden.losses(tmp_path).filter(
        pl.col("day").cast(pl.String) == "2026-01-03", model="late_control", basis="day_ahead"
    )
    expected = dict(wanted.select("task", "value").iter_rows())
    losses = dict(found.select("task", "loss").unique().iter_rows())
    assert losses.keys() == expected.keys() == {"click", "long_view", "watch"}
    for task, loss in losses.items():
        assert loss == pytest.approx(expected[task], rel=1e-4)


def test_models_are_removed_once_their_sums_are_kept(study: Path) -> None:
    (unit,) = (study / "units").iterdir()
    assert unit.name == "base-1"
    assert sorted(path.name for path in unit.iterdir()) == [
        "buckets.parquet",
        "design.json",
        "facts.parquet",
        "sums.parquet",
    ]
    sums = pl.read_parquet(unit / "sums.parquet")
    per_arm = sums.filter(task="click").group_by("arm").agg(pl.col("rows").sum())
    assert per_arm["rows"].unique().to_list() == [5000]
    assert per_arm.height == 1 + 5 + 2


def test_facts_include_the_teacher_and_the_distance_from_the_truth(study: Path) -> None:
    facts = pl.read_delta(str(study / "facts"))
    truth = dict(facts.filter(task="click", metric="truth").select("arm", "value").iter_rows())
    assert {"teacher@base", "control", "late_auxiliary@leaked"} <= truth.keys()
    assert all(value > 0 for value in truth.values())
    # The scores are the arm's own.
    assert len(set(truth.values())) == len(truth)
    # A teacher ranks its own scores as it ranks them.
    own = facts.filter(arm="teacher@base", task="click", metric="spearman")["value"].item()
    assert own == pytest.approx(1)
    # Leakage needs a baseline, and with one seed it has no interval.
    leaking = facts.filter(pl.col("metric").str.starts_with("leakage"))
    assert set(leaking["metric"]) == {"leakage"}
    assert {"direct", "late_auxiliary", "late_auxiliary@leaked"} <= set(leaking["arm"])
    assert not set(leaking["arm"]) & {"teacher@base", "control", "late_control"}


def test_the_page_and_the_markdown_name_the_studies(study: Path) -> None:
    text = (study / "results.md").read_text("utf-8")
    assert "--studies=1 --studies=4" in text
    assert "## 1 none, direct and auxiliary" in text
    assert "- late_auxiliary@leaked against late_control: click log loss" in text
    page = (study / "results.html").read_text("utf-8")
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_a_second_run_trains_nothing_and_writes_the_same(study: Path) -> None:
    before = (study / "results.md").read_text("utf-8")
    done = subprocess.run(
        [*COMMAND, *FLAGS, f"--workdir={study.parent}"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "units to train" not in done.stdout

    def figures(text: str) -> list[str]:
        return [line for line in text.splitlines() if not line.startswith("Judged on")]

    assert figures((study / "results.md").read_text("utf-8")) == figures(before)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--studies=9"], "--studies: [9]; expected numbers of [1, 2, 3, 4, 5, 6, 7]"),
        (["--seeds=0"], "flag --seeds=0: 0 is not a positive integer; --help lists the flags"),
    ],
)
def test_a_mistake_gives_one_line_and_a_non_zero_exit_code(
    tmp_path: Path, flags: list[str], says: str
) -> None:
    done = subprocess.run(
        [*COMMAND, f"--workdir={tmp_path}", *flags], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr == f"tutelage-study: {says}\n"
