"""The data gate on a simulated world: sound days pass, and each fault is found on its first day."""

from collections.abc import Callable, Iterator
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from tutelage.launch.configs.synthetic import SCHEMA
from tutelage.pipeline.alarms import AlarmBudget
from tutelage.pipeline.quality import DEFAULT_QUALITY, judge, scalars
from tutelage.pipeline.sources.synthetic import Synthetic
from tutelage.pipeline.statistics import Sketches, compare
from tutelage.pipeline.verdict import Verdict

FIRST = date(2026, 1, 1)
LAST = 23
SOURCE = Synthetic(
    seed=42,
    first_day=FIRST,
    rows_per_day=5_000,
    users=800,
    videos=400,
    new_users_per_day=8,
    new_videos_per_day=16,
)


def _rows(number: int) -> pl.DataFrame:
    units = SOURCE.units("", workdir="", days=[FIRST + timedelta(days=number)])
    return pl.concat(frame for unit in units for frame in SOURCE.read(unit))


class World:
    """The days so far, as the gate remembers them."""

    def __init__(self) -> None:
        self.window: list[pl.DataFrame] = []
        self.memory: dict[date, np.ndarray] = {}
        self.stopped = [str(verdict) for verdict in self._days() if not verdict.blessed]
        self.last = _rows(LAST)

    def _days(self) -> Iterator[Verdict]:
        for number in range(LAST):
            day = FIRST + timedelta(days=number)
            verdict, statistics = self._judge(day, _rows(number))
            yield verdict
            self.window = [*self.window, statistics][-DEFAULT_QUALITY.trailing_days :]
            self.memory[day] = scalars(SCHEMA, statistics)

    def _judge(self, day: date, frame: pl.DataFrame) -> tuple[Verdict, pl.DataFrame]:
        sketches = Sketches(SCHEMA)
        sketches.add(frame)
        statistics = compare(sketches.finish(), self.window)
        now = day, scalars(SCHEMA, statistics)
        verdict = judge(SCHEMA, now, self.memory, DEFAULT_QUALITY, alarms=AlarmBudget(per_year=0.2))
        return verdict, statistics

    def failed(self, frame: pl.DataFrame) -> list[str]:
        verdict = self._judge(FIRST + timedelta(days=LAST), frame)[0]
        return [check.name for check in verdict.checks if not check.passed]


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def test_sound_days_pass(world: World) -> None:
    assert world.stopped == []
    assert world.failed(world.last) == []
    # So do few rows of a day, which differ more by chance, but for their number.
    assert world.failed(world.last[::10]) == ["rows"]


def _swap(one: str, other: str) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda rows: rows.with_columns(pl.col(other).alias(one), pl.col(one).alias(other))


def _set(name: str, value: pl.Expr) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda rows: rows.with_columns(value.cast(rows.schema[name]).alias(name))


@pytest.mark.parametrize(
    ("fault", "names"),
    [
        (_set("user_age_days", pl.col("user_age_days") + 60), {"drift of user_age_days"}),
        (
            _swap("video_seconds", "user_age_days"),
            {"drift of video_seconds but for one value", "drift of user_age_days but for one value"},
        ),
        (_swap("user_id", "video_id"), {"new ids of user_id", "new ids of video_id"}),
        (
            lambda rows: pl.concat([rows, rows.with_columns(pl.col("event_time_us") + 1)]),
            {"rows that repeat another but for the key"},
        ),
        (_set("click", pl.lit(1)), {"mean of click", "values of click"}),
        (_set("video_age_days", pl.lit(None)), {"nulls of video_age_days"}),
        (_set("video_age_days", pl.lit(3.0)), {"drift of video_age_days"}),
        (_set("author_id", pl.lit(3)), {"values of author_id"}),
    ],
)
def test_a_fault_is_found_on_its_first_day(
    world: World, fault: Callable[[pl.DataFrame], pl.DataFrame], names: set[str]
) -> None:
    assert names <= set(world.failed(fault(world.last)))


def test_values_that_went_to_other_rows_are_not_seen_because_no_distribution_changed(world: World) -> None:
    assert world.failed(world.last.with_columns(pl.col("topic", "country").shuffle(seed=1))) == []
