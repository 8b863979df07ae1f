"""The raw data that examples/own_events.py reads: two days of event logs, and a table of users."""

from datetime import UTC, datetime
from pathlib import Path

import polars as pl


def write_logs(folder: Path) -> None:
    """Write 300 events a day of three days in Berlin, from 2026-01-01, and each user's country by day.

    The last day is beyond the days that the example asks for, and one user's row has a time that is no time.
    """
    (folder / "events").mkdir(parents=True)
    (folder / "users").mkdir()
    berlin = int(datetime(2025, 12, 31, 23, tzinfo=UTC).timestamp() * 1000)  # midnight of 2026-01-01 there
    for day in range(3):
        rows = range(300 * day, 300 * (day + 1))
        pl.DataFrame(
            {
                "uid": [2**53 + 1 + row % 40 for row in rows],
                "item_id": [row % 17 for row in rows],
                "topic": [("news", "sport", None)[row % 3] for row in rows],
                "clicked": [row // 40 % 5 == 0 for row in rows],  # neither user nor item gives it away
                "ts": [berlin + row * 288_000 for row in rows],  # 300 a day
            }
        ).write_parquet(folder / f"events/{day}.parquet")
    countries = [
        f"{2**53 + 1 + user},{country},2026-01-0{day}"
        for user in range(40)
        for day, country in ((1, "DE"), (2, "FR"))
    ]
    (folder / "users/all.csv").write_text("\n".join(["uid,country,since", *countries, "7,,soon", ""]))
