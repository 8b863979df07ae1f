"""Days that were released before all their labels: training, metrics and gate leave the missing ones out."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.tiny import AUXILIARY, DAYS, ROWS, SCHEMA, commit, interactions, make_run
from tutelage.pipeline.alarms import AlarmBudget
from tutelage.pipeline.schema import Schema
from tutelage.trainers.config import GateConfig
from tutelage.trainers.day_checks import Observed
from tutelage.trainers.day_loop import train_student, train_teacher
from tutelage.trainers.gate import judge
from tutelage.trainers.metrics import day_metrics, task_metrics
from tutelage.trainers.run import TEACHER, Run

CLICK, WATCH = SCHEMA.tasks
MASKED = dataclasses.replace(
    SCHEMA, tasks=(CLICK, dataclasses.replace(WATCH, matures_after="3d")), release_after="1d"
)


def _run(root: Path, schema: Schema = MASKED) -> Run:
    return dataclasses.replace(make_run(root), schema=schema)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The second day has the watch labels of its first 40 rows, the third has none."""
    run = _run(tmp_path_factory.mktemp("masked"))
    for day, there in ((DAYS[1], 40), (DAYS[2], 0)):
        label = pl.when(pl.int_range(pl.len()) < there).then("watch_seconds").alias("watch_seconds")
        commit(run.lake, day, interactions(day).with_columns(label), attempt=2)
    train_teacher(run, DAYS)
    train_student(run, AUXILIARY, DAYS)
    return run


@pytest.mark.parametrize("model", [TEACHER, "auxiliary"])
def test_metrics_are_of_the_rows_with_a_label(run: Run, model: str) -> None:
    metrics = run.lake.metrics.scan(model=model, basis="day_ahead").collect()
    rows = metrics.select("day", "task", "rows").unique().sort("day", "task").rows()
    assert rows == [
        (DAYS[0], "click", ROWS[DAYS[0]]),
        (DAYS[0], "watch", ROWS[DAYS[0]]),
        (DAYS[1], "click", ROWS[DAYS[1]]),
        (DAYS[1], "watch", 40),
        (DAYS[2], "click", ROWS[DAYS[2]]),
    ]
    assert metrics["value"].is_finite().all()


def test_every_example_gets_a_soft_label_and_the_student_is_trained_on_it(run: Run) -> None:
    labels = run.lake.soft_labels.scan(day=DAYS[2]).collect()
    assert labels["watch_log1p"].is_finite().sum() == ROWS[DAYS[2]]
    counts = run.lake.metrics.scan(model="auxiliary", day=DAYS[2], metric="labels_used").collect()
    assert counts["value"].to_list() == [ROWS[DAYS[2]]]


def test_a_metric_leaves_out_the_rows_without_a_label_of_its_task_alone() -> None:
    targets = np.array([[1.0, math.nan], [0.0, 2.0], [1.0, 0.5]], np.float32)
    outputs = {name: np.array([0.1, -0.2, 0.4], np.float32) for name in MASKED.outputs}
    rows = day_metrics(MASKED, targets, outputs, basis="x", slices={"a": np.array([True, False, False])})
    found = {(row["task"], row["slice"], row["metric"]): row["value"] for row in rows}
    watch = task_metrics(WATCH, targets[1:, 1], {"watch_log1p": outputs["watch_log1p"][1:]})
    assert {metric: found["watch", "", metric] for metric in watch} == watch
    assert {row["rows"] for row in rows if row["task"] == "click" and not row["slice"]} == {3}
    assert ("click", "a", "log_loss") in found
    assert ("watch", "a", "ltv_loss") not in found


@pytest.mark.parametrize(("schema", "verdict"), [(MASKED, "first"), (SCHEMA, "fail")])
def test_a_gate_asks_for_the_metrics_of_a_task_unless_its_labels_may_be_missing(
    schema: Schema, verdict: str
) -> None:
    now = {
        f"{basis} click {metric}": Observed(value=1.0, rows=2)
        for basis in ("day_ahead", "pre_update")
        for metric in ("auc", "normalized_entropy", "calibration")
    }
    day, alarms = DAYS[2], AlarmBudget(per_year=1.0)
    assert judge(schema, now, [], GateConfig(), alarms, day=day).verdict == verdict
    # A click is never missing.
    del now["pre_update click auc"]
    assert judge(schema, now, [], GateConfig(), alarms, day=day).verdict == "fail"


def test_with_all_labels_there_the_model_is_the_same_to_the_bit(tmp_path: Path) -> None:
    one, other = _run(tmp_path / "one"), _run(tmp_path / "other", SCHEMA)
    for run in (one, other):
        train_teacher(run, DAYS[:1])
    labels = [run.lake.soft_labels.scan().collect().sort("example_id") for run in (one, other)]
    assert labels[0].equals(labels[1])
    metrics = [run.lake.metrics.scan().collect().sort("basis", "task", "metric") for run in (one, other)]
    assert metrics[0].equals(metrics[1])
