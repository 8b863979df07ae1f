"""The real commands change the teacher: in the shadow, taking over, and as the config's teacher."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from tests.same import assert_same

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow]
BIN = Path(sys.executable).parent

# `wide` is wider than the teacher, has one feature more, and starts on the second day: it can be judged from the
# fourth on, by the two days before.
CONFIG = """
from dataclasses import replace
from datetime import date

from tutelage.launch.configs import synthetic
from tutelage.models.config import ModelConfig, distil
from tutelage.trainers.config import GateConfig, StudentConfig, SuccessorConfig, TeacherConfig

LOOSE = GateConfig(min_days=7)
SMALL = ModelConfig(embedding_dim=8, hidden=(16, 8))
OLD = TeacherConfig(model=replace(SMALL, without=("topic",)), gate=LOOSE)
WIDE = TeacherConfig(name="wide", model=replace(SMALL, hidden=(32, 8)), gate=LOOSE)


def student(name, **fields):
    return StudentConfig(name=name, model=SMALL, distillation=distil("click", "watch"), gate=LOOSE, **fields)


def experiment(*, smoke):
    base = synthetic.experiment(smoke=True)
    return replace(
        base,
        source=replace(base.source, rows_per_day=2_000),
        serving=replace(base.serving, auc_drop=1, entropy_rise=9, squared_error_rise=9, calibration_drift=9,
                        max_latency_ms=1e6),
        students=(
            student("kept"),
            student("masked", producer="snapshot", new_teacher="mask", mask_days=1),
        ),
        slice_by=(),
        {teachers}
    )
"""
BESIDE = "teacher=OLD, successor=SuccessorConfig(teacher=WIDE, first_day=date(2026, 1, 2), judged_days=2)"
MOVED = "teacher=WIDE"
AS_GOOD, NEVER = "--set=successor.margin=0.5", "--set=successor.margin=-0.9"


def _config(folder: Path, teachers: str) -> Path:
    path = folder / f"{'beside' if teachers == BESIDE else 'moved'}.py"
    path.write_text(CONFIG.replace("{teachers}", teachers))
    return path


def _run(command: str, config: Path, workdir: Path, *flags: str) -> str:
    done = subprocess.run(
        [BIN / f"tutelage-{command}", f"--config={config}", f"--workdir={workdir}", *flags],
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _config(tmp_path_factory.mktemp("beside"), BESIDE)


@pytest.fixture(scope="module")
def workdir(beside: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four nights in which the successor was refused, and a fifth in which it took over."""
    root = tmp_path_factory.mktemp("succeeded")
    printed = _run("run", beside, root, "--end_day=2026-01-04", NEVER)
    assert "teacher-wide: starts with " in printed
    assert ", shared/0/kernel [" in printed
    assert "wide learns beside teacher, which labels (not as good: click log_loss " in printed
    assert not (root / "takeovers.json").exists()
    printed = _run("run", beside, root, "--end_day=2026-01-05", AS_GOOD)
    assert (
        "wide took over from teacher: students read its labels from 2026-01-05 on (click log_loss " in printed
    )
    return root


def test_students_go_on_with_the_new_teacher_s_labels(workdir: Path) -> None:
    (change,) = json.loads((workdir / "takeovers.json").read_text())
    assert (change["judged"], change["from_day"]) == (["2026-01-03", "2026-01-04"], "2026-01-05")
    metrics = pl.read_delta(str(workdir / "lake/metrics")).filter(basis="pre_update", task="")
    counted = {
        (model, str(day), metric): value
        for model, day, metric, value in metrics.select("model", "day", "metric", "value").iter_rows()
    }
    # The new teacher has learnt 6,000 rows before the fifth day, and it is fit from the first on.
    assert counted["kept", "2026-01-05", "labels_used"] == 2_000
    assert counted["masked", "2026-01-05", "teacher_changed"] == 2_000
    assert ("masked", "2026-01-04", "teacher_changed") not in counted
    labels = pl.read_delta(str(workdir / "lake/soft_labels")).filter(producer="snapshot")
    by = dict(labels.select("day", "teacher").unique().sort("day").cast(pl.String).iter_rows())
    assert by == {
        **dict.fromkeys(("2026-01-02", "2026-01-03", "2026-01-04"), "teacher"),
        "2026-01-05": "wide",
    }


def test_a_run_that_was_killed_after_the_take_over_ends_the_same(
    beside: Path, workdir: Path, tmp_path: Path
) -> None:
    flags = [f"--config={beside}", f"--workdir={tmp_path}", "--end_day=2026-01-05", AS_GOOD]
    with subprocess.Popen(
        [BIN / "tutelage-run", *flags], stdout=subprocess.DEVNULL, start_new_session=True
    ) as process:
        while not (tmp_path / "takeovers.json").exists():
            assert process.poll() is None
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
    assert not list(tmp_path.glob("students/*/checkpoints/2*"))
    _run("run", beside, tmp_path, "--end_day=2026-01-05", AS_GOOD)
    assert_same(workdir, tmp_path)


def test_a_rollback_before_the_decision_takes_it_back_and_the_next_run_decides_the_same(
    beside: Path, workdir: Path, tmp_path: Path
) -> None:
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    printed = _run("rollback", beside, tmp_path, "--to_day=2026-01-03", AS_GOOD)
    assert "goes: that wide took over from teacher on 2026-01-05\n" in printed
    for model in ("teacher", "teacher-wide", "students/kept", "students/masked"):
        assert max(path.name for path in (tmp_path / model / "checkpoints").glob("2*")) == "2026-01-03"
    _run("run", beside, tmp_path, "--end_day=2026-01-05", AS_GOOD)
    assert_same(workdir, tmp_path)


def test_made_the_teacher_of_the_config_it_goes_on_and_a_second_run_does_nothing(
    beside: Path, workdir: Path, tmp_path: Path
) -> None:
    shutil.copytree(workdir, tmp_path / "w")
    moved = _config(tmp_path, MOVED)
    assert _run("run", beside, tmp_path / "w", "--end_day=2026-01-05").startswith("Nothing to do")
    assert _run("run", moved, tmp_path / "w", "--end_day=2026-01-05").startswith("Nothing to do")
    printed = _run("run", moved, tmp_path / "w", "--end_day=2026-01-06")
    assert "teacher-wide: learnt 2026-01-06, 2,000 examples" in printed
    assert "All 3 models reached 2026-01-06." in printed
    assert not (tmp_path / "w/teacher/checkpoints/2026-01-06").exists()
    assert (tmp_path / "w/export/masked/2026010601").is_dir()
    assert _run("run", moved, tmp_path / "w", "--end_day=2026-01-06").startswith("Nothing to do")
    status = _run("status", moved, tmp_path / "w", "--end_day=2026-01-06")
    assert "Teacher: wide took over from teacher: students read its labels from 2026-01-05 on" in status
