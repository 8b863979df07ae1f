"""The materialize job on a small source: every row is kept or counted, and days are replaced whole."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from tests.pipeline.rows import DAY, Row, Rows
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.make_shard import GroupShards, ShardUnit
from tutelage.pipeline.materialize import Materialized, materialize
from tutelage.pipeline.pieces import ROWS_PER_SHARD, Piece
from tutelage.pipeline.read_unit import ReadUnit
from tutelage.pipeline.schema import Downsampling, Feature, Schema, Task
from tutelage.pipeline.sources.base import Unit

SCHEMA = Schema(
    features=(
        Feature(name="user", dtype="int64", capacity=10),
        Feature(name="item", dtype="string", capacity=10),
    ),
    tasks=(Task(name="click", label="click"),),
    key=("user", "item", "event_time_us"),
)
DAYS = [date(1970, 1, 1), date(1970, 1, 2)]


class InFrames(Rows):
    """The same source with a frame for each row."""

    def read(self, unit: Unit) -> Iterator[pl.DataFrame]:
        for frame in super().read(unit):
            yield from frame.iter_slices(1)


def _run(
    tmp_path: Path, source: Rows, days: Sequence[date] = DAYS, *, rows_per_shard: int = ROWS_PER_SHARD
) -> tuple[Lake, Materialized]:
    lake = Lake(tmp_path / "lake", SCHEMA)
    lake.create()
    how = {"raw_dir": "", "workdir": str(tmp_path)}
    return lake, materialize(source, SCHEMA, lake, **how, days=days, rows_per_shard=rows_per_shard)


def test_every_row_is_kept_or_counted_with_its_reason(tmp_path: Path) -> None:
    source = Rows(
        (
            ((1, 1, "a", 1, ""), (2, None, "a", 0, ""), (3, 2, "b", None, ""), (DAY, 1, "a", 0, "")),
            ((1, 1, "a", 1, ""), (1, 1, "a", 1, "late"), (None, 1, "a", 0, ""), (9 * DAY, 1, "a", 0, "")),
        )
    )
    lake, done = _run(tmp_path, source)
    first, second = done.days[DAYS[0]], done.days[DAYS[1]]
    assert (first.rows_in, first.kept) == (5, 1)
    assert first.dropped == {"bad_key": 1, "bad_label": 1, "conflicting_duplicate": 1, "duplicate": 1}
    assert (second.rows_in, second.kept, second.dropped) == (1, 1, {})
    assert done.elsewhere == {"bad_time": 1, "outside_days": 1}
    assert done.rows_in == 8
    assert lake.interactions.scan().select(pl.len()).collect().item() == 2


def test_the_first_of_repeated_rows_by_unit_and_row_stays(tmp_path: Path) -> None:
    lake, _ = _run(tmp_path, Rows((((5, 1, "a", 1, "x"),), ((5, 1, "a", 0, "y"),))), DAYS[:1])
    assert lake.interactions.scan().collect()["click"].to_list() == [1]


def test_a_day_that_is_run_again_is_replaced_and_other_days_stay(tmp_path: Path) -> None:
    _run(tmp_path, Rows((((1, 1, "a", 1, ""), (DAY, 1, "a", 1, "")),)))
    lake, _ = _run(tmp_path, Rows((((2, 3, "b", 0, ""), (3, 4, "b", 0, "")),)), DAYS[:1])
    rows = lake.interactions.scan().collect().sort("event_time_us")
    assert rows["user"].to_list() == [3, 4, 1]
    assert rows["day"].to_list() == [DAYS[0], DAYS[0], DAYS[1]]


def test_a_broken_unit_commits_nothing_and_its_error_keeps_its_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^events\.csv is truncated; fetch it again$"):
        _run(tmp_path, Rows((((1, 1, "a", 1, ""),),), broken=True))
    assert Lake(tmp_path / "lake", SCHEMA).interactions.partitions().height == 0
    assert not list((tmp_path / "lake/.staging").iterdir())


def test_a_day_without_rows_is_named_and_the_others_are_committed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no rows for 1970-01-02"):
        _run(tmp_path, Rows((((1, 1, "a", 1, ""),),)))
    assert Lake(tmp_path / "lake", SCHEMA).interactions.partitions()["day"].to_list() == DAYS[:1]


@pytest.mark.parametrize("rows_per_shard", [7, 1_000])
def test_repeats_are_found_in_shards_as_in_one_piece(tmp_path: Path, rows_per_shard: int) -> None:
    parts = tuple(tuple((i, i % 7, "a", part % 2, "") for i in range(50)) for part in range(3))
    lake, done = _run(tmp_path, Rows(parts), DAYS[:1], rows_per_shard=rows_per_shard)
    # Part 1 has other clicks than part 0, and part 2 has the same.
    assert done.days[DAYS[0]].dropped == {"conflicting_duplicate": 50, "duplicate": 50}
    rows = lake.interactions.scan().collect().sort("event_time_us")
    assert rows.select("event_time_us", "user", "click").rows() == [(i, i % 7, 0) for i in range(50)]


def test_small_frames_become_one_file_of_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tutelage.pipeline.pieces.FRAME_ROWS", 4)
    parts = (tuple((i, i, "a", 1, "") for i in range(10)),)
    lake, _ = _run(tmp_path, InFrames(parts), DAYS[:1])
    # Frames of 1 row: files of 4, 4 and 2.
    files = lake.interactions.files(day=DAYS[0])
    assert [pl.read_parquet(file)["event_time_us"].to_list() for file in files] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
    ]


def test_small_units_become_one_file_of_a_day_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tutelage.pipeline.pieces.FRAME_ROWS", 4)
    # Unit 1 repeats a row of unit 0, so that the first three units have four rows left.
    parts = (
        ((0, 0, "a", 1, ""), (1, 1, "a", 1, "")),
        ((1, 1, "a", 1, ""), (2, 2, "a", 1, "")),
        ((3, 3, "a", 1, ""),),
        ((4, 4, "a", 1, ""),),
    )
    lake, done = _run(tmp_path, Rows(parts), DAYS[:1])
    files = lake.interactions.files(day=DAYS[0])
    assert [pl.read_parquet(file)["event_time_us"].to_list() for file in files] == [[0, 1, 2, 3], [4]]
    assert done.days[DAYS[0]].dropped == {"duplicate": 1}


def test_the_same_share_of_the_negatives_is_kept_each_time_and_counted(tmp_path: Path) -> None:
    n = 4_000
    schema = replace(SCHEMA, downsampling=Downsampling(task="click", rate=0.25))
    source = Rows((tuple((i, i, "a", int(i % 4 == 0), "") for i in range(n)),))
    tables = []
    for attempt in ("one", "other"):
        lake = Lake(tmp_path / attempt, schema)
        lake.create()
        done = materialize(source, schema, lake, raw_dir="", workdir=str(tmp_path), days=DAYS[:1])
        counts = done.days[DAYS[0]]
        assert counts.rows_in == n == counts.kept + counts.dropped["downsampled"]
        tables.append(lake.interactions.scan().collect().sort("user"))
    kept = tables[0]
    assert kept.equals(tables[1])
    assert set(kept["sampling_rate"]) == {0.25}
    assert kept["click"].sum() == 1_000  # All of them.
    # Each of 3,000 negatives is kept with probability 1/4: 750, plus or minus three times 24.
    assert 680 < len(kept) - 1_000 < 820


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (
            ((1, 1, "a", None, ""), (2, 1, "a", None, ""), (3, None, "a", 1, ""), (DAY, 1, "a", 1, "")),
            "no rows for 1970-01-01 in the source: all 3 rows that may be theirs were dropped "
            "(2 bad_label, 1 bad_key); of the other days, 1 were committed. "
            "Look at the columns click, and correct it or the config",
        ),
        (
            ((None, 1, "a", 1, ""), (DAY, 1, "a", 1, "")),
            "no rows for 1970-01-01 in the source: all 1 rows that may be theirs were dropped (1 bad_time); "
            "of the other days, 1 were committed. Look at the time and its unit, and correct it or the config",
        ),
        (
            ((9 * DAY, 1, "a", 1, ""), (DAY, 1, "a", 1, "")),
            "no rows for 1970-01-01 in the source; of the other days, 1 were committed. "
            "Ask for days that the data has",
        ),
    ],
)
def test_a_day_whose_rows_were_all_dropped_says_why(tmp_path: Path, rows: tuple[Row, ...], says: str) -> None:
    with pytest.raises(UserError) as error:
        _run(tmp_path, Rows((rows,)))
    assert str(error.value) == says
    assert Lake(tmp_path / "lake", SCHEMA).interactions.partitions()["day"].to_list() == DAYS[1:]


def _three_units(seed: int) -> Rows:
    """Return 900 rows of two days in three units. Each repeats rows of the one before, equal or not."""
    draw = random.Random(seed)
    row = lambda: (draw.randrange(2 * DAY), draw.randrange(20), draw.choice("ab"), draw.randrange(2), "")  # noqa: E731
    parts: list[list[Row]] = []
    for _ in range(3):
        fresh = [row() for _ in range(270)]
        repeated = draw.sample(parts[-1], 20) if parts else []
        fresh += [(*each[:4], draw.choice(["", "else"])) for each in repeated]
        fresh += [(draw.randrange(DAY), None, "a", 1, ""), (DAY + 5, 3, "b", None, "")]
        parts.append(fresh)
    return Rows(tuple(map(tuple, parts)))


@pytest.mark.parametrize(("rows_per_shard", "shards"), [(250, 2), (65, 7)])
def test_a_day_is_the_same_in_one_shard_and_in_several(
    tmp_path: Path, rows_per_shard: int, shards: int
) -> None:
    source = _three_units(seed=1)
    one, in_one = _run(tmp_path / "one", source)
    several, in_several = _run(tmp_path / "several", source, rows_per_shard=rows_per_shard)
    assert in_several.days == in_one.days
    first, second = in_one.days.values()
    assert first.dropped.keys() == {"duplicate", "conflicting_duplicate", "bad_key"}
    assert second.dropped.keys() == {"duplicate", "conflicting_duplicate", "bad_label"}
    for day in DAYS:
        frames = [
            [pl.read_parquet(path) for path in lake.interactions.files(day=day)] for lake in (one, several)
        ]
        assert [len(files) for files in frames] == [1, shards]
        for file in frames[0] + frames[1]:
            assert file.equals(file.sort("event_time_us", "example_id"))
        assert pl.concat(frames[1]).sort("event_time_us", "example_id").equals(frames[0][0])
        assert one.interactions.versions([str(day)]) == several.interactions.versions([str(day)])
        statistics = [lake.statistics.scan(day=day).sort("column").collect() for lake in (one, several)]
        moments = pl.col("mean", "sd").round(12)
        assert statistics[0].with_columns(moments).equals(statistics[1].with_columns(moments))


class LosesAPiece(ReadUnit):
    def work(self, unit: Unit) -> list[tuple[None, tuple[str, Piece]]]:
        return super().work(unit)[1:] if unit.index == 1 else super().work(unit)


class LosesAUnit(ReadUnit):
    def work(self, unit: Unit) -> list[tuple[None, tuple[str, Piece]]]:
        return [] if unit.index == 2 else super().work(unit)


class DoublesAPiece(ReadUnit):
    def work(self, unit: Unit) -> list[tuple[None, tuple[str, Piece]]]:
        return super().work(unit) + super().work(unit)[:1] * (unit.index == 0)


class LosesAShard(GroupShards):
    def process(self, group: object) -> Iterator[tuple[int, ShardUnit]]:
        for number, unit in super().process(group):  # type: ignore[arg-type]
            if (unit.day, unit.number) != ("1970-01-02", 1):
                yield number, unit


@pytest.mark.parametrize(
    ("name", "step", "says"),
    [
        ("ReadUnit", LosesAPiece, r"lost (\d+) of \d+ rows, of 1970-01-01 \(read from part 1\)"),
        ("ReadUnit", LosesAUnit, "lost 1 of 3 units: part 2"),
        ("ReadUnit", DoublesAPiece, r"gave twice (\d+) of \d+ rows, of 1970-01-01 \(read from part 0\)"),
        (
            "GroupShards",
            LosesAShard,
            r"lost (\d+) of \d+ rows, of 1970-01-02 \(read from part 0, part 1, part 2\)",
        ),
    ],
)
def test_a_runner_that_loses_or_doubles_values_is_caught_and_nothing_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, step: type, says: str
) -> None:
    monkeypatch.setattr(f"tutelage.pipeline.materialize.{name}", step)
    remedy = "nothing was committed; run again with another runner, or without --beam_flag"
    with pytest.raises(UserError, match=f"^the Beam runner {says}; {remedy}$"):
        _run(tmp_path, _three_units(seed=2), rows_per_shard=200)
    assert Lake(tmp_path / "lake", SCHEMA).interactions.partitions().is_empty()
