"""A simulated world: users and videos, how they change from day to day, and how users respond.

Everything is a function of (seed, index, day), so the truth can be computed from the ids and the day alone.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tutelage.pipeline.errors import UserError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

USER, VIDEO, AUTHOR, WORLD, EVENTS = 1, 2, 3, 4, 5
"""Kinds of ids, which are also the streams of random numbers."""
STATE_MU = np.array([1.4, 0, -1.3], np.float32)
"""What each state adds to the mean of log(watch seconds): long view, other click, glimpse."""
SIGMA = np.float32(0.8)
"""Standard deviation of log(watch seconds), in each of these states."""

_WIDTH = 8
"""Width of the vector of a user's taste, and of what a video is about."""
_HIDDEN, _TOPICS = 36, 12
"""Number of topics that users care about, and of the coarser ones in the column `topic`."""
_COUNTRIES = ("ID", "IN", "BR", "US", "NG", "MX", "DE", "JP")
_SEGMENTS = 24
"""Groups of users with similar tastes; a country has six of them."""
_BIAS, _TASTE = np.float32(-0.7), np.float32(1.0)
"""Chosen so that two of five exposures are clicked, and the best possible AUC is .79."""
_GLIMPSE = np.float32(0.15)
"""Share of the exposures without a click that are watched for a moment."""
_LIFE = 2**32
"""Difference of the indices of two users, or videos, that have the same place one after the other."""
_BITS, _ODD = 2**63 - 1, (0x1E3779B97F4A7C15, 0x3F58476D1CE4E5B9)
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(24)


def rng(seed: int, stream: int, *key: int) -> np.random.Generator:
    """Return a generator of random numbers that are independent for each (seed, stream, key)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(stream, *key))))


def to_id(index: Ints, kind: int) -> Ints:
    """Return the ids of indices, a bijection on 63 bits: ids look like hashes and are positive; kinds share none."""
    x = (index + (kind << 40)).astype(np.uint64) * np.uint64(_ODD[0]) & np.uint64(_BITS)
    x ^= x >> np.uint64(32)
    return (x * np.uint64(_ODD[1]) & np.uint64(_BITS)).astype(np.int64)


def to_index(ids: Ints, kind: int) -> Ints:
    """Return the indices of ids, the inverse of `to_id`. An id of another kind gives less than 0, or 2**40 or more."""
    x = ids.astype(np.uint64) * np.uint64(pow(_ODD[1], -1, 2**63)) & np.uint64(_BITS)
    x ^= x >> np.uint64(32)
    x = x * np.uint64(pow(_ODD[0], -1, 2**63)) & np.uint64(_BITS)
    return np.where(ids > 0, x.astype(np.int64) - (kind << 40), -1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Response:
    """What to expect of exposures; each array is float32 [rows]."""

    long_view: Floats  # P(long view); a long view implies a click
    click: Floats  # P(click)
    watch: Floats  # P(watch seconds > 0): a click, or a glimpse without one
    mu: Floats  # mean of log(watch seconds), before STATE_MU of what happened is added

    def means(self) -> dict[str, NDArray[np.float64]]:
        """Return the expectations of click, long view, watch seconds and their log1p, each float64 [rows]."""
        long_view, click, watch, mu = np.array([self.long_view, self.click, self.watch, self.mu], np.float64)
        seconds, log1p = np.zeros_like(mu), np.zeros_like(mu)
        for chance, state in zip((long_view, click - long_view, watch - click), STATE_MU, strict=True):
            seconds += chance * np.exp(mu + state + SIGMA**2 / 2)
            for node, weight in zip(_NODES, _WEIGHTS / _WEIGHTS.sum(), strict=True):
                log1p += chance * weight * np.log1p(np.exp(mu + state + SIGMA * node))
        return {"click": click, "long_view": long_view, "watch_seconds": seconds, "watch_log1p": log1p}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class World:
    """The users and videos of one day: arrays with one row per user or video, and the columns that events show."""

    taste: Floats  # [users, _WIDTH]
    user_bias: Floats
    user_share: NDArray[np.float64]  # share of the sessions, cumulative
    users: pl.DataFrame  # user_id, country, user_age_days at midnight
    about: Floats  # [videos, _WIDTH]
    video_bias: Floats
    video_share: NDArray[np.float64]  # share of the exposures, cumulative
    log_length: Floats  # log(duration / median duration)
    videos: pl.DataFrame  # video_id, author_id, topic, video_seconds, video_age_days at midnight

    def respond(self, *, user: Ints, video: Ints, position: Ints, hour: Ints) -> Response:
        """Return how users respond to videos (indices) at a position of the feed and an hour, each int64 [rows]."""
        match = np.einsum("ij,ij->i", self.taste[user], self.about[video])
        slot = -0.3 * np.log1p(np.arange(1 + position.max(initial=0))).astype(np.float32)
        clock = 0.15 * np.cos((np.arange(24) - 21) * (np.pi / 12)).astype(np.float32)
        length = self.log_length[video]
        click = _sigmoid(match + self.user_bias[user] + self.video_bias[video] + slot[position] + clock[hour])
        return Response(
            long_view=click * _sigmoid(0.1 + 0.7 * match - 0.5 * length),
            click=click,
            watch=click + _GLIMPSE * (1 - click),
            mu=1.6 + 0.25 * match + 0.6 * length,
        )

    def find(self, ids: Ints, kind: int) -> Ints:
        """Return the indices of `ids`. Raises UserError for an id that does not exist on this day."""
        shown = self.users["user_id"] if kind == USER else self.videos["video_id"]
        known = len(shown)
        index = to_index(ids, kind) % _LIFE
        exists = shown.to_numpy()[np.minimum(index, known - 1)] == ids
        unknown = ids[~exists]
        if len(unknown):
            name = "user_id" if kind == USER else "video_id"
            raise UserError(
                f"{name} {unknown[0]} is not one of the {known} that exist on that day ({len(unknown)} of {len(ids)} "
                "rows have such an id); call the truth of the source that made the rows"
            )
        return index


def build(
    *, seed: int, day: int, users: int, videos: int, new_users: int, new_videos: int, new_ids: float = 0.0
) -> World:
    """Return the world on `day`, counted from 0: `users` and `videos`, and the new ones of every day since.

    Each day a share `new_ids` of all of them is replaced by new ones, so that each one stays for 1 / `new_ids` days.
    """
    trend = _walk(rng(seed, WORLD, 0).standard_normal((day + 1, _HIDDEN), dtype=np.float32))
    centres = rng(seed, WORLD, 1).standard_normal((_HIDDEN + _SEGMENTS, _WIDTH), dtype=np.float32)
    centres *= np.sqrt(_WIDTH / (centres**2).sum(axis=1, keepdims=True))  # Seeds then differ little.

    index = np.arange(users + day * new_users)
    life, born = _lives(index, day, new_ids, _first_day(index, users, new_users))
    normal, uniform = _traits(seed, USER, len(index), 2 * _WIDTH + 3, life)
    country = (len(_COUNTRIES) * uniform[:, 0] ** 2).astype(np.int64)
    segment = (3 * country + (6 * uniform[:, 1]).astype(np.int64)) % _SEGMENTS
    taste = 0.85 * centres[_HIDDEN + segment] + 0.5 * normal[:, :_WIDTH]
    later = normal[:, _WIDTH : 2 * _WIDTH]  # The taste turns towards it, at a pace of the user's own.
    turn = (0.04 * day * normal[:, -1])[:, None]  # In radians.
    user_table = {
        "user_id": to_id(index + life * _LIFE, USER),
        "country": pl.Series(_COUNTRIES).gather(country),
        "user_age_days": (day - born + uniform[:, 2]).astype(np.float32),
    }

    number = np.arange(videos + day * new_videos)
    life, first_day = _lives(number, day, new_ids, _first_day(number, videos, new_videos))
    trait, chance = _traits(seed, VIDEO, len(number), _WIDTH + 2, life)
    author = (np.maximum(number, videos) // 10 * chance[:, 0] ** 2).astype(np.int64)
    skill, main_topic = _traits(seed, AUTHOR, int(author.max()) + 1, 1)
    topic = (_HIDDEN * np.where(chance[:, 1] < 0.8, main_topic[author, 0], chance[:, 2])).astype(np.int64)
    fresh = np.exp((first_day - day) / 3).astype(np.float32)
    quality = 0.6 * skill[author, 0] + 0.8 * trait[:, -1]
    heat = chance[:, 3] ** np.float32(-0.7)  # Zipf: the k-th hottest video has about k**-0.7.
    log_length = 0.7 * trait[:, -2]
    video_table = {
        "video_id": to_id(number + life * _LIFE, VIDEO),
        "author_id": to_id(author, AUTHOR),
        "topic": pl.Series([f"topic_{i * _TOPICS // _HIDDEN:02d}" for i in range(_HIDDEN)]).gather(topic),
        "video_seconds": 25 * np.exp(log_length),
        # A video is uploaded on the evening before its first day, so that no age is negative.
        "video_age_days": (day - first_day + chance[:, 4]).astype(np.float32),
    }
    return World(
        taste=_TASTE / np.float32(np.sqrt(_WIDTH)) * (np.cos(turn) * taste + np.sin(turn) * later),
        user_bias=0.6 * normal[:, -2],
        user_share=_shares(np.exp(normal[:, -3])),
        users=pl.DataFrame(user_table),
        about=0.9 * centres[topic] + 0.4 * trait[:, :_WIDTH],
        video_bias=_BIAS + 0.5 * quality + 0.35 * trend[topic] + 0.5 * fresh,
        video_share=_shares(heat * (0.02 + fresh) * np.exp(0.3 * quality + 0.5 * trend[topic])),
        log_length=log_length,
        videos=pl.DataFrame(video_table),
    )


def _traits(seed: int, kind: int, rows: int, width: int, life: Ints | int = 0) -> tuple[Floats, Floats]:
    """Return normals [rows, width] and uniforms [rows, 5] in (0, 1). A row does not depend on the rows after it.

    `life`, one number or [rows], counts the earlier holders of each place; every holder has other traits.
    """
    normals, uniforms = np.empty((rows, width), np.float32), np.empty((rows, 5), np.float32)
    for n in np.unique(life).tolist():
        of_life = np.broadcast_to(np.equal(life, n), rows)
        normals[of_life] = rng(seed, kind, 2 * n).standard_normal((rows, width), dtype=np.float32)[of_life]
        uniforms[of_life] = rng(seed, kind, 2 * n + 1).random((rows, 5), dtype=np.float32)[of_life]
    return normals, uniforms.clip(1e-6, 1 - 1e-6)


def _lives(index: Ints, day: int, new_ids: float, first_day: Ints) -> tuple[Ints, Ints]:
    """Return how many earlier holders each place had on `day`, and the day since which the present one has it.

    `first_day` is the first day of each place.
    """
    if not new_ids:
        return np.zeros_like(index), first_day
    # The phases are a low-discrepancy sequence, so that the same number of places changes hands on each day.
    phase = index * 0.6180339887498949 % 1
    turn = np.floor(day * new_ids + phase)
    life = turn - np.floor(np.maximum(first_day, 0) * new_ids + phase)
    since = np.minimum(np.ceil((turn - phase) / new_ids), day)
    return life.astype(np.int64), np.where(life > 0, since, first_day).astype(np.int64)


def _walk(steps: Floats) -> Floats:
    """Return the last state of a mean-reverting walk of unit variance with `steps` [days, topics]."""
    state = steps[0]
    for step in steps[1:]:
        state = np.float32(0.95) * state + np.float32(np.sqrt(1 - 0.95**2)) * step
    return state


def _first_day(index: Ints, at_start: int, each_day: int) -> Ints:
    """Return the first day of each index: at most 0 for the `at_start` of day 0, then `each_day` more per day."""
    return (index - at_start) // each_day + 1


def _shares(weights: Floats) -> NDArray[np.float64]:
    """Return the cumulative shares of the weights."""
    total = np.cumsum(weights, dtype=np.float64)
    return total / total[-1]


def _sigmoid(logit: Floats) -> Floats:
    odds: Floats = np.exp(-logit)
    return (1 + odds) ** -1
