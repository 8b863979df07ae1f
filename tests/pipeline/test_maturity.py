"""When a day is released, and which of its labels are mature by then."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from tests.pipeline.rows import DAY, Rows
from tutelage.pipeline.days import duration, released_at
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.materialize import materialize
from tutelage.pipeline.schema import Feature, History, Schema, Task

HOUR = DAY // 24
SCHEMA = Schema(
    features=(
        Feature(name="user", dtype="int64", capacity=10),
        Feature(name="item", dtype="string", capacity=10),
    ),
    tasks=(Task(name="click", label="click"),),
    key=("user", "item", "event_time_us"),
)


def _matures(after: str, **fields: object) -> Schema:
    return replace(SCHEMA, tasks=(Task(name="click", label="click", matures_after=after),), **fields)


@pytest.mark.parametrize(("text", "hours"), [("", 0), ("0h", 0), ("6h", 6), ("36h", 36), ("3d", 72)])
def test_a_duration_is_hours_or_days(text: str, hours: int) -> None:
    assert duration(text, "x") == timedelta(hours=hours)


@pytest.mark.parametrize("text", ["6", "h", "-1h", "1.5d", "3w", "6h ", "1d6h", "99999d"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UserError) as error:
        _matures(text)
    assert str(error.value) == (
        f"task 'click': matures_after is {text!r}, expected hours or days, as in '6h' or '3d'"
    )
    with pytest.raises(UserError, match=r"^schema: release_after is "):
        replace(SCHEMA, release_after=text)


def _utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone", "slice_days", "hours", "late_days", "at"),
    [
        ("UTC", 1, 6, 0, "2026-03-29 06:00"),
        ("UTC", 1, 6, 1, "2026-03-30 00:00"),  # The later of the two.
        ("UTC", 1, 30, 1, "2026-03-30 06:00"),
        ("UTC", 3, 6, 1, "2026-04-01 00:00"),
        # In the night to the 29th the clock goes from 2 to 3: six hours after midnight it is 7, and the next midnight
        # comes after 23 hours.
        ("Europe/Berlin", 1, 6, 0, "2026-03-29 05:00"),
        ("Europe/Berlin", 1, 6, 1, "2026-03-29 22:00"),
    ],
)
def test_a_day_is_released_when_its_labels_are_mature_and_its_late_events_are_in(
    zone: str, slice_days: int, hours: int, late_days: int, at: str
) -> None:
    day, wait = date(2026, 3, 28), timedelta(hours=hours)
    found = released_at(day, time_zone=zone, slice_days=slice_days, wait=wait, late_days=late_days)
    assert found == _utc(at)


@pytest.mark.parametrize(
    ("schema", "until"),
    [
        (SCHEMA, None),  # If requested it is trained on, even today or tomorrow.
        (_matures("6h"), "2026-03-29 06:00"),
        (_matures("6h", release_after="2h"), "2026-03-29 02:00"),
        (_matures("6h", release_after="0h"), "2026-03-29 00:00"),
        (replace(SCHEMA, late_days=2), "2026-03-31 00:00"),
    ],
)
def test_a_schema_says_until_when_a_day_waits(schema: Schema, until: str | None) -> None:
    day = date(2026, 3, 28)
    assert schema.waits_until(day, now=_utc("2026-03-28 12:00")) == (_utc(until) if until else None)
    if until:
        at = _utc(until)
        assert schema.waits_until(day, now=at - timedelta(seconds=1)) == at
        assert schema.waits_until(day, now=at) is None


def test_the_longer_maturity_of_two_tasks_with_one_label_counts() -> None:
    tasks = (
        Task(name="soon", label="click", matures_after="1h"),
        Task(name="later", label="click", matures_after="1d"),
    )
    schema = replace(SCHEMA, tasks=tasks, release_after="1h")
    assert schema.maturity == {"click": timedelta(days=1)}
    assert schema.masked == ("soon", "later")


def test_a_label_that_matures_must_not_be_part_of_the_key() -> None:
    with pytest.raises(UserError, match="key column 'click' is a label that matures later; expected columns"):
        _matures("1h", key=("user", "click"))


def test_a_negative_number_of_late_days_is_refused() -> None:
    with pytest.raises(UserError, match=r"^schema: late_days is -1, expected at least 0$"):
        replace(SCHEMA, late_days=-1)


ROWS = Rows(
    (
        (
            (0, 1, "a", 1, ""),
            (17 * HOUR, 2, "a", None, ""),
            (18 * HOUR, 3, "a", 0, ""),  # 6 hours before the end of the day: just mature then.
            (18 * HOUR + 1, 4, "a", 0, ""),  # A microsecond later.
            (23 * HOUR, 5, "a", 1, ""),
            (23 * HOUR, 6, "a", None, ""),
        ),
    )
)


def _made(root: Path, schema: Schema, now: datetime) -> Lake:
    lake = Lake(root, schema)
    lake.create()
    materialize(ROWS, schema, lake, raw_dir="", workdir="", days=[date(1970, 1, 1)], now=now)
    return lake


def test_a_label_that_is_not_mature_becomes_a_null_whatever_its_value_and_is_counted(tmp_path: Path) -> None:
    lake = _made(tmp_path, _matures("6h", release_after="0h"), datetime(1970, 1, 2, tzinfo=UTC))
    rows = lake.interactions.scan().collect().sort("user")
    assert rows.select("user", "click").rows() == [(1, 1), (3, 0), (4, None), (5, None), (6, None)]
    counts = lake.interactions.counts()["1970-01-01"]
    assert (counts["kept"], counts["masked"]) == (5, {"click": 3})
    assert counts["dropped"] == {"bad_label": 1}  # User 2, who should have a label.


def test_long_after_the_day_a_label_that_matures_gives_the_same_rows_as_one_that_does_not(
    tmp_path: Path,
) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    lakes = [_made(tmp_path / f"{i}", schema, now) for i, schema in enumerate((SCHEMA, _matures("6h")))]
    one, other = (lake.interactions for lake in lakes)
    assert one.versions(["1970-01-01"]) == other.versions(["1970-01-01"])
    assert other.counts()["1970-01-01"]["dropped"] == {"bad_label": 2}
    assert other.counts()["1970-01-01"]["masked"] == {}


def test_an_item_that_may_still_be_clicked_is_not_in_a_history(tmp_path: Path) -> None:
    schema = _matures("6h", release_after="0h", user="user", histories=(History(of="item", where="click"),))
    source = Rows((((0, 1, "a", 1, ""), (23 * HOUR, 1, "b", 1, ""), (DAY + HOUR, 1, "c", 0, "")),))
    lake = Lake(tmp_path, schema)
    lake.create()
    days = [date(1970, 1, 1), date(1970, 1, 2)]
    materialize(
        source, schema, lake, raw_dir="", workdir="", days=days, now=datetime(1970, 1, 2, 2, tzinfo=UTC)
    )
    assert lake.histories
    (items,) = lake.histories.scan(day=days[1]).collect()["history"].to_list()
    assert items == ["a"]  # Only this one was mature at that time.
    assert pl.Series(lake.interactions.scan().collect()["click"]).null_count() == 2
