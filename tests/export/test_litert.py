"""LiteRT, which has no string ops and no tables, scores `serve_ids` as TensorFlow does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from tests.export.serving import SERVING, TWO_SCOPES, assert_equal, make_ranker, make_rows, trainer_scores
from tutelage.export.saved_model import Served
from tutelage.models.id_map import fingerprint

IDS = [0, 1, -1, 9_155_697_141, 2**32, 2**31 - 1, 2**63 - 1, -(2**63)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("litert") / "model"
    Served(make_ranker(), SERVING).save(str(path))
    return path


@pytest.fixture(scope="module")
def litert(path: Path) -> Any:
    """`serve_ids` of the exported version, converted to built-in ops only."""
    converter = tf.lite.TFLiteConverter.from_saved_model(str(path), signature_keys=["serve_ids"])
    assert converter.target_spec.supported_ops == {tf.lite.OpsSet.TFLITE_BUILTINS}
    interpreter = Interpreter(model_content=converter.convert())
    return interpreter.get_signature_runner("serve_ids")


def _by_id(rows: Mapping[str, tf.Tensor]) -> dict[str, np.ndarray]:
    strings = [feature.name for feature in TWO_SCOPES.features if feature.dtype == "string"]
    return {name: (fingerprint(v) if name in strings else v).numpy() for name, v in rows.items()}


@pytest.mark.parametrize("n", [1, 1000])
def test_it_scores_as_the_trainer_and_as_serving_default(path: Path, litert: Any, n: int) -> None:
    rows = make_rows(n)
    scores = litert(**_by_id(rows))
    assert_equal(scores, trainer_scores(make_ranker(), rows))
    served = tf.saved_model.load(str(path)).signatures["serving_default"](**rows)
    assert_equal(scores, {name: score.numpy() for name, score in served.items()})


def test_ids_beyond_32_bits_differ_as_they_do_for_the_trainer(litert: Any) -> None:
    rows = {**make_rows(1), "user": tf.constant(IDS, tf.int64)}
    rows = {name: tf.repeat(v, len(IDS)) if len(v) == 1 else v for name, v in rows.items()}
    expected = trainer_scores(make_ranker(), rows)
    # These ids map to more than one of 40 indices; truncated ids would not.
    assert len(np.unique(expected["score"])) >= 6
    assert_equal(litert(**_by_id(rows)), expected)


def test_a_nan_counts_as_the_default(litert: Any) -> None:
    rows = make_rows(3)
    rows["price"] = tf.constant([np.nan, np.inf, 2.0])
    assert_equal(
        litert(**_by_id(rows)),
        trainer_scores(make_ranker(), {**rows, "price": tf.constant([0.0, 0.0, 2.0])}),
    )
