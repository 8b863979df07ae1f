"""A student with features of both scopes: random weights, rows, and the trainer's scores of them."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tests.tiny import SCHEMA
from tutelage.export.config import ServingConfig
from tutelage.models.backbones.mlp import MLP
from tutelage.models.config import ModelConfig
from tutelage.models.ranker import Ranker
from tutelage.pipeline.schema import Feature, Schema

# Features of users and candidates alternate, so that a swapped part would be noticed.
TWO_SCOPES = dataclasses.replace(
    SCHEMA,
    features=(
        Feature(name="item", dtype="int64", capacity=50),
        Feature(name="user", dtype="int64", capacity=40, scope="user"),
        Feature(name="topic", dtype="string", capacity=20),
        Feature(name="country", dtype="string", capacity=10, scope="user"),
        Feature(name="seconds", dtype="float32", log1p=True),
        Feature(name="age", dtype="float32", scope="user"),
        Feature(name="price", dtype="float32"),
    ),
)
MODEL = ModelConfig(embedding_dim=4, backbone=MLP(hidden=(16, 8)))
SERVING = ServingConfig(score=(("click", 2.0), ("watch_log1p", -0.5)))


def make_ranker(schema: Schema = TWO_SCOPES, model: ModelConfig = MODEL) -> Ranker:
    """Return a ranker whose weights are well away from 0, so that every feature counts."""
    ranker = Ranker(schema, model)
    rng = np.random.default_rng(1)
    for variable in ranker.variables:
        variable.assign(rng.normal(scale=0.2, size=variable.shape))
    return ranker


def make_rows(n: int, schema: Schema = TWO_SCOPES) -> dict[str, tf.Tensor]:
    """Return raw features, each [n]."""
    rng = np.random.default_rng(n)
    columns = {}
    for feature in schema.features:
        if feature.dtype == "string":
            columns[feature.name] = tf.constant(rng.choice(["", "news", "日本", "x" * 40], n))
        elif feature.is_id:
            columns[feature.name] = tf.constant(rng.integers(-(2**63), 2**63 - 1, n))
        else:
            columns[feature.name] = tf.constant(rng.exponential(3, n), tf.float32)
    return columns


def trainer_scores(ranker: Ranker, rows: Mapping[str, tf.Tensor]) -> dict[str, np.ndarray]:
    """Return float64 scores [rows] by served output, computed without the signatures' graph."""
    raw = ranker(*ranker.transform(rows))
    click = 1 / (1 + np.exp(-raw["click_logit"].numpy().astype(np.float64)))
    watch = raw["watch_log1p"].numpy().astype(np.float64)
    return {"click": click, "watch_log1p": watch, "score": 2.0 * click - 0.5 * watch}


def assert_equal(found: Mapping[str, tf.Tensor], expected: Mapping[str, np.ndarray]) -> None:
    """Compare scores row by row, up to the rounding of float32 at each output's scale."""
    assert found.keys() == expected.keys()
    for name, scores in expected.items():
        assert np.shape(found[name]) == scores.shape
        np.testing.assert_allclose(found[name], scores, rtol=1e-5, atol=1e-6 * np.abs(scores).max(initial=0))
