"""Side tables: each event gets what was known at its time, and nothing that became known later."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tests.pipeline.sources import bucket
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.materialize import Materialized, materialize
from tutelage.pipeline.quality import QualityConfig
from tutelage.pipeline.schema import Feature, Schema, Task
from tutelage.pipeline.sources import side as side_module
from tutelage.pipeline.sources.files import Files
from tutelage.pipeline.sources.side import Side

SCHEMA = Schema(
    features=(
        Feature(name="user", dtype="int64", capacity=10),
        Feature(name="video", dtype="string", capacity=10),
        Feature(name="age", dtype="float32"),
        Feature(name="author", dtype="int64", capacity=10),
        Feature(name="country", dtype="string", capacity=10),
    ),
    tasks=(Task(name="click", label="click"),),
    key=("user", "event_time_us"),
    time_zone="Europe/Berlin",
)
USERS = Side(
    name="users",
    pattern="users/*.parquet",
    key=(("user", "uid"),),
    columns=(("age", "years"),),
    valid_from="since",
)
VIDEOS = Side(
    name="videos",
    pattern="videos/*.jsonl",
    key=(("video", "id"),),
    columns=(("author", "by"),),
    valid_from="since",
    time_unit="s",
)
AUTHORS = Side(
    name="authors",
    pattern="authors/*.csv",
    key=(("author", "id"),),
    columns=(("country", "country"),),
    valid_from="since",
)
DAY = date(2026, 1, 2)


def _at(text: str, day: date = DAY) -> datetime:
    return datetime.fromisoformat(f"{day} {text}").replace(tzinfo=UTC)


def _files(*sides: Side, **fields: Any) -> Files:
    return Files(pattern="events/*.parquet", schema=SCHEMA, event_time="ts", sides=sides, **fields)


def _event(ts: datetime | None, user: int | None = 1, **more: Any) -> dict[str, Any]:
    return {
        "user": user,
        "video": None,
        "age": None,
        "author": None,
        "country": None,
        "click": 0,
        "ts": ts,
    } | more


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pl.DataFrame(rows, infer_schema_length=None)
    write = {".parquet": frame.write_parquet, ".csv": frame.write_csv, ".jsonl": frame.write_ndjson}
    write[path.suffix](path)


def _write_events(folder: Path, rows: list[dict[str, Any]], name: str = "a") -> None:
    nulls = {"video": pl.String, "age": pl.Float32, "author": pl.Int64, "country": pl.String}
    (folder / "events").mkdir(exist_ok=True)
    pl.DataFrame(rows, schema_overrides=nulls).write_parquet(folder / f"events/{name}.parquet")


def _users(*rows: tuple[Any, Any, Any]) -> list[dict[str, Any]]:
    return [{"uid": uid, "years": years, "since": since} for uid, years, since in rows]


def _read(source: Files, raw_dir: Path | str, days: list[date] | None = None) -> pl.DataFrame:
    units = source.units(str(raw_dir), workdir="", days=days or [])
    return pl.concat([frame for unit in units for frame in source.read(unit)])


def _materialize(
    folder: Path, source: Files, days: list[date], lake: Path
) -> tuple[Materialized, pl.DataFrame]:
    tables = Lake(lake, SCHEMA)
    tables.create()
    # Columns that a test does not need are all null.
    quality = QualityConfig(nulls_rise=1.0)
    done = materialize(
        source, SCHEMA, tables, raw_dir=str(folder), workdir=str(lake), days=days, quality=quality
    )
    return done, tables.interactions.scan().collect().sort("event_time_us", "user")


def test_an_event_gets_the_newest_row_of_its_key_that_was_valid_then(tmp_path: Path) -> None:
    _write(
        tmp_path / "users/a.parquet",
        _users((1, 30, _at("10:00")), (1, 31, _at("12:00")), (2, 40, _at("00:00")), (1, 29, _at("09:00"))),
    )
    events = [  # They are not in order of time.
        (_event(_at("13:00")), 31),
        (_event(_at("12:00")), 31),
        (_event(_at("11:59:59.999999")), 30),
        (_event(_at("08:59")), None),
        (_event(_at("13:00"), user=2), 40),
        (_event(_at("13:00"), user=3), None),
        (_event(_at("13:00"), user=None), None),
        (_event(None), None),
    ]
    _write_events(tmp_path, [event for event, _ in events])
    frame = _read(_files(USERS), tmp_path)
    assert frame["age"].to_list() == [age for _, age in events]
    assert frame["user"].to_list() == [event["user"] for event, _ in events]
    assert frame["dropped"].to_list() == [None] * 7 + ["bad_time"]


HOURS = st.integers(0, 71)


@settings(max_examples=40)
@given(
    events=st.lists(st.tuples(st.integers(0, 2), HOURS), min_size=1, max_size=8),
    rows=st.lists(st.tuples(st.integers(0, 2), HOURS), min_size=1, max_size=12),
    enough=st.sampled_from([1, 3, 1 << 19]),
    max_age_days=st.sampled_from([None, 1]),
    first=st.integers(0, 2),
)
def test_every_event_gets_what_a_search_through_all_rows_finds(
    tmp_path_factory: pytest.TempPathFactory,
    events: list[tuple[int, int]],
    rows: list[tuple[int, int]],
    enough: int,
    max_age_days: int | None,
    first: int,
) -> None:
    folder = tmp_path_factory.getbasetemp() / "search"
    start = _at("00:00") - timedelta(hours=1)  # Midnight in Berlin.
    folder.mkdir(exist_ok=True)
    _write_events(folder, [_event(start + timedelta(hours=hour), user=user) for user, hour in events])
    _write(
        folder / "users/a.parquet",
        _users(*((user, i, start + timedelta(hours=hour)) for i, (user, hour) in enumerate(rows))),
    )
    days = [DAY + timedelta(days=i) for i in range(first, 3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(side_module, "_ROWS", enough)
        source = _files(replace(USERS, max_age_days=max_age_days))
        unit, *_ = source.units(str(folder), workdir="", days=days)
        frames = [] if unit.rows_outside else list(source.read(unit))
    for frame in frames:
        for (user, hour), age in zip(events, frame["age"], strict=True):
            if hour < 24 * first:
                continue  # The day is not requested.
            known = [
                (since, -i)
                for i, (whose, since) in enumerate(rows)
                if whose == user
                and since <= hour
                and (max_age_days is None or hour - since <= 24 * max_age_days)
            ]
            assert age == (-max(known)[1] if known else None)


def test_a_day_that_is_made_again_gets_the_same_values_as_the_first_time(tmp_path: Path) -> None:
    second = DAY + timedelta(days=1)
    for day in (DAY, second):
        _write_events(
            tmp_path, [_event(_at(f"{hour:02}:00", day), user=hour % 3) for hour in range(3, 20)], str(day)
        )
        _write(
            tmp_path / f"users/{day}.parquet",
            _users(*((i, 10 * day.day + i, _at("08:00", day)) for i in (0, 1))),
        )
        if day == DAY:
            _, at_first = _materialize(tmp_path, _files(USERS), [DAY], tmp_path / "first")
    # Users 0, 1, 2, 0, … at 03:00, 04:00, …
    assert at_first["age"].to_list()[:9] == [None] * 6 + [20.0, 21.0, None]
    _, later = _materialize(tmp_path, _files(USERS), [DAY, second], tmp_path / "later")
    assert_frame_equal(later.filter(day=DAY), at_first)
    assert set(later.filter(day=second)["age"]) == {None, 20.0, 21.0, 30.0, 31.0}


def test_bad_rows_are_left_out_and_counted_once_per_job(tmp_path: Path) -> None:
    noon = _at("12:00")
    for i in range(3):
        _write_events(tmp_path, [_event(noon + timedelta(minutes=i), user=1 + i % 2)], name=str(i))
    rows = [
        *_users(("1", "30", "2026-01-02T10:00:00Z"), ("1", "30", "2026-01-02T10:00:00Z")),
        *_users(("1", "99", "2026-01-02T10:00:00Z"), ("2", "old", "2026-01-02T10:00:00Z")),
        *_users(("2", "40", "soon"), ("", "50", "2026-01-02"), ("2", "", "2026-01-02")),
        *_users(("1", "98", "2026-01-04T00:00:00Z"), ("1", "98", "2026-01-04T00:00:00Z")),  # Of a later day.
    ]
    _write(tmp_path / "users/a.csv", rows)
    source = _files(replace(USERS, pattern="users/*.csv"))
    done, frame = _materialize(tmp_path, source, [DAY], tmp_path / "lake")
    assert frame["age"].to_list() == [30.0, None, 30.0]
    assert done.elsewhere == {
        "users_bad_age": 1,
        "users_bad_key": 1,
        "users_bad_time": 1,
        "users_conflicting_duplicate": 1,
        "users_duplicate": 1,
    }
    assert done.rows_in == 3 + 5


def test_a_snapshot_named_after_the_day_that_it_sums_up_is_known_a_day_later(tmp_path: Path) -> None:
    # The dates are those of Berlin, where midnight is 23:00 in UTC.
    since = [date(2026, 1, 1), date(2026, 1, 2)]
    _write(tmp_path / "users/a.parquet", _users(*((1, day.day, day) for day in since)))
    _write_events(tmp_path, [_event(_at("22:59")), _event(_at("23:00"))])
    berlin = replace(USERS, time_zone="Europe/Berlin")
    assert _read(_files(berlin), tmp_path)["age"].to_list() == [2.0, 2.0]
    assert _read(_files(replace(berlin, lag_days=1)), tmp_path)["age"].to_list() == [1.0, 2.0]


def test_a_worker_holds_the_newest_row_of_a_key_and_the_rows_of_its_slices(tmp_path: Path) -> None:
    days = [DAY + timedelta(days=i) for i in range(-20, 20)]
    for day in days:
        _write(
            tmp_path / f"users/{day}.parquet",
            _users(*((user, day.day, _at("09:00", day)) for user in (1, 2))),
        )
    start, end = (int(_at("00:00", DAY + timedelta(days=i)).timestamp()) * 1_000_000 for i in (0, 2))
    source = _files(USERS)
    table, bad = USERS.load(str(tmp_path), source.columns(), start, end)
    assert table.select("user", "age").rows() == [(user, age) for age in (1, 2, 3) for user in (1, 2)]
    assert not bad
    # A file whose times are all later, or too old, is not read, so its damage is not found.
    for day in (days[0], days[-1]):
        path = tmp_path / f"users/{day}.parquet"
        data = path.read_bytes()
        path.write_bytes(data[:4] + b"?" * 40 + data[44:])
    recent = replace(USERS, max_age_days=2)
    assert recent.load(str(tmp_path), source.columns(), start, end)[0].height == 6
    with pytest.raises(UserError, match=rf"^cannot read {tmp_path}/users/{days[0]}.parquet: "):
        USERS.load(str(tmp_path), source.columns(), start, end)


def test_a_table_may_be_joined_by_a_feature_of_the_table_before_it(tmp_path: Path) -> None:
    stamp = int(_at("09:00").timestamp())
    _write(
        tmp_path / "videos/a.jsonl",
        [{"id": "a", "by": 7, "since": stamp}, {"id": "b", "by": 8, "since": stamp}],
    )
    _write(tmp_path / "authors/a.csv", [{"id": 7, "country": "日本", "since": "2026-01-02T11:00:00Z"}])
    rows = [("a", "10:00"), ("a", "12:00"), ("b", "12:00")]
    _write_events(tmp_path, [_event(_at(clock), video=video) for video, clock in rows])
    frame = _read(_files(VIDEOS, AUTHORS), tmp_path)
    assert frame.select("author", "country").rows() == [(7, None), (7, "日本"), (8, None)]


def test_a_table_without_dates_holds_for_all_events(tmp_path: Path) -> None:
    rows = [("1", "30"), ("2", "old"), ("2", "40"), ("1", "30"), ("2", "41"), ("", "50")]
    _write(tmp_path / "users/a.csv", [{"uid": uid, "years": years} for uid, years in rows])
    _write_events(tmp_path, [_event(_at("12:00", DAY + timedelta(days=i)), user=1 + i % 3) for i in range(3)])
    source = _files(replace(USERS, pattern="users/*.csv", valid_from=""))
    done, frame = _materialize(
        tmp_path, source, [DAY + timedelta(days=i) for i in range(3)], tmp_path / "lake"
    )
    assert frame["age"].to_list() == [30.0, 40.0, None]
    bad = {"users_bad_age": 1, "users_bad_key": 1, "users_conflicting_duplicate": 1, "users_duplicate": 1}
    assert done.elsewhere == bad
    # As Parquet, and joined by a column that another table gives.
    _write(tmp_path / "users/a.parquet", [{"uid": 1, "years": 30}])
    assert _read(_files(replace(USERS, valid_from="")), tmp_path)["age"].to_list() == [30.0, None, None]


def test_events_and_their_side_tables_may_be_remote(tmp_path: Path) -> None:
    _write(tmp_path / "users/a.parquet", _users((1, 30, _at("10:00"))))
    _write_events(tmp_path, [_event(_at("13:00"))])
    store = bucket.make()
    for name in ("users", "events"):
        store.pipe(f"/logs/{name}/a.parquet", (tmp_path / name / "a.parquet").read_bytes())
    assert _read(_files(USERS), "bucket://logs", [DAY])["age"].to_list() == [30.0]


def test_a_side_table_that_is_missing_is_named(tmp_path: Path) -> None:
    _write_events(tmp_path, [_event(_at("13:00"))])
    with pytest.raises(UserError, match=r"^no files users/\*\.parquet in "):
        _read(_files(USERS), tmp_path)
    _write(tmp_path / "users/a.parquet", [{"uid": 1, "years": 30}])
    with pytest.raises(
        UserError,
        match=r"users/a.parquet has no column 'since', which is read as the time; it has 'uid', 'years'",
    ):
        _read(_files(USERS), tmp_path)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "Users"}, "Side: name is 'Users', expected lower-case letters, digits or _"),
        ({"pattern": "users/*.xml"}, r"Side 'users': pattern is 'users/\*\.xml', expected a path below"),
        ({"time_unit": "h"}, "Side 'users': time_unit is 'h', expected 's', 'ms'"),
        ({"time_zone": "Mars"}, "Side 'users': time_zone is 'Mars', expected an IANA name"),
        ({"key": ()}, r"Side 'users': key is \(\), columns .*; expected at least one pair each"),
        ({"lag_days": -1}, "Side 'users': lag_days is -1 and max_age_days None, expected at least 0, and"),
        ({"max_age_days": 0}, "Side 'users': lag_days is 0 and max_age_days 0, expected at least 0, and"),
        (
            {"valid_from": "", "lag_days": 1},
            "lag_days is 1 and max_age_days None, and there is no valid_from that they count from",
        ),
        (
            {"columns": (("click", "x"),)},
            "columns has 'click', expected features that nothing else gives, each once",
        ),
        (
            {"columns": (("user", "x"),)},
            "columns has 'user', expected .* each once: video, age, author, country",
        ),
        ({"columns": (("age", "x"), ("age", "y"))}, "columns has 'age', expected .* each once"),
        (
            {"key": (("author", "x"),)},
            "key has 'author', expected features of single values .*give: user, video",
        ),
    ],
)
def test_fields_are_checked(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        _files(replace(USERS, **fields), VIDEOS, renamed=(("user", "uid"),))


def test_two_sides_must_not_have_the_same_name() -> None:
    with pytest.raises(UserError, match="Files: two sides are named 'users'; rename one of them"):
        _files(USERS, replace(VIDEOS, name="users"))
