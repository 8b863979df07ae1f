"""`example_id` against xxHash64 as its specification describes it, written here in plain Python."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.pipeline.ids import example_id

P1, P2, P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
P4, P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
MASK = 2**64 - 1


def _rotate(x: int, bits: int) -> int:
    x &= MASK
    return (x << bits | x >> (64 - bits)) & MASK


def _round(acc: int, lane: int) -> int:
    return _rotate(acc + lane * P2, 31) * P1 & MASK


def xxhash64(data: bytes) -> int:
    """Seed 0, unsigned."""
    at = 0

    def take(size: int) -> int:
        nonlocal at
        at += size
        return int.from_bytes(data[at - size : at], "little")

    if len(data) >= 32:
        lanes = [P1 + P2, P2, 0, -P1]
        while len(data) - at >= 32:
            lanes = [_round(lane, take(8)) for lane in lanes]
        acc = sum(_rotate(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18), strict=True))
        for lane in lanes:
            acc = (acc ^ _round(0, lane)) * P1 + P4
    else:
        acc = P5
    acc += len(data)
    while len(data) - at >= 8:
        acc = _rotate(acc ^ _round(0, take(8)), 27) * P1 + P4
    if len(data) - at >= 4:
        acc = _rotate(acc ^ take(4) * P1, 23) * P2 + P3
    while at < len(data):
        acc = _rotate(acc ^ take(1) * P5, 11) * P1
    acc &= MASK
    acc = (acc ^ acc >> 33) * P2 & MASK
    acc = (acc ^ acc >> 29) * P3 & MASK
    return acc ^ acc >> 32


def _signed(unsigned: int) -> int:
    return unsigned - 2**64 if unsigned >= 2**63 else unsigned


def _ids(columns: dict[str, list[object]], key: tuple[str, ...], **dtypes: type[pl.DataType]) -> list[int]:
    frame = pl.DataFrame(columns, schema=dtypes or None)
    ids = frame.select(id=example_id(key, frame.schema))["id"]
    assert ids.dtype == pl.Int64
    return ids.to_list()


@pytest.mark.parametrize(
    ("data", "hashed"),
    [(b"", 0xEF46DB3751D8E999), (b"a", 0xD24EC4F1A98C6E5B), (b"abc", 0x44BC2CF5AD770999)],
)
def test_the_reference_returns_the_published_hashes(data: bytes, hashed: int) -> None:
    assert xxhash64(data) == hashed


@pytest.mark.parametrize(
    ("user", "item", "time", "canonical"),
    [
        (1, "a", 0, "1;1:a;0;"),
        (-1, "", -9_223_372_036_854_775_808, "-1;0:;-9223372036854775808;"),
        (0, "é日", 7, "0;5:é日;7;"),  # Two bytes and three: bytes are counted, not characters.
        (12, "x" * 40, 1, f"12;40:{'x' * 40};1;"),  # More than one block of 32 bytes.
        (5, "a;1:b", 2, "5;5:a;1:b;2;"),
    ],
)
def test_an_id_is_the_hash_of_the_canonical_bytes(user: int, item: str, time: int, canonical: str) -> None:
    columns = {"item": [item], "user": [user], "time": [time]}
    assert _ids(columns, ("user", "item", "time")) == [_signed(xxhash64(canonical.encode()))]


TEXTS = st.text(max_size=40)
ROWS = st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), TEXTS, TEXTS), min_size=1, max_size=5)


@given(ROWS)
def test_the_ids_of_any_key_equal_those_of_the_reference(rows: list[tuple[int, str, str]]) -> None:
    expected = [
        _signed(xxhash64(b"%d:%s;%d;%d:%s;" % (len(a.encode()), a.encode(), n, len(b.encode()), b.encode())))
        for n, a, b in rows
    ]
    numbers, first, second = (list(column) for column in zip(*rows, strict=True))
    columns = {"n": numbers, "a": first, "b": second}
    assert _ids(columns, ("a", "n", "b"), n=pl.Int64, a=pl.String, b=pl.String) == expected


def test_keys_whose_concatenated_values_are_equal_have_different_ids() -> None:
    a = ["1", "12", "123", "", "1;1:2", "1"]
    b = ["23", "3", "", "123", "3", "2;1:3"]
    assert len(set(_ids({"a": a, "b": b}, ("a", "b")))) == 6
    assert len(set(_ids({"a": [1, 12], "b": [23, 3]}, ("a", "b")))) == 2


def test_an_integer_is_hashed_by_its_value_not_its_width() -> None:
    wide = _ids({"n": [-3]}, ("n",), n=pl.Int64)
    assert _ids({"n": [-3]}, ("n",), n=pl.Int8) == wide == [_signed(xxhash64(b"-3;"))]


def test_the_order_of_the_key_matters_and_that_of_the_columns_does_not() -> None:
    one = _ids({"a": ["x"], "b": ["y"]}, ("a", "b"))
    assert _ids({"b": ["y"], "a": ["x"]}, ("a", "b")) == one
    assert _ids({"a": ["x"], "b": ["y"]}, ("b", "a")) != one
