"""Every signature scores as the trainer does, fills in defaults, and names the feature that does not fit."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.export.serving import (
    MODEL,
    SERVING,
    TWO_SCOPES,
    assert_equal,
    make_ranker,
    make_rows,
    trainer_scores,
)
from tests.tiny import SCHEMA
from tutelage.export.saved_model import Served
from tutelage.models.backbones.dcn import DCNv2
from tutelage.models.id_map import fingerprint
from tutelage.models.ranker import Ranker
from tutelage.pipeline.schema import Feature

USER = [feature.name for feature in TWO_SCOPES.features if feature.scope == "user"]
STRINGS = [feature.name for feature in TWO_SCOPES.features if feature.dtype == "string"]
DEFAULTS = {"item": -1, "user": -1, "topic": b"", "country": b"", "seconds": 0.0, "age": 0.0, "price": 0.0}


@pytest.fixture(scope="module")
def ranker() -> Ranker:
    return make_ranker()


@pytest.fixture(scope="module")
def path(ranker: Ranker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served") / "model"
    Served(ranker, SERVING).save(str(path))
    return path


@pytest.fixture(scope="module")
def model(path: Path) -> Any:
    return tf.saved_model.load(str(path))


def _for_one_user(rows: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Return the rows with the features of the first row's user only, each of length 1."""
    return {name: column[:1] if name in USER else column for name, column in rows.items()}


def _repeated(rows: Mapping[str, tf.Tensor], n: int) -> dict[str, tf.Tensor]:
    return {name: tf.repeat(column, n) if len(column) == 1 else column for name, column in rows.items()}


def _example(row: Mapping[str, Any]) -> bytes:
    """Return a serialised tf.Example of a row's values."""

    def feature(value: Any) -> tf.train.Feature:
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))

    features = {name: feature(value) for name, value in row.items()}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def _examples(rows: Mapping[str, tf.Tensor]) -> tf.Tensor:
    columns = [column.numpy().tolist() for column in rows.values()]
    return tf.constant([_example(dict(zip(rows, row, strict=True))) for row in zip(*columns, strict=True)])


@pytest.mark.parametrize("n", [0, 1, 100])
def test_scores_by_column_by_example_and_by_id_are_the_trainer_s(ranker: Ranker, model: Any, n: int) -> None:
    rows = make_rows(n)
    ids = {name: fingerprint(column) if name in STRINGS else column for name, column in rows.items()}
    expected = (
        trainer_scores(ranker, rows) if n else dict.fromkeys(("click", "watch_log1p", "score"), np.zeros(0))
    )
    if n > 1:
        assert len(np.unique(expected["score"])) == n
    assert_equal(model.signatures["serving_default"](**rows), expected)
    assert_equal(model.signatures["serve_ids"](**ids), expected)
    if n:
        assert_equal(model.signatures["serve_examples"](_examples(rows)), expected)


@pytest.mark.parametrize("cross_layers", [0, 2])
@pytest.mark.parametrize("n", [0, 1, 100])
def test_a_list_is_scored_like_its_rows_with_the_user_repeated(cross_layers: int, n: int) -> None:
    backbone = DCNv2(hidden=(16, 8), cross_layers=cross_layers) if cross_layers else MODEL.backbone
    ranker = make_ranker(model=dataclasses.replace(MODEL, backbone=backbone))
    served = Served(ranker, SERVING)
    candidates, user = make_rows(n), make_rows(1)
    rows = {name: user[name] if name in USER else column for name, column in candidates.items()}
    assert_equal(served.score_list(**rows), trainer_scores(ranker, _repeated(rows, n)))


@pytest.mark.parametrize("scope", ["user", "candidate"])
def test_a_scope_may_consist_of_numbers_only(scope: str) -> None:
    ids = [f for f in TWO_SCOPES.features if f.is_id]
    features = [dataclasses.replace(f, scope="candidate" if scope == "user" else "user") for f in ids]
    features.append(Feature(name="age", dtype="float32", scope=scope))  # type: ignore[arg-type]
    schema = dataclasses.replace(TWO_SCOPES, features=tuple(features), key=("user",))
    ranker = make_ranker(schema)
    rows = {
        f.name: v[:1] if f.scope == "user" else v
        for f, v in zip(features, make_rows(9, schema).values(), strict=True)
    }
    assert_equal(Served(ranker, SERVING).score_list(**rows), trainer_scores(ranker, _repeated(rows, 9)))


def test_the_user_s_part_of_a_list_is_computed_once(ranker: Ranker) -> None:
    graph = Served(ranker, SERVING).score_list.get_concrete_function().graph
    inputs = [op.inputs[0].shape.as_list() for op in graph.get_operations() if op.type == "MatMul"]
    # The user's two ids of 4 and one number enter once, each candidate's two ids and two numbers N times.
    assert inputs[:2] == [[1, 9], [None, 10]]
    assert [1, 19] not in inputs
    assert [None, 19] not in inputs


def test_a_model_whose_features_have_one_scope_has_no_score_list() -> None:
    assert sorted(Served(make_ranker(SCHEMA), SERVING).functions) == [
        "serve_examples",
        "serve_ids",
        "serving_default",
    ]


def test_the_teacher_serves_raw_outputs_by_column_only(ranker: Ranker) -> None:
    teacher = Served(ranker, None)
    assert list(teacher.functions) == ["serving_default"]
    rows = make_rows(5)
    raw = ranker(*ranker.transform(rows))
    assert_equal(teacher.serving_default(**rows), {name: output.numpy() for name, output in raw.items()})


@pytest.mark.parametrize("missing", [[name] for name in DEFAULTS] + [list(DEFAULTS)[1:]])
def test_a_feature_that_is_left_out_takes_its_default(ranker: Ranker, model: Any, missing: list[str]) -> None:
    rows = make_rows(20)
    given = {name: column for name, column in rows.items() if name not in missing}
    filled = {
        name: tf.fill([20], tf.constant(DEFAULTS[name], column.dtype)) if name in missing else column
        for name, column in rows.items()
    }
    expected = trainer_scores(ranker, filled)
    assert_equal(model.serving_default(**given), expected)
    assert_equal(model.serve_examples(_examples(given)), expected)
    for_one = _for_one_user(given)
    assert_equal(model.score_list(**for_one), trainer_scores(ranker, _repeated(_for_one_user(filled), 20)))


def test_a_signature_declares_the_defaults_that_a_server_fills_in(path: Path) -> None:
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((path / "saved_model.pb").read_bytes())
    for name, signature in saved.meta_graphs[0].signature_def.items():
        declared = {key: tf.make_ndarray(value).tolist() for key, value in signature.defaults.items()}
        by_column = {key: [value] for key, value in DEFAULTS.items()}
        assert declared == (by_column if name in ("serving_default", "score_list") else {})


def test_a_session_fills_in_a_feature_that_is_not_fed(ranker: Ranker, path: Path) -> None:
    items = make_rows(5)["item"]
    filled = {
        name: items if name == "item" else tf.fill([5], tf.constant(value, make_rows(1)[name].dtype))
        for name, value in DEFAULTS.items()
    }
    assert_equal(
        _by_session(path, "serving_default", {"item": items.numpy()}), trainer_scores(ranker, filled)
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -3e38])
def test_a_nan_infinite_or_absurd_number_takes_its_default(ranker: Ranker, model: Any, value: float) -> None:
    rows = make_rows(6)
    for name in ("seconds", "age", "price"):
        rows[name] = tf.constant([1.0, value, 3.0, value, value, 0.0])
    finite = {
        name: tf.where(tf.abs(column) < 1e30, column, 0.0) if column.dtype == tf.float32 else column
        for name, column in rows.items()
    }
    expected = trainer_scores(ranker, finite)
    ids = {name: fingerprint(column) if name in STRINGS else column for name, column in rows.items()}
    assert_equal(model.serving_default(**rows), expected)
    assert_equal(model.serve_examples(_examples(rows)), expected)
    assert_equal(model.serve_ids(**ids), expected)
    for i in (0, 1):
        one = {name: column[i : i + 1] if name in USER else column for name, column in rows.items()}
        ours = {name: finite[name][i : i + 1] if name in USER else finite[name] for name in rows}
        assert_equal(model.score_list(**one), trainer_scores(ranker, _repeated(ours, 6)))


def _by_session(path: Path, signature: str, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Score as a server does: the C++ runtime checks only what the graph's ops check."""
    v1 = tf.compat.v1
    with v1.Session(graph=tf.Graph()) as session:
        meta = v1.saved_model.load(session, ["serve"], str(path))
        called = meta.signature_def[signature]
        fetch = {name: tensor.name for name, tensor in called.outputs.items()}
        return session.run(fetch, {called.inputs[name].name: value for name, value in feed.items()})  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", list(DEFAULTS))
def test_a_feature_of_another_rank_or_length_is_named(model: Any, name: str) -> None:
    rows = make_rows(4)
    for column in (rows[name][:, None], rows[name][0]):
        shape = str(column.shape.as_list()).replace(" ", "")
        says = rf"Shape of tensor {name} {re.escape(shape)} is not compatible with expected shape \[\?\]"
        with pytest.raises(tf.errors.InvalidArgumentError, match=says):
            model.signatures["serving_default"](**{**rows, name: column})
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=rf"\[3\] vs\. \[4\]\n.*node {name}/repeated}}}}"
    ):
        model.signatures["serving_default"](**{**rows, name: rows[name][:3]})


@pytest.mark.parametrize("name", USER)
def test_a_list_of_two_users_is_refused_and_names_the_feature(model: Any, name: str) -> None:
    rows = _for_one_user(make_rows(2))
    rows[name] = tf.repeat(rows[name], 2)
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"\b{name} \[2\] is not compatible.* \[1\]"):
        model.signatures["score_list"](**rows)


def test_a_feature_of_another_dtype_or_name_is_named(model: Any) -> None:
    rows = make_rows(3)
    with pytest.raises(TypeError, match="topic"):
        model.serving_default(**{**rows, "topic": tf.constant([1, 2, 3])})
    for call in (model.serving_default, model.signatures["serving_default"]):
        with pytest.raises(TypeError, match="topc"):
            call(**{**rows, "topc": rows["topic"]})
    del rows["topic"]
    with pytest.raises(TypeError, match="missing a required argument: 'topic'"):
        model.signatures["serving_default"](**rows)


@pytest.mark.parametrize(("name", "value"), [("item", b"7"), ("topic", 7), ("price", 7)])
def test_an_example_with_a_feature_of_another_dtype_is_refused_and_named(
    model: Any, name: str, value: Any
) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"Key: {name}, Index: 0\.  Data types don't"):
        model.signatures["serve_examples"](tf.constant([_example({name: value})]))


def test_an_example_with_two_values_of_a_feature_is_refused_and_named(model: Any) -> None:
    two = tf.train.Feature(int64_list=tf.train.Int64List(value=[1, 2]))
    example = tf.train.Example(features=tf.train.Features(feature={"user": two})).SerializeToString()
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"Key: user, Index: 0\.  Number of int64 values"
    ):
        model.signatures["serve_examples"](tf.constant([example]))


def test_other_features_of_an_example_are_ignored(model: Any) -> None:
    row = {"user": 3, "topic": b"news"}
    plain, more = (
        model.serve_examples(tf.constant([_example(r)])) for r in (row, {**row, "weather": b"rain"})
    )
    assert {name: score.numpy() for name, score in plain.items()} == {
        name: score.numpy() for name, score in more.items()
    }
