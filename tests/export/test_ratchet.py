"""Versions are compared on the same rows: a lucky day does not bind those after it, and garbage is rejected."""

import json
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.tiny import commit
from tutelage.export.config import ServingConfig
from tutelage.export.publish import export_student
from tutelage.export.versions import Versions
from tutelage.models.backbones.mlp import MLP
from tutelage.models.config import ModelConfig
from tutelage.pipeline.schema import Feature, Schema, Task
from tutelage.trainers.config import GateConfig, StudentConfig, TeacherConfig, TrainingConfig
from tutelage.trainers.day_loop import train_student
from tutelage.trainers.run import Run

DAYS = [date(2026, 1, 1) + timedelta(days=n) for n in range(5)]
ROWS = 5_000
LUCKY = DAYS[1]
SCHEMA = Schema(
    features=(
        Feature(name="user", dtype="int64", capacity=1_000, scope="user"),
        Feature(name="item", dtype="int64", capacity=100),
    ),
    tasks=(Task(name="click", label="click"),),
    key=("user", "item", "event_time_us"),
    user="user",
)
MODEL = ModelConfig(embedding_dim=4, backbone=MLP(hidden=(16, 8)), embedding_rate=0.5, dense_rate=0.01)
# The gate of training would stop a model at such days, and this is about the gate before serving.
STUDENT = StudentConfig(name="student", model=MODEL, gate=GateConfig(trailing_days=999, min_days=999))
SERVING = ServingConfig(score=(("click", 1.0),), max_latency_ms=10_000.0)


def _rows(day: date, *, shuffled: bool = False) -> pl.DataFrame:
    """Return a day's rows: ten of each of 500 users. On the lucky day users do nearly always what they like."""
    rng = np.random.default_rng(day.toordinal())
    likes = np.random.default_rng(0).normal(scale=2.0, size=60)
    item = rng.integers(0, 60, ROWS)
    probability = 1 / (1 + np.exp(-likes[item] * (8 if day == LUCKY else 1)))
    click = rng.random(ROWS) < probability
    midnight = (day - date(1970, 1, 1)).days * 86_400 * 1_000_000
    return pl.DataFrame(
        {
            "example_id": np.arange(ROWS) + ROWS * day.toordinal(),
            "event_time_us": midnight + rng.permutation(ROWS),
            "user": np.arange(ROWS) % 500,
            "item": item,
            "click": (rng.permutation(click) if shuffled else click).astype(np.int8),
        }
    )


def _run(root: Path, *, shuffled: bool = False) -> Run:
    run = Run(
        name="world",
        schema=SCHEMA,
        training=TrainingConfig(batch_size=128),
        teacher=TeacherConfig(model=MODEL),
        root=root,
    )
    run.lake.create()
    for day in DAYS:
        commit(run.lake, day, _rows(day, shuffled=shuffled))
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = _run(tmp_path_factory.mktemp("world"))
    train_student(run, STUDENT, DAYS)
    return run


def _auc(run: Run, day: date, basis: str, metric: str = "click auc") -> float:
    rows = run.lake.metrics.scan(model="student", day=day, basis=basis, metric=metric).collect()
    return float(rows.filter(slice="")["value"].item())


def test_after_a_lucky_day_versions_of_equal_quality_are_published(run: Run) -> None:
    exported = export_student(run, STUDENT, SERVING)
    assert [(one.version.day, one.verdict and one.verdict.blessed) for one in exported] == [
        (day, True) for day in DAYS
    ]
    assert [version.day for version in Versions(run.root / "export/student").published()] == DAYS
    # Held against the lucky day's own score, all later ones would be worse by more than the margin.
    lucky = _auc(run, LUCKY, "day_ahead", "auc")
    assert max(_auc(run, day, "day_ahead", "auc") for day in DAYS[2:]) < lucky - SERVING.auc_drop
    # On the rows of one day the two versions are much alike.
    for day in DAYS[2:]:
        assert _auc(run, day, "gate") == pytest.approx(_auc(run, day, "gate_reference"), abs=SERVING.auc_drop)


def test_a_candidate_trained_on_shuffled_labels_is_rejected_on_the_first_day(tmp_path: Path) -> None:
    run, shuffled = _run(tmp_path / "world"), _run(tmp_path / "shuffled", shuffled=True)
    train_student(run, STUDENT, DAYS[2:4])
    served = export_student(run, STUDENT, SERVING)[-1]
    assert served.verdict
    assert served.verdict.blessed
    # It starts from nothing, on the same features and other labels.
    run.checkpoints("student").remove()
    garbage = replace(run, interactions=shuffled.lake.interactions.path)
    train_student(garbage, STUDENT, DAYS[2:])
    (one,) = export_student(run, STUDENT, SERVING, days=DAYS[-1:])
    assert one.verdict
    assert one.verdict.verdict == "fail"
    card = json.loads((one.version.path / "assets.extra/model_card.json").read_text())
    assert (card["judged_day"], card["served"]) == (str(DAYS[-1]), served.version.number)
    # Of 5,000 rows about a hundred, of ten users, tell.
    assert 40 < card["judged_rows"] < 200
    (auc,) = (each for each in card["comparisons"] if each["name"] == "click auc")
    assert auc["low"] > SERVING.auc_drop
    assert Versions(run.root / "export/student").published()[-1] == served.version
