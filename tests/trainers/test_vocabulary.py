"""Which ids have their own embedding, day after day: assigned, kept, forgotten, assigned again. Expected by hand."""

from collections.abc import Mapping
from datetime import date
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from polars.testing import assert_frame_equal

from tutelage.models.id_map import GrowingIdMap, fingerprint
from tutelage.pipeline.schema import Feature, Growth
from tutelage.trainers.vocabulary import DayIds, Vocabulary

# Three embeddings beside the default one. The user's range begins after the item's four.
GROWTH = Growth(min_seen=2, unseen_days=2)
MAP = GrowingIdMap(
    [
        Feature(name="item", dtype="string", capacity=4, grows=GROWTH),
        Feature(name="user", dtype="int64", capacity=4, grows=GROWTH),
        Feature(name="tab", dtype="int64", capacity=10),
        Feature(name="seen", dtype="string", capacity=4, length=2),
    ],
    shared={"seen": "item"},
)


class Observed(NamedTuple):
    ahead: tf.Tensor
    indices: tf.Tensor
    day_ids: DayIds

    @property
    def vocabulary(self) -> Vocabulary:
        return self.day_ids.vocabulary

    @property
    def counts(self) -> Mapping[str, Mapping[str, float]]:
        return self.day_ids.counts

    @property
    def assigned(self) -> np.ndarray:
        return self.day_ids.assigned


def _observe(
    before: Vocabulary, day: int, users: list[int], *, chunk: int = 100, **others: list[Any]
) -> Observed:
    """Observe a day, so many examples at a time; indices of chunks are made once more when all is known."""
    columns: dict[str, Any] = {"item": [""] * len(users), "tab": [3] * len(users), "user": users}
    columns |= {"seen": [["", ""]] * len(users), **others}
    arrays = {
        name: np.array(values, object if name in ("item", "seen") else np.int64)
        for name, values in columns.items()
    }
    ahead = MAP.lookup({name: tf.constant(values) for name, values in arrays.items()}, before.entries())
    observing, indices = before.observe(date(2026, 1, day)), []
    chunks = [
        (
            {name: values[start : start + chunk] for name, values in arrays.items()},
            ahead[start : start + chunk],
        )
        for start in range(0, len(users), chunk)
    ]
    for of, rows in chunks:
        indices.append(observing.add(of, rows))
    day_ids = observing.result()
    for number, (of, rows) in enumerate(chunks):
        again = day_ids.indices(of, rows, start=number * chunk)
        np.testing.assert_array_equal(again, indices[number])
    return Observed(ahead, tf.concat(indices, axis=0), day_ids)


def _counts(day_ids: Observed, feature: str = "user") -> tuple[float, ...]:
    names = ("ids_known", "ids_with_rows", "ids_given", "ids_evicted", "ids_full")
    return tuple(day_ids.counts[feature][name] for name in names)


def test_an_id_has_its_embedding_from_its_second_time_on_until_two_days_without_it() -> None:
    # Indices of the user's range are 4 to 7; 4 is the default one.
    first = _observe(Vocabulary.empty(MAP), 1, [7, 8, 7, 9, 7, 8])
    assert first.ahead[:, 1].numpy().tolist() == [4, 4, 4, 4, 4, 4]
    assert first.indices[:, 1].numpy().tolist() == [4, 4, 5, 4, 5, 6]
    assert _counts(first) == (3, 2, 2, 0, 0)
    assert first.counts["user"]["default_row_share"] == 3 / 6

    # 9 comes for the second time in all. For 10 and 11 none is left.
    second = _observe(first.vocabulary, 2, [9, 10, 11, 10, 8, 11])
    assert second.ahead[:, 1].numpy().tolist() == [4, 4, 4, 4, 6, 4]
    assert second.indices[:, 1].numpy().tolist() == [7, 4, 4, 4, 6, 4]
    assert _counts(second) == (5, 3, 1, 0, 2)

    # 7 is forgotten at the end of the second day without it, too late for 10 on that day.
    third = _observe(second.vocabulary, 3, [10, 12, 10])
    assert third.indices[:, 1].numpy().tolist() == [4, 4, 4]
    assert _counts(third) == (5, 2, 0, 1, 1)

    # 10 was counted before, and is the first to come. 7 was forgotten, and has to be seen twice again.
    fourth = _observe(third.vocabulary, 4, [10, 7, 7, 12])
    assert fourth.indices[:, 1].numpy().tolist() == [5, 4, 4, 4]
    assert fourth.assigned.tolist() == [5]
    assert _counts(fourth) == (3, 1, 1, 2, 2)
    left = fourth.vocabulary.known["user"].to_dict(as_series=False)
    assert left["id"] == [7, 10, 12]
    assert left["row"] == [0, 1, 0]
    assert left["seen"] == [2, 5, 2]
    assert left["last"] == [date(2026, 1, 4)] * 3


def test_a_history_uses_the_embeddings_of_its_feature_as_they_are_assigned_and_counts_nothing() -> None:
    day_ids = _observe(
        Vocabulary.empty(MAP),
        1,
        [1, 2, 3],
        item=["a", "b", "a"],
        seen=[["a", ""], ["b", "b"], ["a", "b"]],
    )
    # `a` is assigned index 1 by the third example; `b`, seen once as an item, none.
    assert day_ids.indices[:, 0].numpy().tolist() == [0, 0, 1]
    assert day_ids.indices[:, 3:].numpy().tolist() == [[0, -1], [0, 0], [1, 0]]
    assert day_ids.ahead[:, 3:].numpy().tolist() == [[0, -1], [0, 0], [0, 0]]
    known = day_ids.vocabulary.known["item"]
    prints = fingerprint(tf.constant(["a", "b"])).numpy().tolist()
    assert dict(known.select("id", "seen").iter_rows()) == {prints[0]: 2, prints[1]: 1}


def test_a_missing_value_is_an_id_like_any_other_and_padding_of_a_history_is_none() -> None:
    day_ids = _observe(Vocabulary.empty(MAP), 1, [1, 2, 3], item=["", "", ""], seen=[["", ""]] * 3)
    assert day_ids.indices[:, 0].numpy().tolist() == [0, 1, 1]
    assert day_ids.indices[:, 3:].numpy().tolist() == [[-1, -1]] * 3


def test_a_feature_that_does_not_grow_is_hashed_and_never_assigned() -> None:
    day_ids = _observe(Vocabulary.empty(MAP), 1, [7, 7, 7], tab=[0, 5, 9])
    # Of 10 rows, after 4 and 4: the share .618 · id, modulo 1, of them.
    assert day_ids.indices[:, 2].numpy().tolist() == [8 + 0, 8 + 0, 8 + 5]
    assert day_ids.ahead[:, 2].numpy().tolist() == day_ids.indices[:, 2].numpy().tolist()
    # The item "" is seen three times as well.
    assert sorted(day_ids.assigned.tolist()) == [1, 5]


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_the_days_before_are_counted_as_if_they_were_this_one(cut: int) -> None:
    users = [7, 8, 7, 9, 9, 8]
    whole = _observe(Vocabulary.empty(MAP), 1, users)
    start = _observe(Vocabulary.empty(MAP), 1, users[:cut])
    rest = _observe(start.vocabulary, 2, users[cut:])
    rows = [*start.indices[:, 1].numpy(), *rest.indices[:, 1].numpy()]
    assert rows == whole.indices[:, 1].numpy().tolist()


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_a_day_is_observed_chunk_by_chunk_as_at_once(chunk: int) -> None:
    # More ids than embeddings, so that some find none in one chunk, and are seen again in the next.
    rng = np.random.default_rng(1)
    whole = in_chunks = Vocabulary.empty(MAP)
    for day in range(1, 6):
        users = rng.integers(0, 9, 20).tolist()
        items = rng.choice(["a", "b", "c", "d", "e"], 20).tolist()
        seen = rng.choice(["a", "c", ""], [20, 2]).tolist()
        one = _observe(whole, day, users, item=items, seen=seen)
        many = _observe(in_chunks, day, users, chunk=chunk, item=items, seen=seen)
        np.testing.assert_array_equal(one.indices, many.indices)
        np.testing.assert_array_equal(one.assigned, many.assigned)
        assert one.counts == many.counts
        whole, in_chunks = one.vocabulary, many.vocabulary
        for name, known in whole.known.items():
            assert_frame_equal(known, in_chunks.known[name])
    assert max(one.counts["user"]["ids_full"], one.counts["item"]["ids_full"]) > 0
