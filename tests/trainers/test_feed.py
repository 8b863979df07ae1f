"""The feed: a day of the lake in its order, as tensors."""

import dataclasses
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tensorflow as tf

from tests.tiny import DAYS, MODEL, ROWS, SCHEMA, commit, frame, interactions, judged, make_run
from tutelage.models.ranker import Batch, Ranker
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.holdout import held_out
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.schema import History, Task
from tutelage.pipeline.soft_labels import LabelPartition, LabelRequest
from tutelage.trainers import day as day_module
from tutelage.trainers.config import Sampling
from tutelage.trainers.day import read_ahead
from tutelage.trainers.day_loop import write_predictions
from tutelage.trainers.feed import Feed

DAY = DAYS[0]


@pytest.fixture(scope="module")
def ranker() -> Ranker:
    return Ranker(SCHEMA, MODEL)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A day of four rows. In order: 11 (of time 5), 12 and 13 (of time 7), 10 (of time 9)."""
    lake = Lake(tmp_path, SCHEMA)
    lake.create()
    rows = [
        (13, 7, 4, "b", -2.0, -3.5, 0, 0.0),
        (10, 9, None, None, None, None, 0, 1.0),
        (12, 7, 4, "", 0.0, 0.0, 1, 7.0),
        (11, 5, -1, "a", 3.0, 2.5, 1, 0.5),
    ]
    commit(lake, DAY, frame(DAY, rows))
    return lake


def test_a_day_is_in_the_order_of_event_time_and_ties_of_example_id(lake: Lake, ranker: Ranker) -> None:
    day = Feed(lake, ranker.transform).read(DAY)
    assert (day.day, day.size) == (DAY, 4)
    assert day.whole.example_id.tolist() == [11, 12, 13, 10]


def test_the_values_of_a_feature_that_enough_examples_have_are_slices(
    lake: Lake, ranker: Ranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(day_module, "_SLICE", 2)
    day = Feed(lake, ranker.transform, slice_by=["user"]).read(DAY)
    assert {name: inside.tolist() for name, inside in judged(day).slices.items()} == {
        "user=4": [False, True, True, False]
    }


def test_features_are_transformed_by_the_model_and_a_missing_one_is_its_default(
    lake: Lake, ranker: Ranker
) -> None:
    tensors = Feed(lake, ranker.transform).read(DAY).whole.tensors
    expected = ranker.id_map.lookup(
        {"user": tf.constant([-1, 4, 4, -1], tf.int64), "topic": tf.constant(["a", "", "b", ""])}
    )
    assert tensors.rows.dtype == tf.int32
    assert tensors.rows.numpy().tolist() == expected.numpy().tolist()
    # log1p(max(seconds, 0)), and the age as it is.
    numbers = [[np.log(4), 2.5], [0, 0], [0, -3.5], [0, 0]]
    assert tensors.numbers.dtype == tf.float32
    np.testing.assert_allclose(tensors.numbers, numbers, rtol=1e-6)


def _commit_histories(lake: Lake, day: date, items: dict[int, list[str]]) -> None:
    assert lake.histories
    made = pl.DataFrame(
        {"user": list(items), "history": list(items.values())},
        schema_overrides={"history": pl.List(pl.String)},
    )
    (attempt,) = lake.history_attempts([day]).values()
    file = lake.histories.write_file(made, {"day": day}, name="part")
    lake.histories.commit([file], {"day": day}, attempt=attempt, metadata={})


def test_an_example_has_its_user_s_history_or_an_empty_one(tmp_path: Path) -> None:
    schema = replace(SCHEMA, user="user", histories=(History(of="topic", length=2),))
    lake = Lake(tmp_path, schema)
    lake.create()
    rows = [
        (21, 1, 4, "b", 0.0, 0.0, 0, 0.0),
        (22, 2, None, "a", 0.0, 0.0, 0, 0.0),
        (23, 0, 5, "a", 0.0, 0.0, 0, 0.0),
    ]
    commit(lake, DAYS[1], frame(DAYS[1], rows))
    ranker = Ranker(schema, MODEL)
    with pytest.raises(
        UserError, match=r"^day 2026-01-02 of .*/histories is missing, or older than the days"
    ):
        Feed(lake, ranker.transform).read(DAYS[1])
    # A model that is without it needs none.
    alone = Ranker(schema, replace(MODEL, without=("history",)))
    day = Feed(lake, alone.transform, without=("history",)).read(DAYS[1])
    assert day.whole.tensors.rows.shape == (3, 2)
    _commit_histories(lake, DAYS[1], {4: ["c", "a"], 5: []})
    day = Feed(lake, ranker.transform).read(DAYS[1])
    # In the order of time: 23, 21, 22. Slots: user, topic, and two of the history, which shares the topics' rows.
    of_topics = ranker.id_map.lookup({"topic": tf.constant(["c", "a"])}).numpy()[:, 0].tolist()
    assert day.whole.tensors.rows.numpy()[:, 2:].tolist() == [[-1, -1], of_topics, [-1, -1]]
    # Users 5, 4 and none, which is -1, the first.
    users = judged(day).users
    assert users is not None
    assert users.tolist() == [3, 2, 1]


def test_targets_are_labels_and_log1p_of_a_log1p_task_s(lake: Lake, ranker: Ranker) -> None:
    day = Feed(lake, ranker.transform).read(DAY)
    expected = [[1, np.log(1.5)], [1, np.log(8)], [0, 0], [0, np.log(2)]]
    assert judged(day).targets.dtype == np.float32
    np.testing.assert_allclose(judged(day).targets, expected, rtol=1e-6)


def test_without_soft_labels_every_example_is_masked_and_nothing_counted(lake: Lake, ranker: Ranker) -> None:
    day = Feed(lake, ranker.transform).read(DAY)
    assert day.whole.tensors.mask.numpy().tolist() == [0, 0, 0, 0]
    assert day.whole.tensors.soft.shape == [4, 2]
    assert day.counts == {}


def test_soft_labels_are_joined_to_their_examples_and_the_rest_is_masked_and_counted(
    lake: Lake, ranker: Ranker
) -> None:
    labels = pl.DataFrame(
        {
            "example_id": [10, 13, 11],
            "click_logit": [1.0, 3.0, 9.0],
            "watch_log1p": [0.1, 0.3, 0.9],
            "snapshot_day": pl.Series([None] * 3, dtype=pl.Date),
            "teacher_step": [6, 5, 4],
            "trained_step": [7, 6, 5],
        }
    )
    lake.soft_labels.write(LabelPartition("teacher", "pre_update", DAY), labels)
    reads = LabelRequest(teacher="teacher", min_step=5)
    day = Feed(lake, ranker.transform).read(DAY, soft_labels=reads)
    # Of 11, 12, 13, 10: too young, missing, used, used.
    assert day.whole.tensors.mask.numpy().tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(day.whole.tensors.soft[2:], [[3.0, 0.3], [1.0, 0.1]], rtol=1e-6)
    assert day.counts == {"labels_used": 2, "teacher_too_young": 1, "labels_missing": 1}


def test_a_label_added_to_the_schema_later_is_refused_by_a_model_with_its_task(
    lake: Lake, ranker: Ranker
) -> None:
    wider = replace(SCHEMA, tasks=(*SCHEMA.tasks, Task(name="like", label="liked")))
    grown = Lake(lake.interactions.path.parent, wider)
    grown.interactions.add_columns()
    with pytest.raises(UserError) as error:
        Feed(grown, ranker.transform).read(DAY)
    assert str(error.value) == (
        "day 2026-01-01: the label 'liked' is null in 4 rows, as it came to the schema later; let the model begin "
        "with a later day (first_day), or be without its task, or make the day again with tutelage-materialize"
    )
    day = Feed(grown, ranker.transform, without=["like"]).read(DAY)
    same = Feed(lake, ranker.transform).read(DAY)
    assert day.digest == same.digest


def test_a_day_that_is_replaced_while_it_is_read_is_read_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = replace(SCHEMA, user="user", histories=(History(of="topic", length=1),))
    lake = Lake(tmp_path, schema)
    lake.create()
    ranker = Ranker(schema, MODEL)
    commit(lake, DAYS[1], frame(DAYS[1], [(21, 1, 4, "b", 0.0, 0.0, 0, 0.0)]))
    _commit_histories(lake, DAYS[1], {4: ["old"]})
    before = lake.input_versions([DAYS[1]], histories=True)[DAYS[1]]
    read = Lake.made_histories

    def replaced_before(self: Lake, day: date) -> pl.LazyFrame:
        commit(lake, DAYS[1], frame(DAYS[1], [(21, 1, 4, "a", 0.0, 0.0, 0, 0.0)]), attempt=2)
        _commit_histories(lake, DAYS[1], {4: ["new"]})
        monkeypatch.undo()
        return read(self, day)

    monkeypatch.setattr(Lake, "made_histories", replaced_before)
    rows = {
        topic: row
        for topic, (row,) in zip(
            ("b", "old", "a", "new"),
            ranker.id_map.lookup({"topic": tf.constant(["b", "old", "a", "new"])}).numpy().tolist(),
            strict=True,
        )
    }
    day = Feed(lake, ranker.transform).read(DAYS[1])
    assert day.whole.tensors.rows.numpy()[:, 1:].tolist() == [[rows["b"], rows["old"]]]
    assert day.input_versions == before
    day = Feed(lake, ranker.transform).read(DAYS[1])
    assert day.whole.tensors.rows.numpy()[:, 1:].tolist() == [[rows["a"], rows["new"]]]
    assert day.input_versions == lake.input_versions([DAYS[1]], histories=True)[DAYS[1]] != before


def test_a_day_that_is_not_there_is_named_with_the_command_that_makes_it(lake: Lake, ranker: Ranker) -> None:
    says = r"^day 2026-01-02 is not in .*/interactions; run tutelage-materialize for it first$"
    with pytest.raises(UserError, match=says):
        Feed(lake, ranker.transform).read(DAYS[1])


@pytest.mark.parametrize(
    ("size", "sizes"), [(60, [60]), (20, [20, 20, 20]), (16, [16, 16, 16, 12]), (100, [60]), (1, [1] * 60)]
)
def test_batches_are_the_day_once_in_order_and_the_last_one_what_is_left(
    tmp_path: Path, ranker: Ranker, size: int, sizes: list[int]
) -> None:
    day = Feed(make_run(tmp_path).lake, ranker.transform).read(DAY)
    assert day.size == ROWS[DAY] == 60
    batches = [day.whole.tensors.cut(tf.constant(start), size) for start in range(0, day.size, size)]
    assert all(isinstance(batch, Batch) for batch in batches)
    assert [batch.labels.shape[0] for batch in batches] == sizes
    for name, whole in day.whole.tensors._asdict().items():
        parts = [getattr(batch, name) for batch in batches]
        assert {part.dtype for part in parts} == {whole.dtype}
        assert (np.concatenate(parts) == whole.numpy()).all()


def test_days_are_read_ahead_in_order_and_an_unreadable_one_fails_when_its_turn_comes(
    lake: Lake, ranker: Ranker
) -> None:
    commit(lake, DAYS[1], interactions(DAYS[1]))
    days = read_ahead(DAYS, lambda day, _: Feed(lake, ranker.transform).read(day))
    first, second = next(days), next(days)
    assert (first.day, first.size, first.waited) == (DAYS[0], 4, 0.0)
    assert (second.day, second.size) == (DAYS[1], ROWS[DAYS[1]])
    assert second.waited > 0
    with pytest.raises(UserError, match="day 2026-01-03 is not in"):
        next(days)


def _weights(lake: Lake, ranker: Ranker, sampling: Sampling) -> list[float]:
    return Feed(lake, ranker.transform, sampling=sampling).read(DAY).whole.tensors.weight.numpy().tolist()


def test_only_examples_with_the_value_have_weight_and_a_missing_value_is_another(
    lake: Lake, ranker: Ranker
) -> None:
    # Users in the day's order: -1, 4, 4 and none.
    assert _weights(lake, ranker, Sampling()) == [1, 1, 1, 1]
    assert _weights(lake, ranker, Sampling(only="user=4")) == [0, 1, 1, 0]
    assert _weights(lake, ranker, Sampling(only="topic=")) == [0, 1, 0, 0]


def test_a_share_of_the_negatives_is_kept_the_same_every_time_and_all_positives(
    tmp_path: Path, ranker: Ranker
) -> None:
    lake = Lake(tmp_path, SCHEMA)
    lake.create()
    n = 4000
    ids = np.random.default_rng(1).integers(-(2**63), 2**63 - 1, n)
    click = np.arange(n) % 4 == 0
    columns = {
        "example_id": ids,
        "event_time_us": np.arange(n),
        "user": np.zeros(n, int),
        "topic": ["a"] * n,
        "seconds": np.ones(n),
        "age": np.ones(n),
        "click": click,
        "watch_seconds": click * 1.0,
    }
    commit(lake, DAY, frame(DAY, columns))
    dropped = Sampling(negatives_of="click", rate=0.3, correction="none")
    weight = np.array(_weights(lake, ranker, dropped))
    assert weight[click].tolist() == [1.0] * 1000
    # 3,000 negatives, each kept with probability .3: 900, give or take three times 25.
    assert 825 < weight[~click].sum() < 975
    assert set(weight[~click]) == {0.0, 1.0}
    assert _weights(lake, ranker, dropped) == weight.tolist()
    weighted = np.array(_weights(lake, ranker, dataclasses.replace(dropped, correction="weights")))
    np.testing.assert_allclose(weighted[~click], weight[~click] / 0.3, rtol=1e-6)
    np.testing.assert_array_equal(weighted[click], weight[click])


def test_predictions_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "predictions/2026-01-01.parquet"
    scores = {"example_id": [3, 1], "click_logit": np.array([0.5, -1.0], np.float32)}
    write_predictions([pl.DataFrame(scores)[:1], pl.DataFrame(scores)[1:]], path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    read = pl.read_parquet(path)
    assert read.to_dict(as_series=False) == {"example_id": [3, 1], "click_logit": [0.5, -1.0]}
    assert read.schema == {"example_id": pl.Int64, "click_logit": pl.Float32}


def test_withheld_rows_weigh_nothing_and_are_scored_as_before(tmp_path: Path, ranker: Ranker) -> None:
    lake = make_run(tmp_path).lake
    whole = Feed(lake, ranker.transform).read(DAY)
    day = Feed(lake, ranker.transform, holdout=0.3).read(DAY)
    rows = lake.interactions.scan(day=DAY).filter(held_out(SCHEMA, DAY, 0.3)).collect()
    withheld = np.isin(day.whole.example_id, rows["example_id"].to_numpy())
    assert 5 < withheld.sum() < 35
    np.testing.assert_array_equal(
        day.whole.tensors.weight.numpy(), np.where(withheld, 0, whole.whole.tensors.weight)
    )
    np.testing.assert_array_equal(day.whole.example_id, whole.whole.example_id)
    np.testing.assert_array_equal(judged(day).targets, judged(whole).targets)
    assert (day.holdout, whole.holdout) == (0.3, 0.0)
    # A part of a day that was trained on with other weights is not gone on with.
    assert day.digest != whole.digest
