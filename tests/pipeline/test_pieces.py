"""The rows of shards, in pieces whose units expected other numbers of shards: together they are those of one shard."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.pipeline.ids import example_id
from tutelage.pipeline.io.arrow import read_arrow
from tutelage.pipeline.pieces import Piece, ShardRows, shards

KEY = ("user", "event_time_us")
ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(0, 1)), max_size=30)


def _rows(rows: Sequence[tuple[int, int, int]]) -> pl.DataFrame:
    """Return rows of a time, a user and some content."""
    schema = {"event_time_us": pl.Int64, "user": pl.Int64, "content": pl.UInt64}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    return frame.with_columns(example_id=example_id(KEY, frame.schema))


def _stage(folder: Path, units: Sequence[tuple[Sequence[tuple[int, int, int]], int, bool]]) -> list[Piece]:
    staged = []
    for index, (rows, expected, late) in enumerate(units):
        how = {"order": (index, 0), "late": late, "expected": expected}
        if rows:
            staged.append(Piece.stage(_rows(rows), folder / f"{index}.arrow", **how))  # type: ignore[arg-type]
    return staged


def _made(pieces: Sequence[Piece], of: int) -> tuple[pl.DataFrame, Counter[str], Counter[int], int]:
    """Return the kept rows of all shards in the order of time, and what was dropped, read by unit, and late."""
    frames, dropped, arrived, late = [], Counter[str](), Counter[int](), 0
    for number in range(of):
        parts = [part for piece in pieces if (part := piece.of_shard(number, of))]
        if not parts:
            continue
        found = ShardRows.find(parts[::-1], KEY, (number, of))
        dropped.update(found.dropped)
        arrived.update(found.arrived)
        for frame, late_rows in found.files():
            assert frame.equals(frame.sort("event_time_us", "example_id"))
            frames.append(frame)
            late += late_rows
    return pl.concat(frames).sort("event_time_us", "example_id"), dropped, arrived, late


@settings(max_examples=60, deadline=None)
@given(
    units=st.lists(st.tuples(ROWS, st.sampled_from([1, 3, 8]), st.booleans()), min_size=1, max_size=4).filter(
        lambda units: any(rows for rows, _, _ in units)
    ),
    of=st.sampled_from([2, 3, 7]),
)
def test_shards_hold_the_rows_of_one_shard_whatever_their_units_expected(
    units: list[tuple[list[tuple[int, int, int]], int, bool]], of: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        one, two = Path(name) / "one", Path(name) / "two"
        one.mkdir(), two.mkdir()
        whole = _made(_stage(one, [(rows, 1, late) for rows, _, late in units]), 1)
        several = _made(_stage(two, units), of)
        assert several[0].equals(whole[0])
        assert several[1:] == whole[1:]
    kept: dict[tuple[int, int], int] = {}
    dropped: Counter[str] = Counter()
    for time, user, content in (row for rows, _, _ in units for row in rows):
        if (user, time) in kept:
            dropped["duplicate" if kept[user, time] == content else "conflicting_duplicate"] += 1
        kept.setdefault((user, time), content)
    assert whole[0].select("user", "event_time_us", "content").sort("user", "event_time_us").rows() == sorted(
        (*key, content) for key, content in kept.items()
    )
    assert whole[1] == dropped
    assert whole[2] == Counter({i: len(rows) for i, (rows, _, _) in enumerate(units) if rows})


def test_a_shard_reads_only_its_own_range_of_a_piece_that_was_partitioned(tmp_path: Path) -> None:
    rows = _rows([(time, time, 0) for time in range(1_000)])
    piece = Piece.stage(rows, tmp_path / "p", expected=8, order=(0, 0))
    eighths = [part.rows for number in range(8) if (part := piece.of_shard(number, 8))]
    assert sum(eighths) == 1_000
    assert all(80 < part < 170 for part in eighths)
    fourth = piece.of_shard(1, 4)
    assert fourth
    assert fourth.rows == sum(eighths[2:4])
    assert fourth.read().equals(read_arrow(piece.path, sum(eighths[:2]), fourth.rows))
    # A third overlaps three eighths, and its rows are found among theirs.
    third = piece.of_shard(1, 3)
    assert third
    assert third.rows == sum(eighths[2:6])


def test_files_of_a_shard_are_bounded_and_go_on_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tutelage.pipeline.pieces.FRAME_ROWS", 4)
    later, earlier = ([(time, 1, 0) for time in times] for times in (range(9, 3, -1), range(4)))
    pieces = _stage(tmp_path, [(later, 1, False), (earlier, 1, True)])
    found = list(ShardRows.find(pieces, KEY, (0, 1)).files())
    assert [frame["event_time_us"].to_list() for frame, _ in found] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [late for _, late in found] == [4, 0, 0]


@pytest.mark.parametrize(("rows", "number"), [(0, 1), (2_000_000, 1), (2_000_001, 2), (20_000_000, 10)])
def test_the_number_of_shards_follows_the_rows(rows: int, number: int) -> None:
    assert shards(rows, 2_000_000) == number
