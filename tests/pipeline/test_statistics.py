"""Statistics of columns, computed by hand: equal over one file or many, and accurate for 100,000s of ids."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tutelage.pipeline.io.arrow import read_arrow, write_arrow
from tutelage.pipeline.schema import STATISTICS, Feature, Schema, Task
from tutelage.pipeline.statistics import DayStatistics, Sketches, _hashes, compare

SCHEMA = Schema(
    features=(
        Feature(name="user", dtype="int64", capacity=10),
        Feature(name="tags", dtype="string", capacity=10, length=2),
        Feature(name="age", dtype="float32"),
    ),
    tasks=(Task(name="click", label="click"),),
    key=("user",),
)
COLUMNS = {"user": pl.Int64, "tags": pl.List(pl.String), "age": pl.Float32, "click": pl.Int8}


def _frame(**columns: Sequence[object]) -> pl.DataFrame:
    """Return a frame with these columns; the other columns are all null."""
    rows = len(next(iter(columns.values())))
    return pl.DataFrame({name: columns.get(name, [None] * rows) for name in COLUMNS}, schema=COLUMNS)


def _day(*frames: pl.DataFrame) -> DayStatistics:
    sketches = Sketches(SCHEMA)
    for frame in frames:
        sketches.add(frame)
    return sketches.finish()


def _row(day: DayStatistics, column: str) -> dict[str, object]:
    return day.columns.row(by_predicate=pl.col("column") == column, named=True)


def test_a_number_has_moments_and_its_nulls_and_infinities_are_counted_separately() -> None:
    row = _row(_day(_frame(age=[1.0, 2.0, 3.0, None, math.nan, -math.inf])), "age")
    assert (row["rows"], row["nulls"], row["not_finite"]) == (6, 1, 2)
    assert (row["mean"], row["min"], row["max"]) == (2.0, 1.0, 3.0)
    assert row["sd"] == pytest.approx(math.sqrt(2 / 3))
    assert (row["bucket"], row["bucket_rows"]) == ([1.0, 2.0, 3.0], [1, 1, 1])


def test_absurd_numbers_are_counted_and_only_the_extremes_are_kept_of_them() -> None:
    row = _row(_day(_frame(age=[1.0, 3.0, 3e38, -2e38, math.inf])), "age")
    assert (row["rows"], row["not_finite"], row["absurd"]) == (5, 1, 2)
    assert (row["mean"], row["sd"], row["bucket"]) == (2.0, 1.0, [1.0, 3.0])
    assert (row["min"], row["max"]) == pytest.approx((-2e38, 3e38))
    alone = _row(_day(_frame(age=[3e38])), "age")
    assert (alone["absurd"], alone["mean"], alone["max"]) == (1, None, pytest.approx(3e38))


@pytest.mark.parametrize("rows", [1_000, 300_000])
def test_rows_that_repeat_another_but_for_the_key_are_counted(rows: int) -> None:
    draw = np.random.default_rng(4)
    frame = _frame(user=range(rows), age=draw.normal(size=rows).tolist(), click=draw.integers(0, 2, rows))
    twice = pl.concat([frame, frame[: rows // 2].with_columns(user=pl.col("user") + rows)])
    (share,) = _day(frame[:700], frame[700:], twice[rows:]).columns["repeats"].unique()
    # Of 1.5 n rows .5 n repeat one; a few numbers are equal by chance.
    assert share == pytest.approx(1 / 3, abs=0.01)
    assert _day(frame).columns["repeats"].unique().item() < 0.05


def test_a_key_of_all_columns_has_no_repeats() -> None:
    everything = Schema(features=SCHEMA.features[:1], tasks=SCHEMA.tasks, key=("user", "click"))
    sketches = Sketches(everything)
    sketches.add(_frame(user=[1, 1], click=[0, 0]))
    assert sketches.finish().columns["repeats"].to_list() == [None, None]


def test_a_bucket_is_a_bfloat16_towards_zero_and_buckets_are_in_order() -> None:
    # bfloat16 has 7 bits after the leading one: between 1 and 2 its steps are 1/128.
    row = _row(_day(_frame(age=[1.005, -1.005, 0.0, -0.0, 1 + 1 / 128])), "age")
    assert row["bucket"] == [-1.0, 0.0, 1.0, 1 + 1 / 128]
    assert row["bucket_rows"] == [1, 2, 1, 1]


def test_deciles_are_accurate_to_a_bucket() -> None:
    values = np.random.default_rng(1).exponential(30, 20_000).astype("f4")
    row = _row(_day(_frame(age=values.tolist())), "age")
    np.testing.assert_allclose(row["deciles"], np.quantile(values, np.arange(1, 10) / 10), rtol=0.01)


def test_ids_have_their_top_values_and_lists_count_items() -> None:
    tags = [["a", "b", "c"], ["a"], [None], [], None, ["b", "a"]]
    day = _day(_frame(user=[7, 7, 7, 8, None, 9], tags=tags))
    user, tag = _row(day, "user"), _row(day, "tags")
    assert (user["rows"], user["nulls"]) == (6, 1)
    assert (user["top"], user["top_share"]) == (["7", "8", "9"], pytest.approx([0.6, 0.2, 0.2]))
    # The first two items of the first list count; three rows have no item.
    assert (tag["rows"], tag["nulls"], sum(tag["bucket_rows"])) == (6, 3, 5)  # type: ignore[arg-type]
    assert (tag["top"], tag["top_share"]) == (["a", "b"], pytest.approx([0.6, 0.4]))


@pytest.mark.parametrize("distinct", [12, 3_000, 150_000, 2_000_000])
def test_the_number_of_distinct_ids_is_estimated_within_five_percent(distinct: int) -> None:
    ids = np.arange(distinct) * 4096 + (1 << 40)
    found = _row(_day(_frame(user=ids.tolist())), "user")["distinct"]
    assert found == pytest.approx(distinct, rel=0.05)


def test_files_add_up_to_the_day() -> None:
    rng = np.random.default_rng(2)
    whole = _frame(
        user=rng.integers(0, 500, 1000).tolist(),
        age=rng.normal(size=1000).tolist(),
        click=rng.integers(0, 2, 1000).tolist(),
        tags=[["x", "y"][: i % 3] for i in range(1000)],
    )
    one, many = _day(whole), _day(whole[:300], whole[300:300], whole[300:])
    moments = pl.col("mean", "sd").round(12)
    assert many.columns.with_columns(moments).equals(one.columns.with_columns(moments))
    assert (many.marks["user"] == one.marks["user"]).all()


def test_the_rows_have_the_schema_of_the_table() -> None:
    assert _day(_frame(user=[1])).columns.to_arrow().cast(STATISTICS).schema == STATISTICS


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_the_sketches_of_shards_add_up_to_the_day(tmp_path: Path, shards: int) -> None:
    rng = np.random.default_rng(3)
    n = 3_000
    whole = _frame(
        user=rng.integers(0, 400, n).tolist(),
        age=[None, math.nan, 3e38, *rng.normal(size=n - 3)],
        click=rng.integers(0, 2, n).tolist(),
        tags=[["x", None, "y"][: i % 4] for i in range(n)],
    )
    added = Sketches(SCHEMA)
    for number in range(shards):
        shard = Sketches(SCHEMA)
        shard.add(whole.gather_every(shards, number))
        write_arrow(shard.parts(), str(tmp_path / f"{number}"))
        added.add_parts(read_arrow(str(tmp_path / f"{number}")))
    found, one = added.finish(), _day(whole)
    moments = pl.col("mean", "sd").round(12)
    assert found.columns.with_columns(moments).equals(one.columns.with_columns(moments))
    assert list(found.marks) == ["user", "tags"]
    assert all((found.marks[name] == one.marks[name]).all() for name in one.marks)


def test_repeats_of_shards_are_those_of_the_day_where_only_a_sample_is_kept() -> None:
    rows = 200_000
    frame = _frame(age=np.random.default_rng(5).integers(0, rows, rows).tolist())
    added = Sketches(SCHEMA)
    for number in range(3):
        shard = Sketches(SCHEMA)
        shard.add(frame.gather_every(3, number))
        added.add_parts(shard.parts())
    assert added.finish().columns["repeats"].equals(_day(frame).columns["repeats"])


def test_of_many_values_the_most_frequent_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tutelage.pipeline.statistics._MOST_VALUES", 100)
    sketches = Sketches(SCHEMA)
    for start in range(0, 1_000, 50):
        sketches.add(_frame(user=[*range(start, start + 50), *[5] * 3, *[7] * 2]))
        assert sketches.parts()["value"][0].len() <= 100
    assert _row(sketches.finish(), "user")["top"][:2] == ["5", "7"]  # type: ignore[index]


def test_what_is_no_sketch_of_these_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="sketches have the columns"):
        Sketches(SCHEMA).add_parts(pl.DataFrame({"column": ["user"]}))
    with pytest.raises(ValueError, match="sketches have the columns"):
        Sketches(SCHEMA).add_parts(Sketches(SCHEMA).parts()[:2])


def test_hashes_do_not_depend_on_the_version_of_a_library() -> None:
    # In 64 bits: i · 0x9E3779B97F4A7C15, xor with its upper half, · 0xD6E8FEB86659FD93.
    assert _hashes(pl.Series([1, -1])).tolist() == [1728126539640421828, 2277438904167250775]
    # xxHash64 of "a" with seed 0.
    assert _hashes(pl.Series(["a"])).tolist() == [0xD24EC4F1A98C6E5B]


def test_new_ids_are_a_share_of_the_rows() -> None:
    before = [_day(_frame(user=[1, 2, 3])).columns, _day(_frame(user=[4, 5])).columns]
    day = compare(_day(_frame(user=[1, 1, 1, 5, 6, 7, None])), before)
    found = dict(zip(day["column"], day["new_ids"], strict=True))
    assert found == {"user": pytest.approx(2 / 6, abs=1e-3), "tags": None, "age": None, "click": None}
    assert compare(_day(_frame(user=[1])), [])["new_ids"].null_count() == 4


def test_one_id_that_everybody_has_counts_for_the_mix_and_not_for_the_rest() -> None:
    draw = np.random.default_rng(6)
    before = [_day(_frame(user=draw.integers(0, 400, 20_000).tolist())).columns]
    usual, viral = (
        compare(_day(_frame(user=draw.integers(0, 400, 8_000).tolist() + [9_999] * rows)), before)
        for rows in (0, 12_000)
    )
    (was, now) = (day.filter(column="user").row(0, named=True) for day in (usual, viral))
    # The id has .6 of the rows: .6² and what the others lost together.
    assert now["mix"] == pytest.approx(0.36, abs=0.02)
    assert was["mix"] < 0.001
    assert now["drift"] > 0.4
    assert now["drift_rest"] == pytest.approx(was["drift_rest"], abs=0.02)
    assert (was["new_ids"], now["new_ids"]) == (0, 0)


def test_new_ids_among_hundreds_of_thousands_are_found_within_two_percent() -> None:
    known = np.arange(300_000)
    before = [_day(_frame(user=part.tolist())).columns for part in (known[::2], known[1::2])]
    day = compare(_day(_frame(user=np.arange(225_000, 325_000).tolist())), before)
    assert day["new_ids"][0] == pytest.approx(0.25, abs=0.02)


def test_drift_is_measured_against_all_days_before_together() -> None:
    before = [
        _day(_frame(user=[1, 1], age=[1.0, 1.0])).columns,
        _day(_frame(user=[2, 2], age=[2.0, 2.0])).columns,
    ]
    same = compare(_day(_frame(user=[1, 2], age=[1.0, 2.0])), before)
    assert same.filter(column="user")["drift"].item() == 0
    assert same.filter(column="age")["drift"].item() == 0
    other = compare(_day(_frame(user=[1, 1])), before)
    assert other.filter(column="user")["drift"].item() == pytest.approx(math.sqrt(0.31128), abs=1e-5)
    # There is no value to compare.
    assert other.filter(column="age")["drift"].item() is None
