"""The golden batch that is stored with a version."""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from tests.export.lenient import LENIENT
from tests.tiny import DAYS, MODEL, SCHEMA, make_run
from tutelage.export.golden import (
    Golden,
    choose,
    parity,
    read_golden,
    relative_difference,
    write_golden,
)
from tutelage.export.publish import export_student
from tutelage.pipeline.errors import UserError
from tutelage.trainers.config import StudentConfig
from tutelage.trainers.day_loop import train_student

FRAME = pl.DataFrame(
    {"age": [1.0, None, 3.0], "topic": ["news", None, ""], "user": [7, None, -2], "example_id": [1, 2, 3]},
    schema={"age": pl.Float32, "topic": pl.String, "user": pl.Int64, "example_id": pl.Int64},
)
AGE = tf.TensorSpec([None], tf.float32)


def _golden(**expected: list[float]) -> Golden:
    return Golden(frame=FRAME, expected={name: np.array(values) for name, values in expected.items()})


@pytest.mark.parametrize("seed", [1, 2])
def test_rows_are_evenly_spaced_in_the_order_of_their_ids_whatever_order_they_arrive_in(seed: int) -> None:
    day = pl.DataFrame({"example_id": range(100, 110)}).sample(fraction=1, shuffle=True, seed=seed)
    # Of 10 rows those at 0 · 10/4 = 0, 1 · 10/4 = 2, 2 · 10/4 = 5 and 3 · 10/4 = 7.
    assert choose(day, rows=4)["example_id"].to_list() == [100, 102, 105, 107]
    assert choose(day, rows=11)["example_id"].to_list() == list(range(100, 110))
    assert choose(day.clear()).is_empty()


def test_rows_and_scores_round_trip_and_missing_values_are_nulls_in_the_parquet_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "assets.extra/golden.parquet"
    write_golden(path, FRAME, {"click": np.array([0.1, 0.2, 0.3], np.float32)})
    golden = read_golden(path)
    assert golden.frame.equals(FRAME)
    assert {name: values.tolist() for name, values in golden.expected.items()} == {
        "click": np.array([0.1, 0.2, 0.3], np.float32).tolist()
    }
    table = pq.read_table(path)
    assert table.column_names == [*FRAME.columns, "expected_click"]
    assert [table[name].null_count for name in FRAME.columns] == [1, 1, 1, 0]


def test_a_missing_value_reaches_the_model_as_its_default() -> None:
    features = _golden().features
    assert features["user"].tolist() == [7, -1, -2]
    assert features["topic"].tolist() == ["news", "", ""]
    assert features["age"].tolist() == [1, 0, 3]


def test_an_exported_student_scores_its_golden_batch_as_expected_and_a_difference_is_measured(
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path)
    control = StudentConfig(name="control", model=MODEL)
    train_student(run, control, DAYS[:1])
    (version,) = (one.version for one in export_student(run, control, LENIENT))
    model = tf.saved_model.load(str(version.path))
    signature = model.signatures["serving_default"]
    rows = choose(run.lake.interactions.scan(day=DAYS[0]).collect(), rows=16)
    features = {name: tf.constant(values) for name, values in SCHEMA.arrays(rows).items()}
    scores = {name: values.numpy() for name, values in signature(**features).items()}
    path = tmp_path / "golden.parquet"
    write_golden(path, rows, scores)
    assert parity(signature, read_golden(path)) <= 1e-6
    # One of the 16 scores of one output is 1 % too high: 0.01 / 1.
    wrong = scores["watch_log1p"].astype(np.float64)
    wrong[5] /= 1.01
    write_golden(path, rows, {**scores, "watch_log1p": wrong})
    assert parity(signature, read_golden(path)) == pytest.approx(0.01, rel=1e-3)


def test_a_difference_is_relative_to_the_expected_score_or_a_hundredth_of_the_largest() -> None:
    expected = np.array([4.0, -2.0, 0.0], np.float32)
    # 0.2 / 4 = 0.05, 0.2 / 2 = 0.1; the 0 counts as 1 % of 4: 4e-4 / 0.04 = 0.01
    assert relative_difference(np.array([4.2, -2.0, 0.0]), expected) == pytest.approx(0.05)
    assert relative_difference(np.array([4.2, -1.8, 0.0]), expected) == pytest.approx(0.1)
    assert relative_difference(np.array([4.0, -2.0, 4e-4]), expected) == pytest.approx(0.01)
    assert np.isnan(relative_difference(np.array([4.0, np.nan, 0.0]), expected))


def test_the_worst_output_counts_and_a_score_that_is_not_finite_is_never_parity() -> None:
    def score(*, age: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"double": 2 * age, "log": tf.math.log(age)}

    signature = tf.function(score).get_concrete_function(age=AGE)
    # The scores are 2 · (1, 0, 3); the last is 6 where 5 is expected: 1 / 5.
    assert parity(signature, _golden(double=[2, 0, 5])) == pytest.approx(0.2)
    # log 0 is -inf, and -inf - (-inf) is NaN.
    both = _golden(double=[2, 0, 6], log=[0, -np.inf, np.log(3)])
    assert not parity(signature, both) <= 1e-5


def test_a_signature_that_does_not_fit_the_golden_batch_is_refused() -> None:
    def takes_more(*, age: tf.Tensor, price: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"click": age + price}

    def gives_a_column(*, age: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"click": age[:, None]}

    golden = _golden(click=[1, 0, 3])
    more = tf.function(takes_more).get_concrete_function(age=AGE, price=AGE)
    with pytest.raises(UserError) as error:
        parity(more, golden)
    assert str(error.value) == (
        "the signature takes 'price', but the golden batch has only age, topic, user, example_id; "
        "export the version again"
    )
    column = tf.function(gives_a_column).get_concrete_function(age=AGE)
    with pytest.raises(UserError) as error:
        parity(column, golden)
    assert str(error.value) == (
        "output 'click' has the shape (3, 1), but the golden batch expects (3,); export the version again"
    )
    with pytest.raises(UserError) as error:
        parity(column, _golden(like=[1, 0, 3]))
    assert str(error.value) == (
        "the golden batch expects an output 'like', but the signature has only click; export the version again"
    )


def test_a_version_without_a_golden_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"golden\.parquet: no golden batch; export the version again$"):
        read_golden(tmp_path / "golden.parquet")
