"""The golden batch: raw rows of a day beside a version, and what the trainer scores them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import tensorflow as tf

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import DEFAULTS

PATH = "assets.extra/golden.parquet"
"""Where it lies in the folder of a version."""
_EXPECTED = "expected_"
DTYPES = {pl.Int64(): "int64", pl.String(): "string", pl.Float32(): "float32"}
"""Of a raw feature\'s column, or a list\'s items → the feature\'s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """Rows and their scores."""

    frame: pl.DataFrame
    """Raw features as in `interactions`, a missing value null; lists are filled up, all of one length."""
    expected: dict[str, np.ndarray]
    """Served output → float [rows]."""

    @property
    def features(self) -> dict[str, np.ndarray]:
        """As models take them: an array a feature, [rows] with nulls filled, or of a list [rows, length].

        Of the file alone: a golden batch may be older than the schema.
        """
        arrays = {}
        for name, dtype in self.frame.schema.items():
            if isinstance(dtype, pl.Array):
                arrays[name] = self.frame[name].to_numpy()
            elif kind := DTYPES.get(dtype):
                arrays[name] = self.frame[name].fill_null(DEFAULTS[kind]).to_numpy()
        return arrays


def choose(frame: pl.DataFrame, rows: int = 256) -> pl.DataFrame:
    """`rows` rows of a day (all, where it has fewer), evenly spaced in the order of example_id."""
    count = min(rows, frame.height)
    return frame.sort("example_id")[np.arange(count) * frame.height // max(count, 1)]


def filled(frame: pl.DataFrame, arrays: Mapping[str, np.ndarray]) -> pl.DataFrame:
    """`frame` with its lists as they are in `arrays`, [rows, length]: the file is read without the schema."""
    return frame.with_columns(
        pl.Series(name, values.tolist(), dtype=pl.Array(frame.schema[name].inner, values.shape[1]))  # type: ignore[attr-defined]
        for name, values in arrays.items()
        if values.ndim > 1
    )


def write_golden(path: Path, frame: pl.DataFrame, expected: Mapping[str, np.ndarray]) -> None:
    """Write `frame` with a column `expected_<output>` for each of `expected`, float [rows]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.with_columns(
        pl.Series(f"{_EXPECTED}{name}", values) for name, values in expected.items()
    ).write_parquet(path)


def read_golden(path: Path) -> Golden:
    """Raises UserError where there is none."""
    if not path.is_file():
        raise UserError(f"{path}: there is no golden batch; export the version again")
    frame = pl.read_parquet(path)
    names = [name for name in frame.columns if name.startswith(_EXPECTED)]
    return Golden(
        frame=frame.drop(names),
        expected={name.removeprefix(_EXPECTED): frame[name].to_numpy() for name in names},
    )


def relative_difference(values: np.ndarray, expected: np.ndarray) -> float:
    """The largest |value − expected| / |expected|, the latter at least 1 % of the largest |expected|: near 0
    the rounding of what cancels out there would be all that is seen. NaN where one is NaN, or infinite.
    """
    wanted = expected.astype(np.float64)
    floor = max(1e-6, 0.01 * float(np.max(np.abs(wanted), initial=0.0)))
    with np.errstate(invalid="ignore"):  # ∞ − ∞
        return float(np.max(np.abs(values - wanted) / np.maximum(np.abs(wanted), floor)))


def parity(signature: Callable[..., Mapping[str, tf.Tensor]], golden: Golden) -> float:
    """The largest relative difference between what `signature`, a loaded SavedModel's, gives and what is
    expected, over all outputs.

    NaN where a score is NaN. Raises UserError where the signature takes a feature that the batch has
    not, or lacks an output or gives another shape than is expected.
    """
    features = golden.features
    takes = signature.structured_input_signature[1]  # type: ignore[attr-defined]
    for name in takes:
        if name not in features:
            raise UserError(
                f"the signature takes {name!r}, which the golden batch has not; it has {', '.join(features)}"
            )
    outputs = signature(**{name: tf.constant(features[name]) for name in takes})
    worst = []
    for name, expected in golden.expected.items():
        if name not in outputs:
            raise UserError(
                f"the signature has no output {name!r}, which the golden batch expects; it has {', '.join(outputs)}"
            )
        scores = outputs[name].numpy()
        if scores.shape != expected.shape:
            raise UserError(
                f"output {name!r} has the shape {scores.shape}, the golden batch expects {expected.shape}"
            )
        worst.append(relative_difference(scores, expected))
    return float(np.max(worst))
