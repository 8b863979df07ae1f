"""Logs of what readers opened: positives only, types of events, negative ids, and a table of articles without dates.

`examples/positives_only.py` is what tutelage-init drafts from them.
"""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

WEEKS = 6
EVENTS = 9_000
TOPICS = ("art", "news", "sport", "travel")


def write_reading_logs(folder: Path) -> None:
    """Write events.csv, of six weeks from Monday 2026-01-05 on, and articles.csv.

    Few articles are opened by many readers. 80 % of the events are opens, 15 % likes, 5 % shares.
    """
    folder.mkdir(parents=True)
    draw = np.random.default_rng(7)
    readers, articles = np.arange(-150, 150), np.arange(-100, 100)
    topic = np.arange(len(articles)) % len(TOPICS)
    reader = draw.integers(len(readers), size=EVENTS)
    popular = 1 / (5 + np.arange(len(articles)))
    article = draw.choice(len(articles), size=EVENTS, p=popular / popular.sum())
    start = int(datetime(2026, 1, 5, tzinfo=UTC).timestamp())
    seconds = pl.Series(np.sort(start + draw.integers(WEEKS * 7 * 86_400, size=EVENTS)))
    pl.DataFrame(
        {
            "reader": readers[reader],
            "article": articles[article],
            "event": draw.choice(["open", "like", "share"], size=EVENTS, p=[0.8, 0.15, 0.05]),
            "device": np.where(reader % 3 == 0, "phone", "desk"),
            "when": pl.from_epoch(seconds).dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
    ).write_csv(folder / "events.csv")
    pl.DataFrame(
        {
            "article": articles,
            "topic": np.array(TOPICS)[topic],
            "words": 200 + 25 * np.arange(len(articles)) % 3_000,
        }
    ).write_csv(folder / "articles.csv")
