"""The real commands change the teacher: in the shadow, taking over, and as the config's teacher."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow]
BIN = Path(sys.executable).parent

# `wide` is wider than the teacher, has one feature more, and starts on the second day: it is judged from the third on.
CONFIG = """
from dataclasses import replace
from datetime import date

from tutelage.launch.configs import synthetic
from tutelage.models.backbones.mlp import MLP
from tutelage.models.config import ModelConfig, distil
from tutelage.pipeline.quality import QualityConfig
from tutelage.pipeline.schema import Feature, Schema, Task
from tutelage.trainers.config import GateConfig, StudentConfig, SuccessorConfig, TeacherConfig

LOOSE = GateConfig(min_days=7)
SMALL = ModelConfig(embedding_dim=4, backbone=MLP(hidden=(8, 4)))
OLD = TeacherConfig(model=replace(SMALL, without=("topic",)), gate=LOOSE)
WIDE = TeacherConfig(name="wide", model=replace(SMALL, backbone=MLP(hidden=(16, 4))), gate=LOOSE)
SCHEMA = Schema(
    features=(
        Feature(name="user_id", dtype="int64", capacity=100, scope="user"),
        Feature(name="video_id", dtype="int64", capacity=100),
        Feature(name="topic", dtype="string", capacity=20),
        Feature(name="video_seconds", dtype="float32", log1p=True),
    ),
    tasks=(Task(name="click", label="click"),),
    key=("user_id", "video_id", "event_time_us"),
)


def experiment(*, smoke):
    base = synthetic.experiment(smoke=True)
    return replace(
        base,
        source=replace(base.source, rows_per_day=1_000),
        schema=SCHEMA,
        quality=QualityConfig(min_days=7),
        serving=replace(base.serving, score=(("click", 1.0),), auc_drop=1, entropy_rise=9, calibration_drift=9,
                        max_latency_ms=1e6),
        students=(
            StudentConfig(name="masked", model=SMALL, distillation=distil("click"), gate=LOOSE, producer="snapshot",
                          new_teacher="mask", mask_days=1),
        ),
        slice_by=(),
        study=None,
        {teachers}
    )
"""
BESIDE = "teacher=OLD, successor=SuccessorConfig(teacher=WIDE, first_day=date(2026, 1, 2), judged_days=1)"
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
    """Three nights in which the successor was refused, and a fourth in which it took over."""
    root = tmp_path_factory.mktemp("succeeded")
    printed = _run("run", beside, root, "--end_day=2026-01-03", NEVER)
    assert "teacher-wide: starts with " in printed
    assert " shared/0/kernel [" in printed
    assert "wide is trained beside teacher, which labels (not as good: click log_loss " in printed
    assert not (root / "takeovers.json").exists()
    printed = _run("run", beside, root, "--end_day=2026-01-04", AS_GOOD)
    assert (
        "wide took over from teacher: students read its labels from 2026-01-04 on (click log_loss " in printed
    )
    return root


def test_students_go_on_with_the_new_teacher_s_labels(workdir: Path) -> None:
    (change,) = json.loads((workdir / "takeovers.json").read_text())
    assert (change["judged"], change["from_day"]) == (["2026-01-03"], "2026-01-04")
    metrics = pl.read_delta(str(workdir / "lake/metrics")).filter(basis="pre_update", task="")
    counted = {
        (model, str(day), metric): value
        for model, day, metric, value in metrics.select("model", "day", "metric", "value").iter_rows()
    }
    assert counted["masked", "2026-01-04", "teacher_changed"] == 1_000
    assert ("masked", "2026-01-03", "teacher_changed") not in counted
    assert counted["masked", "2026-01-03", "labels_used"] == 1_000
    labels = pl.read_delta(str(workdir / "lake/soft_labels")).filter(producer="snapshot")
    by = dict(labels.select("day", "teacher").unique().sort("day").cast(pl.String).iter_rows())
    assert by == {
        **dict.fromkeys(("2026-01-02", "2026-01-03"), "teacher"),
        "2026-01-04": "wide",
    }


def test_made_the_teacher_of_the_config_it_goes_on_and_a_second_run_does_nothing(
    beside: Path, workdir: Path, tmp_path: Path
) -> None:
    shutil.copytree(workdir, tmp_path / "w")
    moved = _config(tmp_path, MOVED)
    assert _run("run", beside, tmp_path / "w", "--end_day=2026-01-04").startswith("Nothing to do")
    assert _run("run", moved, tmp_path / "w", "--end_day=2026-01-04").startswith("Nothing to do")
    printed = _run("run", moved, tmp_path / "w", "--end_day=2026-01-05")
    assert "teacher-wide: trained on 2026-01-05, 1,000 examples" in printed
    assert "All 2 models reached 2026-01-05." in printed
    assert not (tmp_path / "w/teacher/checkpoints/2026-01-05").exists()
    assert (tmp_path / "w/export/masked/2026010501").is_dir()
    assert _run("run", moved, tmp_path / "w", "--end_day=2026-01-05").startswith("Nothing to do")
    status = _run("status", moved, tmp_path / "w", "--end_day=2026-01-05")
    assert "Teacher: wide took over from teacher: students read its labels from 2026-01-04 on" in status
