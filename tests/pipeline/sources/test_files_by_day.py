"""Files with the day in their path: which are opened, and which of their rows are late, too late or early."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.pipeline.days import slice_of
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.materialize import materialize
from tutelage.pipeline.schema import Feature, Schema, Task
from tutelage.pipeline.sources.files import Files

SCHEMA = Schema(
    features=(Feature(name="user", dtype="int64", capacity=10),),
    tasks=(Task(name="click", label="click"),),
    key=("user", "event_time_us"),
)
DAYS = [date(2026, 1, day) for day in range(1, 8)]
NOON = timedelta(hours=12)


def _files(late_days: int = 0, **fields: Any) -> Files:
    given = {"pattern": "**/*.jsonl", "day_in_path": "day=%Y-%m-%d", "event_time": "ts", "time_unit": "s"}
    return Files(**{"schema": replace(SCHEMA, late_days=late_days)} | given | fields)


def _write(folder: Path, day: date, *events: tuple[int, datetime]) -> None:
    """Write a file of the day with the events of these users."""
    path = folder / f"day={day}" / "part.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ({"user": user, "click": 1, "ts": int(at.timestamp())} for user, at in events)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _at(day: date, after: timedelta = NOON) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + after


def _read(source: Files, folder: Path, days: Sequence[date]) -> pl.DataFrame:
    units = source.units(str(folder), workdir="", days=days)
    return pl.concat([frame for unit in units for frame in source.read(unit)])


def test_only_files_of_the_requested_days_and_of_the_late_days_after_them_are_opened(tmp_path: Path) -> None:
    for day in DAYS:
        _write(tmp_path, day, (1, _at(day)))
    # Files of other days need not even be files of this kind.
    (tmp_path / "day=2026-01-01/part.jsonl").write_bytes(b"\xff")
    (tmp_path / "day=2026-01-07/part.jsonl").write_bytes(b"\xff")
    units = _files(late_days=2).units(str(tmp_path), workdir="", days=[DAYS[1], DAYS[3]])
    assert [(unit.index, unit.day) for unit in units] == [(i, DAYS[i + 1]) for i in range(5)]
    assert [unit.day for unit in _files().units(str(tmp_path), workdir="", days=DAYS[2:3])] == DAYS[2:3]


def test_a_slice_has_the_files_of_all_its_days(tmp_path: Path) -> None:
    for day in DAYS:
        _write(tmp_path, day, (1, _at(day)))
    schema = replace(SCHEMA, slice_days=3, late_days=1)
    start = slice_of(DAYS[4], slice_days=3)
    assert start == DAYS[3]
    units = _files(schema=schema).units(str(tmp_path), workdir="", days=[start])
    assert [unit.day for unit in units] == DAYS[
        3:
    ]  # The fourth to the sixth day, and the seventh for late rows.
    read = _read(_files(schema=schema), tmp_path, [start])
    assert (
        read["dropped"].null_count() == 4
    )  # None is early or too late: a row is late only when its slice is over.


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("%Y/%m/%d", "2026/01/03/a.jsonl"),
        ("%d.%m.%Y", "03.01.2026/a.jsonl"),
        ("events-%Y%m%d", "x/events-2026010317.jsonl"),
        ("%Y%m%d", "20260103/20260104.jsonl"),  # The first match counts.
    ],
)
def test_a_day_is_read_from_the_path_below_the_raw_folder(tmp_path: Path, pattern: str, path: str) -> None:
    raw = tmp_path / "day=2020-01-01/2020/01/01"
    (raw / path).parent.mkdir(parents=True)
    (raw / path).write_text(json.dumps({"user": 1, "click": 1, "ts": 0}) + "\n")
    (unit,) = _files(day_in_path=pattern).units(str(raw), workdir="", days=[DAYS[2]])
    assert unit.day == DAYS[2]


def test_a_path_without_a_day_is_named(tmp_path: Path) -> None:
    for name in ("a.jsonl", "day=2026-02-30.jsonl"):
        (tmp_path / name).touch()
        with pytest.raises(
            UserError, match=rf"^{name} does not name a day in the form of day_in_path, 'day=%Y-%m-%d'; check"
        ):
            _files().units(str(tmp_path), workdir="", days=DAYS)
        (tmp_path / name).unlink()


def test_days_without_a_file_are_named(tmp_path: Path) -> None:
    _write(tmp_path, DAYS[0], (1, _at(DAYS[0])))
    with pytest.raises(
        UserError, match=r"are of 2026-01-03 to 2026-01-04 by day_in_path, .* ask for days that"
    ):
        _files(late_days=1).units(str(tmp_path), workdir="", days=DAYS[2:4])


@pytest.mark.parametrize("pattern", ["%Y-%m", "%Y-%m-%d/%d", "day"])
def test_a_pattern_without_a_day_is_refused(pattern: str) -> None:
    with pytest.raises(UserError, match=r"^Files: day_in_path is '.*', expected each of %Y, %m and %d once"):
        _files(day_in_path=pattern)


def test_late_rows_are_kept_and_counted_up_to_the_horizon_and_dropped_beyond(tmp_path: Path) -> None:
    raw, source = tmp_path / "raw", _files(late_days=2)
    _write(raw, DAYS[0], (1, _at(DAYS[0])), (2, _at(DAYS[1])))  # The second one is a day early.
    _write(raw, DAYS[1], (3, _at(DAYS[1])), (4, _at(DAYS[0])))
    _write(raw, DAYS[2], (5, _at(DAYS[0])), (3, _at(DAYS[1])), (6, _at(DAYS[2])))  # User 3 is sent twice.
    _write(raw, DAYS[3], (7, _at(DAYS[0])))
    lake = Lake(tmp_path / "lake", source.schema)
    lake.create()

    def made(*days: date) -> dict[date, list[int]]:
        materialize(source, source.schema, lake, raw_dir=str(raw), workdir=str(tmp_path), days=days)
        rows = {day: lake.interactions.scan(day=day).collect()["user"].sort().to_list() for day in days}
        return {day: users for day, users in rows.items() if users}

    assert made(*DAYS[:2]) == {DAYS[0]: [1, 4, 5], DAYS[1]: [3]}
    first, second = (lake.interactions.counts()[str(day)] for day in DAYS[:2])
    # The horizon of the second day reaches the file of the fourth day, in which user 7 is a day too late.
    assert (first["rows_in"], first["kept"], first["late"]) == (4, 3, 2)
    assert first["dropped"] == {"too_late": 1}
    assert (second["rows_in"], second["kept"], second["late"]) == (3, 1, 0)
    assert second["dropped"] == {"duplicate": 1, "early": 1}
    # The result is the same day by day.
    versions = lake.interactions.versions([str(day) for day in DAYS[:2]])
    assert made(DAYS[0]) | made(DAYS[1]) == {DAYS[0]: [1, 4, 5], DAYS[1]: [3]}
    assert lake.interactions.versions([str(day) for day in DAYS[:2]]) == versions


ZONES = ["UTC", "Asia/Shanghai", "America/Los_Angeles", "Europe/Berlin", "Pacific/Kiritimati"]


@settings(max_examples=60)
@given(
    written=st.lists(
        st.tuples(st.integers(0, 6), st.integers(-4 * 24, 11 * 24)), min_size=1, max_size=12
    ),  # The day of the file, and hours since the start of the first day.
    asked=st.sets(st.sampled_from(DAYS), min_size=1),
    zones=st.tuples(st.sampled_from(ZONES), st.sampled_from(ZONES)),
    late_days=st.integers(0, 3),
    slice_days=st.sampled_from([1, 1, 2, 3]),
)
def test_a_row_is_kept_by_its_file_and_its_own_day_whatever_days_are_requested(
    tmp_path_factory: pytest.TempPathFactory,
    written: list[tuple[int, int]],
    asked: set[date],
    zones: tuple[str, str],
    late_days: int,
    slice_days: int,
) -> None:
    folder = tmp_path_factory.mktemp("raw")
    ours, theirs = map(ZoneInfo, zones)
    by_file: dict[date, list[tuple[int, datetime]]] = {}
    expected: dict[date, set[int]] = {}
    wanted = {slice_of(day, slice_days=slice_days) for day in asked}
    for user, (file, hours) in enumerate(written):
        at = _at(DAYS[0], timedelta(hours=hours))
        by_file.setdefault(DAYS[file], []).append((user, at))
        # The days that the file's own day touches in our time zone, found hour by hour.
        start = datetime.combine(DAYS[file], datetime.min.time(), theirs).astimezone(UTC)
        touched = {(start + timedelta(hours=h)).astimezone(ours).date() for h in range(24)}
        day = slice_of(at.astimezone(ours).date(), slice_days=slice_days)
        over = day + timedelta(days=slice_days - 1)
        if day <= max(touched) and min(touched) <= over + timedelta(days=late_days):
            expected.setdefault(day, set()).add(user)
    for day, events in by_file.items():
        _write(folder, day, *events)
    schema = replace(SCHEMA, late_days=late_days, slice_days=slice_days, time_zone=zones[0])
    source = _files(schema=schema, time_zone=zones[1])
    try:
        rows = _read(source, folder, sorted(wanted))
    except UserError:  # No file can hold a row of these days.
        assert not wanted & expected.keys()
        return
    rows = rows.filter(pl.col("dropped").is_null())
    found: dict[date, set[int]] = {}
    for user, us in rows.select("user", "event_time_us").iter_rows():
        day = datetime.fromtimestamp(us / 1_000_000, ours).date()
        found.setdefault(slice_of(day, slice_days=slice_days), set()).add(user)
    assert {day: found.get(day) for day in wanted} == {day: expected.get(day) for day in wanted}
