"""The tables of a workdir: they are created once, and read as they were at one moment."""

from datetime import date
from pathlib import Path

import polars as pl
import pytest

from tutelage.pipeline.lake import Lake
from tutelage.pipeline.schema import Feature, History, Schema, Task
from tutelage.pipeline.soft_labels import PRE_UPDATE, LabelPartition

SCHEMA = Schema(
    features=(
        Feature(name="user", dtype="int64", capacity=10),
        Feature(name="item", dtype="int64", capacity=10),
    ),
    tasks=(Task(name="click", label="click"),),
    key=("user",),
    user="user",
    histories=(History(of="item"),),
)
DAY = date(2026, 1, 1)
LABELS = LabelPartition("teacher", PRE_UPDATE, DAY)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path, SCHEMA)
    lake.create()
    return lake


def _commit(lake: Lake, users: list[int], *, attempt: int) -> None:
    dtypes = {"example_id": pl.Int64, "event_time_us": pl.Int64, "user": pl.Int64, "item": pl.Int64}
    rows = pl.DataFrame(dict.fromkeys(dtypes, users), schema=dtypes).with_columns(click=pl.lit(1, pl.Int8))
    file = lake.interactions.write_file(rows, {"day": DAY}, name="part")
    lake.interactions.commit([file], {"day": DAY}, attempt=attempt, metadata={})


def _label(lake: Lake, logit: float) -> None:
    labels = pl.DataFrame(
        {"example_id": [1], "click_logit": [logit], "teacher_step": [0], "trained_step": [1]}
    )
    lake.soft_labels.write(LABELS, labels)


def test_creating_a_lake_again_changes_nothing(lake: Lake) -> None:
    _commit(lake, [1, 2], attempt=1)
    version = lake.interactions.version
    lake.create()
    assert lake.interactions.version == version
    assert lake.interactions.scan().collect().height == 2


def test_interactions_come_last_of_the_tables_by_day(lake: Lake) -> None:
    names = [table.path.name for table in lake.by_day]
    assert names == ["soft_labels", "histories", "statistics", "interactions"]


def test_a_snapshot_shows_rows_and_labels_of_one_moment(lake: Lake) -> None:
    _commit(lake, [1], attempt=1)
    _label(lake, 0.5)
    snapshot = lake.snapshot()
    before = snapshot.input_versions([DAY], histories=True, labels=("teacher", PRE_UPDATE))
    _commit(lake, [1, 2], attempt=2)
    _label(lake, 0.75)
    assert snapshot.interactions.scan().collect().height == 1
    assert snapshot.soft_labels.read(LABELS)["click_logit"].to_list() == [0.5]
    assert snapshot.input_versions([DAY], histories=True, labels=("teacher", PRE_UPDATE)) == before
    now = lake.input_versions([DAY], histories=True, labels=("teacher", PRE_UPDATE))
    assert before[DAY].keys() == now[DAY].keys() == {"interactions", "soft_labels"}
    assert all(now[DAY][name] != version for name, version in before[DAY].items())
