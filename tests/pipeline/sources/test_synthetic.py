import itertools
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.sources import world
from tutelage.pipeline.sources.synthetic import Synthetic

DAY_US = 86_400_000_000
FIRST = date(2024, 2, 27)  # The third day is February 29.
SMALL = Synthetic(
    seed=7,
    first_day=FIRST,
    rows_per_day=20_000,
    users=4_000,
    videos=2_000,
    new_users_per_day=100,
    new_videos_per_day=200,
)
LARGE = replace(SMALL, rows_per_day=200_000)


def rows_of(source: Synthetic, *numbers: int) -> pl.DataFrame:
    days = [FIRST + timedelta(days=number) for number in numbers]
    return pl.concat([f for unit in source.units("", workdir="", days=days) for f in source.read(unit)])


@pytest.fixture(scope="module")
def large() -> pl.DataFrame:
    return rows_of(LARGE, 5)


@pytest.fixture(scope="module")
def truth(large: pl.DataFrame) -> pl.DataFrame:
    return LARGE.truth(large)


def logit(p: pl.Series) -> np.ndarray:
    return np.log(p.to_numpy() / (1 - p.to_numpy()))


def test_frames_have_every_offered_column_with_its_dtype(large):
    offered = dict(SMALL.columns())
    assert dict(large.schema) == offered | {
        "event_time_us": pl.Int64(),
        "content": pl.UInt64(),
        "dropped": pl.String(),
    }
    assert large["dropped"].null_count() == len(large)
    assert large["content"].n_unique() == len(large)
    assert large.drop("dropped", "country").null_count().sum_horizontal().item() == 0
    assert 0.015 < large["country"].null_count() / len(large) < 0.025


def test_equal_fields_give_equal_rows_whatever_days_are_requested():
    alone = rows_of(replace(SMALL), 3)
    assert rows_of(SMALL, 3, 1, 0, 1)[-len(alone) :].equals(alone)
    assert not rows_of(replace(SMALL, seed=8), 3).equals(alone)


def test_the_rows_of_a_day_lie_within_it_in_units_of_limited_size_and_no_key_repeats():
    source = replace(SMALL, rows_per_day=500_003)
    units = source.units("", workdir="", days=[FIRST + timedelta(days=2)])
    frames = [frame for unit in units for frame in source.read(unit)]
    assert [len(frame) for frame in frames] == [250_000, 250_000, 3]
    assert [unit.index for unit in units] == [0, 1, 2]
    assert units[1].where == "synthetic 2024-02-29, part 2 of 3"
    rows = pl.concat(frames)
    time = pl.from_epoch(rows["event_time_us"], time_unit="us")
    assert (time.dt.date() == date(2024, 2, 29)).all()
    assert (time.dt.hour() == rows["hour"]).all()
    assert rows["hour"].n_unique() == 24
    assert not rows.select("user_id", "video_id", "event_time_us").is_duplicated().any()


def test_days_before_the_first_have_no_units():
    units = SMALL.units("", workdir="", days=[FIRST + timedelta(days=d) for d in (0, -1)])
    assert [unit.args["day"] for unit in units] == [FIRST]


@pytest.mark.parametrize("label", ["click", "long_view", "watch_seconds", "watch_log1p"])
def test_labels_agree_with_the_truth_overall_and_in_each_of_its_deciles(large, truth, label):
    drawn = large.with_columns(watch_log1p=pl.col("watch_seconds").log1p())[label].cast(pl.Float64)
    tenth = truth[label].rank("ordinal") * 10 // (len(drawn) + 1)
    gap = pl.DataFrame({"gap": drawn - truth[label], "tenth": tenth})
    z = pl.col("gap").mean() / pl.col("gap").std() * pl.len().sqrt()
    assert abs(gap.select(z).item()) < 3
    by_tenth = gap.group_by("tenth").agg(z)["gap"]
    assert len(by_tenth) == 10
    assert by_tenth.abs().max() < 4


def test_truth_reads_four_columns_and_takes_the_day_from_the_time(large, truth):
    four = ["user_id", "video_id", "position", "event_time_us"]
    earlier = rows_of(LARGE, 2)[:1000]
    mixed = LARGE.truth(pl.concat([large, earlier]).select(four).reverse())
    assert mixed.reverse().equals(pl.concat([truth, LARGE.truth(earlier)]))


def test_the_expected_log1p_is_that_of_the_mixture():
    chances, mu = np.array([0.2, 0.5, 0.6], np.float32), 1.75
    long_view, click, watch = chances[:, None]
    response = world.Response(long_view=long_view, click=click, watch=watch, mu=np.float32([mu]))
    z = np.linspace(-10, 10, 200_001)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) * (z[1] - z[0])
    each = [(np.log1p(np.exp(mu + state + world.SIGMA * z)) * density).sum() for state in world.STATE_MU]
    expected = np.diff(chances, prepend=0) @ each
    np.testing.assert_allclose(response.means()["watch_log1p"], expected, rtol=1e-6)


def test_clicks_are_learnable_and_far_from_certain(large, truth):
    clicked = large["click"] == 1
    ranks = truth["click"].rank().filter(clicked)
    positives, negatives = len(ranks), len(large) - len(ranks)
    auc = (ranks.sum() - positives * (positives + 1) / 2) / (positives * negatives)
    assert 0.77 < auc < 0.81
    assert 0.35 < large["click"].mean() < 0.45
    assert 0.20 < large["long_view"].mean() < 0.30


def test_watch_seconds_are_zero_inflated_heavy_tailed_and_follow_the_other_labels(large):
    watched = large.filter(pl.col("watch_seconds") > 0)["watch_seconds"]
    assert 0.4 < 1 - len(watched) / len(large) < 0.6
    assert watched.quantile(0.99) / watched.median() > 5
    assert large.filter((pl.col("long_view") == 1) & (pl.col("click") == 0)).is_empty()
    assert large.filter((pl.col("click") == 1) & (pl.col("watch_seconds") == 0)).is_empty()


def test_popular_and_new_videos_are_shown_more_and_later_slots_are_clicked_less(large):
    shown = large.group_by("video_id").agg(pl.len(), age=pl.col("video_age_days").min()).sort("len")
    assert shown["len"][-len(shown) // 100 :].sum() > 0.1 * len(large)
    young, old = (shown.filter(age)["len"].mean() for age in (pl.col("age") < 2, pl.col("age") > 8))
    assert young > 3 * old
    slots = large.group_by("position").agg(pl.col("click").mean()).sort("position")["click"]
    assert len(slots) == 20
    assert slots[0] - 0.05 > slots[5] > slots[15] + 0.02


def test_new_ids_come_each_day_and_do_not_exist_before_their_first_day():
    for number in (1, 2, 9):
        rows = rows_of(SMALL, number)
        eve = rows.with_columns(pl.col("event_time_us") - DAY_US)
        time_of_day = pl.col("event_time_us") % DAY_US / DAY_US
        is_new = {}
        for kind, at_most in ("user", 100), ("video", 200):
            age = rows.select(pl.col(f"{kind}_age_days") - time_of_day).to_series()  # At midnight.
            is_new[kind] = age < 1  # In [0, 1) on the first day of an id.
            assert age.min() > -1e-4
            new_ids = rows.filter(is_new[kind])[f"{kind}_id"].unique()
            assert 5 < len(new_ids) <= at_most
            for i in is_new[kind].arg_true()[:20]:
                with pytest.raises(UserError, match=r"_id .* is not one of the"):
                    SMALL.truth(eve[i])
        assert len(SMALL.truth(eve.filter(~is_new["user"] & ~is_new["video"]))) > 10_000


def test_a_share_of_the_ids_is_replaced_for_good_each_day():
    source = replace(SMALL, users=1_000, videos=500, new_users_per_day=1, new_videos_per_day=1, new_ids=0.05)
    sizes = {"users": 1_000, "videos": 500, "new_users": 1, "new_videos": 1}
    worlds = [world.build(seed=source.seed, day=day, new_ids=0.05, **sizes) for day in range(4)]
    for table, share in ("users", 50), ("videos", 25):
        ids = [set(getattr(w, table)[f"{table[:-1]}_id"]) for w in worlds]
        for yesterday, today in itertools.pairwise(ids):
            assert share - 2 <= len(yesterday - today) <= share + 2
            # And one that is added.
            assert len(today - yesterday) == len(yesterday - today) + 1
        assert not (ids[0] - ids[1]) & ids[3]
    # All rows of a day belong to its world, but not all to the world of the day before.
    rows = rows_of(source, 3)
    truth = source.truth(rows)
    gap = rows["click"].cast(pl.Float64) - truth["click"]
    assert abs(gap.mean() / gap.std() * len(gap) ** 0.5) < 3
    with pytest.raises(UserError, match=r"is not one of the"):
        source.truth(rows.with_columns(pl.col("event_time_us") - DAY_US))


def test_those_that_replace_others_are_new_in_age_and_have_other_tastes():
    before, after = (
        world.build(seed=7, day=day, users=1_000, videos=500, new_users=1, new_videos=1, new_ids=0.05)
        for day in (6, 7)
    )
    new = (before.users["user_id"] != after.users["user_id"][:-1]).to_numpy()
    assert (after.users["user_age_days"].to_numpy()[:-1] < 1).tolist() == new.tolist()
    turned = np.abs(before.taste - after.taste[:-1]).max(axis=1)
    assert turned[~new].max() < 0.2 < turned[new].min()


def test_a_world_without_new_ids_is_the_same_as_in_earlier_releases():
    # Earlier runs were made with these values.
    rows = rows_of(replace(SMALL, rows_per_day=1_000), 1)
    assert rows["video_id"][:2].to_list() == [3692294021648142738, 4174098099998228795]
    assert (rows["click"].sum(), rows["long_view"].sum()) == (452, 281)


def test_tastes_change_and_topics_rise_and_fall_from_day_to_day(large, truth):
    later = LARGE.truth(large.with_columns(pl.col("event_time_us") + 20 * DAY_US))
    change = large.select("video_id", "topic", change=logit(later["click"]) - logit(truth["click"]))
    # The change of a video comes from its topic, its author and its age; the change within it from its viewers.
    within = change.select(pl.col("change") - pl.col("change").mean().over("video_id"))["change"].std()
    assert within > 0.3
    between = change.group_by("topic").agg(pl.col("change").mean())["change"].std()
    assert between > 0.1
    tomorrow = LARGE.truth(large.with_columns(pl.col("event_time_us") + DAY_US))
    assert np.std(logit(tomorrow["click"]) - logit(truth["click"])) < 0.3 * change["change"].std()


def test_ids_are_positive_unique_over_kinds_and_invertible():
    index = np.concatenate([np.arange(1000), np.arange(1000) + 10**9])
    kinds = (world.USER, world.VIDEO, world.AUTHOR)
    ids = np.concatenate([world.to_id(index, kind) for kind in kinds])
    assert ids.dtype == np.int64
    assert ids.min() > 0
    assert len(np.unique(ids)) == len(ids)
    for kind, part in zip(kinds, np.split(ids, 3), strict=True):
        np.testing.assert_array_equal(world.to_index(part, kind), index)


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("seed", -1, "synthetic: seed is -1, expected 0 to 2**63 - 1; choose another one"),
        ("rows_per_day", 0, "synthetic: rows_per_day is 0, expected at least 1; raise it"),
        ("new_users_per_day", 0, "synthetic: new_users_per_day is 0, expected at least 1; raise it"),
        ("new_ids", 1.5, "synthetic: new_ids is 1.5, expected a share, 0 to 1"),
    ],
)
def test_fields_out_of_range_are_refused(field, value, text):
    with pytest.raises(UserError) as error:
        replace(SMALL, **{field: value})
    assert str(error.value) == text


@pytest.mark.parametrize("strange", [-1, 1, 2**62])
def test_truth_refuses_ids_and_days_that_do_not_exist_in_this_world(strange):
    rows = rows_of(SMALL, 0)[:3]
    mixed = rows.with_columns(user_id=pl.Series([rows["user_id"][0], strange, strange]))
    with pytest.raises(
        UserError, match=rf"user_id {strange} is not one of the 4000 that .* \(2 of 3 rows have"
    ):
        SMALL.truth(mixed)
    with pytest.raises(UserError, match="a day before 2024-02-27"):
        SMALL.truth(rows.with_columns(pl.col("event_time_us") - DAY_US))
