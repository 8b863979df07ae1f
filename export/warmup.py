"""Requests that TensorFlow Serving sends to a version before serving it, so that no user waits for a first call."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_log_pb2

PATH = "assets.extra/tf_serving_warmup_requests"
"""Where TensorFlow Serving looks for them in a version's folder."""
BATCHES = (1, 100)
"""The number of rows of each request."""


def write_warmup(path: Path, model: str, features: Mapping[str, np.ndarray]) -> None:
    """Write Predict requests to `model`'s `serving_default` from real rows: the first one, and the first 100.

    `features` holds an array per feature, [rows] or [rows, length], with nulls filled as by `Schema.arrays`.
    With fewer than 100 rows the larger request has them all.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for rows in BATCHES:
            request = predict_pb2.PredictRequest(
                model_spec=model_pb2.ModelSpec(name=model, signature_name="serving_default"),
                inputs={name: tf.make_tensor_proto(values[:rows]) for name, values in features.items()},
            )
            log = prediction_log_pb2.PredictLog(request=request)
            writer.write(prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString())
