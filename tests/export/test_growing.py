"""Growing id maps through all rooms: every lookup of training, labelling, exporting and serving agrees."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import polars as pl
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from tests.export.lenient import LENIENT
from tests.growing import GROWING, growing_run
from tests.tiny import AUXILIARY, BATCH, DAYS
from tutelage.export import inspect
from tutelage.export.publish import Exported, export_student, export_teacher
from tutelage.models.id_map import fingerprint
from tutelage.pipeline.label import Snapshot, label
from tutelage.trainers.day_loop import train_student, train_teacher
from tutelage.trainers.run import TEACHER, Run
from tutelage.trainers.trainer import Trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = dataclasses.replace(growing_run(tmp_path_factory.mktemp("growing")), keep_predictions=True)
    train_teacher(run, DAYS)
    train_student(run, AUXILIARY, DAYS)
    return run


@pytest.fixture(scope="module")
def exported(run: Run) -> list[Exported]:
    return export_student(run, AUXILIARY, LENIENT)


def test_a_snapshot_labels_the_next_day_as_its_trainer_scored_it_ahead(run: Run) -> None:
    snapshots = {e.version.day: e.version for e in export_teacher(run)}
    days = {
        day: Snapshot(path=str(snapshots[before].path), day=before, step=snapshots[before].step)
        for before, day in itertools.pairwise(DAYS)
    }
    label(run.schema, run.lake, teacher="teacher", days=days)
    for day in DAYS[1:]:
        ahead = pl.read_parquet(run.predictions(TEACHER, day)).sort("example_id")
        made = run.lake.soft_labels.scan(producer="snapshot", day=day).sort("example_id").collect()
        assert made["example_id"].to_list() == ahead["example_id"].to_list()
        for name in run.schema.outputs:
            np.testing.assert_allclose(made[name], ahead[name], rtol=1e-5, atol=1e-6)


def test_each_day_s_version_passes_the_gate_with_the_map_of_that_day(
    run: Run, exported: list[Exported]
) -> None:
    assert [e.version.day for e in exported] == DAYS
    for e in exported:
        # This includes its golden batch.
        assert e.verdict
        assert e.verdict.blessed
        assert inspect.check(e.version.path).variables
        trainer = Trainer(
            GROWING, AUXILIARY.model, batch_size=BATCH, seed=1, distillation=AUXILIARY.distillation
        )
        (state,) = (s for s in run.checkpoints(AUXILIARY.name).states() if s.day == e.version.day)
        trainer.restore(run.checkpoints(AUXILIARY.name), state)
        ids = trainer.ranker.id_map.ids.numpy().tolist()
        stored = tf.train.load_checkpoint(str(e.version.path / "variables/variables"))
        # 15 users and 9 topics. A version's variables are keyed by numbers.
        entries = [name for name, shape in stored.get_variable_to_shape_map().items() if shape == [24]]
        assert len(entries) == 2
        assert ids in [stored.get_tensor(name).tolist() for name in entries]


def test_a_runtime_without_tables_finds_the_same_indices(run: Run, exported: list[Exported]) -> None:
    path = str(exported[-1].version.path)
    converter = tf.lite.TFLiteConverter.from_saved_model(path, signature_keys=["serve_ids"])
    assert converter.target_spec.supported_ops == {tf.lite.OpsSet.TFLITE_BUILTINS}
    lite: Any = Interpreter(model_content=converter.convert()).get_signature_runner("serve_ids")
    rows = GROWING.arrays(run.lake.interactions.scan(day=DAYS[2]).collect())
    # Ids that were never seen, too: all of the other days, and the largest, which pads the map.
    rows["user"] = np.where(np.arange(64) % 4 == 0, [2**63 - 1, -(2**63), 10**9, 77] * 16, rows["user"])
    served = tf.saved_model.load(path).signatures["serving_default"](
        **{name: tf.constant(values) for name, values in rows.items()}
    )
    by_id = {**rows, "topic": fingerprint(tf.constant(rows["topic"])).numpy()}
    scores = lite(**by_id)
    assert len(np.unique(scores["click"])) > 32
    for name, values in served.items():
        np.testing.assert_allclose(scores[name], values, rtol=1e-5, atol=1e-6)


def test_an_id_without_its_own_embedding_is_scored_like_one_that_was_never_seen(
    exported: list[Exported],
) -> None:
    model = tf.saved_model.load(str(exported[-1].version.path))
    never = {
        "topic": ["never"] * 3,
        "user": [10**9, 2**63 - 1, -(2**63)],
        "age": [0.5] * 3,
        "seconds": [9.0] * 3,
    }
    dtypes = {"user": tf.int64, "topic": tf.string}
    columns = {name: tf.constant(v, dtypes.get(name, tf.float32)) for name, v in never.items()}
    scores = model.signatures["serving_default"](**columns)["click"].numpy()
    assert scores[0] == scores[1] == scores[2]
