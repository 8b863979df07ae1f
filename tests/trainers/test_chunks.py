"""Days of several chunks: the same training as in one, teacher and student, wherever it is interrupted."""

import dataclasses
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tests.growing import GROWING
from tests.same import _rows, _tensors, variables
from tests.tiny import AUXILIARY, BATCH, DAYS, ROWS, make_run
from tutelage.pipeline import histories
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import History
from tutelage.pipeline.soft_labels import PRE_UPDATE, LabelPartition, LabelRequest
from tutelage.trainers.config import TrainingConfig
from tutelage.trainers.day import Chunk
from tutelage.trainers.day_loop import train_student, train_teacher
from tutelage.trainers.feed import Feed
from tutelage.trainers.preemption import Preempted
from tutelage.trainers.run import TEACHER, Run
from tutelage.trainers.teacher import Teacher

# Users with a history, ids that grow, rows that are withheld, and slices.
SCHEMA = dataclasses.replace(GROWING, user="user", histories=(History(of="topic", length=2),))
STUDENT = dataclasses.replace(AUXILIARY, label_half_life=3.0)
# 60, 57 and 64 rows are chunks of 32 and 28, 32 and 25, and two of 32.
CHUNK = 2 * BATCH


def _run(root: Path, chunk_rows: int) -> Run:
    run = dataclasses.replace(
        make_run(root),
        schema=SCHEMA,
        training=TrainingConfig(batch_size=BATCH, holdout=0.2, chunk_rows=chunk_rows),
        slice_by=("topic",),
        keep_predictions=True,
    )
    run.lake.create()
    histories.build(SCHEMA, run.lake, days=DAYS)
    return run


@pytest.fixture(scope="module", autouse=True)
def slices() -> pytest.MonkeyPatch:
    patch = pytest.MonkeyPatch()
    patch.setattr("tutelage.trainers.day._SLICE", 10)
    return patch


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Teacher and student of three days that are read at once."""
    run = _run(tmp_path_factory.mktemp("one"), 1000)
    train_teacher(run, DAYS)
    train_student(run, STUDENT, DAYS)
    return run


def _same_training(one: Run, other: Run) -> None:
    """Assert that labels, predictions, weights and losses are the same, bit for bit, and the metrics nearly so."""
    assert_frame_equal(*(_rows(run.root / "lake/soft_labels") for run in (one, other)), check_exact=True)
    found = [variables(run.root, ()) for run in (one, other)]
    assert len(found[0]) == 6
    assert found[0].keys() == found[1].keys()
    for name in found[0]:
        tensors = [_tensors(of[name]) for of in found]
        assert tensors[0].keys() == tensors[1].keys()
        for key, value in tensors[0].items():
            np.testing.assert_array_equal(value, tensors[1][key], err_msg=f"{name}: {key}")
    for model in (TEACHER, "auxiliary"):
        for day in DAYS:
            files = [pl.read_parquet(run.predictions(model, day)) for run in (one, other)]
            assert_frame_equal(*files, rel_tol=1e-5, abs_tol=1e-6)
        states = [
            [(s.day, s.step, s.examples) for s in run.checkpoints(model).states()] for run in (one, other)
        ]
        assert states[0] == states[1]


def _metrics(run: Run) -> dict[tuple[str, ...], tuple[float, int]]:
    rows = run.lake.metrics.scan().filter(~pl.col("basis").str.starts_with("day_gate")).collect()
    keys = ("model", "day", "basis", "task", "slice", "metric")
    return {tuple(map(str, row[:-2])): row[-2:] for row in rows.select(*keys, "value", "rows").iter_rows()}


def test_a_day_of_several_chunks_is_the_same_training_bit_for_bit(one: Run, tmp_path: Path) -> None:
    run = _run(tmp_path, CHUNK)
    # What a killed process has left is removed.
    run.scratch(TEACHER).mkdir(parents=True)
    (run.scratch(TEACHER) / "left").touch()
    train_teacher(run, DAYS)
    train_student(run, STUDENT, DAYS)
    _same_training(one, run)
    assert not any(run.scratch(model).exists() for model in (TEACHER, "auxiliary"))


def test_its_metrics_are_exact_where_they_are_sums_and_an_auc_is_as_near_as_it_says(
    one: Run, tmp_path: Path
) -> None:
    run = _run(tmp_path, CHUNK)
    train_teacher(run, DAYS)
    expected, found = ({k: v for k, v in _metrics(r).items() if k[0] == TEACHER} for r in (one, run))
    errors = {key for key in found if key[-1].endswith("_error_bound")}
    assert found.keys() - errors == expected.keys()
    # Two of three days have a slice of each of four topics.
    assert len({key[4] for key in expected}) > 2
    for key, (value, rows) in expected.items():
        got, rows_found = found[key]
        assert rows == rows_found, key
        if key[-1] in ("auc", "pr_auc"):
            within = found[(*key[:-1], f"{key[-1]}_error_bound")][0]
            assert abs(got - value) <= within + 1e-9, key
        # Rows without a user are of several parts, and no longer count as one user.
        elif (key[3] == "click" and key[-1] not in ("gauc", "ndcg@10")) or key[-1] in (
            "ltv_loss",
            "ids_known",
        ):
            assert got == pytest.approx(value, rel=1e-5, nan_ok=True), key


def _at(rows: int, act: Callable[[], None]) -> Callable[[int], None]:
    left = rows

    def progress(examples: int) -> None:
        nonlocal left
        if left > 0 >= left - examples:
            act()
        left -= examples

    return progress


@pytest.mark.parametrize("batches", [1, 2, 3])
@pytest.mark.parametrize("then", [CHUNK, 1000])
def test_training_that_is_stopped_in_any_chunk_goes_on_to_the_same(
    one: Run, tmp_path: Path, batches: int, then: int
) -> None:
    run = _run(tmp_path, CHUNK)
    stop = _at(ROWS[DAYS[0]] + batches * BATCH, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Preempted, match=f"after {batches * BATCH} of the 57 rows of 2026-01-02"):
        train_teacher(run, DAYS, progress=stop)
    again: list[int] = []
    run = dataclasses.replace(run, training=dataclasses.replace(run.training, chunk_rows=then))
    train_teacher(run, DAYS, progress=again.append)
    # With other chunks the day is begun anew.
    assert again[0] == (batches * BATCH if then == CHUNK else BATCH)
    train_student(run, STUDENT, DAYS)
    _same_training(one, run)


def test_labels_of_several_chunks_are_read_by_chunk_and_one_that_leaks_or_comes_twice_is_refused(
    one: Run, tmp_path: Path
) -> None:
    run = dataclasses.replace(one, root=shutil.copytree(one.root, tmp_path / "w"))
    store, partition = run.lake.soft_labels, LabelPartition("teacher", PRE_UPDATE, DAYS[0])
    labels = store.read(partition)
    trainer = Teacher(run).build()
    request = LabelRequest(teacher="teacher")
    feed = Feed(run.lake, trainer.transform, chunk_rows=CHUNK)

    # Without every third label, in an order of its own.
    store.write_parts(partition, [labels[::-1].gather_every(3)])
    day = feed.read(DAYS[0], soft_labels=request, vocabulary=trainer.vocabulary)
    assert day.chunk_count == 2
    assert day.counts == {"labels_used": 20, "teacher_too_young": 0, "labels_missing": 40}
    leaking = pl.when(pl.int_range(60) == 7).then(0).otherwise("trained_step")
    store.table.replace(labels.with_columns(trained_step=leaking), partition.values)
    with pytest.raises(UserError, match="1 labels come from a teacher that was already trained"):
        feed.read(DAYS[0], soft_labels=request, vocabulary=trainer.vocabulary)
    store.write_parts(partition, [labels[:30], labels[29:]])
    with pytest.raises(UserError, match="an example_id has more than one label"):
        feed.read(DAYS[0], soft_labels=request, vocabulary=trainer.vocabulary)


def test_a_day_may_be_gone_through_again_and_a_pass_that_is_broken_off_leaves_nothing(one: Run) -> None:
    trainers = [Teacher(one).build() for _ in range(3)]
    read = [
        Feed(one.lake, trainers[0].transform, chunk_rows=rows).read(
            DAYS[0], vocabulary=trainers[0].vocabulary
        )
        for rows in (1000, BATCH)
    ]
    assert [day.chunk_count for day in read] == [1, 4]
    next(read[1].ahead())
    # An attempt that fails its gate is followed by another on the same day.
    found = [
        (trainer.score(day), trainer.train_day(day))
        for trainer, day in zip(trainers, (read[0], read[1], read[1]), strict=True)
    ]
    for ahead, trained in found[1:]:
        np.testing.assert_allclose(ahead["click_logit"], found[0][0]["click_logit"], rtol=1e-5)
        np.testing.assert_array_equal(trained.losses, found[0][1].losses)
        np.testing.assert_array_equal(trained.outputs["click_logit"], found[0][1].outputs["click_logit"])
    assert read[0].day_ids
    assert read[1].day_ids
    assert read[0].day_ids.counts == read[1].day_ids.counts


def test_one_chunk_is_read_while_another_is_trained_on_and_no_more(one: Run) -> None:
    trainer = Teacher(one).build()
    day = Feed(one.lake, trainer.transform, chunk_rows=BATCH).read(DAYS[0], vocabulary=trainer.vocabulary)
    assert day.digest
    reads: list[int] = []
    chunk = day._reader.chunk

    def counted(start: int, stop: int) -> Chunk:
        reads.append(start)
        return chunk(start, stop)

    day._reader.chunk = counted  # type: ignore[method-assign]
    for number, of in enumerate(day.chunks()):
        ahead = min(number + 2, 4)
        deadline = time.monotonic() + 60
        while len(reads) < ahead and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert of.start == number * BATCH
        assert reads == [start * BATCH for start in range(ahead)]
