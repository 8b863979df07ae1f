"""Measure the data gate alone: how often it stops a sound day, and which faults it finds on their first day.

Five worlds of 60 days each, of other sizes, base rates and rhythms, are judged day by day as a job would, without
writing them. Then each fault is made on some of their days. A table is printed for each, with the share of the days on
which the gate spoke. Bounds were chosen on other seeds than those that are measured by default.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import cached_property

import numpy as np
import polars as pl
from absl import app, flags

from tutelage.launch.configs.synthetic import SCHEMA
from tutelage.pipeline.alarms import AlarmBudget
from tutelage.pipeline.expected import MEMORY
from tutelage.pipeline.quality import DEFAULT_QUALITY, judge, scalars
from tutelage.pipeline.sources.synthetic import Synthetic
from tutelage.pipeline.statistics import Sketches, compare
from tutelage.pipeline.verdict import Verdict

_SEED = flags.DEFINE_integer("seed", 101, "Of the worlds.")
_DAYS = flags.DEFINE_integer("days", 60, "Sound days of each world.")
_FIRST = date(2026, 1, 1)
ALARMS = AlarmBudget(per_year=1.0).shared(5)
"""The share of one of five gates, as with three students."""
_SATURDAY = 5
_FAULTY_DAYS = (9, 16, 25, 33, 45, 59)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A world whose days are sound."""

    name: str
    rows: int
    """Rows a day; the first day's where they grow."""
    click_rate: float
    saturday: int = 1
    """How many times the rows of another day a Saturday has."""
    growth: float = 0.0
    """By which share the rows grow from day to day."""
    new_ids: float = 0.0
    seed: int = 1

    @cached_property
    def source(self) -> Synthetic:
        users, videos = max(200, self.rows // 8), max(200, self.rows // 20)
        return Synthetic(
            seed=self.seed,
            first_day=_FIRST,
            rows_per_day=self.rows,
            users=users,
            videos=videos,
            new_users_per_day=max(1, users // 100),
            new_videos_per_day=max(5, videos // 25),
            new_ids=self.new_ids,
        )

    def day(self, number: int) -> pl.DataFrame:
        """Return the rows of a day."""
        day = _FIRST + timedelta(days=number)
        rows = self.rows * (1 + self.growth) ** number * (self.saturday if day.weekday() == 5 else 1)
        source = replace(self.source, rows_per_day=round(rows))
        units = source.units("", workdir="", days=[day])
        frame = pl.concat(part for unit in units for part in source.read(unit))
        draw = np.random.default_rng([self.seed, number])
        clicked, luck = frame["click"].to_numpy() == 1, draw.random(frame.height)
        usual = 0.4  # About the rate of the world's clicks.
        if self.click_rate < usual:
            clicked &= luck < self.click_rate / usual
        else:
            clicked |= luck < (self.click_rate - usual) / (1 - usual)
        return frame.with_columns(click=pl.Series(clicked).cast(pl.Int8))


def settings(seed: int) -> list[Setting]:
    return [
        Setting(name="500 rows, 40 %", rows=500, click_rate=0.4, seed=seed),
        Setting(name="500 rows, .5 %, weekly", rows=500, click_rate=0.005, saturday=_SATURDAY, seed=seed + 1),
        Setting(
            name="5 k rows, .5 %, weekly", rows=5_000, click_rate=0.005, saturday=_SATURDAY, seed=seed + 2
        ),
        Setting(
            name="5 k rows, 50 %, growing",
            rows=5_000,
            click_rate=0.5,
            growth=0.02,
            new_ids=0.05,
            seed=seed + 3,
        ),
        Setting(name="100 k rows, 10 %", rows=100_000, click_rate=0.1, seed=seed + 4),
    ]


def _swapped(one: str, other: str) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda frame: frame.with_columns(pl.col(other).alias(one), pl.col(one).alias(other))


def _doubled(frame: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([frame, frame.with_columns(pl.col("event_time_us") + 1, user_id=-pl.col("user_id"))])


def _rated(frame: pl.DataFrame) -> pl.DataFrame:
    rate = min(1.0, 100 * float(frame["click"].mean()))  # type: ignore[arg-type]
    luck = np.random.default_rng(7).random(frame.height)
    return frame.with_columns(click=pl.Series(luck < rate).cast(pl.Int8))


def _retyped(name: str, value: pl.Expr) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda frame: frame.with_columns(value.cast(frame.schema[name]).alias(name))


FAULTS: Mapping[str, Callable[[pl.DataFrame], pl.DataFrame]] = {
    "a number is shifted by one sd": lambda frame: frame.with_columns(
        video_seconds=pl.col("video_seconds") + pl.col("video_seconds").std()
    ),
    "a number is 1,000 times as large": lambda frame: frame.with_columns(pl.col("video_seconds") * 1_000),
    "two numbers are swapped": _swapped("video_seconds", "video_age_days"),
    "two ids are swapped": _swapped("user_id", "video_id"),
    "two ids of one kind are swapped": _swapped("position", "hour"),
    "the day is doubled under new ids": _doubled,
    "clicks are 100 times as many": _rated,
    "clicks are flipped": lambda frame: frame.with_columns(click=1 - pl.col("click")),
    "a number is null": _retyped("video_seconds", pl.lit(None)),
    "a number is constant": _retyped("video_seconds", pl.lit(30.0)),
    "an id is constant": _retyped("author_id", pl.lit(7)),
    "clicks are none": _retyped("click", pl.lit(0)),
    "half of an id is null": _retyped(
        "topic", pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.col("topic"))
    ),
}


class Gate:
    """Judges the days of one world in order, and remembers those that pass."""

    def __init__(self) -> None:
        self.window: dict[date, pl.DataFrame] = {}
        self.memory: dict[date, np.ndarray] = {}

    def judge(self, number: int, frame: pl.DataFrame, *, keep: bool = True) -> Verdict:
        day = _FIRST + timedelta(days=number)
        sketches = Sketches(SCHEMA)
        sketches.add(frame)
        statistics = compare(sketches.finish(), list(self.window.values()))
        now = scalars(SCHEMA, statistics)
        verdict = judge(SCHEMA, (day, now), self.memory, DEFAULT_QUALITY, alarms=ALARMS)
        if keep and verdict.blessed:
            self.window = dict([*self.window.items(), (day, statistics)][-DEFAULT_QUALITY.trailing_days :])
            self.memory = dict([*self.memory.items(), (day, now)][-MEMORY:])
        return verdict


def measure(setting: Setting, days: int, faulty_days: Sequence[int]) -> tuple[list[str], dict[str, float]]:
    """Return what the gate said of sound days that it stopped, and for each fault the share that it found."""
    gate, stops = Gate(), []
    found = dict.fromkeys(FAULTS, 0)
    for number in range(days):
        frame = setting.day(number)
        if number in faulty_days:
            for name, fault in FAULTS.items():
                found[name] += not gate.judge(number, fault(frame), keep=False).blessed
        verdict = gate.judge(number, frame)
        if not verdict.blessed:
            stops.append(f"{setting.name}, day {number}: {verdict}")
    judged = sum(number < days for number in faulty_days)
    return stops, {name: count / max(judged, 1) for name, count in found.items()}


def main(_: Sequence[str]) -> None:
    results = {setting.name: measure(setting, _DAYS.value, _FAULTY_DAYS) for setting in settings(_SEED.value)}
    for name, (stops, _) in results.items():
        print(f"{name}: {len(stops)} of {_DAYS.value} sound days stopped", *stops[:3], sep="\n  ")
    print("\n| fault |", " | ".join(results), "|")
    print("|---|" + "---|" * len(results))
    for fault in FAULTS:
        shares = " | ".join(f"{found[fault]:.0%}" for _, found in results.values())
        print(f"| {fault} | {shares} |")


if __name__ == "__main__":
    app.run(main)
