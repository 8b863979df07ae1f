"""The labeler, on a SavedModel whose scores can be computed by hand."""

import re
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tensorflow as tf

from tests.failing import EIO, failing
from tutelage.pipeline import label as job
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io import retry
from tutelage.pipeline.label import BATCH, Snapshot, choose, label, score
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.schema import Feature, Schema, Task
from tutelage.pipeline.soft_labels import LabelPartition
from tutelage.pipeline.table import Table

SCHEMA = Schema(
    features=(
        Feature(name="user", dtype="int64", capacity=10),
        Feature(name="item", dtype="string", capacity=10),
        Feature(name="seconds", dtype="float32"),
    ),
    tasks=(Task(name="click", label="click"), Task(name="watch", label="watch_seconds", kind="log1p")),
    key=("user", "item", "event_time_us"),
)
DAYS = [date(2026, 1, day) for day in range(1, 5)]
Row = tuple[int, int | None, str | None, float | None]


class Formula(tf.Module):
    """Write a model with click = weight × user + the length of item, and watch = weight × seconds."""

    def __init__(self, weight: float):
        super().__init__()
        self.weight = tf.Variable(weight)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.int64, name="user"),
            tf.TensorSpec([None], tf.string, name="item"),
            tf.TensorSpec([None], tf.float32, name="seconds"),
        ]
    )
    def raw(self, user: tf.Tensor, item: tf.Tensor, seconds: tf.Tensor) -> dict[str, tf.Tensor]:
        length = tf.cast(tf.strings.length(item), tf.float32)
        return {
            "click_logit": self.weight * tf.cast(user, tf.float32) + length,
            "watch_log1p": self.weight * seconds,
        }


def _snapshot(path: Path, weight: float, day: date, step: int) -> Snapshot:
    model = Formula(weight)
    tf.saved_model.save(model, str(path), signatures={"serving_default": model.raw})
    return Snapshot(path=str(path), day=day, step=step)


@pytest.fixture(scope="module")
def doubling(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return _snapshot(tmp_path_factory.mktemp("doubling") / "1", 2.0, DAYS[0], 40)


@pytest.fixture(scope="module")
def negating(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return _snapshot(tmp_path_factory.mktemp("negating") / "1", -1.0, DAYS[1], 80)


def _features(rows: Sequence[Row]) -> pl.DataFrame:
    dtypes = {"example_id": pl.Int64, "user": pl.Int64, "item": pl.String, "seconds": pl.Float32}
    return pl.DataFrame(rows, schema=dtypes, orient="row")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path, SCHEMA)
    lake.create()
    return lake


def _put(lake: Lake, day: date, *files: Sequence[Row]) -> None:
    """Commit a day of interactions, one file for each list of rows (example_id, user, item, seconds)."""
    table = lake.interactions
    labels = {
        "event_time_us": pl.lit(0),
        "click": pl.lit(0, pl.Int8),
        "watch_seconds": pl.lit(0.0, pl.Float32),
    }
    written = [
        table.write_file(_features(rows).with_columns(**labels), {"day": day}, name=f"part-{i:05d}")
        for i, rows in enumerate(files)
    ]
    table.commit(written, {"day": day}, attempt=1, metadata={})


def test_every_row_is_labelled_once_by_the_snapshot_of_its_day(
    lake: Lake, doubling: Snapshot, negating: Snapshot
) -> None:
    _put(lake, DAYS[1], [(11, 1, "a", 0.5), (12, 2, "bb", 1.0)], [(13, 3, "", 0.25)])
    _put(lake, DAYS[2], [(14, 4, "ccc", 3.0)])
    _put(lake, DAYS[3], [(15, 5, "d", 1.0)])  # Nobody asks for its labels.
    done = label(SCHEMA, lake, teacher="big", days={DAYS[1]: doubling, DAYS[2]: negating})
    assert done == {DAYS[1]: 3, DAYS[2]: 1}
    frame = lake.soft_labels.scan().collect().sort("example_id")
    assert dict(frame.schema) == {
        "example_id": pl.Int64,
        "click_logit": pl.Float32,
        "watch_log1p": pl.Float32,
        "snapshot_day": pl.Date,
        "teacher_step": pl.Int64,
        "trained_step": pl.Int64,
        "teacher": pl.String,
        "producer": pl.String,
        "day": pl.Date,
    }
    assert frame.rows() == [
        (11, 2 * 1 + 1, 2 * 0.5, DAYS[0], 40, None, "big", "snapshot", DAYS[1]),
        (12, 2 * 2 + 2, 2 * 1.0, DAYS[0], 40, None, "big", "snapshot", DAYS[1]),
        (13, 2 * 3 + 0, 2 * 0.25, DAYS[0], 40, None, "big", "snapshot", DAYS[1]),
        (14, -1 * 4 + 3, -1 * 3.0, DAYS[1], 80, None, "big", "snapshot", DAYS[2]),
    ]
    assert lake.soft_labels.table.counts() == {
        "big/snapshot/2026-01-02": {"labelled": 3},
        "big/snapshot/2026-01-03": {"labelled": 1},
    }


def test_a_labeler_whose_disk_fails_for_a_while_labels_every_row_once(
    lake: Lake, doubling: Snapshot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _put(lake, DAYS[1], [(11, 1, "a", 0.5)], [(12, 2, "bb", 1.0)])
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
    for name in ("write_file", "commit"):
        monkeypatch.setattr(Table, name, failing(1, EIO, getattr(Table, name)))
    assert label(SCHEMA, lake, teacher="big", days={DAYS[1]: doubling}) == {DAYS[1]: 2}
    assert lake.soft_labels.scan().collect()["example_id"].sort().to_list() == [11, 12]
    assert [message.split(":")[0] for message in caplog.messages] == ["the labels of 2026-01-02"] * 2


def test_a_missing_value_reaches_the_model_as_its_default(lake: Lake, doubling: Snapshot) -> None:
    _put(lake, DAYS[1], [(1, None, "abc", None), (2, 3, None, 1.5)])
    label(SCHEMA, lake, teacher="big", days={DAYS[1]: doubling})
    frame = lake.soft_labels.scan().select("example_id", "click_logit", "watch_log1p").collect()
    # user -1 and three letters, 0 seconds; user 3 and no letter, 1.5 seconds
    assert sorted(frame.rows()) == [(1, 2 * -1 + 3, 0.0), (2, 2 * 3 + 0, 2 * 1.5)]


def test_new_labels_replace_those_of_the_same_teacher_and_day(
    lake: Lake, doubling: Snapshot, negating: Snapshot
) -> None:
    _put(lake, DAYS[2], [(1, 5, "", 1.0)])
    _put(lake, DAYS[3], [(2, 6, "", 1.0)])
    label(SCHEMA, lake, teacher="big", days={DAYS[2]: doubling, DAYS[3]: doubling})
    label(SCHEMA, lake, teacher="small", days={DAYS[2]: doubling})
    assert label(SCHEMA, lake, teacher="big", days={DAYS[2]: negating}) == {DAYS[2]: 1}
    rows = lake.soft_labels.scan().select("teacher", "day", "example_id", "click_logit", "teacher_step")
    assert sorted(rows.collect().rows()) == [
        ("big", DAYS[2], 1, -5.0, 80),
        ("big", DAYS[3], 2, 12.0, 40),
        ("small", DAYS[2], 1, 10.0, 40),
    ]


def test_labels_of_another_producer_are_neither_replaced_nor_counted(lake: Lake, doubling: Snapshot) -> None:
    _put(lake, DAYS[1], [(1, 5, "", 1.0)])
    frame = pl.DataFrame(
        {
            "example_id": [1, 2],
            "click_logit": 0.5,
            "watch_log1p": 0.5,
            "snapshot_day": DAYS[0],
            "teacher_step": 7,
            "trained_step": 8,
        }
    )
    lake.soft_labels.write(LabelPartition("big", "pre_update", DAYS[1]), frame)
    assert label(SCHEMA, lake, teacher="big", days={DAYS[1]: doubling}) == {DAYS[1]: 1}
    assert lake.soft_labels.partitions().select("producer", "rows").rows() == [
        ("pre_update", 2),
        ("snapshot", 1),
    ]


def test_more_rows_than_a_batch_are_all_scored_in_order(doubling: Snapshot) -> None:
    users = np.arange(2 * BATCH + 3)
    frame = pl.DataFrame({"user": users, "item": "ab", "seconds": users.astype(np.float32)})
    scores = score(doubling, frame, SCHEMA)
    assert list(scores) == ["click_logit", "watch_log1p"]
    assert scores["click_logit"].dtype == np.float32
    np.testing.assert_array_equal(scores["click_logit"], 2 * users + 2)
    np.testing.assert_array_equal(scores["watch_log1p"], 2 * users)


def test_a_day_that_was_not_materialised_is_named(lake: Lake, doubling: Snapshot) -> None:
    _put(lake, DAYS[1], [(1, 5, "", 1.0)])
    text = f"day 2026-01-03 is not in {lake.interactions.path}; run tutelage-materialize for it first"
    with pytest.raises(UserError, match=f"^{re.escape(text)}$"):
        label(SCHEMA, lake, teacher="big", days={DAYS[1]: doubling, DAYS[2]: doubling})
    assert lake.soft_labels.partitions().height == 0


@pytest.mark.parametrize("day", DAYS[:2])
def test_a_snapshot_that_was_trained_on_the_day_is_refused(lake: Lake, negating: Snapshot, day: date) -> None:
    _put(lake, day, [(1, 5, "", 1.0)])
    text = f"the snapshot of 2026-01-02 was trained on {day}; label a day with an earlier snapshot"
    with pytest.raises(UserError, match=f"^{text}$"):
        label(SCHEMA, lake, teacher="big", days={day: negating})
    assert lake.soft_labels.partitions().height == 0


class LosesAFile(job.ScoreFile):
    def process(self, group: tuple[int, Iterable[job.LabelUnit]]) -> None:
        if group[0] != 1:
            super().process(group)


def test_a_runner_that_loses_a_file_is_caught_and_no_day_is_committed(
    lake: Lake, doubling: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    _put(lake, DAYS[1], [(11, 1, "a", 0.5)], [(12, 2, "bb", 1.0)])
    monkeypatch.setattr(job, "ScoreFile", LosesAFile)
    text = f"the Beam runner lost 1 of 2 units: the labels of {DAYS[1]}, {lake.interactions.files(day=DAYS[1])[1]}; "
    with pytest.raises(UserError, match=f"^{re.escape(text)}nothing was committed; "):
        label(SCHEMA, lake, teacher="big", days={DAYS[1]: doubling})
    assert lake.soft_labels.partitions().is_empty()


def test_the_newest_snapshot_before_a_day_is_chosen() -> None:
    published = [Snapshot(path=str(day), day=day, step=1) for day in (DAYS[1], DAYS[2], DAYS[0])]
    assert choose(published, DAYS[2]).day == DAYS[1]
    assert choose(published, date(2026, 3, 1)).day == DAYS[2]
    assert choose(published, DAYS[1]).day == DAYS[0]


@pytest.mark.parametrize(("days", "have"), [([], "none"), (DAYS[1:3], "2026-01-02, 2026-01-03")])
def test_a_day_without_an_earlier_snapshot_is_refused_and_the_existing_ones_are_named(
    days: list[date], have: str
) -> None:
    published = [Snapshot(path="", day=day, step=1) for day in days]
    text = (
        f"no teacher snapshot of a day before 2026-01-02 (published: {have}); "
        "export an earlier day with tutelage-export --model=teacher --export=all, or label a later day"
    )
    with pytest.raises(UserError, match=f"^{re.escape(text)}$"):
        choose(published, DAYS[1])
