"""Soft labels as a student reads them."""

import dataclasses
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.schema import Feature, Schema, Task
from tutelage.pipeline.soft_labels import SoftLabels

SCHEMA = Schema(
    features=(Feature(name="user", dtype="int64", capacity=10),),
    tasks=(Task(name="click", label="click"),),
    key=("user",),
)
DAY = date(2026, 1, 2)
LABELS = SoftLabels(teacher="teacher", producer="pre_update", min_step=5)


def _lake(tmp_path: Path, *, producer: str = "pre_update", **columns: list[object]) -> Lake:
    lake = Lake(tmp_path, SCHEMA)
    lake.create()
    values = {
        "example_id": [1, 2],
        "click_logit": [0.5, -0.5],
        "snapshot_day": [date(2026, 1, 1)] * 2,
        "teacher_step": [4, 5],
        "trained_step": [5, 6],
        **columns,
    }
    schema = {
        "example_id": pl.Int64,
        "click_logit": pl.Float32,
        "snapshot_day": pl.Date,
        "teacher_step": pl.Int64,
        "trained_step": pl.Int64,
    }
    frame = pl.DataFrame(values, schema=schema)
    lake.soft_labels.replace(frame, {"teacher": "teacher", "producer": producer, "day": DAY})
    return lake


def test_rows_are_used_too_young_or_missing_and_masked_accordingly(tmp_path: Path) -> None:
    soft, mask, counts = LABELS.join(pl.Series([2, 3, 1]), DAY, lake=_lake(tmp_path), schema=SCHEMA)
    assert soft[0].tolist() == [-0.5]
    assert mask.tolist() == [1.0, 0.0, 0.0]
    assert counts == {"labels_used": 1, "teacher_too_young": 1, "labels_missing": 1}


def test_a_label_of_a_teacher_that_had_learnt_the_row_is_refused(tmp_path: Path) -> None:
    lake = _lake(tmp_path, teacher_step=[4, 6])
    with pytest.raises(UserError, match="1 labels come from a teacher that had already learnt the row"):
        LABELS.join(pl.Series([1]), DAY, lake=lake, schema=SCHEMA)


def test_a_snapshot_of_the_same_day_is_refused(tmp_path: Path) -> None:
    lake = _lake(
        tmp_path, producer="snapshot", snapshot_day=[date(2026, 1, 1), DAY], trained_step=[None, None]
    )
    labels = SoftLabels(teacher="teacher", producer="snapshot", min_step=0)
    with pytest.raises(UserError, match="already learnt"):
        labels.join(pl.Series([1]), DAY, lake=lake, schema=SCHEMA)


def test_two_labels_for_one_row_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="more than one label"):
        LABELS.join(pl.Series([1]), DAY, lake=_lake(tmp_path, example_id=[1, 1]), schema=SCHEMA)


def test_a_study_alone_reads_labels_of_a_teacher_that_had_learnt_the_row(tmp_path: Path) -> None:
    own = _lake(tmp_path, producer="leaked", snapshot_day=[DAY, DAY], trained_step=[None, None])
    labels = SoftLabels(teacher="teacher", producer="leaked", min_step=0)
    soft, weight, _ = labels.join(pl.Series([1, 2]), DAY, lake=own, schema=SCHEMA)
    assert (soft[:, 0].tolist(), weight.tolist()) == ([0.5, -0.5], [1.0, 1.0])


def test_a_label_weighs_half_for_every_half_life_of_its_age(tmp_path: Path) -> None:
    # Of the snapshot of the day before: age 0. Of three days before that: 3. Before any snapshot: 0.
    lake = _lake(
        tmp_path,
        example_id=[1, 2, 3],
        click_logit=[0.0, 0.0, 0.0],
        snapshot_day=[date(2026, 1, 1), date(2025, 12, 29), None],
        teacher_step=[6, 6, 6],
        trained_step=[7, 7, 7],
    )
    labels = SoftLabels(teacher="teacher", producer="pre_update", min_step=5, half_life=1.5)
    _, weight, counts = labels.join(pl.Series([1, 2, 3, 4]), DAY, lake=lake, schema=SCHEMA)
    assert weight.tolist() == [1.0, 0.25, 1.0, 0.0]
    assert counts["labels_used"] == 3


def test_a_label_of_a_teacher_without_a_task_that_is_distilled_is_missing(tmp_path: Path) -> None:
    wider = dataclasses.replace(SCHEMA, tasks=(*SCHEMA.tasks, Task(name="like", label="like")))
    lake = Lake(_lake(tmp_path).soft_labels.path.parent, wider)
    lake.soft_labels.add_columns()
    ids = pl.Series([1, 2])
    both = dataclasses.replace(LABELS, min_step=0, outputs=("click_logit", "like_logit"))
    soft, mask, counts = both.join(ids, DAY, lake=lake, schema=wider)
    assert soft.tolist() == [[0.5, 0.0], [-0.5, 0.0]]
    assert mask.tolist() == [0.0, 0.0]
    assert counts == {"labels_used": 0, "teacher_too_young": 0, "labels_missing": 2}
    one = dataclasses.replace(both, outputs=("click_logit",))
    assert one.join(ids, DAY, lake=lake, schema=wider)[1].tolist() == [1.0, 1.0]
