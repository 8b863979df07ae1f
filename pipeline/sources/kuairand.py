"""The standard-policy logs of KuaiRand-Pure. One row is one exposure of a short video to a user.

Gao et al., "KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed Videos",
CIKM 2022.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path

import polars as pl

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.sources.base import RawFile, Unit
from tutelage.pipeline.sources.csv_blocks import blocks, header, read_block

_LOGS = "log_standard_*_pure.csv"
_USERS, _VIDEOS = "user_features_pure.csv", "video_features_basic_pure.csv"
_TIME_ZONE = "Asia/Shanghai"
_YEAR_2100_MS = 4_102_444_800_000
_LONGEST_WATCH_MS = 31 * 86_400_000  # The logs cover a month.

_USER_NUMBERS = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
_USER_TEXTS = ("user_active_degree", *(f"{name}_range" for name in _USER_NUMBERS))
_USER_INTS = ("is_live_streamer", "is_video_author", *(f"onehot_feat{i}" for i in range(18)))
_VIDEO_TEXTS = ("tag", "upload_type", "video_type")
_VIDEO_INTS = ("author_id", "music_id", "music_type")
_LABELS = {
    "click": "is_click",
    "long_view": "long_view",
    "like": "is_like",
    "follow": "is_follow",
    "comment": "is_comment",
    "forward": "is_forward",
    "hate": "is_hate",
}
_NEEDED = {
    _LOGS: ("user_id", "video_id", "time_ms", "tab", "duration_ms", "play_time_ms", *_LABELS.values()),
    _USERS: ("user_id", *_USER_NUMBERS, *_USER_TEXTS, *_USER_INTS),
    _VIDEOS: ("video_id", "video_duration", "upload_dt", *_VIDEO_TEXTS, *_VIDEO_INTS),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KuaiRand:
    """Reads the folder of the archive, `RAW/data/*.csv`. Its days are days in Beijing (Asia/Shanghai).

    `time_ms` is the time of the exposure. `date` and `hourmin`, which may differ from it, only count for `content`.
    Nothing that happens after the exposure is a feature, and the statistics of videos over the whole month are never
    opened. The tables of users and videos have no dates: they are joined as they are, with nulls for a user or a video
    that they lack, and with the first row of one that they repeat.

    Rows are dropped as `bad_row` (more or fewer fields than the header), `bad_time` (`time_ms` not in the years 1970 to
    2099), `bad_key` (`user_id` or `video_id` is not a non-negative int64) and `bad_label` (a label that is not 0 or 1,
    `play_time_ms` not between 0 and 31 days). Any other value that cannot be parsed is a null.
    """

    block_bytes: int = 64 << 20
    """Size of a unit. A worker needs about twelve times as much memory."""

    def __post_init__(self) -> None:
        if self.block_bytes < 1:
            raise UserError(f"KuaiRand: block_bytes is {self.block_bytes}, expected at least 1")

    def columns(self) -> Mapping[str, pl.DataType]:
        """Return ids as Int64 or String, numbers as Float32 (seconds, days, counts), labels as Int8 and Float32.

        `tag` is the text of a video's tags, separated by commas, and `tags` the list of them.
        """
        ints = ("user_id", "video_id", "tab", "hour", *_USER_INTS, *_VIDEO_INTS)
        numbers = (*_USER_NUMBERS, "video_seconds", "video_age_days", "watch_seconds")
        return (
            dict.fromkeys(ints, pl.Int64())
            | dict.fromkeys((*_USER_TEXTS, *_VIDEO_TEXTS), pl.String())
            | dict.fromkeys(numbers, pl.Float32())
            | dict.fromkeys(_LABELS, pl.Int8())
            | {"tags": pl.List(pl.String)}
        )

    def units(self, raw_dir: str, *, workdir: str, days: Sequence[date]) -> list[Unit]:
        """Return the byte ranges of every log, by name. Each log spans many days, so `days` excludes none.

        Raises UserError if the folder, a log, the table of users or of videos, or one of their columns is missing, and
        for a file that is empty or binary.
        """
        folder = Path(raw_dir, "data")
        logs = sorted(folder.glob(_LOGS))
        if not logs:
            raise UserError(
                f"no KuaiRand logs in {raw_dir!r}{_why_none(Path(raw_dir))}; expected the folder of the "
                f"KuaiRand-Pure archive, which holds data/{_LOGS}"
            )
        users, videos = folder / _USERS, folder / _VIDEOS
        for kind, path in [*((_LOGS, log) for log in logs), (_USERS, users), (_VIDEOS, videos)]:
            names = header(path)
            for name in _NEEDED[kind]:
                if name not in names:
                    raise UserError(
                        f"{path}: its header has no column {name!r}; expected those of KuaiRand-Pure"
                    )
        ranges = [(str(log), start, end) for log in logs for start, end in blocks(log, self.block_bytes)]
        sides = (RawFile.of(users), RawFile.of(videos))
        of_log = {str(log): RawFile.of(log) for log in logs}
        return [
            Unit(
                index=index,
                where=f"{log} bytes {start}-{end}",
                args={"log": log, "start": start, "end": end, "users": str(users), "videos": str(videos)},
                files=(of_log[log], *sides),
            )
            for index, (log, start, end) in enumerate(ranges)
        ]

    def read(self, unit: Unit) -> Iterator[pl.DataFrame]:
        """Yield one frame: the rows whose lines begin in the unit's range, in the order of the log.

        Raises UserError for a file that is binary, truncated or missing, and for a table of users or videos with a row
        of more or fewer fields than its header.
        """
        log = unit.args["log"]
        users = _side_table(unit.args["users"], "user_id")
        videos = _side_table(unit.args["videos"], "video_id")
        raw = read_block(log, unit.args["start"], unit.args["end"], header(log))
        rows = (
            raw.select(*_log_columns(), raw.drop("ragged").hash_rows().alias("content"))
            .join(users, on="user_id", how="left", maintain_order="left")
            .join(videos, on="video_id", how="left", maintain_order="left")
        )
        utc = pl.from_epoch("time_ms", time_unit="ms").dt.replace_time_zone("UTC")
        local = utc.dt.convert_time_zone(_TIME_ZONE)
        age = (local.dt.date() - pl.col("upload_dt")).dt.total_days().clip(lower_bound=0)
        yield rows.with_columns(
            (pl.col("time_ms") * 1000).alias("event_time_us"),
            local.dt.hour().cast(pl.Int64).alias("hour"),
            pl.coalesce("video_seconds", "log_seconds").alias("video_seconds"),
            age.cast(pl.Float32).alias("video_age_days"),
        ).select("event_time_us", *self.columns(), "content", "dropped")


def _log_columns() -> list[pl.Expr]:
    """Return the columns that come from the log alone, and `dropped`."""
    keys = [pl.col(name).cast(pl.Int64, strict=False) for name in ("user_id", "video_id")]
    time = pl.col("time_ms").cast(pl.Int64, strict=False)
    time = pl.when(time.is_between(0, _YEAR_2100_MS, closed="left")).then(time)
    labels = [pl.col(raw).cast(pl.Int8, strict=False).alias(name) for name, raw in _LABELS.items()]
    watch = pl.col("play_time_ms").cast(pl.Float64, strict=False)
    good_key = pl.all_horizontal(key.is_not_null() & (key >= 0) for key in keys)
    good_label = pl.all_horizontal(
        watch.is_not_null() & watch.is_between(0, _LONGEST_WATCH_MS),
        *(label.is_not_null() & label.is_between(0, 1) for label in labels),
    )
    dropped = (
        pl.when("ragged")
        .then(pl.lit("bad_row"))
        .when(time.is_null())
        .then(pl.lit("bad_time"))
        .when(~good_key)
        .then(pl.lit("bad_key"))
        .when(~good_label)
        .then(pl.lit("bad_label"))
    )
    return [
        *keys,
        time.alias("time_ms"),
        _int("tab"),
        *labels,
        (watch / 1000).cast(pl.Float32).alias("watch_seconds"),
        _seconds("duration_ms").alias("log_seconds"),
        dropped.alias("dropped"),
    ]


def _side_table(path: str, key: str) -> pl.DataFrame:
    """Return the features of every `key`, one row each."""
    stat = Path(path).stat()
    return _cached_side_table(path, key, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4)
def _cached_side_table(path: str, key: str, mtime_ns: int, size: int) -> pl.DataFrame:
    """Read the table once per worker process, and again if the file changes."""
    del mtime_ns, size
    rows = read_block(path, *blocks(path, 1 << 62)[0], header(path))
    if ragged := int(rows["ragged"].sum()):
        raise UserError(
            f"{path}: {ragged} rows have more or fewer fields than the header, expected none; fetch it again"
        )
    if key == "user_id":
        columns = [*map(_int, _USER_INTS), *map(_text_or_null, _USER_TEXTS), *map(_number, _USER_NUMBERS)]
    else:
        upload = pl.col("upload_dt").str.to_date("%Y-%m-%d", strict=False)
        seconds = _seconds("video_duration").alias("video_seconds")
        tags = _text_or_null("tag").str.split(",").alias("tags")
        columns = [*map(_int, _VIDEO_INTS), *map(_text_or_null, _VIDEO_TEXTS), tags, upload, seconds]
    return rows.select(_int(key), *columns).drop_nulls(key).unique(key, keep="first", maintain_order=True)


def _int(name: str) -> pl.Expr:
    """Return an integer, which may be written as a float: 9.0."""
    return pl.col(name).str.strip_suffix(".0").cast(pl.Int64, strict=False)


def _text_or_null(name: str) -> pl.Expr:
    return pl.when(pl.col(name) != "").then(pl.col(name)).alias(name)


def _number(name: str) -> pl.Expr:
    value = pl.col(name).cast(pl.Float32, strict=False)
    return pl.when(value.is_finite()).then(value).alias(name)


def _seconds(name: str) -> pl.Expr:
    """Return seconds from milliseconds. A duration of 0 means that it is unknown."""
    value = _number(name)
    return pl.when(value > 0).then(value / 1000)


def _why_none(raw_dir: Path) -> str:
    if not raw_dir.is_dir():
        return ", which is not a folder"
    return ", which is its folder data: pass the folder above it" if any(raw_dir.glob(_LOGS)) else ""
