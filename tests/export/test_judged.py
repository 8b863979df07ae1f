"""Served versions score the rows that they are judged on."""

import polars as pl
import pytest
import tensorflow as tf

from tutelage.export.judged import served_scores
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Feature, Schema, Task

AGE, PRICE = (Feature(name=name, dtype="float32") for name in ("age", "price"))
ROWS = pl.DataFrame(
    {"age": [1.0, 2.0], "price": [10.0, 20.0]}, schema_overrides={"age": pl.Float32, "price": pl.Float32}
)


def _schema(*features: Feature) -> Schema:
    return Schema(features=features, tasks=(Task(name="click", label="click"),), key=("age",))


@pytest.fixture(scope="module")
def signature() -> object:
    column = tf.TensorSpec([None], tf.float32)

    @tf.function
    def added(*, age: tf.Tensor, price: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"click_logit": age + price}

    return added.get_concrete_function(age=column, price=column)


def test_a_version_s_scores_are_its_signature_s(signature: object) -> None:
    assert served_scores(signature, ROWS, _schema(AGE, PRICE))["click_logit"].tolist() == [11.0, 22.0]


def test_a_version_that_takes_a_feature_which_the_schema_dropped_is_told(signature: object) -> None:
    with pytest.raises(UserError, match=r"^it takes price, which the schema no longer has$"):
        served_scores(signature, ROWS, _schema(AGE))
