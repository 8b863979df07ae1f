"""Ids to embedding indices: specified hashes, a range of indices for each feature."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import tensorflow as tf

from tutelage.models.id_map import GrowingIdMap, HashedIdMap, fingerprint
from tutelage.pipeline.schema import Feature, Growth

LOWEST, HIGHEST = -(2**63), 2**63 - 1
IDS = [0, 1, 2, -1, -2, 1000, 9_155_697_141, 2**32, HIGHEST, LOWEST]


def _int64_index(id_: int, capacity: int) -> int:
    """By integers without bounds: the upper half of the product, as a share of the capacity."""
    upper = id_ * 0x9E3779B97F4A7C15 % 2**64 // 2**32
    return upper * capacity // 2**32


def _indices(ids: Sequence[int] | np.ndarray, capacity: int) -> list[int]:
    id_map = HashedIdMap([Feature(name="user", dtype="int64", capacity=capacity)])
    return id_map.lookup({"user": tf.constant(ids, tf.int64)}).numpy()[:, 0].tolist()


@pytest.mark.parametrize("capacity", [1, 7, 1000, 2**31 - 1])
def test_an_integer_s_index_is_the_upper_half_of_its_product_as_a_share_of_the_capacity(
    capacity: int,
) -> None:
    assert _indices(IDS, capacity) == [_int64_index(id_, capacity) for id_ in IDS]


def test_the_indices_of_ids_stay_what_they_were() -> None:
    # Fixed by what is served: a change of the hash makes every checkpoint worthless.
    # The multiplier's upper half, 0x9E3779B9, is 0.618 of 2**32.
    assert _indices([0, 1, -1, 9_155_697_141], 1000) == [0, 618, 381, 838]


def test_consecutive_ids_share_no_index_while_there_are_enough() -> None:
    assert len(set(_indices(np.arange(27_285), 40_000))) == 27_285


# FarmHash's Fingerprint64, computed apart from TensorFlow; it gives its constant k2 to the empty string.
FINGERPRINTS = {
    "": 0x9AE16A3B2F90404F,
    "a": 0xB3454265B6DF75E3,
    "b": 0xA3B260215EC8F116,
    "news": 0x3F4CC3A09F09D8BD,
    "日本": 0x4EC82A69B1A34BCB,
    "topic-with-16-by": 0x8EE055E504003652,
}


def test_a_string_s_fingerprint_is_farmhash_s_64_bits_read_as_signed() -> None:
    found = fingerprint(tf.constant(list(FINGERPRINTS)))
    assert found.dtype == tf.int64
    assert [value % 2**64 for value in found.numpy().tolist()] == list(FINGERPRINTS.values())


@pytest.mark.parametrize("as_given", [tf.identity, fingerprint])
def test_a_string_s_index_is_that_of_its_fingerprint(as_given: Callable[[tf.Tensor], tf.Tensor]) -> None:
    id_map = HashedIdMap([Feature(name="topic", dtype="string", capacity=1000)])
    indices = id_map.lookup({"topic": as_given(tf.constant(list(FINGERPRINTS)))}).numpy()[:, 0].tolist()
    assert indices == [_int64_index(value, 1000) for value in FINGERPRINTS.values()]
    # Fixed by what is served, as above.
    assert indices == [86, 109, 18, 404, 238, 96]


def test_some_features_alone_have_the_indices_that_they_have_among_all() -> None:
    user = Feature(name="user", dtype="int64", capacity=50)
    id_map = HashedIdMap([user, Feature(name="topic", dtype="string", capacity=10)])
    columns = {"user": tf.constant(IDS, tf.int64), "topic": tf.strings.as_string(tf.constant(IDS, tf.int64))}
    indices = id_map.lookup(columns).numpy()
    for i, name in enumerate(columns):
        assert id_map.lookup({name: columns[name]}).numpy().tolist() == indices[:, i : i + 1].tolist()
    assert id_map.lookup({"seconds": tf.zeros([3])}).shape == (3, 0)


def test_every_feature_has_a_range_of_indices_of_its_own() -> None:
    id_map = HashedIdMap(
        [
            Feature(name="user", dtype="int64", capacity=50),
            Feature(name="topic", dtype="string", capacity=10),
            Feature(name="item", dtype="int64", capacity=50),
        ]
    )
    ids = tf.constant([*IDS, *range(-500, 500)], tf.int64)
    topics = tf.strings.as_string(ids)
    indices = id_map.lookup({"user": ids, "topic": topics, "item": ids})
    assert indices.dtype == tf.int32
    user, topic, item = indices.numpy().T
    # 1,010 ids leave none of 50 indices out.
    assert set(user) == set(range(50))
    assert set(topic) == set(range(50, 60))
    # An equal id in another feature of the same capacity: the same place in another range.
    assert (item == user + 60).all()
    assert id_map.capacity == 110


@pytest.mark.parametrize("stride", [1, 1000, 2**20, -1000, 7919, 2**40])
def test_ids_at_even_distances_spread_over_all_indices(stride: int) -> None:
    # 10 ids per index. Chance alone would give a chi-square of 999 ± 45; `id % capacity` gives 9,990,000 for
    # multiples of 1,000.
    counts = np.bincount(_indices(np.arange(10_000) * stride, 1000), minlength=1000)
    assert np.sum((counts - 10) ** 2 / 10) < 2000
    assert counts.min() > 0


def test_the_lookup_is_a_graph_of_stateless_ops_and_captures_nothing() -> None:
    id_map = HashedIdMap(
        [Feature(name="user", dtype="int64", capacity=50), Feature(name="topic", dtype="string", capacity=10)]
    )
    spec = {"user": tf.TensorSpec([None], tf.int64), "topic": tf.TensorSpec([None], tf.string)}
    function = tf.function(id_map.lookup).get_concrete_function(spec)
    ops = [op for op in function.graph.get_operations() if op.type != "Placeholder"]
    assert {"Mul", "Fingerprint"} <= {op.type for op in ops}
    # Tables, variables and Python calls are stateful ops or captures, all of them.
    assert [op.type for op in ops if op.op_def.is_stateful] == []
    assert function.captured_inputs == []
    assert id_map.variables == ()


LISTS = HashedIdMap(
    [
        Feature(name="tags", dtype="string", capacity=100, length=3),
        Feature(name="item", dtype="int64", capacity=1000),
        Feature(name="seconds", dtype="float32", buckets=(0.0, 10.0, 60.0)),
        Feature(name="seen", dtype="int64", capacity=1000, length=2),
    ],
    shared={"seen": "item"},
)


def test_a_list_takes_a_field_per_item_and_minus_one_where_it_is_padded() -> None:
    single = LISTS.lookup({"item": tf.constant([7, 8, -1], tf.int64)}).numpy()[:, 0]
    seen = LISTS.lookup({"seen": tf.constant([[8, 7], [7, -1], [-1, 8]], tf.int64)}).numpy()
    # It shares the indices of `item`, whose own -1 is an id as any other.
    assert seen.tolist() == [[single[1], single[0]], [single[0], -1], [-1, single[1]]]
    assert single[2] >= 0


def test_strings_of_a_list_and_their_fingerprints_are_the_same_indices() -> None:
    tags = tf.constant([["a", "日本", ""], ["", "", "a"]])
    prints = tf.reshape(fingerprint(tf.reshape(tags, [-1])), [2, 3])
    indices = LISTS.lookup({"tags": tags}).numpy()
    assert indices.tolist() == LISTS.lookup({"tags": prints}).numpy().tolist()
    assert (indices == -1).tolist() == [[False, False, True], [True, True, False]]
    assert indices[0, 0] == indices[1, 2] != indices[0, 1]


def test_a_number_s_bucket_is_that_above_the_edges_it_reaches_and_nan_is_in_the_default_s() -> None:
    seconds = tf.constant([-1.0, 0.0, 9.9, 10.0, 59.0, 1e9, float("nan"), float("-inf")])
    indices = LISTS.lookup({"seconds": seconds}).numpy()[:, 0] - LISTS.offsets["seconds"]
    assert indices.tolist() == [0, 1, 1, 2, 2, 3, 1, 0]


def test_single_values_come_first_then_buckets_then_lists_and_no_two_share_an_index() -> None:
    assert [f.name for f in LISTS.features] == ["item", "seconds", "tags", "seen"]
    # 1000 items, 3 + 1 buckets, 100 tags, and the items again.
    assert LISTS.offsets == {"item": 0, "seconds": 1000, "tags": 1004, "seen": 0}
    assert LISTS.capacity == 1104


GROWTH = Growth()


@pytest.mark.parametrize("capacity", [1, 2, 3, 7, 8, 9, 100, 1000])
@pytest.mark.parametrize("filled", [0.0, 0.5, 1.0])
def test_an_id_that_is_listed_has_its_index_and_any_other_the_default_one(
    capacity: int, filled: float
) -> None:
    # A part before it and one after it, of ids on all sides of its own.
    id_map = GrowingIdMap(
        [Feature(name=name, dtype="int64", capacity=capacity + 1, grows=GROWTH) for name in ("a", "b", "c")]
    )
    rng = np.random.default_rng(capacity)
    pool = np.unique([*rng.integers(LOWEST, HIGHEST, 2 * capacity), LOWEST, HIGHEST, -1, 0])
    listed = np.sort(rng.choice(pool, int(filled * capacity), replace=False))
    own = rng.permutation(capacity)[: len(listed)] + 1
    others = np.arange(capacity) - 5, np.arange(1, capacity + 1)
    id_map.assign(id_map.entries({"a": others, "b": (listed, own), "c": others}))
    ids = np.unique([*pool, *(pool[pool < HIGHEST] + 1), *range(-7, 7)])
    expected = [capacity + 1 + dict(zip(listed, own, strict=True)).get(id_, 0) for id_ in ids]
    indices = id_map.lookup({"b": tf.constant(ids)})
    assert indices.dtype == tf.int32
    assert indices.numpy()[:, 0].tolist() == expected


def test_growing_and_hashed_features_keep_their_places_and_a_history_finds_the_indices_of_its_feature() -> (
    None
):
    features = [
        Feature(name="user", dtype="int64", capacity=50),
        Feature(name="item", dtype="string", capacity=4, grows=GROWTH),
        Feature(name="tab", dtype="int64", capacity=7),
        Feature(name="seen", dtype="string", capacity=4, length=3),
        Feature(name="tags", dtype="int64", capacity=9, length=2),
    ]
    id_map = GrowingIdMap(features, shared={"seen": "item"})
    ids = fingerprint(tf.constant(["a", "b"])).numpy()
    order = np.argsort(ids)
    entries = id_map.entries({"item": (ids[order], np.array([3, 1])[order])})
    columns = {
        "user": tf.constant(IDS[:3], tf.int64),
        "item": tf.constant(["b", "c", "a"]),
        "tab": tf.constant(IDS[:3], tf.int64),
        "seen": tf.constant([["a", "c", ""], ["", "", ""], ["b", "b", "a"]]),
        "tags": tf.constant([[5, -1], [6, 7], [-1, -1]], tf.int64),
    }
    indices = id_map.lookup(columns, entries).numpy()
    assert indices[:, 1].tolist() == [51, 50, 53]
    assert indices[:, 3:6].tolist() == [[53, 50, -1], [-1, -1, -1], [51, 51, 53]]
    hashed = HashedIdMap(features, shared={"seen": "item"}).lookup(columns).numpy()
    for field in (0, 2, 6, 7):
        assert indices[:, field].tolist() == hashed[:, field].tolist()
    # Nothing is listed before it is assigned.
    assert id_map.lookup(columns).numpy()[:, 1].tolist() == [50, 50, 50]
    id_map.assign(entries)
    assert id_map.lookup(columns).numpy().tolist() == indices.tolist()
    # Of some features, and of a fingerprint, the same.
    assert id_map.lookup({"item": fingerprint(columns["item"])}).numpy().tolist() == indices[:, 1:2].tolist()


def test_a_growing_lookup_reads_two_variables_and_takes_steps_by_the_log_of_the_capacity() -> None:
    def gathers(capacity: int) -> int:
        id_map = GrowingIdMap([Feature(name="user", dtype="int64", capacity=capacity, grows=GROWTH)])
        assert {v.name: v.trainable for v in id_map.variables} == {"ids:0": False, "own_rows:0": False}
        function = tf.function(id_map.lookup).get_concrete_function({"user": tf.TensorSpec([None], tf.int64)})
        ops = [op.type for op in function.graph.get_operations()]
        assert not [op for op in ops if "Table" in op or "PyFunc" in op]
        return sum("Gather" in op for op in ops)

    # Ten halvings of 1,023 entries, twenty of a million; then the id and its index.
    assert gathers(1024) == 10 + 2
    assert gathers(2**20) == 20 + 2
