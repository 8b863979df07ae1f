"""A served model gives the trainer's own scores from raw features, with plain TensorFlow."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.export.lenient import LENIENT
from tests.failing import EIO, failing
from tests.tiny import AUXILIARY, BATCH, DAYS, MODEL, ROWS, SCHEMA, make_run
from tutelage.export import warmup
from tutelage.export.publish import export_student, export_teacher
from tutelage.export.versions import Version, Versions
from tutelage.models.config import distil
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io import retry
from tutelage.trainers.config import StudentConfig
from tutelage.trainers.day_loop import train_student, train_teacher
from tutelage.trainers.feed import Feed
from tutelage.trainers.run import TEACHER, Run
from tutelage.trainers.trainer import Trainer

TRAINED = DAYS[:2]
DAY = TRAINED[-1]

# Scores the features of one file with each given model, and writes one file per model.
SERVE = """
import os, sys
assert "TF_USE_LEGACY_KERAS" not in os.environ
import numpy as np
import tensorflow as tf
features, *paths = sys.argv[1:]
columns = {name: tf.constant(values.tolist() if values.dtype.kind == "U" else values)
           for name, values in np.load(features).items()}
for path, out in zip(paths[::2], paths[1::2]):
    model = tf.saved_model.load(path)
    scores = model.signatures["serving_default"](**columns)
    np.savez(out, **{name: score.numpy() for name, score in scores.items()})
ours = [name for name in sys.modules if name.split(".")[0] in ("tutelage", "tf_keras", "tensorflow_recommenders")]
assert not ours, ours
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A teacher and its auxiliary student, trained on two days."""
    run = make_run(tmp_path_factory.mktemp("run"))
    train_teacher(run, TRAINED)
    train_student(run, AUXILIARY, TRAINED)
    return run


@pytest.fixture(scope="module")
def teacher(run: Run) -> Version:
    return export_teacher(run)[-1].version


@pytest.fixture(scope="module")
def student(run: Run) -> Version:
    return export_student(run, AUXILIARY, LENIENT)[-1].version


@pytest.fixture(scope="module")
def served(
    run: Run, teacher: Version, student: Version, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, np.ndarray]]:
    """The scores of a day's rows in the trainer's order, by model, computed in another process."""
    folder = tmp_path_factory.mktemp("served")
    frame = run.lake.interactions.scan(day=DAY).sort("event_time_us", "example_id").collect()
    assert all(frame[feature.name].null_count() for feature in SCHEMA.features)
    assert (frame["topic"] == "").any()
    columns = {
        name: values.astype("U") if values.dtype.kind == "O" else values
        for name, values in SCHEMA.arrays(frame).items()
    }
    np.savez(folder / "features.npz", **columns)
    models = {TEACHER: teacher, AUXILIARY.name: student}
    paths = [str(path) for name, v in models.items() for path in (v.path, folder / f"{name}.npz")]
    env = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run(
        [sys.executable, "-c", SERVE, str(folder / "features.npz"), *paths],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return {name: dict(np.load(folder / f"{name}.npz")) for name in models}


def _trained_scores(run: Run, model: str) -> dict[str, np.ndarray]:
    """Return the trainer's scores of the day, from its checkpoint of that day."""
    towers = distil("click", "watch") if model != TEACHER else ()
    trainer = Trainer(SCHEMA, MODEL, batch_size=BATCH, seed=7, distillation=towers)
    trainer.restore(run.checkpoints(model), run.checkpoints(model).states()[-1])
    return trainer.score(Feed(run.lake, trainer.transform).read(DAY))


def test_a_student_serves_its_trainer_s_probability_or_log1p_by_task(
    run: Run, served: dict[str, dict[str, np.ndarray]]
) -> None:
    scores, raw = served["auxiliary"], _trained_scores(run, "auxiliary")
    assert scores.keys() == {"click", "watch_log1p", "score"}
    assert all(score.shape == (ROWS[DAY],) for score in scores.values())
    logit = raw["click_logit"].astype(np.float64)
    np.testing.assert_allclose(scores["click"], 1 / (1 + np.exp(-logit)), rtol=1e-5)
    np.testing.assert_allclose(scores["watch_log1p"], raw["watch_log1p"], rtol=1e-5)
    # The scores differ, so that a wrong order would be noticed.
    assert len(np.unique(scores["click"])) > ROWS[DAY] // 2


def test_a_teacher_serves_its_trainer_s_raw_outputs_by_task(
    run: Run, served: dict[str, dict[str, np.ndarray]]
) -> None:
    outputs, raw = served[TEACHER], _trained_scores(run, TEACHER)
    assert outputs.keys() == {"click_logit", "watch_log1p"}
    for name, output in outputs.items():
        np.testing.assert_allclose(output, raw[name], rtol=1e-5)


def test_a_version_names_the_checkpoint_that_it_was_made_from(run: Run, teacher: Version) -> None:
    states = run.checkpoints(TEACHER).states()
    made = Versions(run.root / "export" / TEACHER).published()
    assert [(v.number, v.day, v.step, v.checkpoint) for v in made] == [
        (2026010101, DAYS[0], 4, states[0].id),
        (2026010201, DAYS[1], 8, states[1].id),
    ]
    assert teacher == made[-1]


def test_the_auxiliary_tower_stays_in_the_checkpoint(run: Run, student: Version) -> None:
    trained = tf.train.load_checkpoint(
        str(run.checkpoints("auxiliary").folder / str(DAY) / "variables")
    ).get_variable_to_shape_map()
    assert any("auxiliary" in name for name in trained)
    assert b"auxiliary" not in (student.path / "saved_model.pb").read_bytes()
    exported = tf.train.load_checkpoint(str(student.path / "variables" / "variables"))
    shapes = exported.get_variable_to_shape_map()
    del shapes["_CHECKPOINTABLE_OBJECT_GRAPH"]
    # Only the table of capacity 40 + 10, layers from 2·4 + 2 inputs to 8 to 4 units, and two heads.
    expected = [[50, 4], [10, 8], [8], [8, 4], [4], [4, 1], [1], [4, 1], [1]]
    assert sorted(shapes.values()) == sorted(expected)


@pytest.mark.parametrize("model", ["teacher", "student"])
def test_inputs_have_the_names_and_dtypes_of_the_features(model: str, request: pytest.FixtureRequest) -> None:
    version: Version = request.getfixturevalue(model)
    _, inputs = (
        tf.saved_model.load(str(version.path)).signatures["serving_default"].structured_input_signature
    )
    assert {name: (spec.dtype, spec.shape.as_list()) for name, spec in inputs.items()} == {
        "user": (tf.int64, [None]),
        "topic": (tf.string, [None]),
        "seconds": (tf.float32, [None]),
        "age": (tf.float32, [None]),
    }


def test_the_graph_is_made_of_standard_ops_without_python_or_tables(student: Version) -> None:
    model = saved_model_pb2.SavedModel()
    model.ParseFromString((student.path / "saved_model.pb").read_bytes())
    graph = model.meta_graphs[0].graph_def
    ops = {node.op for function in graph.library.function for node in function.node_def}
    ops |= {node.op for node in graph.node}
    assert {"Fingerprint", "MatMul", "ResourceGather"} <= ops
    assert not [op for op in ops if "PyFunc" in op or "HashTable" in op or "Lookup" in op]
    # No op comes from a library that a server would have to load.
    assert ops <= set(dir(tf.raw_ops))


def test_a_published_checkpoint_is_not_exported_again(run: Run, teacher: Version) -> None:
    folder = run.root / "export" / TEACHER
    before = sorted(path.name for path in folder.iterdir())
    exported: list[int] = []
    assert export_teacher(run, progress=exported.append) == []
    assert export_teacher(run, days=[DAY], progress=exported.append) == []
    assert exported == []
    assert sorted(path.name for path in folder.iterdir()) == before


def test_one_day_is_exported_and_later_the_rest_even_if_the_disk_fails_for_a_while(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    student = StudentConfig(name="late", model=MODEL)
    train_student(run, student, TRAINED)
    exported: list[int] = []
    only = export_student(run, student, LENIENT, days=[DAY], progress=exported.append)
    assert [one.version.day for one in only] == [DAY]
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(warmup, "write_warmup", failing(1, EIO, warmup.write_warmup))
    rest = export_student(run, student, LENIENT, progress=exported.append)
    assert [message.split(":")[0] for message in caplog.messages] == ["late, the version of 2026-01-01"]
    assert [one.version.day for one in rest] == [DAYS[0]]
    assert exported == [1, 1]


def test_a_day_without_training_is_refused_and_nothing_is_exported(run: Run) -> None:
    says = "auxiliary has no checkpoint of 2026-01-03; train that day first"
    with pytest.raises(UserError, match=f"^{re.escape(says)}$"):
        export_student(run, AUXILIARY, LENIENT, days=[*TRAINED, DAYS[2]])
    with pytest.raises(UserError, match=r"^nobody has no checkpoint of 2026-01-01; train that day first$"):
        export_student(run, StudentConfig(name="nobody", model=MODEL), LENIENT, days=[DAYS[0]])
    assert not (run.root / "export" / "nobody").exists()
