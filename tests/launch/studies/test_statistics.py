"""The figures of a study: sums by user, losses, calibrations, transfer ratios, and intervals that cover the truth."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from datetime import date

import numpy as np
import polars as pl
import pytest

from tutelage.launch.studies.statistics import (
    COMPARISONS,
    Arm,
    compare,
    user_sums,
)
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Downsampling, Feature, Schema, Task

DAYS = [date(2024, 5, 1), date(2024, 5, 2)]
SCHEMA = Schema(
    features=(
        Feature(name="user_id", dtype="string", capacity=8),
        Feature(name="video_id", dtype="int64", capacity=8),
    ),
    tasks=(
        Task(name="click", label="click"),
        Task(name="watch", label="seconds", kind="log1p"),
        Task(name="value", label="seconds", kind="ziln"),
    ),
    key=("user_id",),
    user="user_id",
)
LABELS = pl.DataFrame(
    {
        "example_id": [1, 2, 3, 4],
        "user_id": ["b", "a", "b", None],
        "click": pl.Series([1, 0, 0, 1], dtype=pl.Int8),
        "seconds": pl.Series([math.e - 1, 0, 0, 0], dtype=pl.Float32),
    }
)
# In another order than the labels. p = 3/4 where the logit is log 3, and 1/2 where it is 0.
PREDICTIONS = pl.DataFrame(
    {
        "example_id": [4, 3, 2, 1],
        "click_logit": [0.0, math.log(3), 0.0, math.log(3)],
        "watch_log1p": [0.1, 0.2, 0.3, 0.4],
        "value_logit": [0.0] * 4,
        "value_mu": [0.0] * 4,
        "value_sigma": [1e-6] * 4,
    },
    schema_overrides=dict.fromkeys(SCHEMA.outputs, pl.Float32),
)


def test_sums_of_a_user_cover_all_its_rows_of_the_day():
    sums = user_sums(PREDICTIONS, LABELS, SCHEMA)
    assert sums["task"].to_list() == ["click"] * 3 + ["watch"] * 3 + ["value"] * 3
    assert sums["user"].to_list() == ["", "a", "b"] * 3  # a user that is null is the default's
    assert sums["rows"].to_list() == [1, 1, 2] * 3
    # click of b: a 1 scored 3/4 and a 0 scored 3/4
    click = [math.log(2), math.log(2), math.log(4 / 3) + math.log(4)]
    # watch: log1p of the labels is 1 for the example 1, else 0
    watch = [0.1**2, 0.3**2, (1 - 0.4) ** 2 + 0.2**2]
    # value: half of them positive, and those 1: E[log1p] = log(2) / 2, E = 1/2
    half = math.log(2) / 2
    value = [half**2, half**2, (1 - half) ** 2 + half**2]
    np.testing.assert_allclose(sums["loss"], [*click, *watch, *value], rtol=1e-5)
    np.testing.assert_allclose(sums["predicted"], [0.5, 0.5, 1.5, *[math.nan] * 3, 0.5, 0.5, 1.0], rtol=1e-6)
    seconds = [0, 0, math.e - 1]
    np.testing.assert_allclose(sums["observed"], [1, 0, 1, *seconds, *seconds], rtol=1e-6)


def test_rows_of_a_downsampled_table_are_weighted():
    schema = dataclasses.replace(SCHEMA, downsampling=Downsampling(task="click"))
    # Example 2 has weight 4 and example 3 has weight 2. No positive was left out.
    rates = pl.Series("sampling_rate", [0.25, 0.25, 0.5, None], dtype=pl.Float32)
    sums = user_sums(PREDICTIONS, LABELS.with_columns(rates), schema)
    assert sums["rows"].to_list() == [1, 4, 3] * 3
    click = [math.log(2), 4 * math.log(2), math.log(4 / 3) + 2 * math.log(4)]
    watch = [0.1**2, 4 * 0.3**2, (1 - 0.4) ** 2 + 2 * 0.2**2]
    np.testing.assert_allclose(sums["loss"][:6], [*click, *watch], rtol=1e-5)
    np.testing.assert_allclose(sums["predicted"][:3], [0.5, 4 * 0.5, 3 / 4 + 2 * 3 / 4], rtol=1e-6)
    assert sums["observed"][:3].to_list() == [1, 0, 1]
    found = compare(
        sums.with_columns(arm=pl.lit("none"), seed=1, day=DAYS[0]), _arms("none"), days=DAYS[:1], seed=1
    )
    (of_click,) = found.filter(task="click").iter_rows(named=True)
    assert of_click["rows"] == 8
    assert of_click["loss"] == pytest.approx(sum(click) / 8)
    assert of_click["calibration"] == pytest.approx((0.5 + 2 + 9 / 4) / 2)


def test_a_day_is_judged_by_all_of_its_examples():
    with pytest.raises(UserError, match="4 examples and 3 predictions have 3 in common"):
        user_sums(PREDICTIONS[1:], LABELS, SCHEMA)
    with pytest.raises(UserError, match="3 examples and 4 predictions have 3 in common"):
        user_sums(PREDICTIONS, LABELS[1:], SCHEMA)


def _sums(
    losses: Mapping[str, np.ndarray],
    *,
    rows: np.ndarray | int = 1,
    predicted: Mapping[str, float] | None = None,
    task: str = "click",
) -> pl.DataFrame:
    """Return sums from mean losses [seeds, days, users] and `rows` [days, users]; half of the labels are 1."""
    frames = []
    for arm, loss in losses.items():
        seeds, days, users = np.indices(loss.shape).reshape(3, -1)
        count = np.broadcast_to(rows, loss.shape).ravel()
        columns = {"arm": [arm] * len(users), "seed": seeds, "day": [DAYS[d] for d in days], "user": users}
        columns |= {"task": [task] * len(users), "rows": count, "loss": loss.ravel() * count}
        columns |= {"predicted": count * (predicted or {}).get(arm, 0.5), "observed": count * 0.5}
        frames.append(pl.DataFrame(columns))
    return pl.concat(frames)


def _arms(*names: str, teacher: str | None = None) -> list[Arm]:
    """Return arms that are compared with `none`, but for `none` and the teacher."""
    return [
        Arm(study="1 s", name=name, baseline=None if name in ("none", teacher) else "none", teacher=teacher)
        for name in names
    ]


def _compare(
    sums: pl.DataFrame | pl.LazyFrame, arms: Sequence[Arm], *, draws: int = 200, seed: int = 1
) -> pl.DataFrame:
    return compare(sums, arms, days=DAYS, draws=draws, seed=seed)


def test_a_loss_is_the_mean_over_seeds_and_days_of_a_days_mean():
    losses = {
        # two seeds, two days, users of 1 and 3 rows:
        # (1·4 + 3·0)/4 = 1 and (1·1 + 3·1)/4 = 1, then (1·0 + 3·4)/4 = 3 and (1·3 + 3·3)/4 = 3: mean 2
        "none": np.array([[[4.0, 0.0], [1.0, 1.0]], [[0.0, 4.0], [3.0, 3.0]]]),
        # 1, 0, 3 and 2: mean 1.5
        "kd": np.array([[[4.0, 0.0], [0.0, 0.0]], [[0.0, 4.0], [2.0, 2.0]]]),
        # all 0.75
        "teacher": np.full((2, 2, 2), 0.75),
    }
    sums = _sums(losses, rows=np.array([1, 3]), predicted={"none": 0.45, "kd": 0.6})
    found = _compare(sums, _arms("none", "kd", "teacher", teacher="teacher"))
    assert found.schema == COMPARISONS
    none, kd, teacher = found.iter_rows(named=True)
    assert (none["rows"], none["seeds"], none["loss"], kd["loss"], teacher["loss"]) == (8, 2, 2.0, 1.5, 0.75)
    assert kd["delta"] == pytest.approx(100 * (1.5 - 2) / 2)
    assert kd["transfer_ratio"] == pytest.approx((2 - 1.5) / (2 - 0.75))
    assert [row["calibration"] for row in (none, kd, teacher)] == pytest.approx([0.9, 1.2, 1.0])
    assert kd["farther"] == pytest.approx(0.2 - 0.1)
    assert [none[name] for name in ("baseline", "delta", "delta_low", "farther", "transfer_ratio")] == [
        None
    ] * 5


def test_a_calibration_is_taken_over_all_days_together():
    sums = _sums({"none": np.ones((1, 2, 2))}).with_columns(
        predicted=pl.Series([1.0, 2.0, 3.0, 4.0]), observed=pl.Series([0.0, 2.0, 0.0, 6.0])
    )
    # 10 / 8, where the mean of the days would be (3 / 2 + 7 / 6) / 2
    assert _compare(sums, _arms("none"))["calibration"].to_list() == [1.25]


def test_equal_arms_have_no_difference_and_an_interval_of_width_0():
    loss = np.random.default_rng(0).random((3, 2, 50))
    found = _compare(_sums({"none": loss, "same": loss.copy()}), _arms("none", "same"))
    intervals = found.filter(arm="same").select(pl.selectors.matches("^(delta|farther)"))
    assert set(intervals.row(0)) == {0.0}


def test_scatter_that_both_arms_share_does_not_widen_the_interval():
    random = np.random.default_rng(0)
    # Seeds and users differ a hundred times more than the arms do.
    loss = 5 + random.standard_normal((5, 1, 1)) / 4 + random.standard_normal((1, 2, 200)) / 4
    better = loss * (1 - 0.01 + 0.001 * random.standard_normal((5, 2, 200)))
    (kd,) = _compare(_sums({"none": loss, "kd": better}), _arms("none", "kd"))[1:].iter_rows(named=True)
    assert -1.02 < kd["delta_low"] < kd["delta"] < kd["delta_high"] < -0.98


def test_ten_equal_rows_of_each_user_are_no_more_evidence_than_one():
    random = np.random.default_rng(0)
    losses = {name: random.random((2, 2, 50)) for name in ("none", "kd")}
    one, ten = (_compare(_sums(losses, rows=rows), _arms("none", "kd")) for rows in (1, 10))
    for name in ("loss", "delta_low", "delta_high"):
        np.testing.assert_allclose(one[name].drop_nulls(), ten[name].drop_nulls(), rtol=1e-9)


@pytest.mark.parametrize(
    ("of_users", "of_seeds", "seeds", "low", "high"),
    [
        (0.3, 0.0, 1, 0.91, 0.985),
        (0.0, 0.01, 5, 0.91, 0.985),
        (0.0, 0.01, 2, 0.91, 0.985),
        (0.3, 0.02, 5, 0.93, 1.0),  # if both scatter, the interval is wider than necessary
    ],
)
def test_an_interval_covers_the_truth_in_95_of_100_cases(of_users, of_seeds, seeds, low, high):
    random = np.random.default_rng(0)
    cases, users, truth = 300, 100, -0.02
    rows = random.integers(1, 4, (2, users))
    losses, arms = {}, []
    for i in range(cases):
        scatter = of_users * random.standard_normal((1, 2, users)) + of_seeds * random.standard_normal(
            (seeds, 1, 1)
        )
        losses |= {f"none{i}": np.ones((seeds, 2, users)), f"kd{i}": 1 + truth + scatter}
        arms += [
            Arm(study="1 s", name=f"none{i}", baseline=None),
            Arm(study="1 s", name=f"kd{i}", baseline=f"none{i}"),
        ]
    found = _compare(_sums(losses, rows=rows), arms, draws=500).filter(pl.col("delta").is_not_null())
    covered = ((found["delta_low"] < 100 * truth) & (100 * truth < found["delta_high"])).mean()
    assert low <= covered <= high  # of 300 cases, 95 % ± 1.3 % (one standard deviation)


def test_an_interval_is_as_wide_as_the_scatter_of_users_makes_it():
    scatter = 0.2 * np.random.default_rng(0).standard_normal((1, 2, 400))
    losses = {"none": np.ones((3, 2, 400)), "kd": np.repeat(1 + scatter, 3, axis=0)}
    found = _compare(_sums(losses), _arms("none", "kd"), draws=2000)[1:]
    # The seeds are alike. 800 users of a standard deviation of 20 %: 2 · 1.96 · 20 % / √800
    width = (found["delta_high"] - found["delta_low"]).item()
    assert width == pytest.approx(2 * 1.96 * 20 / math.sqrt(800), rel=0.08)


def test_the_same_sums_in_any_order_and_the_same_seed_give_the_same():
    random = np.random.default_rng(0)
    sums = _sums({name: random.random((3, 2, 30)) for name in ("none", "kd")})
    found = _compare(sums, _arms("none", "kd"))
    assert _compare(sums.sample(fraction=1, shuffle=True, seed=5), _arms("none", "kd")).equals(found)
    assert _compare(sums.lazy(), _arms("none", "kd")).equals(found)
    assert not _compare(sums, _arms("none", "kd"), seed=2).equals(found)


def test_only_the_judged_days_count():
    loss = np.ones((1, 2, 5))
    loss[:, 0] = 9
    sums = _sums({"none": loss})
    assert compare(sums, _arms("none"), days=DAYS[1:], draws=10, seed=0)["loss"].to_list() == [1.0]


def test_every_day_has_the_same_weight_whichever_users_are_drawn():
    # On one day 10 % worse, on the other 10 % better, for each user, whether it has 1 row or 100.
    kd = np.full((1, 2, 20), 1.1)
    kd[:, 1] = 0.9
    rows = np.where(np.arange(20) < 10, 1, 100)
    found = _compare(_sums({"none": np.ones((1, 2, 20)), "kd": kd}, rows=rows), _arms("none", "kd"))[1:]
    assert found.select("delta", "delta_low", "delta_high").row(0) == pytest.approx((0, 0, 0), abs=1e-9)


def test_tasks_are_separate_and_a_task_without_predictions_has_no_calibration():
    click = _sums({name: np.full((2, 2, 5), loss) for name, loss in (("none", 1.0), ("kd", 0.9))})
    watch = _sums(
        {name: np.full((2, 2, 5), loss) for name, loss in (("none", 2.0), ("kd", 2.1))}, task="watch"
    )
    found = _compare(pl.concat([click, watch.with_columns(predicted=math.nan)]), _arms("none", "kd"))[2:]
    assert found["task"].to_list() == ["click", "watch"]
    assert found["delta"].to_list() == pytest.approx([-10, 5])
    assert found["calibration"].to_list() == [1.0, None]
    assert found["farther_low"].to_list() == [0.0, None]


def test_a_loss_that_is_not_finite_is_null_and_the_others_are_not():
    losses = {
        name: np.full((2, 2, 5), loss) for name, loss in (("none", 1.0), ("kd", 0.9), ("bad", math.nan))
    }
    found = _compare(_sums(losses), _arms("none", "kd", "bad"))
    assert found["loss"].to_list() == [1.0, pytest.approx(0.9), None]
    assert found["delta_high"].to_list() == [None, pytest.approx(-10), None]


def test_a_transfer_ratio_needs_a_teacher_that_is_certainly_better():
    random = np.random.default_rng(0)

    def found(lead: float, scatter: float) -> tuple[float, ...]:
        teacher = 1 - lead + scatter * random.standard_normal((5, 2, 100))
        losses = {"none": np.ones((5, 2, 100)), "kd": np.full((5, 2, 100), 0.95), "teacher": teacher}
        arms = _arms("none", "kd", "teacher", teacher="teacher")
        return _compare(_sums(losses), arms)[1].select(pl.selectors.starts_with("transfer_ratio")).row(0)

    # The student gains 0.05; the teacher's lead is known to ± 0.02 · 1.96 / √1000 or so.
    ratio, low, high = found(0.1, 0.02)
    assert 0.48 < low < ratio < high < 0.52
    ratio, low, high = found(0.1, 3.0)
    assert (low, high) == (None, None)
    assert found(-0.1, 0.0) == (None, None, None)


def test_an_arm_may_be_compared_with_two_others():
    losses = {name: np.full((2, 2, 5), loss) for name, loss in (("none", 1.0), ("direct", 0.8), ("aux", 0.9))}
    arms = [
        *_arms("none", "direct", "aux"),
        Arm(study="2 t", name="aux", baseline="direct", x=3.0, group="g"),
    ]
    found = _compare(_sums(losses), arms)
    assert found["delta"].to_list() == [None, pytest.approx(-20), pytest.approx(-10), pytest.approx(12.5)]
    assert found.select("study", "arm", "baseline", "x", "group").row(-1) == (
        "2 t",
        "aux",
        "direct",
        3.0,
        "g",
    )


def test_arms_that_cannot_be_paired_are_refused():
    sums = _sums({name: np.ones((2, 2, 5)) for name in ("none", "kd")})
    arms = _arms("none", "kd")
    with pytest.raises(UserError, match="arm 'kd' is compared with 'none', which is not an arm; expected kd"):
        _compare(sums, arms[1:])
    with pytest.raises(UserError, match="no sums of none, kd on 2024-05-02; let the study run to its end"):
        _compare(sums.filter(day=DAYS[0]), arms)
    for arm in ("none", "kd"):
        some = sums.filter(~((pl.col("arm") == arm) & (pl.col("seed") == 1) & (pl.col("user") == 4)))
        expected = f"day 2024-05-01: arm '{arm}' with seed 1 lacks users or rows.*run to its end"
        with pytest.raises(UserError, match=expected):
            _compare(some, arms)
    with pytest.raises(UserError, match="occur twice; keep one"):
        _compare(pl.concat([sums, sums.filter(arm="kd", seed=0)]), arms)
