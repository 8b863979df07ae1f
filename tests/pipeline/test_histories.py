"""Histories: what each user of a day saw on the days before it, and nothing of that day or later."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.pipeline.rows import DAY, Row, Rows
from tutelage.pipeline import histories, materialize
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.quality import QualityConfig
from tutelage.pipeline.schema import Feature, History, Schema, Task

SCHEMA = Schema(
    features=(
        Feature(name="user", dtype="int64", capacity=10),
        Feature(name="item", dtype="string", capacity=10),
    ),
    tasks=(Task(name="click", label="click"),),
    key=("event_time_us",),
    user="user",
    histories=(
        History(name="clicked", of="item", length=3, days=2, where="click"),
        History(name="met", of="item", length=2, days=1),
    ),
)
DAYS = [date(1970, 1, day) for day in range(1, 5)]
ROWS: tuple[Row, ...] = (
    # Day 1: user 1 clicks a and b and does not c; user 2 clicks d; nobody clicks e; user 1 something unknown.
    (1, 1, "a", 1, ""),
    (3, 1, "c", 0, ""),
    (2, 1, "b", 1, ""),
    (4, 2, "d", 1, ""),
    (5, None, "e", 1, ""),
    (6, 1, None, 1, ""),  # type: ignore[arg-type]
    # Day 2: user 1 clicks f, then g; user 3 is new.
    (DAY + 1, 1, "f", 1, ""),
    (DAY + 2, 1, "g", 1, ""),
    (DAY + 3, 3, "h", 0, ""),
    # Day 3: user 1 twice, user 2, and nobody.
    (2 * DAY + 1, 1, "i", 0, ""),
    (2 * DAY + 2, 1, "i", 1, ""),
    (2 * DAY + 3, 2, "i", 1, ""),
    (2 * DAY + 4, None, "i", 0, ""),
    # Day 4: user 2 alone.
    (3 * DAY + 1, 2, "j", 0, ""),
)
MADE = [
    # day, user, clicked (up to 3 of two days), seen (up to 2 of one day); newest first.
    (DAYS[0], 1, [], []),
    (DAYS[0], 2, [], []),
    (DAYS[1], 1, ["b", "a"], ["c", "b"]),
    (DAYS[1], 3, [], []),
    (DAYS[2], 1, ["g", "f", "b"], ["g", "f"]),
    (DAYS[2], 2, ["d"], []),
    (DAYS[3], 2, ["i"], ["i"]),
]


def _materialize(folder: Path, rows: Sequence[Row], days: Sequence[date] = DAYS) -> Lake:
    lake = Lake(folder, SCHEMA)
    lake.create()
    # Days of a few rows differ too much for a quality gate.
    quality = QualityConfig(trailing_days=9, min_days=9)
    source = Rows((tuple(rows),))
    materialize.materialize(source, SCHEMA, lake, raw_dir="", workdir="", days=days, quality=quality)
    return lake


def _made(lake: Lake) -> list[tuple[Any, ...]]:
    assert lake.histories
    return lake.histories.scan().select("day", "user", "clicked", "met").sort("day", "user").collect().rows()


def test_each_user_has_the_newest_items_of_the_days_before_newest_first(tmp_path: Path) -> None:
    assert _made(_materialize(tmp_path, ROWS)) == MADE


def test_days_materialised_one_by_one_in_any_order_have_the_same_histories(tmp_path: Path) -> None:
    for day in (DAYS[2], DAYS[0], DAYS[3], DAYS[1]):
        lake = _materialize(tmp_path, ROWS, [day])
    assert _made(lake) == MADE


def test_a_day_s_histories_hold_nothing_of_the_day_itself_or_later(tmp_path: Path) -> None:
    _materialize(tmp_path, ROWS)
    # All of day 3 and day 4 is now another item, and all is clicked.
    changed = [row if row[0] < 2 * DAY else (*row[:2], "z", 1, "") for row in ROWS if row[0] is not None]
    made = _made(_materialize(tmp_path, changed, DAYS[2:]))
    assert made[:-1] == MADE[:-1]
    assert made[-1] == (DAYS[3], 2, ["z"], ["z"])


def test_a_replaced_day_rebuilds_the_histories_that_depend_on_it_and_no_others(tmp_path: Path) -> None:
    lake = _materialize(tmp_path, ROWS)
    assert lake.histories
    before = lake.histories.attempts(DAYS)
    changed = [(*row[:2], "z", *row[3:]) if row[:2] == (DAY + 1, 1) else row for row in ROWS]
    lake = _materialize(tmp_path, changed, [DAYS[1]])
    z = {"f": "z"}
    assert _made(lake) == [
        (day, user, [z.get(i, i) for i in clicked], [z.get(i, i) for i in met])
        for day, user, clicked, met in MADE
    ]
    after = lake.histories.attempts(DAYS)
    # The day itself, because it may have other users, and the two days after it.
    assert [day for day in DAYS if after[day] != before[day]] == DAYS[1:]


def test_a_job_that_was_killed_before_its_histories_leaves_them_stale_and_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(histories, "build", lambda *args, **kwargs: [])
        lake = _materialize(tmp_path, ROWS)
    assert lake.stale_histories(DAYS) == DAYS
    says = (
        f"day 1970-01-02 of {tmp_path / 'histories'} is missing, or older than the days that it is made from; "
        "run tutelage-run, or tutelage-materialize for that day"
    )
    with pytest.raises(UserError, match=f"^{re.escape(says)}$"):
        lake.with_histories(lake.interactions.scan(day=DAYS[1]), DAYS[1])
    assert histories.build(SCHEMA, lake, days=DAYS) == DAYS
    assert lake.stale_histories(DAYS) == []
    assert histories.build(SCHEMA, lake, days=DAYS) == []
    assert _made(lake) == MADE


def test_histories_are_the_same_where_a_days_users_are_in_several_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(histories, "build", lambda *args, **kwargs: [])
        lake = _materialize(tmp_path, ROWS)
    assert lake.histories
    # The first day has six rows, and the second follows it.
    histories.build(SCHEMA, lake, days=DAYS, rows_per_shard=3)
    assert [len(lake.histories.files(day=day)) for day in DAYS] == [2, 2, 2, 2]
    assert _made(lake) == MADE


class LosesAShare(histories.BuildShare):
    def process(self, group: tuple[int, Iterable[histories.HistoryUnit]]) -> None:
        if group[0] != 2:
            super().process(group)


def test_a_runner_that_loses_a_share_of_the_users_is_caught_and_no_day_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(histories, "BuildShare", LosesAShare)
    says = "the Beam runner lost 1 of 4 units: the histories of 1970-01-03; nothing was committed; "
    with pytest.raises(UserError, match=f"^{says}"):
        _materialize(tmp_path, ROWS)
    lake = Lake(tmp_path, SCHEMA)
    assert lake.histories
    assert lake.histories.partitions().is_empty()


def test_rows_keep_their_order_beside_the_histories_of_their_users(tmp_path: Path) -> None:
    lake = _materialize(tmp_path, ROWS)
    rows = lake.interactions.scan(day=DAYS[2]).sort("event_time_us", descending=True)
    frame = lake.with_histories(rows, DAYS[2]).collect()
    of = pl.Series("user", [2])
    some = lake.with_histories(rows.filter(user=2), DAYS[2], of=of).collect()
    assert some.select("user", "clicked", "met").rows() == [(2, ["d"], [])]
    assert frame.select("user", "clicked", "met").rows() == [
        (None, None, None),
        (2, ["d"], []),
        (1, ["g", "f", "b"], ["g", "f"]),
        (1, ["g", "f", "b"], ["g", "f"]),
    ]


def test_of_two_rows_at_the_same_time_the_greater_example_id_is_newer(tmp_path: Path) -> None:
    schema = replace(SCHEMA, key=("item", "event_time_us"))
    lake = Lake(tmp_path, schema)
    lake.create()
    source = Rows((((1, 1, "a", 1, ""), (1, 1, "b", 1, ""), (1, 1, "c", 1, ""), (DAY, 1, "d", 0, "")),))
    materialize.materialize(source, schema, lake, raw_dir="", workdir="", days=DAYS[:2])
    by_id = lake.interactions.scan(day=DAYS[0]).sort("example_id", descending=True).collect()["item"]
    assert lake.histories
    assert lake.histories.scan(day=DAYS[1]).collect()["clicked"].to_list() == [by_id.to_list()]


def test_a_table_of_interactions_elsewhere_has_its_histories_beside_it(tmp_path: Path) -> None:
    lake = _materialize(tmp_path / "there", ROWS)
    other = Lake(tmp_path / "here", SCHEMA, interactions=lake.interactions.path)
    other.create()
    assert _made(other) == MADE


def test_a_schema_without_histories_has_no_table_of_them(tmp_path: Path) -> None:
    lake = Lake(tmp_path, replace(SCHEMA, histories=()))
    lake.create()
    assert lake.histories is None
    assert lake.stale_histories(DAYS) == []
    assert not (tmp_path / "histories").exists()
    rows = pl.LazyFrame({"user": [1]})
    assert lake.with_histories(rows, DAYS[0]) is rows
