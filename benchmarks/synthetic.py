"""Measure how fast the synthetic source makes rows, on as many cores as POLARS_MAX_THREADS allows."""

import time
from datetime import date, timedelta

from absl import app, flags

from tutelage.pipeline.sources.synthetic import Synthetic

_ROWS = flags.DEFINE_integer("rows_per_day", 1_000_000, "Exposures per day.")
_DAYS = flags.DEFINE_integer("days", 4, "Days to make.")
_USERS = flags.DEFINE_integer(
    "users", 50_000, "Users on the first day; 1 % of that number are added each day."
)
_VIDEOS = flags.DEFINE_integer(
    "videos", 20_000, "Videos on the first day; 5 % of that number are added each day."
)


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    source = Synthetic(
        seed=0,
        first_day=date(2024, 1, 1),
        rows_per_day=_ROWS.value,
        users=_USERS.value,
        videos=_VIDEOS.value,
        new_users_per_day=_USERS.value // 100,
        new_videos_per_day=_VIDEOS.value // 20,
    )
    days = [source.first_day + timedelta(days=i) for i in range(_DAYS.value)]
    wall, cpu = time.perf_counter(), time.process_time()
    rows = sum(len(frame) for unit in source.units("", workdir="", days=days) for frame in source.read(unit))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{rows:,} rows: {rows / wall:,.0f} rows/s, {rows / cpu:,.0f} rows per second of CPU")


if __name__ == "__main__":
    app.run(main)
