"""Sampled negatives: what the job adds to a day of positives, from which items, and that it is the same each time."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tests.pipeline.rows import DAY
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.ids import example_id
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.make_shard import DrawNegatives, ShardUnit
from tutelage.pipeline.materialize import Materialized, materialize
from tutelage.pipeline.negatives import draw
from tutelage.pipeline.pieces import ROWS_PER_SHARD, Piece
from tutelage.pipeline.quality import QualityConfig
from tutelage.pipeline.schema import Downsampling, Feature, History, Negatives, Schema, Task
from tutelage.pipeline.sources.base import Unit
from tutelage.pipeline.sources.files import Files
from tutelage.pipeline.sources.side import Side

SCHEMA = Schema(
    features=(
        Feature(name="user", dtype="int64", capacity=10, scope="user"),
        Feature(name="country", dtype="string", capacity=10, scope="user"),
        Feature(name="item", dtype="string", capacity=10),
        Feature(name="topic", dtype="string", capacity=10),
        Feature(name="tags", dtype="int64", capacity=10, length=2),
    ),
    tasks=(Task(name="click", label="click"), Task(name="watch", label="seconds", kind="ziln")),
    key=("user", "item", "event_time_us"),
    user="user",
    negatives=Negatives(item="item", per_positive=2),
)
DAYS = [date(1970, 1, 1), date(1970, 1, 2)]
ANY = QualityConfig(nulls_rise=1.0)


@dataclass(frozen=True)
class Log:
    """Units of rows: time, user, item, click."""

    units_of: tuple[tuple[tuple[int, int, str, int], ...], ...]

    def columns(self) -> Mapping[str, pl.DataType]:
        strings = dict.fromkeys(("country", "item", "topic"), pl.String())
        lists = {"tags": pl.List(pl.Int64())}
        return {"user": pl.Int64(), **strings, **lists, "click": pl.Int8(), "seconds": pl.Float32()}

    def units(self, raw_dir: str, *, workdir: str, days: Sequence[date]) -> list[Unit]:
        return [Unit(index=i, where=f"part {i}", args={"rows": rows}) for i, rows in enumerate(self.units_of)]

    def read(self, unit: Unit) -> Iterator[pl.DataFrame]:
        frame = pl.DataFrame(
            unit.args["rows"], schema=["event_time_us", "user", "item", "click"], orient="row"
        )
        yield frame.with_columns(
            click=pl.col("click").cast(pl.Int8),
            # What a user sees and what an item is at a time.
            country=pl.format("c{}", "user"),
            topic=pl.format("{} at {}", "item", "event_time_us"),
            tags=pl.concat_list("event_time_us"),
            seconds=pl.col("click").cast(pl.Float32) * 9,
            content=frame.hash_rows(),
            dropped=pl.lit(None, pl.String),
        )


def _run(
    folder: Path,
    log: Log,
    schema: Schema = SCHEMA,
    days: Sequence[date] = DAYS[:1],
    *,
    rows_per_shard: int = ROWS_PER_SHARD,
) -> tuple[pl.DataFrame, Materialized]:
    lake = Lake(folder / "lake", schema)
    lake.create()
    how = {"raw_dir": "", "workdir": str(folder), "quality": ANY, "rows_per_shard": rows_per_shard}
    done = materialize(log, schema, lake, days=days, **how)  # type: ignore[arg-type]
    return lake.interactions.scan().collect().sort("event_time_us", "user", "item"), done


def test_a_whole_day_is_what_was_computed_by_hand(tmp_path: Path) -> None:
    # User 1 met a and b, and has two positives; of the items a to d, c and d are left: one for each positive.
    # User 2 met all but a. User 3 has no positive, so no negatives.
    rows = ((1, 1, "a", 1), (2, 2, "d", 1), (3, 2, "b", 0), (4, 2, "c", 0), (5, 3, "a", 0), (7, 1, "b", 1))
    frame, done = _run(tmp_path, Log((rows,)))
    sampled = frame.filter(pl.col("sampling_rate").is_not_null())
    assert frame.filter(pl.col("sampling_rate").is_null()).select(
        "event_time_us", "user", "item", "click"
    ).rows() == [*rows]
    assert sampled.select("user", "country", "click", "seconds", "sampling_rate").unique().sort(
        "user"
    ).rows() == [
        (1, "c1", 0, 0.0, 1.0),
        (2, "c2", 0, 0.0, 1.0),
    ]
    assert sampled.filter(user=1)["event_time_us"].to_list() == [1, 7]
    of_item = {"a": ("a at 1", [1]), "b": ("b at 3", [3]), "c": ("c at 4", [4]), "d": ("d at 2", [2])}
    assert sorted(sampled.filter(user=1)["item"]) == ["c", "d"]
    assert sampled.filter(user=2).select("event_time_us", "item").rows() == [(2, "a")]
    for item, topic, tags in sampled.select("item", "topic", "tags").rows():
        assert (topic, tags) == of_item[item]
    counts = done.days[DAYS[0]]
    assert (counts.rows_in, counts.sampled, counts.kept, counts.dropped, counts.pairs) == (6, 3, 9, {}, 3)
    assert frame["example_id"].n_unique() == 9


def _log(users: int, items: int, rows: int, seed: int, units: int = 3) -> Log:
    rng = np.random.default_rng(seed)
    made = [
        (int(time), int(user), f"i{item:03}", int(click))
        for time, user, item, click in zip(
            rng.integers(0, 2 * DAY, rows),
            rng.integers(0, users, rows),
            rng.integers(0, items, rows),
            rng.random(rows) < 0.8,
            strict=True,
        )
    ]
    return Log(tuple(tuple(made[i::units]) for i in range(units)))


def test_no_user_gets_an_item_that_it_met_or_one_twice_and_every_positive_its_share(tmp_path: Path) -> None:
    frame, done = _run(tmp_path, _log(users=8, items=60, rows=200, seed=1), days=DAYS)
    assert sum(counts.sampled for counts in done.days.values()) > 200
    for day, of_day in frame.partition_by("day", as_dict=True).items():
        rows = of_day.filter(pl.col("sampling_rate").is_null())
        sampled = of_day.filter(pl.col("sampling_rate").is_not_null())
        items = rows["item"].n_unique()
        assert set(sampled["item"]) <= set(rows["item"])
        for (user,), of_user in rows.partition_by("user", as_dict=True).items():
            drawn = sampled.filter(user=user)
            met = of_user["item"].n_unique()
            positives = of_user.filter(pl.col("click") > 0)
            assert not set(drawn["item"]) & set(of_user["item"])
            assert drawn["item"].n_unique() == drawn.height == min(2 * positives.height, items - met), day
            shares = drawn["event_time_us"].value_counts()["count"]
            assert set(drawn["event_time_us"]) <= set(positives["event_time_us"])
            assert shares.max() - shares.min() <= 1
            assert set(drawn["sampling_rate"]) == {np.float32(drawn.height / (items - met))}
        counts = done.days[day[0]]
        assert counts.rows_in + counts.sampled == counts.kept + sum(counts.dropped.values()) == of_day.height
        assert counts.kept == of_day.height


@pytest.mark.parametrize(("bucket_rows", "rows_per_shard"), [(50, ROWS_PER_SHARD), (1 << 22, 60), (50, 30)])
def test_the_same_rows_in_other_units_buckets_and_shards_get_the_same_negatives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket_rows: int, rows_per_shard: int
) -> None:
    first, done = _run(tmp_path / "first", _log(users=8, items=60, rows=200, seed=1), days=DAYS)
    monkeypatch.setattr("tutelage.pipeline.negatives.BUCKET_ROWS", bucket_rows)
    monkeypatch.setattr("tutelage.pipeline.pieces.FRAME_ROWS", 30)
    log = _log(users=8, items=60, rows=200, seed=1, units=1)
    again, once_more = _run(tmp_path / "again", log, days=DAYS, rows_per_shard=rows_per_shard)
    assert_frame_equal(again, first)
    assert once_more.days == done.days
    one_day, _ = _run(tmp_path / "day", _log(users=8, items=60, rows=200, seed=1, units=2), days=DAYS[1:])
    assert_frame_equal(one_day, first.filter(day=DAYS[1]))


class LosesUsers(DrawNegatives):
    def work(self, unit: ShardUnit) -> list[tuple[None, tuple[str, Piece]]]:
        return super().work(unit) if unit.number else []


def test_a_runner_that_loses_a_share_of_the_negatives_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tutelage.pipeline.materialize.DrawNegatives", LosesUsers)
    log = _log(users=8, items=60, rows=200, seed=1, units=1)
    says = r"^the Beam runner lost 1 of \d units: the negatives of 1970-01-01; nothing was committed; "
    with pytest.raises(UserError, match=says):
        _run(tmp_path, log, rows_per_shard=60)


def test_another_user_or_seed_changes_what_is_drawn_and_a_user_does_not_change_anothers(
    tmp_path: Path,
) -> None:
    rows = _log(users=8, items=60, rows=200, seed=1, units=1).units_of[0]
    first, _ = _run(tmp_path / "first", Log((rows,)))
    other = replace(SCHEMA, negatives=Negatives(item="item", per_positive=2, seed=1))
    reseeded, _ = _run(tmp_path / "other", Log((rows,)), other)
    assert reseeded.height == first.height
    assert not reseeded["item"].equals(first["item"])
    # Another user, who met an item after its first row.
    item = first.filter(pl.col("sampling_rate").is_null())["item"][0]
    more, _ = _run(tmp_path / "more", Log(((*rows, (DAY - 1, 99, item, 1)),)))
    assert_frame_equal(more.filter(pl.col("user") != 99), first)


def test_repeated_rows_get_no_negatives_of_their_own(tmp_path: Path) -> None:
    rows = tuple((time, 1, f"i{time}", 1) for time in range(4)) + tuple(
        (9, 2, f"i{time}", 1) for time in range(9)
    )
    first, _ = _run(tmp_path / "first", Log((rows,)))
    twice, done = _run(tmp_path / "twice", Log((rows, rows)))
    assert_frame_equal(twice, first)
    counts = done.days[DAYS[0]]
    assert counts.dropped == {"duplicate": 13}
    assert (counts.rows_in, counts.kept) == (26, 13 + counts.sampled)


def test_every_item_is_as_likely_as_another(tmp_path: Path) -> None:
    # 400 users each met item 0 of 23, and get two of the other 22: 36.4 of each, with a standard deviation of 5.9.
    rows = tuple((user, user, "i00", 1) for user in range(400)) + tuple(
        (500, 999, f"i{i:02}", 0) for i in range(23)
    )
    frame, _ = _run(tmp_path, Log((rows,)))
    drawn = frame.filter(pl.col("sampling_rate").is_not_null())
    counts = drawn["item"].value_counts()
    assert counts.height == 22
    assert counts["count"].sum() == 800
    spread = ((counts["count"] - 800 / 22) ** 2 / (800 / 22)).sum()
    assert 6 < spread < 45  # χ² of 21 degrees of freedom: beyond this once in a thousand.
    # Pairs: of 231, each is drawn by 1.73 users.
    pairs = (
        drawn.group_by("user").agg(pl.col("item").sort()).select(pl.col("item").list.join(" ")).to_series()
    )
    assert pairs.n_unique() > 170
    assert pairs.value_counts()["count"].max() < 10


def test_labels_that_are_not_mature_stay_null(tmp_path: Path) -> None:
    tasks = (SCHEMA.tasks[0], replace(SCHEMA.tasks[1], matures_after="30d"))
    schema = replace(SCHEMA, tasks=tasks, release_after="1d")
    lake = Lake(tmp_path / "lake", schema)
    lake.create()
    log = Log((tuple((time, time % 3, f"i{time}", 1) for time in range(9)),))
    now = datetime(1970, 1, 3, tzinfo=UTC)
    done = materialize(
        log, schema, lake, raw_dir="", workdir=str(tmp_path), days=DAYS[:1], quality=ANY, now=now
    )
    frame = lake.interactions.scan().collect()
    assert frame["seconds"].null_count() == frame.height == done.days[DAYS[0]].masked["seconds"] == 9 + 18
    assert frame["click"].sum() == 9


def test_a_day_without_positives_or_without_other_items_gets_none(tmp_path: Path) -> None:
    for name, rows in (("none", ((1, 1, "a", 0), (2, 2, "b", 0))), ("one", ((1, 1, "a", 1), (2, 2, "a", 1)))):
        frame, done = _run(tmp_path / name, Log((rows,)))
        assert frame.height == done.days[DAYS[0]].kept == 2
        assert done.days[DAYS[0]].sampled == 0


def test_features_of_side_tables_come_with_the_sampled_items(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(
        "ts,uid,item\n" + "".join(f"{1000 + i},{i % 4},i{i % 11}\n" for i in range(22))
    )
    (tmp_path / "items.csv").write_text("id,genre\n" + "".join(f"i{i},g{i}\n" for i in range(11)))
    (tmp_path / "users.csv").write_text("id,land\n" + "".join(f"{i},l{i}\n" for i in range(4)))
    schema = replace(SCHEMA, features=SCHEMA.features[:4], tasks=SCHEMA.tasks[:1])
    source = Files(
        pattern="events.csv",
        schema=schema,
        event_time="ts",
        time_unit="s",
        renamed=(("user", "uid"),),
        expressions=(("click", "1"),),
        sides=(
            Side(name="items", pattern="items.csv", key=(("item", "id"),), columns=(("topic", "genre"),)),
            Side(name="users", pattern="users.csv", key=(("user", "id"),), columns=(("country", "land"),)),
        ),
    )
    lake = Lake(tmp_path / "lake", schema)
    lake.create()
    done = materialize(source, schema, lake, raw_dir=str(tmp_path), workdir=str(tmp_path), days=DAYS[:1])
    frame = lake.interactions.scan().collect()
    counts = done.days[DAYS[0]]
    assert (counts.rows_in, counts.kept, done.elsewhere) == (22, 22 + counts.sampled, {})
    assert counts.sampled == frame.height - frame["click"].sum() > 0
    assert frame.select((pl.col("topic") == "g" + pl.col("item").str.slice(1)).all()).item()
    assert frame.select((pl.col("country") == "l" + pl.col("user").cast(pl.String)).all()).item()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"user": None},
            "negatives: item is 'item' and the schema's user None, expected an id feature each; the ids",
        ),
        (
            {"negatives": Negatives(item="tags")},
            "negatives: item is 'tags' and the schema's user 'user', expected an id feature each; the ids are user,",
        ),
        ({"negatives": Negatives(item="user")}, "negatives: item is 'user' and the schema's user 'user'"),
        (
            {"key": ("user", "event_time_us")},
            "negatives: the schema's key is user, event_time_us, which cannot tell a sampled row from others; expected "
            "user and item in it",
        ),
        (
            {"histories": (History(of="item"),)},
            "history 'history': where is empty, so that it would hold sampled negatives too, which the user never met; "
            "name a label, as in where='click'",
        ),
        (
            {"downsampling": Downsampling(task="click")},
            "schema: negatives and downsampling exclude one another; leave one of them out",
        ),
    ],
)
def test_a_schema_that_negatives_do_not_fit_is_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(UserError) as error:
        replace(SCHEMA, **changes)
    assert str(error.value).startswith(says)


def test_a_history_holds_what_was_met_and_no_sampled_item(tmp_path: Path) -> None:
    schema = replace(SCHEMA, histories=(History(of="item", where="click", length=50, days=1),))
    log = Log((tuple((i % 2 * DAY + i, i % 3, f"i{i:02}", 1) for i in range(24)),))
    lake = Lake(tmp_path / "lake", schema)
    lake.create()
    materialize(log, schema, lake, raw_dir="", workdir=str(tmp_path), days=DAYS, quality=ANY)
    assert lake.histories
    second = lake.histories.scan(day=DAYS[0] + timedelta(days=1)).collect()
    items = {user: [f"i{i:02}" for i in range(22, -1, -2) if i % 3 == user] for user in range(3)}
    assert dict(second.select("user", "history").iter_rows()) == items


def _pieces(folder: Path, rows: pl.DataFrame, cuts: Sequence[int]) -> list[Piece]:
    """Write the rows as pieces that end at `cuts`."""
    pieces = []
    for i, (start, end) in enumerate(itertools.pairwise([0, *sorted(cuts), rows.height])):
        if part := rows[start:end].height:
            rows[start:end].write_ipc(folder / f"{i}.arrow")
            pieces.append(Piece(order=(i, 0), path=str(folder / f"{i}.arrow"), rows=part))
    return pieces


@settings(max_examples=40)
@given(
    events=st.lists(
        st.tuples(st.integers(0, 30), st.integers(-4, 4), st.integers(0, 12), st.sampled_from([0, 1, None])),
        min_size=1,
        max_size=40,
    ),
    cuts=st.lists(st.integers(0, 40), max_size=3),
    per_positive=st.integers(1, 5),
    seed=st.integers(-(2**63), 2**63 - 1),
    bucket_rows=st.sampled_from([5, 1 << 22]),
)
def test_whatever_a_day_holds_its_negatives_are_sound_and_do_not_depend_on_its_pieces(
    tmp_path_factory: pytest.TempPathFactory,
    events: list[tuple[int, int, int, int | None]],
    cuts: list[int],
    per_positive: int,
    seed: int,
    bucket_rows: int,
) -> None:
    folder = tmp_path_factory.getbasetemp() / "pieces"
    folder.mkdir(exist_ok=True)
    features = (SCHEMA.features[0], replace(SCHEMA.features[2], dtype="int64"))
    negatives = Negatives(item="item", per_positive=per_positive, seed=seed)
    schema = replace(SCHEMA, features=features, tasks=SCHEMA.tasks[:1], negatives=negatives)
    dtypes = {"event_time_us": pl.Int64, "user": pl.Int64, "item": pl.Int64, "click": pl.Int8}
    rows = pl.DataFrame(events, schema=dtypes, orient="row").with_columns(
        sampling_rate=pl.lit(None, pl.Float32), content=pl.lit(1, pl.UInt64)
    )
    rows = rows.with_columns(example_id=example_id(schema.key, rows.schema))
    whole = pl.concat(d.rows for d in draw(_pieces(folder, rows, []), schema, DAYS[0]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tutelage.pipeline.negatives.BUCKET_ROWS", bucket_rows)
        drawn = list(draw(_pieces(folder, rows, cuts), schema, DAYS[0]))
    parts = pl.concat(d.rows for d in drawn)
    assert_frame_equal(parts.sort("example_id"), whole.sort("example_id"))

    kept = rows.unique("example_id", keep="first", maintain_order=True)
    met = {
        user: {item for _, whose, item, _ in kept.select(*dtypes).rows() if whose == user}
        for user in kept["user"]
    }
    items = set(kept["item"])
    pairs = 0
    for user, mine in met.items():
        positives = kept.filter(pl.col("user") == user, pl.col("click") == 1)["event_time_us"].to_list()
        of_user = whole.filter(user=user)
        assert of_user.height == of_user["item"].n_unique()
        assert of_user.height == min(per_positive * len(positives), len(items - mine))
        assert set(of_user["item"]) <= items - mine
        assert set(of_user["event_time_us"]) <= set(positives)
        pairs += len(items - mine) * bool(positives)
    assert sum(d.pairs for d in drawn) == pairs
    assert set(whole["click"]) <= {0}
