"""What tutelage-init makes of logs of several kinds, counted by hand on logs of a few hundred rows."""

import gzip
import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import write_deltalake

from tests.reading_logs import write_reading_logs
from tutelage.launch.config import load
from tutelage.launch.draft.draft import Draft, draft
from tutelage.launch.draft.tables import sample
from tutelage.launch.draft.write import code, write
from tutelage.pipeline import Feature, Negatives, Side, Task, UserError
from tutelage.pipeline.sources.store import find

START = datetime(2026, 3, 2, tzinfo=UTC)  # a Monday
ROWS = 800


def _log(days: int = 8, rows: int = ROWS, **more: list[object]) -> pl.DataFrame:
    """Return rows evenly spread over the days: 40 users, 25 items, and a click in every fourth row of a user."""
    step = timedelta(days=days) / rows
    return pl.DataFrame(
        {
            "user_id": [row % 40 for row in range(rows)],
            "item_id": [row * 7 % 25 for row in range(rows)],
            "click": [int(row // 40 % 4 == 0) for row in range(rows)],
            "ts": [int((START + step * row).timestamp()) for row in range(rows)],
            **more,
        }
    )


def _draft(folder: Path, log: pl.DataFrame, name: str = "events.csv", pattern: str = "") -> Draft:
    folder.mkdir(exist_ok=True)
    log.write_csv(folder / name)
    return draft(str(folder), pattern)


def _features(found: Draft) -> Mapping[str, Feature]:
    return {feature.name: feature for feature in found.schema.features}


def test_a_log_of_clicks_is_understood_by_its_names(tmp_path: Path) -> None:
    found = _draft(tmp_path / "logs", _log())
    schema, source = found.schema, found.source
    assert (source.pattern, source.event_time, source.time_unit) == ("events.csv", "ts", "s")
    assert schema.tasks == (Task(name="click", label="click"),)
    assert found.notes["click"] == "1 in 25.00% of the rows"
    assert (schema.user, schema.key) == ("user_id", ("user_id", "item_id", "event_time_us"))
    assert _features(found) == {
        "user_id": Feature(name="user_id", dtype="int64", capacity=100, scope="user"),
        "item_id": Feature(name="item_id", dtype="int64", capacity=100),
    }
    assert (found.start, found.end, schema.slice_days) == (date(2026, 3, 2), date(2026, 3, 9), 1)
    assert (found.slices, found.rows_per_slice) == (8, 100)


@pytest.mark.parametrize(
    ("unit", "times"),
    [
        ("ms", lambda ts: ts * 1_000),
        ("us", lambda ts: ts * 1_000_000),
        ("s", lambda ts: ts + 0.25),
        ("iso8601", lambda ts: pl.from_epoch(ts).dt.strftime("%Y-%m-%d %H:%M:%S.5")),
        ("iso8601", lambda ts: pl.from_epoch(ts).dt.strftime("%Y-%m-%dT%H:%M:%S+02:00")),
        ("iso8601", lambda ts: pl.from_epoch(ts).dt.date()),
    ],
)
def test_the_unit_of_the_time_follows_from_its_values(tmp_path: Path, unit: str, times: object) -> None:
    log = _log().with_columns(times(pl.col("ts")).alias("ts"))  # type: ignore[operator]
    found = _draft(tmp_path / "logs", log)
    assert (found.source.time_unit, found.start, found.end) == (unit, date(2026, 3, 2), date(2026, 3, 9))


def test_features_follow_from_the_values(tmp_path: Path) -> None:
    rows = range(ROWS)
    found = _draft(
        tmp_path / "logs",
        _log(
            country=[("DE", "FR")[row % 40 % 2] for row in rows],  # the user's
            price=[(row * 7 % 25) ** 3 + 0.5 for row in rows],  # the item's, with a heavy tail
            hour=[row % 23 for row in rows],
            seconds=[row % 97 for row in rows],
            balance=[(row % 89 - 44) * 50 for row in rows],
            zip=[f"0{row % 40:03}" for row in rows],  # 0012 is no number
            shop_id=[row % 60 for row in rows],
            tags=[json.dumps(["a", "b"][: row % 3]) for row in rows],
            vip=[row % 40 % 2 for row in rows],  # 0 or 1, but the user's, so no label
            headline=[f"headline {row}" for row in rows],
            request_id=[10**6 + row * 3 for row in rows],
            version=[7] * ROWS,
            nothing=[None] * ROWS,
        ),
    )
    assert _features(found) == {
        "user_id": Feature(name="user_id", dtype="int64", capacity=100, scope="user"),
        "item_id": Feature(name="item_id", dtype="int64", capacity=100),
        "country": Feature(name="country", dtype="string", capacity=100, scope="user"),
        "price": Feature(name="price", dtype="float32", log1p=True),
        "hour": Feature(name="hour", dtype="int64", capacity=100),
        "seconds": Feature(name="seconds", dtype="float32", log1p=True),
        "balance": Feature(name="balance", dtype="float32"),
        "zip": Feature(name="zip", dtype="string", capacity=100, scope="user"),
        "shop_id": Feature(name="shop_id", dtype="int64", capacity=200),
        "tags": Feature(name="tags", dtype="string", capacity=100, length=2),
        "vip": Feature(name="vip", dtype="int64", capacity=100, scope="user"),
    }
    assert dict(found.features.left_out) == {
        "headline": "another value in nearly every row",
        "request_id": "another value in nearly every row",
        "version": "always 7",
        "nothing": "it has no value",
    }
    assert found.source.expressions == (("balance", "balance / 1000"),)  # of -2,200 to 2,200
    assert found.notes["price"] == "from 0.5 to 13824.5"


def test_a_column_that_gives_the_label_away_is_left_out(tmp_path: Path) -> None:
    log = _log(rows=2_000, watched=[9.5 * (row // 40 % 4 == 0) + row % 3 for row in range(2_000)])
    found = _draft(tmp_path / "logs", log)
    assert "watched" not in _features(found)
    assert dict(found.features.left_out)["watched"].startswith(
        "alone ranks click with an AUC of 1.000 on 2,000 rows"
    )


def test_of_several_columns_of_0_and_1_those_with_the_name_of_an_outcome_are_tasks(tmp_path: Path) -> None:
    like, seen = [row // 40 % 5 == 1 for row in range(ROWS)], [row // 40 % 3 == 1 for row in range(ROWS)]
    found = _draft(tmp_path / "logs", _log(like=like, at_home=seen))
    assert [task.name for task in found.schema.tasks] == ["click", "like"]
    assert [*_features(found)] == ["user_id", "item_id"]
    assert dict(found.features.left_out) == {
        "at_home": "it is 0 or 1, and may be known only after the event: then it could be a task, else a feature"
    }
    found = _draft(tmp_path / "logs", _log(at_home=seen).drop("click"))
    assert [task.name for task in found.schema.tasks] == ["at_home"]


def test_types_of_events_become_an_expression_where_one_of_them_is_a_view(tmp_path: Path) -> None:
    types = [("view", "view", "view", "it's bought", "cart")[row // 40 % 5] for row in range(ROWS)]
    found = _draft(tmp_path / "logs", _log(event_type=types).drop("click"))
    assert found.source.expressions == (("cart_or_it_s_bought", "event_type IN ('cart', 'it''s bought')"),)
    assert found.notes["cart_or_it_s_bought"] == "'view' 60.0%, 'cart' 20.0%, \"it's bought\" 20.0%"
    assert "event_type" not in _features(found)
    assert not found.schema.negatives


def test_a_label_of_text_becomes_an_expression(tmp_path: Path) -> None:
    log = (
        _log()
        .with_columns(pl.col("click").replace_strict({0: "no", 1: "yes"}).alias("Has Clicked?"))
        .drop("click")
    )
    found = _draft(tmp_path / "logs", log)
    assert found.source.expressions == (("has_clicked", "\"Has Clicked?\" IN ('yes')"),)


def test_stars_become_a_task_of_a_value(tmp_path: Path) -> None:
    found = _draft(tmp_path / "logs", _log(Rating=[row * 3 % 11 / 2 for row in range(ROWS)]).drop("click"))
    assert found.schema.tasks == (Task(name="rating", label="rating", kind="log1p", unit="stars"),)
    assert found.source.renamed == (("rating", "Rating"),)


def test_a_log_of_positives_gets_negatives_and_the_features_of_its_side_table(tmp_path: Path) -> None:
    write_reading_logs(tmp_path / "logs")
    found = draft(str(tmp_path / "logs"))
    assert found.schema.negatives == Negatives(item="article", per_positive=4)
    assert found.source.expressions == (("interaction", "1"), ("like_or_share", "event IN ('like', 'share')"))
    assert found.source.sides == (
        Side(
            name="articles",
            pattern="articles.csv",
            key=(("article", "article"),),
            columns=(("topic", "topic"), ("words", "words")),
        ),
    )
    scopes = {name: feature.scope for name, feature in _features(found).items()}
    assert scopes == {
        "reader": "user",
        "article": "candidate",
        "device": "user",
        "topic": "candidate",
        "words": "candidate",
    }
    # 9,000 events in six weeks are few, so slices are weeks, from Monday to Sunday.
    assert (found.schema.slice_days, found.schema.slice_weekday, found.slices) == (7, "monday", 6)
    assert (found.start, found.end) == (date(2026, 1, 5), date(2026, 2, 15))
    assert found.rows_per_slice == 9_000 * 5 / 6


def test_a_side_table_with_times_is_joined_by_them_and_another_table_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    since = [f"2026-03-0{day} 00:00:00" for day in (1, 5) for _ in range(40)]
    users = {"user_id": [*range(40)] * 2, "plan": ["free", "paid"] * 40, "since": since}
    pl.DataFrame(users).write_csv(folder / "users.csv")
    pl.DataFrame({"shop": [1, 2], "city": ["A", "B"]}).write_csv(folder / "shops.csv")
    found = _draft(folder, _log())
    (side,) = found.source.sides
    assert side.key == (("user_id", "user_id"),)
    assert (side.columns, side.valid_from) == ((("plan", "plan"),), "since")
    assert _features(found)["plan"].scope == "user"
    assert dict(found.features.left_out) == {"shops.csv": "it has no column of the user's or the item's name"}


def test_a_day_that_is_not_whole_is_left_out(tmp_path: Path) -> None:
    log = _log(days=8, rows=20_000)
    until = int(datetime(2026, 3, 9, 3, tzinfo=UTC).timestamp())
    since = int(datetime(2026, 3, 2, 23, tzinfo=UTC).timestamp())
    found = _draft(tmp_path / "logs", log.filter(pl.col("ts").is_between(since, until)))
    assert (found.start, found.end, found.schema.slice_days) == (date(2026, 3, 3), date(2026, 3, 8), 1)


def test_slices_are_longer_where_there_are_few_rows(tmp_path: Path) -> None:
    # 28 rows a week are too few, 112 in four weeks still are, and there are no two whole slices of 91 days.
    few = _draft(tmp_path / "logs", _log(days=200))
    assert (few.schema.slice_days, few.schema.slice_weekday) == (28, "monday")
    # Slices of 28 days are counted from Monday 1970-01-05 on: one begins on 2026-03-16.
    assert (few.start, few.end, few.slices) == (date(2026, 3, 16), date(2026, 8, 30), 6)


def test_days_without_rows_are_left_out(tmp_path: Path) -> None:
    log = _log(days=10, rows=40_000)
    gap = int(datetime(2026, 3, 5, tzinfo=UTC).timestamp())
    found = _draft(tmp_path / "logs", log.filter(~pl.col("ts").is_between(gap, gap + 86_399)))
    assert (found.start, found.end) == (date(2026, 3, 6), date(2026, 3, 11))


def test_more_columns_tell_rows_apart_where_user_item_and_time_do_not(tmp_path: Path) -> None:
    rows = _log(rows=400)
    twice = pl.concat([rows.with_columns(slot=pl.lit("left")), rows.with_columns(slot=pl.lit("right"))])
    found = _draft(tmp_path / "logs", pl.concat([twice, twice.head(100)]))  # 100 rows were written twice
    assert found.schema.key == ("user_id", "item_id", "event_time_us", "slot")


def test_names_that_are_no_names_do_no_harm(tmp_path: Path) -> None:
    evil = ['a"\n); import os  # \x1b[2J', "class", "Größe €", "count"]
    log = _log(**{name: [row % (5 + number) for row in range(ROWS)] for number, name in enumerate(evil)})
    log.write_parquet(tmp_path / "events.parquet")
    found = draft(str(tmp_path))
    write(found, str(tmp_path / "my.py"))
    loaded = load(str(tmp_path / "my.py"))
    assert (loaded.source, loaded.schema) == (found.source, found.schema)
    names = [feature.name for feature in found.schema.features]
    assert names == ["user_id", "item_id", "a_import_os_2j", "column_class", "gr_e", "count"]
    assert "\x1b" not in (tmp_path / "my.py").read_text()


@pytest.mark.parametrize("kind", ["jsonl.gz", "parquet", "delta", "tfrecord"])
def test_every_format_that_files_reads_is_understood(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "logs"
    log = _log().with_columns(tags=pl.Series([[1, 2][: row % 3] for row in range(ROWS)]))
    (folder / "day=2026-03-02").mkdir(parents=True)
    if kind == "jsonl.gz":
        text = log.with_columns(nested=pl.struct(a="ts")).write_ndjson().encode()
        (folder / "day=2026-03-02/part-0001.jsonl.gz").write_bytes(gzip.compress(text))
    elif kind == "parquet":
        for part in range(2):
            stamped = log.with_columns(
                pl.from_epoch("ts").dt.cast_time_unit("ns").dt.replace_time_zone("Europe/Berlin")
            )
            stamped.slice(part * 400, 400).write_parquet(folder / f"day=2026-03-02/part-000{part}.parquet")
    elif kind == "delta":
        write_deltalake(
            str(folder / "events"),
            log.with_columns(country=pl.lit("DE") + pl.col("user_id").mod(2).cast(pl.String)),
            partition_by=["country"],
        )
    else:
        _write_records(folder / "day=2026-03-02/part-0001.tfrecord", log)
    found = draft(str(folder))
    pattern = {"delta": "events/"}.get(kind, f"*/part-*.{kind}")
    assert found.source.pattern == pattern
    features = _features(found)
    assert features["tags"] == Feature(name="tags", dtype="int64", capacity=100, length=2)
    assert features["item_id"] == Feature(name="item_id", dtype="int64", capacity=100)
    assert ("country" in features) == (kind == "delta")
    assert dict(found.features.left_out).get("nested") == (
        "it has objects, or text that is not UTF-8" if kind == "jsonl.gz" else None
    )
    assert found.table.rows == ROWS
    write(found, str(tmp_path / "my.py"))
    assert load(str(tmp_path / "my.py")).source == found.source


def _write_records(path: Path, log: pl.DataFrame) -> None:
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as out:
        for row in log.iter_rows(named=True):
            values = {name: value if isinstance(value, list) else [value] for name, value in row.items()}
            features = {
                name: tf.train.Feature(int64_list=tf.train.Int64List(value=value))
                for name, value in values.items()
            }
            out.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


def test_a_sample_is_extrapolated(tmp_path: Path) -> None:
    rows = 40_000
    users = pl.Series([row * 7919 % 9_973 for row in range(rows)])
    _log(rows=rows).with_columns(user_id=users).write_csv(tmp_path / "events.csv")
    table = sample("events.csv", find(str(tmp_path), "events.csv"), 1 << 17)
    assert 0.1 < table.share < 0.3
    assert table.rows == pytest.approx(rows, rel=0.02)
    assert table.time
    days = table.time.values.dt.date()
    assert (days.min(), days.max()) == (date(2026, 3, 2), date(2026, 3, 9))  # the ends are among the pieces
    (user,) = (column for column in table.columns if column.name == "user_id")
    assert user.distinct < 6_500
    assert 8_000 < user.distinct_in(table.share) < 20_000  # of 9,973; the estimate is right within √(1/share)


@pytest.mark.parametrize("name", ["events.csv", "events.parquet"])
def test_logs_in_a_store_are_read_by_ranges(tmp_path: Path, name: str) -> None:
    log = _log(rows=60_000)  # more than is read to see what a table is
    log.write_csv(tmp_path / name) if name.endswith("csv") else log.write_parquet(tmp_path / name)
    here, there = draft(str(tmp_path)), draft(f"file://{tmp_path}")
    assert (there.source, there.table.rows) == (here.source, 60_000)


def test_the_largest_table_is_the_log_unless_another_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    _log(rows=200).write_csv(folder / "small.csv")
    assert _draft(folder, _log()).source.pattern == "events.csv"
    assert draft(str(folder), "small.csv").source.pattern == "small.csv"


@pytest.mark.parametrize(
    ("log", "says"),
    [
        (_log().drop("ts"), "events.csv: no column looks like the time of the events"),
        (_log().drop("click", "item_id"), "no column looks like a label"),
    ],
)
def test_a_log_without_time_or_label_is_refused(tmp_path: Path, log: pl.DataFrame, says: str) -> None:
    with pytest.raises(UserError, match=says):
        _draft(tmp_path / "logs", log)


def test_a_folder_without_logs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(
        UserError, match=r"expected a folder or URL with files that end in .parquet.*give that of your logs"
    ):
        draft(str(tmp_path))


def test_odd_columns_are_left_out(tmp_path: Path) -> None:
    odd = _log(click=[row // 40 % 4 == 0 for row in range(ROWS)]).with_columns(
        pair=pl.struct("user_id", "item_id"),
        price=pl.lit("9.50").cast(pl.Decimal(10, 2)),
        lasts=pl.duration(days=1),
        large=pl.lit(2**63 + 5, dtype=pl.UInt64),
        infinite=pl.lit(float("inf")),
        missing=pl.lit(float("nan")),
        kind=pl.lit("x").cast(pl.Categorical),
        pairs=pl.concat_list(pl.col("user_id").cast(pl.Float64) + 0.5),
    )
    odd.write_parquet(tmp_path / "events.parquet")
    (tmp_path / "items.csv").write_text("item_id,name\n")
    (tmp_path / "broken.parquet").write_text("PAR1")
    found = draft(str(tmp_path))
    assert [*_features(found)] == ["user_id", "item_id"]
    why = dict(found.features.left_out)
    assert {name: why[name] for name in ("price", "large", "infinite", "missing", "kind", "pairs")} == {
        "price": "always 9.5",
        "large": "its values do not fit into 64 bits",
        "infinite": "it has no value",
        "missing": "it has no value",
        "kind": "always 'x'",
        "pairs": "it has lists of numbers",
    }
    assert {"pair", "lasts"} < why.keys()
    assert "it has no rows" in why["items.csv"]
    assert "fetch it again" in why["broken.parquet"]
    write(found, str(tmp_path / "my.py"))
    assert load(str(tmp_path / "my.py")).source == found.source


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "events.csv is empty"),
        (b"user,item,click,ts\n", "it has no rows; expected some"),
        (b"\x00\xff" * 500, "events.csv: it has no column|events.csv: no column looks like|it has no rows"),
        (
            b"click,ts\n" + b"".join(b"%d,17672256%02d\n" % (i % 3 == 0, i) for i in range(60)),
            "no column that can be a",
        ),
    ],
)
def test_files_that_are_no_logs_are_refused(tmp_path: Path, text: bytes, says: str) -> None:
    (tmp_path / "events.csv").write_bytes(text)
    with pytest.raises(UserError, match=says):
        draft(str(tmp_path))


def test_a_header_that_is_not_utf_8_costs_only_its_column(tmp_path: Path) -> None:
    text = _log().with_columns(cafe=pl.lit("x")).write_csv().encode()
    (tmp_path / "events.csv").write_bytes(text.replace(b"cafe", b"caf\xe9").replace(b",x\n", b",\xe9\n"))
    assert [*_features(draft(str(tmp_path)))] == ["user_id", "item_id"]


def test_no_file_is_ever_replaced(tmp_path: Path) -> None:
    found = _draft(tmp_path / "logs", _log())
    (tmp_path / "my.py").write_text("mine")
    (tmp_path / "link.py").symlink_to(tmp_path / "nowhere.py")
    for name in ("my.py", "link.py"):
        with pytest.raises(
            UserError, match=f"{name} is there already, and stays as it is; remove it, or give another name"
        ):
            write(found, str(tmp_path / name))
    assert (tmp_path / "my.py").read_text() == "mine"
    assert not (tmp_path / "nowhere.py").exists()
    with pytest.raises(
        UserError, match="No such file or directory; give a file in a folder that can be written to"
    ):
        write(found, str(tmp_path / "no/such.py"))


def test_the_example_is_what_is_drafted(tmp_path: Path) -> None:
    write_reading_logs(tmp_path / "logs")
    write(draft(str(tmp_path / "logs")), str(tmp_path / "positives_only.py"))
    example = Path(__file__).parents[3] / "examples/positives_only.py"
    assert (tmp_path / "positives_only.py").read_text() == example.read_text()


def test_a_value_is_written_as_python_reads_it() -> None:
    for value in ("a'b\"c\\", 'say "x"', "it's", ("one",), (1, 2_000), -1.5, True, None):
        assert eval(code(value)) == value
    feature = Feature(name="x", dtype="int64", capacity=5_000)
    assert code(feature) == 'Feature(name="x", dtype="int64", capacity=5_000)'
    assert eval(code(feature), {"Feature": Feature}) == feature
