"""The commands on real data: a day of KuaiRand-Pure, a slice of MovieLens."""

import os
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from tutelage.launch.config import load
from tutelage.launch.session import Session
from tutelage.models.id_map import fingerprint
from tutelage.trainers.feed import Feed
from tutelage.trainers.trainer import Trainer

pytestmark = pytest.mark.end_to_end
BIN = Path(sys.executable).parent
DAY = date(2022, 4, 25)
CONFIG = "kuairand"

# Scores every row of a Parquet file with a SavedModel, one array a score into another file.
SERVE = """
import sys
import numpy as np, pyarrow.parquet as pq, tensorflow as tf
model, rows, out = sys.argv[1:]
table = pq.read_table(rows)
columns = {name: tf.constant(column.to_pylist() if "string" in str(column.type) else column.to_numpy())
           for name, column in zip(table.column_names, table.columns)}
scores = tf.saved_model.load(model).signatures["serving_default"](**columns)
np.savez(out, **{name: score.numpy() for name, score in scores.items()})
assert not [name for name in sys.modules if name.split(".")[0] == "tutelage"]
"""


def _run(command: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BIN / f"tutelage-{command}", *flags], capture_output=True, text=True, timeout=600)


def _only_control(config: str) -> list[str]:
    """Flags that leave nothing to learn for the other students."""
    names = [student.name for student in load(config).students if student.name != "control"]
    return [f"--set=students.{name}.first_day=9999-01-01" for name in names]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    """A day of KuaiRand-Pure, learnt by the teacher and a student, and exported."""
    path = tmp_path_factory.mktemp("kuairand")
    done = _run(
        "run",
        f"--config={CONFIG}",
        f"--workdir={path}",
        f"--raw_dir={shared_data / 'KuaiRand-Pure'}",
        f"--end_day={DAY}",
        *_only_control(CONFIG),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return path


def _scored_by_trainer(session: Session) -> tuple[pl.DataFrame, dict[str, np.ndarray]]:
    """The features of all rows of the day, nulls filled, and what the trainer says they are worth."""
    run, student = session.run, session.experiment.student("control")
    trainer = Trainer(run.schema, student.model, batch_size=256, seed=2)
    checkpoints = run.checkpoints("control")
    trainer.restore(checkpoints, checkpoints.states()[-1])
    outputs = trainer.score(Feed(run.lake, trainer.transform).read(DAY))
    frame = run.lake.interactions.scan(day=DAY).sort("event_time_us", "example_id").collect()
    raw = {name: values.astype(np.float64) for name, values in outputs.items()}
    scores = {name: 1 / (1 + np.exp(-raw[f"{name}_logit"])) for name in ("click", "long_view")}
    scores["watch_log1p"] = raw["watch_log1p"]
    return frame.select(pl.col(f.name).fill_null(f.default) for f in run.schema.features), scores


def test_a_served_student_scores_every_row_as_its_trainer_does(workdir: Path, tmp_path: Path) -> None:
    session = Session.open(config=CONFIG, workdir=str(workdir))
    frame, expected = _scored_by_trainer(session)
    frame.write_parquet(tmp_path / "rows.parquet")
    (version,) = session.versions("control").published()
    env = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    paths = [str(version.path), str(tmp_path / "rows.parquet"), str(tmp_path / "scores.npz")]
    done = subprocess.run([sys.executable, "-c", SERVE, *paths], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    served = np.load(tmp_path / "scores.npz")
    assert len(served["click"]) == frame.height > 10_000
    for name, scores in expected.items():
        np.testing.assert_allclose(served[name], scores, rtol=1e-5, atol=1e-7)


def test_saved_model_cli_scores_a_thousand_rows_as_the_trainer_does(workdir: Path, tmp_path: Path) -> None:
    session = Session.open(config=CONFIG, workdir=str(workdir))
    frame, expected = _scored_by_trainer(session)
    columns = {name: frame[name].head(1000).to_numpy() for name in frame.columns}
    text = {name: values.astype("U") for name, values in columns.items() if values.dtype == object}
    np.savez(tmp_path / "rows.npz", **{**columns, **text})
    (version,) = session.versions("control").published()
    inputs = ";".join(f"{name}={tmp_path / 'rows.npz'}[{name}]" for name in columns)
    command = [str(BIN / "saved_model_cli"), "run", "--dir", str(version.path), "--tag_set", "serve"]
    command += ["--signature_def", "serving_default", "--inputs", inputs, "--outdir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for name, scores in expected.items():
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), scores[:1000], rtol=1e-5, atol=1e-7)


def test_litert_scores_a_thousand_rows_as_the_trainer_does(workdir: Path, tmp_path: Path) -> None:
    session = Session.open(config=CONFIG, workdir=str(workdir))
    frame, expected = _scored_by_trainer(session)
    (version,) = session.versions("control").published()
    converter = tf.lite.TFLiteConverter.from_saved_model(str(version.path), signature_keys=["serve_ids"])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]  # which is the default
    signature = Interpreter(model_content=converter.convert()).get_signature_runner("serve_ids")
    rows = frame.head(1000)
    columns = {
        name: fingerprint(tf.constant(rows[name].to_list())).numpy()
        if rows[name].dtype == pl.String
        else rows[name].to_numpy()
        for name in rows.columns
    }
    found = signature(**columns)
    for name, scores in expected.items():
        np.testing.assert_allclose(found[name], scores[:1000], rtol=1e-5, atol=1e-6)


def _spoil(raw: Path, how: str) -> None:
    (log,) = (raw / "data").glob("log_standard_*_pure.csv")
    head, *lines = log.read_text().splitlines()
    if how == "a missing column":
        lines = [line.rpartition(",")[0] for line in [head, *lines[:1000]]]
        log.write_text("\n".join(lines) + "\n")
    elif how == "a truncated file":
        log.write_text("\n".join([head, *lines[:1000], lines[1000][:9]]))
    else:
        log.write_bytes(bytes(range(256)) * 40)


@pytest.mark.parametrize("how", ["a missing column", "a truncated file", "a binary file"])
def test_of_a_broken_log_nothing_is_committed_and_what_was_stays(
    workdir: Path, tmp_path: Path, shared_data: Path, how: str
) -> None:
    raw = tmp_path / "KuaiRand-Pure"
    shutil.copytree(shared_data / "KuaiRand-Pure", raw)
    _spoil(raw, how)
    before = pl.read_delta(str(workdir / "lake/interactions"))
    done = _run(
        "materialize", f"--config={CONFIG}", f"--workdir={workdir}", f"--raw_dir={raw}", f"--end_day={DAY}"
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("tutelage-materialize: ")
    assert "log_standard" in done.stderr
    assert done.stderr.count("\n") == 1
    assert pl.read_delta(str(workdir / "lake/interactions")).equals(before)


def test_movielens_goes_through_tensorflow_datasets(tmp_path: Path, shared_data: Path) -> None:
    done = _run(
        "run",
        "--config=movielens",
        f"--workdir={tmp_path}",
        f"--raw_dir={shared_data / 'movielens'}",
        "--end_day=2016-03-29",
        *_only_control("movielens"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    interactions = pl.read_delta(str(tmp_path / "lake/interactions"))
    # Slices of 30 days, counted from 1970-01-01: those that lie whole in the days asked for.
    assert interactions["day"].unique().sort().to_list() == [date(2016, 1, 30), date(2016, 2, 29)]
    assert (interactions["click"] == (interactions["rating"] >= 4)).all()
    metrics = pl.read_delta(str(tmp_path / "lake/metrics"))
    assert set(metrics["model"]) == {"teacher", "control"}
