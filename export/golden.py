"""The golden batch: raw rows of a day that are stored beside a version, with the trainer's scores of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import tensorflow as tf

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import DEFAULTS

PATH = "assets.extra/golden.parquet"
"""Where the golden batch is stored in a version's folder."""
_EXPECTED = "expected_"
DTYPES = {pl.Int64(): "int64", pl.String(): "string", pl.Float32(): "float32"}
"""The dtype of a feature by the dtype of its column or, for a list, of its items."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """Rows and the scores that are expected for them."""

    frame: pl.DataFrame
    """Raw features as in `interactions`. A missing value is null; lists are padded to one length."""
    expected: dict[str, np.ndarray]
    """The expected scores, float [rows], by served output."""

    @property
    def features(self) -> dict[str, np.ndarray]:
        """Return the features as models take them: an array [rows] with nulls filled, or [rows, length] for a list.

        Only the file is used, not the schema: a golden batch may be older than the schema.
        """
        arrays = {}
        for name, dtype in self.frame.schema.items():
            if isinstance(dtype, pl.Array):
                arrays[name] = self.frame[name].to_numpy()
            elif kind := DTYPES.get(dtype):
                arrays[name] = self.frame[name].fill_null(DEFAULTS[kind]).to_numpy()
        return arrays


def choose(frame: pl.DataFrame, rows: int = 256) -> pl.DataFrame:
    """Return `rows` rows of a day (all if it has fewer), evenly spaced in the order of `example_id`."""
    count = min(rows, frame.height)
    return frame.sort("example_id")[np.arange(count) * frame.height // max(count, 1)]


def pad_lists(frame: pl.DataFrame, arrays: Mapping[str, np.ndarray]) -> pl.DataFrame:
    """Return `frame` with its lists padded as in `arrays`, [rows, length], so that the schema is not needed to read
    them."""
    return frame.with_columns(
        pl.Series(name, values.tolist(), dtype=pl.Array(frame.schema[name].inner, values.shape[1]))  # type: ignore[attr-defined]
        for name, values in arrays.items()
        if values.ndim > 1
    )


def write_golden(path: Path, frame: pl.DataFrame, expected: Mapping[str, np.ndarray]) -> None:
    """Write `frame` with a column `expected_<output>` for each array of `expected`, float [rows]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.with_columns(
        pl.Series(f"{_EXPECTED}{name}", values) for name, values in expected.items()
    ).write_parquet(path)


def read_golden(path: Path) -> Golden:
    """Read the golden batch at `path`. Raises UserError if there is none."""
    if not path.is_file():
        raise UserError(f"{path}: no golden batch; export the version again")
    frame = pl.read_parquet(path)
    names = [name for name in frame.columns if name.startswith(_EXPECTED)]
    return Golden(
        frame=frame.drop(names),
        expected={name.removeprefix(_EXPECTED): frame[name].to_numpy() for name in names},
    )


def relative_difference(values: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest |value − expected| / |expected| of two arrays [rows]; NaN if a value is not finite.

    The denominator is at least 1 % of the largest |expected|: near 0 the difference would only show rounding.
    """
    wanted = expected.astype(np.float64)
    floor = max(1e-6, 0.01 * float(np.max(np.abs(wanted), initial=0.0)))
    with np.errstate(invalid="ignore"):  # ∞ − ∞
        return float(np.max(np.abs(values - wanted) / np.maximum(np.abs(wanted), floor)))


def parity(signature: Callable[..., Mapping[str, tf.Tensor]], golden: Golden) -> float:
    """Return the largest relative difference between a signature's scores and the expected ones, over all outputs.

    It is NaN if a score is NaN. `signature` is a loaded SavedModel's. Raises UserError if it takes a feature that
    the golden batch does not have, lacks an output, or returns another shape than expected.
    """
    features = golden.features
    takes = signature.structured_input_signature[1]  # type: ignore[attr-defined]
    for name in takes:
        if name not in features:
            raise UserError(
                f"the signature takes {name!r}, but the golden batch has only {', '.join(features)}; "
                "export the version again"
            )
    outputs = signature(**{name: tf.constant(features[name]) for name in takes})
    worst = []
    for name, expected in golden.expected.items():
        if name not in outputs:
            raise UserError(
                f"the golden batch expects an output {name!r}, but the signature has only {', '.join(outputs)}; "
                "export the version again"
            )
        scores = outputs[name].numpy()
        if scores.shape != expected.shape:
            raise UserError(
                f"output {name!r} has the shape {scores.shape}, but the golden batch expects {expected.shape}; "
                "export the version again"
            )
        worst.append(relative_difference(scores, expected))
    return float(np.max(worst))
