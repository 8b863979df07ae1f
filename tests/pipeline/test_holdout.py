"""The holdout: which rows of a day no model is trained on."""

from dataclasses import replace
from datetime import date

import numpy as np
import polars as pl
import pytest

from tutelage.pipeline.holdout import held_out
from tutelage.pipeline.schema import Feature, Schema, Task

USER = Feature(name="user", dtype="int64", capacity=100, scope="user")
SCHEMA = Schema(features=(USER,), tasks=(Task(name="click", label="click"),), key=("user",), user="user")
DAY, NEXT = date(2026, 1, 1), date(2026, 1, 2)
ROWS = 200_000


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    """Ten rows of each of 20,000 users."""
    return pl.DataFrame(
        {"user": np.arange(ROWS) // 10, "example_id": np.random.default_rng(1).permutation(ROWS)}
    )


def _held_out(rows: pl.DataFrame, share: float, day: date = DAY, schema: Schema = SCHEMA) -> np.ndarray:
    return rows.select(held_out(schema, day, share)).to_series().to_numpy()


def test_all_rows_of_a_user_and_day_are_withheld_or_none(rows: pl.DataFrame) -> None:
    by_user = _held_out(rows, 0.02).reshape(-1, 10)
    assert set(by_user.sum(axis=1)) == {0, 10}
    assert by_user[:, 0].mean() == pytest.approx(0.02, abs=0.003)


def test_of_share_zero_nothing_is_withheld_and_a_larger_share_withholds_what_a_smaller_one_does(
    rows: pl.DataFrame,
) -> None:
    assert not _held_out(rows, 0.0).any()
    small, large = _held_out(rows, 0.01), _held_out(rows, 0.05)
    assert (large[small]).all()
    assert large.sum() > small.sum()


def test_another_day_withholds_other_users(rows: pl.DataFrame) -> None:
    first, second = _held_out(rows, 0.1), _held_out(rows, 0.1, NEXT)
    # As chance has it: a tenth of a tenth.
    assert (first & second).mean() == pytest.approx(0.01, abs=0.003)


@pytest.mark.parametrize("unknown", [None, -1])
def test_rows_without_a_known_user_are_decided_one_by_one(rows: pl.DataFrame, unknown: int | None) -> None:
    found = _held_out(rows.with_columns(user=pl.lit(unknown, pl.Int64)), 0.02)
    assert found.mean() == pytest.approx(0.02, abs=0.002)
    # So are they all where the schema names no user.
    np.testing.assert_array_equal(found, _held_out(rows, 0.02, schema=replace(SCHEMA, user=None)))


def test_an_id_of_text_decides_too() -> None:
    text = replace(SCHEMA, features=(replace(USER, dtype="string"),))
    users = pl.DataFrame({"user": [f"é{n}" for n in range(20_000)], "example_id": np.arange(20_000)})
    assert _held_out(users, 0.02, schema=text).mean() == pytest.approx(0.02, abs=0.004)


def test_it_has_nothing_to_do_with_which_negatives_are_sampled(rows: pl.DataFrame) -> None:
    # Downsampling keeps the lowest ids, Sampling those whose product is low.
    ids = rows["example_id"].to_numpy()
    products = ids.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15) / np.float64(2**64)
    for share in (0.02, 0.2):
        for schema in (SCHEMA, replace(SCHEMA, user=None)):
            found = _held_out(rows, share, schema=schema)
            for kept in (ids < ROWS // 2, products < 0.5):
                assert found[kept].mean() == pytest.approx(share, abs=0.01)


def test_the_hash_is_the_same_in_every_release() -> None:
    # A version is judged on what was withheld when its day was trained on.
    users = pl.DataFrame({"user": np.arange(200), "example_id": np.arange(200)})
    assert np.flatnonzero(_held_out(users, 0.05)).tolist() == [8, 67, 94, 101, 124, 140, 182]
