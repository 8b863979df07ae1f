"""Any range of a day's rows in event order, whatever the times and the files are."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tutelage.trainers.event_order import EventOrder

DAY, HOUR = 86_400_000_000, 3_600_000_000
N = 5000
RNG = np.random.default_rng(1)


@pytest.mark.parametrize(
    "times",
    [
        pytest.param(RNG.integers(0, DAY, N), id="microseconds"),
        pytest.param(RNG.integers(0, 24, N) * HOUR, id="hours"),
        pytest.param(np.zeros(N, np.int64), id="the date alone"),
        pytest.param(
            np.where(RNG.random(N) < 0.5, 7, RNG.integers(0, DAY, N)), id="half of them at one time"
        ),
        pytest.param(RNG.integers(0, 900, N), id="all within a millisecond"),
    ],
)
def test_ranges_together_are_the_sorted_day_and_few_rows_beside_them_are_read(
    tmp_path: Path, times: np.ndarray
) -> None:
    ids = RNG.integers(-(2**63), 2**63 - 1, N)
    rows = pl.DataFrame({"event_time_us": times, "example_id": ids, "place": np.arange(N)})
    for number in range(3):
        rows[number::3].write_parquet(tmp_path / f"{number}.parquet")
    order = EventOrder(pl.scan_parquet(tmp_path / "*.parquet"), chunk_rows=400)
    assert order.size == N
    expected = rows.sort("event_time_us", "example_id")
    assert pl.concat(order.read(start, min(start + 400, N)) for start in range(0, N, 400)).equals(expected)
    assert order.read(999, 1402, ["place"])["place"].to_list() == expected["place"][999:1402].to_list()
    assert order._cells is not None
    # No cell holds more than an eighth of a chunk, so that a chunk is read with at most a quarter more.
    assert np.diff(order._cells["before"], append=N).max() <= 50


def test_a_day_that_fits_a_chunk_is_read_whole(tmp_path: Path) -> None:
    rows = pl.DataFrame({"event_time_us": [5, 5, 1], "example_id": [2, 1, 3]})
    order = EventOrder(rows.lazy(), chunk_rows=3)
    assert order.read(0, 3)["example_id"].to_list() == [3, 1, 2]
