"""Synthetic interactions: days of a feed of short videos, where the true probability of every label is known."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache

import numpy as np
import polars as pl

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.sources import world
from tutelage.pipeline.sources.base import Unit

_EPOCH = date(1970, 1, 1)
_SECOND_US, _HOUR_US, _DAY_US = 1_000_000, 3_600_000_000, 86_400_000_000
_UNIT_ROWS = 250_000
_SLOTS = 20
"""Exposures in the longest session."""
_GAP = 60
"""Seconds between two exposures of a session, at most."""
_NO_COUNTRY = 0.02
"""Share of rows without a country."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthetic:
    """A simulated world with `users` and `videos` on `first_day`, and a fixed number of new ones on each day after.

    A day (UTC) has `rows_per_day` exposures, in sessions. Popular and new videos are shown more often, and later
    positions of a session (`position`) are clicked less. Tastes change, and topics rise and fall, from day to day.
    Labels: `click`; `long_view`, which only occurs with a click; `watch_seconds`, which is log-normal with a click or a
    glimpse without one, else 0, and is not bounded by the length of the video.

    `truth` returns what the labels were drawn from. Equal fields give equal rows, whichever days are requested, in
    whichever order.
    """

    seed: int
    first_day: date
    rows_per_day: int
    users: int
    videos: int
    new_users_per_day: int
    new_videos_per_day: int
    new_ids: float = 0.0
    """Share of the users and of the videos that are replaced by new ones each day."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise UserError(f"synthetic: seed is {self.seed}, expected 0 to 2**63 - 1; choose another one")
        for name in ("rows_per_day", "users", "videos", "new_users_per_day", "new_videos_per_day"):
            if getattr(self, name) < 1:
                raise UserError(f"synthetic: {name} is {getattr(self, name)}, expected at least 1; raise it")
        if not 0 <= self.new_ids <= 1:
            raise UserError(f"synthetic: new_ids is {self.new_ids}, expected a share, 0 to 1")

    def columns(self) -> Mapping[str, pl.DataType]:
        """Return ids and topics, numbers in days and seconds, the UTC hour, the position, and the labels."""
        return {
            "user_id": pl.Int64(),
            "country": pl.String(),
            "user_age_days": pl.Float32(),
            "video_id": pl.Int64(),
            "author_id": pl.Int64(),
            "topic": pl.String(),
            "video_seconds": pl.Float32(),
            "video_age_days": pl.Float32(),
            "hour": pl.Int64(),
            "position": pl.Int64(),
            "click": pl.Int8(),
            "long_view": pl.Int8(),
            "watch_seconds": pl.Float32(),
        }

    def units(self, raw_dir: str, *, workdir: str, days: Sequence[date]) -> list[Unit]:
        """Return units of at most 250,000 rows of one day. `raw_dir` and `workdir` are not used."""
        parts = -(-self.rows_per_day // _UNIT_ROWS)
        ours = sorted({day for day in days if day >= self.first_day})
        return [
            Unit(
                index=i * parts + part,
                where=f"synthetic {day}, part {part + 1} of {parts}",
                args={"day": day, "part": part},
            )
            for i, day in enumerate(ours)
            for part in range(parts)
        ]

    def read(self, unit: Unit) -> Iterator[pl.DataFrame]:
        """Yield one frame, session by session. Memory: the unit, and the worlds of the last two days."""
        day, part = unit.args["day"], unit.args["part"]
        number = (day - self.first_day).days
        today, draw = _world(self, number), world.rng(self.seed, world.EVENTS, number, part)
        rows = min(self.rows_per_day - part * _UNIT_ROWS, _UNIT_ROWS)

        lengths = draw.integers(4, _SLOTS + 1, size=rows // 4 + 1)
        first = np.concatenate([[0], np.cumsum(lengths)])
        sessions = int(np.searchsorted(first, rows))
        session = np.repeat(np.arange(sessions), lengths[:sessions])[:rows]
        position = np.arange(rows) - first[session]
        user = np.searchsorted(today.user_share, draw.random(sessions))[session]
        video = np.searchsorted(today.video_share, draw.random(rows))
        start = np.sort(draw.integers(86_400 - _SLOTS * _GAP, size=sessions))
        second = start[session] + position * draw.integers(5, _GAP + 1, size=sessions)[session]
        hour = second // 3600

        response = today.respond(user=user, video=video, position=position, hour=hour)
        luck = draw.random(
            rows, dtype=np.float32
        )  # One draw for all three, because each one implies the next.
        long_view, click, watch = (
            (luck < chance).view(np.int8) for chance in (response.long_view, response.click, response.watch)
        )
        log_seconds = response.mu + world.STATE_MU[2 - click - long_view]
        seconds = watch * np.exp(log_seconds + world.SIGMA * draw.standard_normal(rows, dtype=np.float32))

        # The microseconds are a permutation of the row numbers: no two rows of a unit share a time.
        micros = np.arange(rows) * 611_953 % _SECOND_US
        age = pl.Series((second / 86_400).astype(np.float32))
        known = pl.Series(draw.random(rows, dtype=np.float32) >= _NO_COUNTRY)
        raw = pl.concat([today.users[user], today.videos[video]], how="horizontal").with_columns(
            pl.when(known).then("country"),
            pl.col("user_age_days", "video_age_days") + age,
            pl.Series("hour", hour),
            pl.Series("position", position),
            pl.Series("click", click),
            pl.Series("long_view", long_view),
            pl.Series("watch_seconds", seconds),
            pl.Series("event_time_us", (day - _EPOCH).days * _DAY_US + second * _SECOND_US + micros),
        )
        yield raw.with_columns(content=raw.hash_rows(), dropped=pl.lit(None, pl.String))

    def truth(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return what the labels of `frame` were drawn from, float64, one row per row.

        `click` and `long_view` are probabilities, `watch_seconds` is an expectation in seconds, and `watch_log1p` the
        expectation of log1p(watch seconds). Of `frame` it reads `user_id`, `video_id`, `position` and `event_time_us`,
        which gives the day.

        Raises UserError for a day before `first_day`, and for an id that does not exist on that day.
        """
        columns = ("user_id", "video_id", "position", "event_time_us")
        means = ("click", "long_view", "watch_seconds", "watch_log1p")
        values = {name: np.empty(len(frame)) for name in means}
        number = frame["event_time_us"].to_numpy() // _DAY_US - (self.first_day - _EPOCH).days
        if number.min(initial=0) < 0:
            raise UserError(f"truth: a row is of a day before {self.first_day}, the first day; remove it")
        for day in np.unique(number).tolist():
            rows = np.flatnonzero(number == day)
            user_id, video_id, position, time = (frame[name].to_numpy()[rows] for name in columns)
            today = _world(self, day)
            response = today.respond(
                user=today.find(user_id, world.USER),
                video=today.find(video_id, world.VIDEO),
                position=position,
                hour=time % _DAY_US // _HOUR_US,
            )
            for name, mean in response.means().items():
                values[name][rows] = mean
        return pl.DataFrame(values)


@lru_cache(maxsize=2)  # The units of a day share it, and a slice that spans midnight needs two.
def _world(source: Synthetic, number: int) -> world.World:
    return world.build(
        seed=source.seed,
        day=number,
        users=source.users,
        videos=source.videos,
        new_users=source.new_users_per_day,
        new_videos=source.new_videos_per_day,
        new_ids=source.new_ids,
    )
