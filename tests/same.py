"""When two workdirs hold the same. File names and logs may differ."""

import re
from collections.abc import Collection
from pathlib import Path

import numpy as np
import polars as pl
import tensorflow as tf
from deltalake import DeltaTable
from polars.testing import assert_frame_equal

KEYS = {
    "interactions": ["day", "example_id"],
    "histories": ["day", "user_id"],
    "soft_labels": ["teacher", "producer", "day", "example_id"],
    "metrics": ["run", "model", "day", "task", "metric", "slice", "basis"],
}


def assert_same(one: Path, other: Path, *, models: Collection[str] = ()) -> None:
    """Assert that two workdirs have equal rows in every table, equal tensors in every checkpoint and exported
    version, and equal golden batches. In tables whose partitions are written whole, the order counts too.

    With `models` only the metrics, checkpoints and versions of these are compared.
    """
    for table in ("interactions", "histories", "soft_labels"):
        assert_frame_equal(*(_rows(root / "lake" / table) for root in (one, other)), check_exact=True)
    frames = [pl.read_delta(str(root / "lake/metrics")) for root in (one, other)]
    # The gate measures these from a folder and a clock.
    frames = [frame.filter(~pl.col("metric").is_in(["latency_ms", "bytes"])) for frame in frames]
    if models:
        frames = [frame.filter(pl.col("model").is_in(list(models))) for frame in frames]
    assert_frame_equal(*(frame.sort(sorted(frame.columns)) for frame in frames), check_exact=True)
    found = [variables(root, models) for root in (one, other)]
    assert found[0].keys() == found[1].keys()
    for name in found[0]:
        tensors = [_tensors(path[name]) for path in found]
        assert tensors[0].keys() == tensors[1].keys(), name
        for key, value in tensors[0].items():
            np.testing.assert_array_equal(value, tensors[1][key], err_msg=f"{name}: {key}")
        golden = [path[name].parents[1] / "assets.extra/golden.parquet" for path in found]
        if any(path.exists() for path in golden):
            assert_frame_equal(*map(pl.read_parquet, golden), check_exact=True)


def _rows(table: Path) -> pl.DataFrame:
    """Read a table partition by partition, with the rows in the order in which they were written."""
    files = sorted(DeltaTable(table).file_uris()) if table.exists() else []
    return pl.read_parquet(files, hive_partitioning=True) if files else pl.DataFrame()


def variables(root: Path, models: Collection[str]) -> dict[str, Path]:
    """Return the checkpoints and SavedModels of `models` (empty: of all) below `root` by their relative paths.

    How often a day was exported, the last two digits of a version's number, is left out.
    """
    return {
        re.sub(r"/(\d{8})\d\d/", r"/\1/", str(path.relative_to(root))): path.with_suffix("")
        for pattern in ("teacher*/checkpoints/*", "students/*/checkpoints/*", "export/*/*/variables")
        for path in root.glob(f"{pattern}/variables.index")
        if not models or {*models} & {*path.relative_to(root).parts}
    }


def _tensors(path: Path) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(path))
    # The object graph is a serialised description whose bytes may differ.
    names = [name for name in reader.get_variable_to_shape_map() if name != "_CHECKPOINTABLE_OBJECT_GRAPH"]
    return {name: reader.get_tensor(name) for name in names}


def lost_and_doubled(expected: Path, found: Path) -> tuple[int, int]:
    """Return how many rows of all tables `found` lacks, and how many it has twice."""
    lost = doubled = 0
    for table, keys in KEYS.items():
        wanted, rows = (pl.read_delta(str(root / "lake" / table)).select(keys) for root in (expected, found))
        lost += wanted.join(rows, on=keys, how="anti", nulls_equal=True).height
        doubled += rows.height - rows.n_unique()
    return lost, doubled
