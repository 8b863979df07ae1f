"""The golden losses: every loss of the seeded smoke run, to the last digit. `make golden` rewrites them."""

import sys
from pathlib import Path

import polars as pl

FILE = Path(__file__).with_name("golden_losses.csv")


def losses(workdir: Path) -> pl.DataFrame:
    """Return every loss of every model and day of the run in `workdir`."""
    keys = ["model", "day", "task", "metric", "basis"]
    metrics = pl.read_delta(str(workdir / "lake/metrics"))
    metrics = metrics.filter(pl.col("metric").str.ends_with("_loss"), slice="")
    return metrics.select(*keys, "value").sort(keys)


if __name__ == "__main__":
    losses(Path(sys.argv[1])).write_csv(FILE)
