"""What it means that two workdirs hold the same: file names and logs may differ."""

import re
from pathlib import Path

import numpy as np
import polars as pl
import tensorflow as tf
from polars.testing import assert_frame_equal


def assert_same(one: Path, other: Path) -> None:
    """Equal rows in every table, and equal tensors in every checkpoint and every exported version."""
    for table in ("interactions", "soft_labels", "metrics"):
        frames = [pl.read_delta(str(root / "lake" / table)) for root in (one, other)]
        if table == "metrics":
            # What the gate measured of a folder and a clock.
            frames = [frame.filter(~pl.col("metric").is_in(["latency_ms", "bytes"])) for frame in frames]
        assert_frame_equal(*(frame.sort(sorted(frame.columns)) for frame in frames), check_exact=True)
    found = [_variables(root) for root in (one, other)]
    assert found[0].keys() == found[1].keys()
    for name in found[0]:
        tensors = [_tensors(path[name]) for path in found]
        assert tensors[0].keys() == tensors[1].keys(), name
        for key, value in tensors[0].items():
            np.testing.assert_array_equal(value, tensors[1][key], err_msg=f"{name}: {key}")


def _variables(root: Path) -> dict[str, Path]:
    """The checkpoints and SavedModels under `root`, by where they are in it; how often a day was built
    (the last two digits of a version's number) does not matter."""
    return {
        re.sub(r"/(\d{8})\d\d/", r"/\1/", str(path.relative_to(root))): path.with_suffix("")
        for pattern in ("teacher*/checkpoints/*", "students/*/checkpoints/*", "export/*/*/variables")
        for path in root.glob(f"{pattern}/variables.index")
    }


def _tensors(path: Path) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(path))
    # The object graph is a serialised description, whose bytes may differ.
    names = [name for name in reader.get_variable_to_shape_map() if name != "_CHECKPOINTABLE_OBJECT_GRAPH"]
    return {name: reader.get_tensor(name) for name in names}
