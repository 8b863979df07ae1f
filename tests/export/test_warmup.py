"""Warm-up requests, as TensorFlow Serving reads them."""

from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from tests.export.lenient import LENIENT
from tests.tiny import DAYS, MODEL, SCHEMA, make_run
from tutelage.export.publish import export_student
from tutelage.export.warmup import PATH, write_warmup
from tutelage.trainers.config import StudentConfig
from tutelage.trainers.day_loop import train_student


def _requests(path: Path) -> list[prediction_log_pb2.PredictionLog]:
    records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    return [prediction_log_pb2.PredictionLog.FromString(record) for record in records]


def test_warm_up_requests_are_real_rows_that_the_version_scores(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    control = StudentConfig(name="control", model=MODEL)
    train_student(run, control, DAYS[:1])
    (version,) = (one.version for one in export_student(run, control, LENIENT))
    features = SCHEMA.arrays(run.lake.interactions.scan().collect())  # 60 + 57 + 64 rows
    write_warmup(version.path / PATH, "control", features)
    model = tf.saved_model.load(str(version.path))
    signature = model.signatures["serving_default"]
    expected = signature(**{name: tf.constant(values) for name, values in features.items()})
    logs = _requests(version.path / "assets.extra/tf_serving_warmup_requests")
    assert [log.WhichOneof("log_type") for log in logs] == ["predict_log", "predict_log"]
    for log, rows in zip(logs, (1, 100), strict=True):
        request = log.predict_log.request
        assert (request.model_spec.name, request.model_spec.signature_name) == ("control", "serving_default")
        assert request.inputs.keys() == features.keys()
        scores = signature(
            **{name: tf.constant(tf.make_ndarray(proto)) for name, proto in request.inputs.items()}
        )
        for name, values in expected.items():
            np.testing.assert_allclose(scores[name], values[:rows], rtol=1e-5)


def test_a_day_of_fewer_than_100_rows_gives_a_request_of_all_rows(tmp_path: Path) -> None:
    write_warmup(tmp_path / "requests", "control", {"age": np.arange(30, dtype=np.float32)})
    shapes = [
        log.predict_log.request.inputs["age"].tensor_shape.dim[0].size
        for log in _requests(tmp_path / "requests")
    ]
    assert shapes == [1, 30]
