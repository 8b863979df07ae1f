"""Random requests to all signatures get a score per row or an error that names what is wrong."""

import re
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.export.serving import SERVING, TWO_SCOPES, make_ranker
from tutelage.export.gate import adversarial
from tutelage.export.saved_model import Served

FEATURES = {feature.name: feature for feature in TWO_SCOPES.features}
NUMPY = {"int64": np.int64, "string": object, "float32": np.float32}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("fuzz") / "model"
    Served(make_ranker(), SERVING).save(str(path))
    return tf.saved_model.load(str(path))


def _values(rng: np.random.Generator, dtype: str, n: int) -> np.ndarray:
    """Draw values: some normal, some such as a broken client sends."""
    if dtype == "int64":
        return rng.choice([0, -1, 7, 2**53 + 1, 2**63 - 1, -(2**63), int(rng.integers(-(2**62), 2**62))], n)
    if dtype == "float32":
        odd = [0.0, -0.0, 1.5, np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, -7.0]
        return rng.choice(np.array(odd, np.float32), n)
    words = [b"", b"news", b"\0", b"\xff\xfe", "日本".encode(), b"a" * 5000, rng.bytes(int(rng.integers(20)))]
    return np.array([words[i] for i in rng.integers(len(words), size=n)], object)


def _example(rng: np.random.Generator) -> bytes:
    """Draw a serialised tf.Example of some features, sometimes of a wrong type or cut off."""
    features = {}
    for name, feature in FEATURES.items():
        if rng.random() < 0.2:
            continue
        dtype = feature.dtype if rng.random() < 0.98 else str(rng.choice(list(NUMPY)))
        value = _values(rng, dtype, 1).tolist()
        features[name] = {
            "int64": lambda v: tf.train.Feature(int64_list=tf.train.Int64List(value=v)),
            "float32": lambda v: tf.train.Feature(float_list=tf.train.FloatList(value=v)),
            "string": lambda v: tf.train.Feature(bytes_list=tf.train.BytesList(value=v)),
        }[dtype](value)
    data = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
    return bytes(data[: rng.integers(len(data))] if rng.random() < 0.02 else data)


def _columns(rng: np.random.Generator, signature: str, n: int) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}
    for name, feature in FEATURES.items():
        size = 1 if signature == "score_list" and feature.scope == "user" else n
        dtype = "int64" if signature == "serve_ids" and feature.is_id else feature.dtype
        columns[name] = _values(rng, dtype, size)
    # Every fifth request has one defect: a feature is left out, unknown, or of another length, rank or dtype.
    if rng.random() < 0.2:
        name = str(rng.choice(list(FEATURES)))
        wrong = rng.integers(5)
        if wrong == 0:
            del columns[name]
        elif wrong == 1:
            columns["nonesuch"] = np.zeros(n, np.int64)
        elif wrong == 2:
            same = "string" if columns[name].dtype == object else columns[name].dtype.name
            columns[name] = _values(rng, same, n + 2)
        elif wrong == 3:
            columns[name] = columns[name][:, None]
        else:
            other = rng.choice([kind for kind in NUMPY if kind != FEATURES[name].dtype])
            columns[name] = _values(rng, str(other), len(columns[name]))
    return columns


def _fuzz(model: Any, requests: int) -> tuple[int, int]:
    """Return how many requests were scored and how many refused."""
    rng = np.random.default_rng(1)
    scored = refused = 0
    for _ in range(requests):
        signature = str(rng.choice(["serving_default", "serve_examples", "score_list", "serve_ids"]))
        n = int(rng.integers(0, 6))
        if signature == "serve_examples":
            request = {"examples": tf.constant([_example(rng) for _ in range(n)], tf.string)}
        else:
            request = {
                k: tf.constant(v) if v.size else tf.zeros(v.shape, _dtype(v))
                for k, v in _columns(rng, signature, n).items()
            }
        try:
            scores = model.signatures[signature](**request)
        except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
            refused += 1
            text = str(error)
            # TensorFlow quotes a broken example, whose bytes Python may fail to decode.
            if signature == "serve_examples" and "codec can't decode" in text:
                continue
            # Python's signatures name a wrong dtype by its place in the alphabetical order of the names.
            assert re.search("|".join([*FEATURES, "nonesuch", "Example", r"input #\d+"]), text), text
            continue
        scored += 1
        for name, values in scores.items():
            assert np.isfinite(values).all(), (signature, request, name)
            # Features of length 1 are repeated for all rows, also for those of a feature that was made longer.
            assert values.shape in ((n,), (n + 2,)), (signature, request, name)
    return scored, refused


def _dtype(values: np.ndarray) -> tf.DType:
    return tf.string if values.dtype == object else tf.as_dtype(values.dtype)


def test_500_requests_are_each_scored_or_refused_by_name(model: Any) -> None:
    scored, refused = _fuzz(model, 500)
    assert scored > 300
    assert refused > 30


@pytest.mark.slow
def test_10000_requests_are_each_scored_or_refused_by_name(model: Any) -> None:
    scored, refused = _fuzz(model, 10_000)
    assert scored + refused == 10_000


def test_the_gate_s_adversarial_rows_have_finite_scores(model: Any) -> None:
    rows = adversarial(TWO_SCOPES)
    scores = model.signatures["serving_default"](**{name: tf.constant(v) for name, v in rows.items()})
    assert all(np.isfinite(values).all() for values in scores.values())
