"""The store of soft labels: what goes in, what a student reads, and the leak rule on both sides."""

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.soft_labels import (
    PRE_UPDATE,
    SNAPSHOT,
    LabelPartition,
    LabelRequest,
    SoftLabelStore,
    label_columns,
    labels_before_update,
    labels_by_snapshot,
)

DAY, DAY_BEFORE = date(2026, 1, 2), date(2026, 1, 1)
PARTITION = LabelPartition("teacher", PRE_UPDATE, DAY)
REQUEST = LabelRequest(teacher="teacher", min_step=5)


@pytest.fixture
def store(tmp_path: Path) -> SoftLabelStore:
    store = SoftLabelStore.declare(tmp_path, ["click_logit"])
    store.create()
    return store


def _labels(**columns: Sequence[object]) -> pl.DataFrame:
    """Two labels made before updates 5 and 6, with some columns replaced."""
    values = {
        "example_id": [1, 2],
        "click_logit": [0.5, -0.5],
        "snapshot_day": [DAY_BEFORE] * 2,
        "teacher_step": [4, 5],
        "trained_step": [5, 6],
        **columns,
    }
    return pl.DataFrame(values, schema=pl.Schema(label_columns(["click_logit"])))


def _leak_in(store: SoftLabelStore, partition: LabelPartition, labels: pl.DataFrame) -> None:
    """Write to the table behind the store's back."""
    store.table.replace(labels, partition.values)


def test_the_columns_are_the_outputs_and_where_a_label_comes_from() -> None:
    assert label_columns(["click_logit", "watch_log1p"]) == pa.schema(
        [
            ("example_id", pa.int64()),
            ("click_logit", pa.float32()),
            ("watch_log1p", pa.float32()),
            ("snapshot_day", pa.date32()),
            ("teacher_step", pa.int64()),
            ("trained_step", pa.int64()),
        ]
    )


def test_a_label_made_before_an_update_names_the_update_that_trained_on_its_example(
    store: SoftLabelStore,
) -> None:
    labels = labels_before_update(
        np.array([11, 12, 13]),
        {"click_logit": np.array([0.5, -0.5, 1.0])},
        teacher_step=np.array([7, 7, 8]),
        snapshot_day=DAY_BEFORE,
    )
    assert labels.to_dict(as_series=False) == {
        "example_id": [11, 12, 13],
        "click_logit": [0.5, -0.5, 1.0],
        "teacher_step": [7, 7, 8],
        "snapshot_day": [DAY_BEFORE] * 3,
        "trained_step": [8, 8, 9],
    }
    store.write(PARTITION, labels)
    assert store.read(PARTITION)["click_logit"].to_list() == [0.5, -0.5, 1.0]


def test_the_first_day_of_a_teacher_has_labels_without_a_snapshot(store: SoftLabelStore) -> None:
    store.write(PARTITION, labels_before_update(np.array([1]), {"click_logit": np.ones(1)}, teacher_step=0))
    assert store.read(PARTITION).select("snapshot_day", "teacher_step").rows() == [(None, 0)]


def test_a_label_by_a_snapshot_names_its_day_and_no_update_on_its_example(store: SoftLabelStore) -> None:
    partition = LabelPartition("teacher", SNAPSHOT, DAY)
    labels = labels_by_snapshot(
        pl.Series([1]), {"click_logit": np.ones(1)}, snapshot_day=DAY_BEFORE, teacher_step=40
    )
    store.write(partition, labels)
    (row,) = store.read(partition).rows(named=True)
    assert (row["snapshot_day"], row["teacher_step"], row["trained_step"]) == (DAY_BEFORE, 40, None)


def test_labels_are_used_too_young_or_missing_and_masked_accordingly(store: SoftLabelStore) -> None:
    store.write(PARTITION, _labels())
    labels, weight, counts = store.join(pl.Series([2, 3, 1]), DAY, REQUEST)
    assert labels.tolist() == [[-0.5], [0.0], [0.5]]
    assert weight.tolist() == [1.0, 0.0, 0.0]
    assert counts == {"labels_used": 1, "teacher_too_young": 1, "labels_missing": 1}


def test_labels_of_a_teacher_that_is_new_to_the_student_are_masked_and_counted(store: SoftLabelStore) -> None:
    store.write(PARTITION, _labels())
    _, weight, counts = store.join(pl.Series([2, 3, 1]), DAY, replace(REQUEST, masked=True))
    assert weight.tolist() == [0.0, 0.0, 0.0]
    assert counts == {"labels_used": 0, "teacher_too_young": 1, "labels_missing": 1, "teacher_changed": 1}


def test_a_label_weighs_half_for_every_half_life_of_its_age(store: SoftLabelStore) -> None:
    # By the teacher of the day before: age 0. Of three days before that: 3. Before any whole day: 0.
    labels = _labels(
        example_id=[1, 2, 3],
        click_logit=[0.0, 0.0, 0.0],
        snapshot_day=[DAY_BEFORE, date(2025, 12, 29), None],
        teacher_step=[6, 6, 6],
        trained_step=[7, 7, 7],
    )
    store.write(PARTITION, labels)
    _, weight, counts = store.join(pl.Series([1, 2, 3, 4]), DAY, replace(REQUEST, half_life=1.5))
    assert weight.tolist() == [1.0, 0.25, 1.0, 0.0]
    assert counts["labels_used"] == 3


def test_a_label_that_lacks_a_required_output_is_missing(store: SoftLabelStore, tmp_path: Path) -> None:
    store.write(PARTITION, _labels())
    wider = SoftLabelStore.declare(tmp_path, ["click_logit", "like_logit"])
    wider.table.add_columns()
    ids = pl.Series([1, 2])
    both = LabelRequest(teacher="teacher", required=("click_logit", "like_logit"))
    labels, weight, counts = wider.join(ids, DAY, both)
    assert labels.tolist() == [[0.5, 0.0], [-0.5, 0.0]]
    assert weight.tolist() == [0.0, 0.0]
    assert counts == {"labels_used": 0, "teacher_too_young": 0, "labels_missing": 2}
    one = replace(both, required=("click_logit",))
    assert wider.join(ids, DAY, one, outputs=["click_logit"]).labels.tolist() == [[0.5], [-0.5]]
    assert wider.join(ids, DAY, one).weight.tolist() == [1.0, 1.0]


LEAKS = [
    (PARTITION, {"teacher_step": [4, 6]}, 1),  # After the update on its example.
    (PARTITION, {"trained_step": [5, None]}, 1),  # Does not say when it was trained on its example.
    (PARTITION, {"teacher_step": [None, None]}, 2),
    (PARTITION._replace(producer=SNAPSHOT), {"snapshot_day": [DAY_BEFORE, DAY]}, 1),
    (PARTITION._replace(producer=SNAPSHOT), {"snapshot_day": [None, None]}, 2),
]


@pytest.mark.parametrize(("partition", "columns", "leaks"), LEAKS)
def test_labels_of_a_teacher_that_was_trained_on_the_example_are_refused_when_written(
    store: SoftLabelStore, partition: LabelPartition, columns: dict[str, list[object]], leaks: int
) -> None:
    text = (
        f"{store.path}: teacher teacher, producer {partition.producer}, day 2026-01-02: {leaks} labels come from a "
        "teacher that was already trained on the example, or do not say which state made them; a label must be "
        "older than the update on its example; nothing was written"
    )
    with pytest.raises(UserError, match=f"^{re.escape(text)}$"):
        store.write(partition, _labels(**columns))
    with pytest.raises(UserError, match=f"^{re.escape(text)}$"):
        store.write_file(partition, _labels(**columns), name="part")
    assert store.partitions().is_empty()
    assert list(store.path.rglob("*.parquet")) == []


@pytest.mark.parametrize(("partition", "columns", "leaks"), LEAKS)
def test_labels_of_a_teacher_that_was_trained_on_the_example_are_refused_when_read(
    store: SoftLabelStore, partition: LabelPartition, columns: dict[str, list[object]], leaks: int
) -> None:
    _leak_in(store, partition, _labels(**columns))
    request = LabelRequest(teacher="teacher", producer=partition.producer)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=f"{leaks} labels come from .*; write the labels of that day again$"):
        store.join(pl.Series([1]), DAY, request)


def test_two_labels_for_one_example_are_refused(store: SoftLabelStore) -> None:
    twice = _labels(example_id=[1, 1])
    with pytest.raises(UserError, match="more than one label; nothing was written"):
        store.write(PARTITION, twice)
    _leak_in(store, PARTITION, twice)
    with pytest.raises(UserError, match="more than one label; write the labels of that day again"):
        store.read(PARTITION)


def test_an_unknown_producer_is_refused(store: SoftLabelStore) -> None:
    text = f"{store.path}: producer is 'leaked', expected one of pre_update, snapshot"
    with pytest.raises(UserError, match=f"^{re.escape(text)}$"):
        store.write(PARTITION._replace(producer="leaked"), _labels())


def test_labels_written_again_replace_their_partition_and_no_other(store: SoftLabelStore) -> None:
    others = [
        PARTITION._replace(teacher="other"),
        PARTITION._replace(producer=SNAPSHOT),
        PARTITION._replace(day=date(2026, 1, 3)),
    ]
    for partition in (PARTITION, *others):
        store.write(partition, _labels())
    store.write(PARTITION, _labels()[:1])
    assert store.partitions().rows() == [
        ("other", PRE_UPDATE, DAY, 2),
        ("teacher", PRE_UPDATE, DAY, 1),
        ("teacher", PRE_UPDATE, date(2026, 1, 3), 2),
        ("teacher", SNAPSHOT, DAY, 2),
    ]
    assert store.days("teacher") == [DAY, date(2026, 1, 3)]
    assert store.days("teacher", SNAPSHOT) == [DAY]


def test_a_withdrawn_day_has_no_labels_and_other_days_keep_theirs(store: SoftLabelStore) -> None:
    later = PARTITION._replace(day=date(2026, 1, 3))
    for partition in (PARTITION, later):
        store.write(partition, _labels())
    store.withdraw(PARTITION)
    assert store.days("teacher") == [later.day]
    version = store.table.version
    store.withdraw(PARTITION)  # It has none any more.
    assert store.table.version == version
    assert store.join(pl.Series([1]), DAY, REQUEST).counts["labels_missing"] == 1


def test_coverage_is_the_share_of_the_examples_that_have_a_label(store: SoftLabelStore) -> None:
    store.write(PARTITION, _labels())
    store.write(PARTITION._replace(teacher="other"), _labels(example_id=[1, 9]))  # 9 is no example.
    examples = pl.LazyFrame({"day": [DAY] * 4, "example_id": [1, 2, 3, 4]})
    assert store.coverage(examples).rows(named=True) == [
        {"teacher": who, "producer": PRE_UPDATE, "day": DAY, "examples": 4, "labelled": n, "coverage": n / 4}
        for who, n in (("other", 1), ("teacher", 2))
    ]


def test_the_store_as_of_a_version_or_a_time_shows_the_labels_of_then_and_takes_none(
    store: SoftLabelStore,
) -> None:
    store.write(PARTITION, _labels())
    version = store.table.version
    before = datetime.now(UTC)
    store.write(PARTITION, _labels(click_logit=[9.0, 9.0]))
    now = store.snapshot()
    for then in (store.as_of(version), store.as_of(before)):
        assert then.join(pl.Series([1]), DAY, REQUEST).labels.tolist() == [[0.5]]
        text = f"this is the store as of version {version}; write through the store itself"
        with pytest.raises(UserError, match=text):
            then.write(PARTITION, _labels())
    store.withdraw(PARTITION)
    assert now.join(pl.Series([1]), DAY, REQUEST).labels.tolist() == [[9.0]]
    with pytest.raises(UserError, match=r"soft_labels has no version as of 99 .* its versions are 0 to 3$"):
        store.as_of(99)


def test_a_file_of_a_teacher_without_a_task_has_nulls_there_and_its_commit_says_what_it_was_made_from(
    tmp_path: Path,
) -> None:
    store = SoftLabelStore.declare(tmp_path, ["click_logit", "like_logit"])
    store.create()
    file = store.write_file(PARTITION, _labels(), name="part")
    assert store.days("teacher") == []
    store.commit(PARTITION, [file], attempt=1, source=17)
    assert store.read(PARTITION)["like_logit"].to_list() == [None, None]
    assert store.sources() == {PARTITION: 17}
    assert store.table.counts() == {"teacher/pre_update/2026-01-02": {"labelled": 2}}


def test_equal_labels_have_the_same_version_in_any_order(store: SoftLabelStore) -> None:
    store.write(PARTITION, _labels())
    first = store.versions([PARTITION])
    store.write(PARTITION, _labels().reverse())
    assert store.versions([PARTITION, PARTITION._replace(teacher="none")]) == first
    store.write(PARTITION, _labels(click_logit=[0.5, 0.5]))
    assert store.versions([PARTITION]).keys() == first.keys()
    assert store.versions([PARTITION]) != first


def test_labels_depend_on_the_days_that_their_teacher_was_trained_on(store: SoftLabelStore) -> None:
    third = date(2026, 1, 3)
    by_snapshot = PARTITION._replace(producer=SNAPSHOT)
    store.write(PARTITION, _labels())
    store.write(by_snapshot, _labels())
    store.write(by_snapshot._replace(day=third), _labels(snapshot_day=[DAY_BEFORE, DAY]))
    store.write(PARTITION._replace(teacher="other"), _labels())
    # Labels made before updates depend on the earlier batches of their own day, those of a snapshot do not.
    assert store.trained_since("teacher", DAY) == {PARTITION, by_snapshot._replace(day=third)}
    assert store.trained_since("teacher", DAY_BEFORE) == {
        PARTITION,
        by_snapshot,
        by_snapshot._replace(day=third),
    }
    assert store.trained_since("teacher", third) == set()


def test_a_store_opens_from_its_folder_with_its_own_columns_and_without_tensorflow_or_beam(
    store: SoftLabelStore, tmp_path: Path
) -> None:
    store.write(PARTITION, _labels())
    code = (
        "import sys, polars as pl, datetime\n"
        "from tutelage.pipeline import LabelRequest, SoftLabelStore\n"
        f"store = SoftLabelStore.open({str(tmp_path)!r})\n"
        "for day in store.days('teacher'):\n"
        "    labels, weight, counts = store.join(pl.Series([2, 1]), day, LabelRequest(teacher='teacher'))\n"
        "    print(store.outputs, labels.tolist(), weight.tolist())\n"
        "print({'tensorflow', 'apache_beam'} & sys.modules.keys())\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["['click_logit'] [[-0.5], [0.5]] [1.0, 1.0]", "set()"]


def test_a_folder_without_a_store_is_named(tmp_path: Path) -> None:
    text = f"{tmp_path}/soft_labels is no Delta table; give the folder that holds its `_delta_log`"
    with pytest.raises(UserError, match=f"^{re.escape(text)}$"):
        SoftLabelStore.open(tmp_path)
