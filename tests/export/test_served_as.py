"""A feature that is known in training only is in no signature, and is served as the value that its schema names."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from tensorflow_serving.apis import prediction_log_pb2

from tests.export.lenient import LENIENT
from tests.export.serving import SERVING, TWO_SCOPES, assert_equal, make_ranker, make_rows, trainer_scores
from tests.tiny import DAYS, MODEL, SCHEMA, make_run
from tutelage.export import golden, warmup
from tutelage.export.publish import export_student, export_teacher
from tutelage.export.saved_model import Served
from tutelage.export.skew import SkewConfig, compare, read_requests
from tutelage.export.versions import Version
from tutelage.pipeline import label
from tutelage.pipeline.schema import Feature, Growth
from tutelage.trainers.config import StudentConfig
from tutelage.trainers.day_loop import train_student, train_teacher
from tutelage.trainers.run import Run

SERVED_AS: dict[str, Any] = {"topic": "news", "country": "日本", "age": 30, "price": 2.5, "place": 3}
PLACE = Feature(name="place", dtype="int64", capacity=8, grows=Growth(min_seen=1))
BOTH = replace(
    TWO_SCOPES,
    features=tuple(replace(f, serve_as=SERVED_AS.get(f.name)) for f in (*TWO_SCOPES.features, PLACE)),
)
"""Each dtype, in both scopes, and an id that grows."""
STUDENT = StudentConfig(name="blind", model=replace(MODEL, without=("age",)))

SCORE = """
import sys
import numpy as np
import tensorflow as tf
rows, path, out = sys.argv[1:]
model = tf.saved_model.load(path)
columns = {name: tf.constant(values) for name, values in np.load(rows).items()}
np.savez(out, **{name: score.numpy() for name, score in model.signatures["serving_default"](**columns).items()})
assert not [name for name in sys.modules if name.split(".")[0] in ("tutelage", "tf_keras")]
"""


def test_every_signature_scores_as_the_trainer_does_with_the_served_values(tmp_path: Path) -> None:
    ranker = make_ranker(BOTH)
    ranker.id_map.assign(ranker.id_map.entries({"place": (np.array([3]), np.array([1]))}))
    Served(ranker, SERVING).save(str(tmp_path / "model"))
    model = tf.saved_model.load(str(tmp_path / "model"))
    rows = {name: column for name, column in make_rows(20).items() if name not in SERVED_AS}
    assert {*model.signatures["serving_default"].structured_input_signature[1]} == {"item", "user", "seconds"}

    def with_served(rows: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        served = {f.name: f for f in BOTH.features if f.name in SERVED_AS}
        return rows | {
            name: tf.fill([20], tf.constant(SERVED_AS[name], f.dtype)) for name, f in served.items()
        }

    expected = trainer_scores(ranker, with_served(rows))
    another = trainer_scores(ranker, {**with_served(rows), "place": tf.fill([20], tf.constant(-1, tf.int64))})
    assert np.abs(another["score"] - expected["score"]).max() > 0.01
    assert_equal(model.signatures["serving_default"](**rows), expected)
    assert_equal(model.signatures["serve_ids"](**rows), expected)
    one = {**rows, "user": rows["user"][:1]}
    alone = trainer_scores(ranker, with_served({**rows, "user": tf.repeat(one["user"], 20)}))
    assert_equal(model.score_list(**one), alone)
    assert_equal(model.serve_examples(_examples(rows)), expected)
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(tmp_path / "model"), signature_keys=["serve_ids"]
    )
    litert = Interpreter(model_content=converter.convert()).get_signature_runner("serve_ids")
    assert_equal(litert(**{name: column.numpy() for name, column in rows.items()}), expected)


def _examples(rows: dict[str, tf.Tensor]) -> tf.Tensor:
    def example(item: int, user: int, seconds: float) -> bytes:
        made = tf.train.Example()
        made.features.feature["item"].int64_list.value.append(item)
        made.features.feature["user"].int64_list.value.append(user)
        made.features.feature["seconds"].float_list.value.append(seconds)
        return made.SerializeToString()  # type: ignore[no-any-return]

    columns = [rows[name].numpy().tolist() for name in ("item", "user", "seconds")]
    return tf.constant([example(*row) for row in zip(*columns, strict=True)])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A teacher that takes everything, and a student without `age` that is served without `seconds` and `topic`."""
    served = {"topic": "news", "seconds": 7.0}
    features = tuple(replace(f, serve_as=served.get(f.name)) for f in SCHEMA.features)
    run = replace(make_run(tmp_path_factory.mktemp("run")), schema=replace(SCHEMA, features=features))
    train_teacher(run, DAYS[:1])
    train_student(run, STUDENT, DAYS[:1])
    return run


@pytest.fixture(scope="module")
def version(run: Run) -> Version:
    (exported,) = export_student(run, STUDENT, LENIENT)
    assert exported.verdict
    assert exported.verdict.blessed
    return exported.version


def test_a_student_s_version_and_all_that_lies_beside_it_have_only_what_a_request_has(
    version: Version,
) -> None:
    signature = tf.saved_model.load(str(version.path)).signatures["serving_default"]
    assert [*signature.structured_input_signature[1]] == ["user"]
    batch = golden.read_golden(version.path / golden.PATH)
    assert batch.frame.columns == ["user"]
    (record, _) = tf.data.TFRecordDataset(str(version.path / warmup.PATH)).as_numpy_iterator()
    log = prediction_log_pb2.PredictionLog.FromString(record)
    assert [*log.predict_log.request.inputs] == ["user"]
    card = json.loads((version.path / "assets.extra/model_card.json").read_text())
    assert card["served_as"] == {"topic": "news", "seconds": 7.0}
    assert (
        "| Served as | topic = 'news', seconds = 7.0 |"
        in (version.path / "assets.extra/model_card.md").read_text()
    )
    checks = {check["name"]: check["value"] for check in card["checks"]}
    assert checks["parity"] <= 1e-5


def test_plain_tensorflow_gives_the_golden_scores(version: Version, tmp_path: Path) -> None:
    batch = golden.read_golden(version.path / golden.PATH)
    np.savez(tmp_path / "rows.npz", **batch.features)
    arguments = [str(tmp_path / "rows.npz"), str(version.path), str(tmp_path / "scores.npz")]
    environment = {k: v for k, v in os.environ.items() if k not in ("TF_USE_LEGACY_KERAS", "PYTHONPATH")}
    subprocess.run([sys.executable, "-c", SCORE, *arguments], check=True, env=environment, cwd=tmp_path)
    scores = np.load(tmp_path / "scores.npz")
    for name, expected in batch.expected.items():
        np.testing.assert_allclose(scores[name], expected, rtol=1e-5)


def test_the_teacher_s_signature_takes_everything_and_labels_with_what_was_seen(run: Run) -> None:
    (exported,) = export_teacher(run)
    snapshot = label.Snapshot(path=str(exported.version.path), day=DAYS[0], step=4)
    assert {*label.takes(snapshot)} == {f.name for f in SCHEMA.features}
    rows = run.lake.interactions.scan(day=DAYS[1]).collect()
    seen, served = (
        label.score(snapshot, frame, run.schema)["click_logit"]
        for frame in (rows, rows.with_columns(seconds=pl.lit(7.0, pl.Float32)))
    )
    assert (seen != served).sum() > 40


def test_requests_without_the_feature_are_no_skew(run: Run, version: Version, tmp_path: Path) -> None:
    day = run.lake.interactions.scan(day=DAYS[0]).collect()
    day.select("user").write_ndjson(tmp_path / "requests.jsonl")
    requests = read_requests(tmp_path / "requests.jsonl", run.schema)
    features, outputs = compare(
        requests, day, None, model=version.path, schema=run.schema, config=SkewConfig()
    )
    assert [(line.name, line.past) for line in features] == [("user", ())]
    assert [line.drift for line in outputs] == [0.0, 0.0, 0.0]
