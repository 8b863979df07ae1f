"""Compare logged production requests with a training day."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import tensorflow as tf

from tutelage.export.golden import choose, relative_difference
from tutelage.export.skew.requests import Requests, dtype_names
from tutelage.pipeline import drift as measures
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.scratch import local_copy
from tutelage.pipeline.schema import Feature, Schema

TOP = 20
"""Most frequent values of an id on the training day that are compared one by one; the rest are one."""
SCORED = 100_000
"""The model scores at most this many rows of the training day."""
_BATCH = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class SkewConfig:
    """How far production may differ from the training day.

    With fewer than 1,000 requests some features exceed these limits by chance.
    """

    missing: float = 0.05
    """Difference of the share of missing values, either way."""
    unknown: float = 0.10
    """Rise of the share of unknown ids: ids that the training day does not have, against its own share of ids
    that the day before does not have."""
    id_drift: float = 0.2
    """Jensen–Shannon distance (base 2, 0 to 1) over the most frequent values."""
    number_drift: float = 0.25
    """Population stability index over the day's deciles; 0.25 is commonly called a major shift."""
    score_drift: float = 0.25
    """Population stability index of an output's scores over the deciles of the day's."""
    score_difference: float = 1e-3
    """Relative difference between a logged score and the model's own of the same row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSkew:
    """A feature in production and on the training day. What cannot be computed is None."""

    name: str
    dtype: str
    """The dtype that was found in the log."""
    missing: float | None
    """Share of the requests without a value or, for a list, without any item."""
    missing_day: float
    unknown: float | None
    """Share of the ids (for a list, of all items) that the training day does not have."""
    unknown_day: float | None
    """The same share of the training day's rows, against the day before."""
    drift: float | None
    past: tuple[str, ...]
    """The names of what exceeds its limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSkew:
    """A served output on the requests and on the training day. What cannot be computed is None."""

    name: str
    drift: float | None
    difference: float | None
    """Largest relative difference between a logged score and the model's own."""
    past: tuple[str, ...]


def compare(
    requests: Requests,
    day: pl.DataFrame,
    before: pl.DataFrame | None,
    *,
    model: Path,
    schema: Schema,
    config: SkewConfig,
) -> tuple[list[FeatureSkew], list[OutputSkew]]:
    """Compare requests with a training day and with the scores of the SavedModel at `model`.

    `day` and `before` are rows of `interactions` of the training day and of the day before it; `before` is None
    for the first day. Features that the model does not take are skipped.

    An id's default counts as missing, because a client without nulls sends it. So does a number that is not
    finite. If a feature has a wrong dtype, the outputs cannot be computed. A downsampled day is compared as it
    was before downsampling.

    Raises UserError for a logged score that is not an output of the model.
    """
    day, before = (
        undo_downsampling(day, schema),
        None if before is None else undo_downsampling(before, schema),
    )
    with local_copy(model) as copy:
        loaded = tf.saved_model.load(str(copy))
    signature = loaded.signatures["serving_default"]
    takes = signature.structured_input_signature[1]
    features = [_feature(f, requests, day, before, config) for f in schema.inputs() if f.name in takes]
    return features, _outputs(requests, day, model, signature, schema, config)


def undo_downsampling(day: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """Resample the rows of a downsampled day so that they are distributed as before; their number stays.

    This is systematic resampling: rows are taken at even distances along the cumulative example weight, in the
    order of `example_id`, which is a hash.
    """
    if schema.downsampling is None or not day.height:
        return day
    day = day.sort("example_id")
    weight = schema.example_weight(day)
    assert weight is not None
    ends = weight.cumsum(dtype=np.float64)
    return day[np.searchsorted(ends, (np.arange(day.height) + 0.5) * ends[-1] / day.height)]


def _feature(
    feature: Feature, requests: Requests, day: pl.DataFrame, before: pl.DataFrame | None, config: SkewConfig
) -> FeatureSkew:
    name, wrong = feature.name, requests.wrong.get(feature.name)
    if wrong:
        missing_day = _missing(feature, day)
        return FeatureSkew(
            name=name,
            dtype=wrong,
            missing=None,
            missing_day=missing_day,
            unknown=None,
            unknown_day=None,
            drift=None,
            past=("dtype",),
        )
    here, there = _present(feature, requests.features), _present(feature, day)
    missing, missing_day = _missing(feature, requests.features), _missing(feature, day)
    unknown = unknown_day = None
    if feature.is_id:
        unknown = _unknown(here, there)
        unknown_day = None if before is None else _unknown(there, _present(feature, before))
    drift = (jensen_shannon if feature.is_id else psi)(here, there)
    return FeatureSkew(
        name=name,
        dtype=dtype_names(feature)[0],
        missing=missing,
        missing_day=missing_day,
        unknown=unknown,
        unknown_day=unknown_day,
        drift=drift,
        past=_past(
            missing=(abs(missing - missing_day), config.missing),
            unknown=(
                None if unknown is None or unknown_day is None else unknown - unknown_day,
                config.unknown,
            ),
            drift=(drift, config.id_drift if feature.is_id else config.number_drift),
        ),
    )


def _outputs(
    requests: Requests, day: pl.DataFrame, model: Path, signature: Any, schema: Schema, config: SkewConfig
) -> list[OutputSkew]:
    takes = signature.structured_input_signature[1]
    outputs = list(signature.structured_outputs)
    for name in requests.scores.columns:
        if name not in outputs:
            raise UserError(
                f"{name!r} is a logged score but not an output of {model}, which has {', '.join(outputs)}"
            )
    if requests.wrong.keys() & takes:
        return [OutputSkew(name=name, drift=None, difference=None, past=()) for name in outputs]
    ours = _score(signature, schema.arrays(requests.features, takes))
    trained = _score(signature, schema.arrays(choose(day, SCORED), takes))
    skews = []
    for name in outputs:
        difference = None
        if name in requests.scores:
            logged = requests.scores[name]
            if logged.count():
                rows = logged.is_not_null().to_numpy()
                difference = relative_difference(logged.drop_nulls().to_numpy(), ours[name][rows])
        drift = psi(pl.Series(ours[name]), pl.Series(trained[name]))
        past = _past(drift=(drift, config.score_drift), logged=(difference, config.score_difference))
        skews.append(OutputSkew(name=name, drift=drift, difference=difference, past=past))
    return skews


def _past(**values: tuple[float | None, float]) -> tuple[str, ...]:
    """Return the names of the values that exceed their limits. A NaN does."""
    return tuple(name for name, (value, limit) in values.items() if value is not None and not value <= limit)


def _missing(feature: Feature, frame: pl.DataFrame) -> float:
    if feature.length:
        return float(1 - np.mean((feature.array(frame[feature.name]) != feature.default).any(axis=1)))
    return 1 - _present(feature, frame).len() / frame.height


def _present(feature: Feature, frame: pl.DataFrame) -> pl.Series:
    """Return the values that are not missing; of lists, all items that models read."""
    values = frame[feature.name]
    if feature.length:
        values = values.list.head(feature.length).explode()
    values = values.drop_nulls()
    return values.filter(values != feature.default) if feature.is_id else values.filter(values.is_finite())


def _unknown(values: pl.Series, known: pl.Series) -> float | None:
    if not values.len():
        return None
    return values.filter(~values.is_in(known.unique().implode())).len() / values.len()


def jensen_shannon(values: pl.Series, reference: pl.Series) -> float | None:
    """Return the Jensen–Shannon distance of ids over the most frequent ones of `reference` and all others together.

    None where one of them is empty. See `pipeline.drift`.
    """
    if not values.len() or not reference.len():
        return None
    top = reference.alias("id").value_counts(name="q").sort("q", "id", descending=[True, False]).head(TOP)
    counts = top.join(values.alias("id").value_counts(name="p"), on="id", how="left").fill_null(0)
    p, q = (
        np.array([np.arange(len(column) + 1), np.append(column, total - column.sum())])
        for column, total in (
            (counts["p"].to_numpy(), values.len()),
            (counts["q"].to_numpy(), reference.len()),
        )
    )
    return measures.jensen_shannon(p, q)


def psi(values: pl.Series, reference: pl.Series) -> float | None:
    """Return the population stability index of numbers over the deciles of `reference`.

    None where one of them is empty, NaN where a value is not finite. See `pipeline.drift`.
    """
    if not values.len() or not reference.len():
        return None
    given, known = (numbers.cast(pl.Float64).to_numpy() for numbers in (values, reference))
    if not (np.isfinite(given).all() and np.isfinite(known).all()):
        return math.nan
    return measures.psi(*(np.array(np.unique(side, return_counts=True)) for side in (given, known)))


def _score(
    signature: tf.types.experimental.ConcreteFunction, features: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    rows = len(next(iter(features.values())))
    parts = [
        signature(**{name: tf.constant(values[start : start + _BATCH]) for name, values in features.items()})
        for start in range(0, rows, _BATCH)
    ]
    return {name: np.concatenate([part[name].numpy() for part in parts]) for name in parts[0]}
