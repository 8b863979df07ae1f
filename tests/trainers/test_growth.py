"""Models whose vocabulary grows, over three days: the same after a kill, and without a trace of a day not kept."""

import dataclasses
import functools
import os
import shutil
import signal
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tensorflow as tf
from polars.testing import assert_frame_equal

from tests.growing import GROWING, growing_run
from tests.same import assert_same
from tests.tiny import BATCH, DAYS, MODEL, ROWS, commit, interactions
from tutelage.pipeline.alarms import AlarmBudget
from tutelage.trainers.config import GateConfig, StudentConfig
from tutelage.trainers.day import Day
from tutelage.trainers.day_loop import train_student, train_teacher
from tutelage.trainers.feed import Feed
from tutelage.trainers.preemption import Preempted
from tutelage.trainers.run import TEACHER, Run
from tutelage.trainers.trainer import Trainer
from tutelage.trainers.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A teacher of three days, in one call."""
    run = growing_run(tmp_path_factory.mktemp("taught"))
    train_teacher(run, DAYS)
    return run


@pytest.fixture(scope="module")
def in_calls(tmp_path_factory: pytest.TempPathFactory) -> dict[date, Run]:
    """The teacher after each day, trained in a call for each day."""
    run = growing_run(tmp_path_factory.mktemp("in_calls"))
    after = {}
    for day in DAYS:
        train_teacher(run, [day])
        after[day] = _copy(run, tmp_path_factory.mktemp(str(day)))
    return after


def _copy(run: Run, to: Path) -> Run:
    return dataclasses.replace(run, root=shutil.copytree(run.root, to / "w"))


def _trainer(batch_size: int = BATCH) -> Trainer:
    return Trainer(GROWING, MODEL, batch_size=batch_size, seed=1)


@functools.cache
def _borrowed(batch_size: int) -> Trainer:
    """Return a kept trainer, because building takes longer than a day; each test restores all of it."""
    return _trainer(batch_size)


def _restored(run: Run, day: date, batch_size: int = BATCH, model: str = TEACHER) -> Trainer:
    trainer = _borrowed(batch_size)
    (state,) = (s for s in run.checkpoints(model).states() if s.day == day)
    trainer.restore(run.checkpoints(model), state)
    return trainer


def _load(run: Run, trainer: Trainer, day: date, vocabulary: Vocabulary | None = None) -> Day:
    return Feed(run.lake, trainer.transform).read(day, vocabulary=vocabulary or trainer.vocabulary)


def _assert_known(vocabulary: Vocabulary | None, expected: Vocabulary) -> None:
    assert vocabulary
    for name, frame in expected.known.items():
        assert frame.height > 3
        assert_frame_equal(vocabulary.known[name], frame)


@functools.cache
def _untrained() -> Trainer:
    """No test changes it."""
    return _trainer()


def _through(run: Run, *days: date) -> Vocabulary:
    """Return the vocabulary after these days, by the rule alone."""
    trainer = _untrained()
    vocabulary = trainer.vocabulary
    for day in days:
        day_ids = _load(run, trainer, day, vocabulary).day_ids
        assert day_ids
        vocabulary = day_ids.vocabulary
    assert vocabulary
    return vocabulary


def test_a_checkpoint_holds_the_vocabulary_after_its_day(taught: Run) -> None:
    for n, day in enumerate(DAYS, 1):
        trainer = _restored(taught, day)
        expected = _through(taught, *DAYS[:n])
        _assert_known(trainer.vocabulary, expected)
        ids, rows = expected.entries()
        assert trainer.ranker.id_map.ids.numpy().tolist() == ids.numpy().tolist()
        assert trainer.ranker.id_map.own_rows.numpy().tolist() == rows.numpy().tolist()


def test_each_day_reports_counts_of_the_ids_of_each_feature(taught: Run) -> None:
    rows: dict[int, int] = {}
    seen: dict[int, int] = {}
    for day in DAYS:
        # A missing one is -1.
        users = interactions(day).sort("event_time_us", "example_id")["user"].fill_null(-1).to_list()
        free = sorted({*range(1, 16)} - {*rows.values()})
        given, default, full = 0, 0, set()
        for user in users:
            seen[user] = seen.get(user, 0) + 1
            if user not in rows and seen[user] >= 2:
                if free:
                    rows[user] = free.pop(0)
                    given += 1
                else:
                    full.add(user)
            default += user not in rows
        evicted = [user for user in rows if user not in users]
        rows = {user: row for user, row in rows.items() if user in users}
        seen = {user: n for user, n in seen.items() if user in users}
        metrics = taught.lake.metrics.scan(model=TEACHER, day=day).filter(slice="user").collect()
        assert dict(metrics.select("metric", "value").iter_rows()) == {
            "ids_known": len(seen),
            "ids_with_rows": len(rows),
            "ids_given": given,
            "ids_evicted": len(evicted),
            "ids_full": len(full),
            "default_row_share": default / len(users),
        }
        assert (metrics["rows"] == ROWS[day]).all()
        # Two lose theirs on the second day, and others have these on the third.
        assert (given, len(evicted), len(full)) == {1: (15, 0, 2), 2: (0, 2, 11), 3: (2, 0, 11)}[day.day]


def test_days_trained_on_in_separate_calls_end_as_in_one_call(taught: Run, in_calls: dict[date, Run]) -> None:
    assert_same(taught.root, in_calls[DAYS[2]].root)


# After 60 rows of the first day: in the second's first batch, and in the third's second.
@pytest.mark.parametrize("rows", [60 + 1, 60 + 57 + 17])
def test_a_run_that_gets_sigterm_within_a_day_ends_as_the_undisturbed_one(
    taught: Run, tmp_path: Path, rows: int
) -> None:
    run, trained = growing_run(tmp_path), 0

    def stop(more: int) -> None:
        nonlocal trained
        before, trained = trained, trained + more
        if before < rows <= trained:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Preempted):
        train_teacher(run, DAYS, progress=stop)
    train_teacher(run, DAYS)
    assert_same(taught.root, tmp_path)


def test_a_day_whose_checkpoint_is_damaged_is_trained_on_again_with_the_vocabulary_before_it(
    taught: Run, in_calls: dict[date, Run], tmp_path: Path
) -> None:
    run = _copy(in_calls[DAYS[1]], tmp_path)
    (run.checkpoints(TEACHER).folder / str(DAYS[1]) / "variables.index").unlink()
    train_teacher(run, DAYS)
    assert_same(taught.root, run.root)


def _poison(run: Run, day: date) -> None:
    """No model keeps the day: a label of it is infinite."""
    rows = interactions(day)
    infinite = pl.when(pl.int_range(pl.len()) == 5).then(float("inf")).otherwise(pl.col("watch_seconds"))
    commit(run.lake, day, rows.with_columns(watch_seconds=infinite.cast(pl.Float32)), attempt=2)


@pytest.mark.parametrize("skipped", [0, 1])
def test_a_skipped_day_s_ids_are_not_observed(tmp_path: Path, skipped: int) -> None:
    run = growing_run(tmp_path)
    _poison(run, DAYS[skipped])
    teacher = dataclasses.replace(run.teacher, gate=GateConfig(on_failure="skip"))
    # The next day is read while the model is trained on this one.
    states = train_teacher(dataclasses.replace(run, teacher=teacher), DAYS)
    kept = [day for day in DAYS if day != DAYS[skipped]]
    assert [state.day for state in states] == kept
    _assert_known(_restored(run, DAYS[2]).vocabulary, _through(run, *kept))
    labels = run.lake.soft_labels.scan(day=DAYS[2]).collect()
    before = _restored(run, kept[0])
    day = _load(run, before, DAYS[2])
    order = pl.DataFrame({"example_id": day.whole.example_id})
    of_first_batch = order.head(BATCH).join(labels, on="example_id", how="left", maintain_order="left")
    # The indices of the first batch are the day's: some were assigned already.
    outputs = before.ranker(day.whole.tensors.rows[:1], day.whole.tensors.numbers[:1])
    np.testing.assert_allclose(of_first_batch["click_logit"][0], outputs["click_logit"][0], rtol=1e-5)


def test_a_day_trained_on_again_with_lower_rates_observes_its_ids_once(
    in_calls: dict[date, Run], tmp_path: Path
) -> None:
    run = _copy(in_calls[DAYS[1]], tmp_path)
    # Days of 60 rows: whatever is finite passes, but for a spread that rates a thousand times too high make.
    gate = GateConfig(
        auc_drop=1,
        entropy_rise=9,
        squared_error_rise=9,
        calibration_drift=9,
        logit_shift=9,
        logit_spread=5,
        min_days=1,
        on_failure="retry",
        fallback_rate=1e-3,
    )
    hot = dataclasses.replace(MODEL, embedding_rate=50.0, dense_rate=1.0)
    teacher = dataclasses.replace(run.teacher, model=hot, gate=gate)
    # So many false alarms are wanted that chance leaves no room.
    train_teacher(dataclasses.replace(run, teacher=teacher, alarms=AlarmBudget(per_year=1e9)), DAYS)
    assert run.quarantine(TEACHER).days()[DAYS[2]]["outcome"] == "retried"
    _assert_known(_restored(run, DAYS[2]).vocabulary, _through(run, *DAYS))


def test_assigned_embeddings_start_anew_before_their_day_is_trained_on_and_no_other_does(taught: Run) -> None:
    trainer = _restored(taught, DAYS[1], batch_size=1)
    table = trainer.ranker.embeddings.table
    (accumulator,) = (v for v in trainer.adagrad.variables if v.shape == table.shape)
    before = [v.numpy() for v in (table, accumulator)]
    day = _load(taught, trainer, DAYS[2])
    assert day.day_ids
    assigned, first = day.day_ids.assigned.tolist(), day.whole.tensors.rows[0].numpy().tolist()
    # Two embeddings of users that were forgotten on the day before, and the topics' new one.
    users = _through(taught, DAYS[0]).known["user"]
    assert set(assigned) & set(range(1, 16)) <= set(users["row"])
    later = [row for row in assigned if row not in first]
    kept = [row for row in range(26) if row not in [*assigned, *first]]
    assert later
    assert kept

    trainer.begin_day(day).update()
    # They are as random as a table's first values, and not those of the id before.
    assert np.abs(table.numpy()[later]).max() <= 0.05
    assert not np.isclose(table.numpy()[later], before[0][later]).any()
    assert len(np.unique(table.numpy()[later])) == 4 * len(later)
    assert (accumulator.numpy()[later] == np.float32(1e-6)).all()
    assert np.array_equal(table.numpy()[kept], before[0][kept])
    assert np.array_equal(accumulator.numpy()[kept], before[1][kept])


def test_a_late_student_has_seen_no_id_before_its_first_day(taught: Run) -> None:
    train_student(taught, StudentConfig(name="late", model=MODEL, first_day=DAYS[1]), DAYS[:2])
    trainer = _restored(taught, DAYS[1], model="late")
    _assert_known(trainer.vocabulary, _through(taught, DAYS[1]))


def test_a_day_of_unseen_ids_is_scored_ahead_by_the_default_embedding(taught: Run) -> None:
    trainer = _untrained()
    day = _load(taught, trainer, DAYS[0])
    assert (day.whole.ahead.rows.numpy() == [0, 16]).all()
    assert (day.whole.tensors.rows.numpy() != [0, 16]).any(axis=0).all()
    outputs = trainer.ranker(tf.constant([[0, 16]] * ROWS[DAYS[0]]), day.whole.tensors.numbers)
    np.testing.assert_allclose(trainer.score(day)["click_logit"], outputs["click_logit"], rtol=1e-6)
