"""`examples/own_loss.py`, from raw data to a served version."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tensorflow as tf

pytestmark = pytest.mark.end_to_end
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own_loss")
    flags = ["--config=examples/own_loss.py", "--smoke", f"--workdir={path}"]
    small = ["--set=end_day=2026-01-02", "--set=source.rows_per_day=1000"]
    small += ["--set=students.auxiliary.distillation.click.loss.temperature=2"]
    small += ["--set=training.batch_size=64", "--set=teacher.min_examples=500"]
    # Metrics of so few rows are noisy. The test is about what is served, not about how good it is.
    small += [f"--set=serving.{margin}=9" for margin in ("auc_drop", "entropy_rise", "calibration_drift")]
    small += ["--set=serving.squared_error_rise=9"]
    command = [str(Path(sys.executable).parent / "tutelage-run"), *flags, *small]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return path


def test_it_is_as_short_as_an_example_should_be() -> None:
    assert len((ROOT / "examples/own_loss.py").read_text().splitlines()) <= 50


def test_the_soft_labels_are_the_teacher_s_logits_of_each_edge(workdir: Path) -> None:
    labels = pl.read_delta(str(workdir / "lake/soft_labels"))
    assert labels.height == 2000
    assert labels.select(pl.col("^level_reaches_.$").is_finite().all()).row(0) == (True, True, True)


def test_models_are_compared_by_the_loss_of_the_kind(workdir: Path) -> None:
    metrics = pl.read_delta(str(workdir / "lake/metrics")).filter(
        task="level", slice="", basis="day_ahead", metric="ordinal_loss"
    )
    losses = {(row["model"], str(row["day"])): row["value"] for row in metrics.iter_rows(named=True)}
    # Untrained models made the scores ahead of the first day.
    for model in ("teacher", "auxiliary"):
        assert 0 < losses[model, "2026-01-02"] < losses[model, "2026-01-01"]
    assert "ordinal loss" in (workdir / "report/index.html").read_text()


def test_the_student_is_trained_on_the_soft_labels_of_both_tasks(workdir: Path) -> None:
    config = json.loads((workdir / "students/auxiliary/config.json").read_text())
    assert [each["loss"] for each in config["distillation"]] == [
        {"type": "CrossEntropy", "temperature": 2.0, "label_scale": 1.0},
        None,
    ]
    level = json.loads((workdir / "config.json").read_text())["schema"]["tasks"][1]
    assert level["kind"] == {"type": "Ordinal", "edges": [1.0, 10.0, 30.0]}
    coverage = pl.read_delta(str(workdir / "lake/metrics")).filter(model="auxiliary", metric="label_coverage")
    assert coverage.sort("day")["value"][-1] == 1.0


def test_the_served_version_gives_the_expected_level(workdir: Path) -> None:
    version = max((workdir / "export/auxiliary").glob("2*"))
    card = json.loads((version / "assets.extra/model_card.json").read_text())
    assert "level relative_squared_error" in {check["name"] for check in card["comparisons"]}
    signature = tf.saved_model.load(str(version)).signatures["serving_default"]
    inputs = {
        name: tf.zeros([3], spec.dtype) if spec.dtype != tf.string else tf.constant(["", "x", "y"])
        for name, spec in signature.structured_input_signature[1].items()
    }
    served = signature(**inputs)
    assert set(served) == {"click", "level", "score"}
    assert ((served["level"].numpy() > 0) & (served["level"].numpy() < 3)).all()
    np.testing.assert_allclose(served["score"], served["click"] + 0.1 * served["level"], rtol=1e-6)
