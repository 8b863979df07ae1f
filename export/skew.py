"""Logged production requests against the training day: is what is served what was learnt?"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import tensorflow as tf

from tutelage.export.golden import DTYPES, choose, relative_difference
from tutelage.pipeline import drift as measures
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Feature, Schema

TOP = 20
"""Most frequent values of an id on the training day that are compared one by one; the rest are one."""
SCORED = 100_000
"""Rows of the training day that the model scores, at most."""
_BATCH = 8192
_POLARS = {name: dtype for dtype, name in DTYPES.items()}
_KINDS = ("string", "float32", "int64")  # of bytes_list, float_list, int64_list
_SCORES = "scores"
_LIST = "a list of "


@dataclass(frozen=True, slots=True, kw_only=True)
class SkewConfig:
    """How far production may be from the training day. Of fewer than 1,000 requests some are past by chance."""

    missing: float = 0.05
    """Share of missing values, more or less than on the day."""
    unknown: float = 0.10
    """Share of ids that the day has not, above the day's own share that the day before has not."""
    id_drift: float = 0.2
    """Jensen–Shannon distance (base 2, 0 to 1) over the most frequent values."""
    number_drift: float = 0.25
    """Population stability index over the day's deciles; 0.25 is commonly called a major shift."""
    score_drift: float = 0.25
    """The same, of an output's scores."""
    score_difference: float = 1e-3
    """Relative, of a logged score from the model's own on the same row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """Logged requests, a row each."""

    features: pl.DataFrame
    """The schema's inputs in its dtypes; null where missing, and throughout a column of a wrong dtype."""
    wrong: dict[str, str]
    """Input → dtype found in place of the schema's."""
    scores: pl.DataFrame
    """Logged scores by output, float64, null where not logged; no column where none are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSkew:
    """A feature in production and on the training day. None: cannot be told."""

    name: str
    dtype: str
    """As found."""
    missing: float | None
    """Share of the rows without a value, or without any item of a list."""
    missing_day: float
    unknown: float | None
    """Share of the rows that have an id (of a list, of all items), where the training day has not that id."""
    unknown_day: float | None
    """Of the training day's rows, the same against the day before."""
    drift: float | None
    past: tuple[str, ...]
    """What is past the thresholds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSkew:
    """A served output on the requests and on the training day. None: cannot be told."""

    name: str
    drift: float | None
    difference: float | None
    """Largest relative difference of a logged score from the model's own."""
    past: tuple[str, ...]


def read_requests(path: Path, schema: Schema) -> Requests:
    """Read a log of requests; it is held in memory.

    `.jsonl`: an object a line, features by name, and scores in an object `scores` by output.
    `.tfrecord`: a serialised tf.Example a record, a score under the key `scores/OUTPUT`. A value that
    is absent or null is missing. In a `.jsonl`, numbers among strings are read as strings.
    Raises UserError for a file that is neither, and for names that the schema has not.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; give a log of requests")
    if path.suffix not in (".jsonl", ".tfrecord"):
        raise UserError(f"{path}: unknown format {path.suffix!r}; expected .jsonl or .tfrecord")
    known = {feature.name: feature for feature in schema.inputs()}
    columns = _read_json_lines(path, schema) if path.suffix == ".jsonl" else _read_examples(path, known)
    logged, wrong, features = {}, {}, {}
    for name, (found, values) in columns.items():
        if name.startswith(f"{_SCORES}/"):
            if found != "float32":
                raise UserError(f"{path}: {name} is {found}, expected a number a row")
            logged[name.removeprefix(f"{_SCORES}/")] = values.cast(pl.Float64)
        elif name not in known:
            raise UserError(f"{path}: {name!r} is no feature of the schema; it has {', '.join(known)}")
        elif found not in _named(known[name]):
            wrong[name] = found
        else:
            features[name] = values
    rows = next((values.len() for _, values in columns.values()), 0)
    if not rows:
        raise UserError(f"{path}: there is no request with a feature in it; give a log of requests")
    frame = pl.DataFrame(
        [
            features.get(name, pl.repeat(None, rows, eager=True)).cast(_dtype(feature)).alias(name)
            for name, feature in known.items()
        ]
    )
    return Requests(features=frame, wrong=wrong, scores=pl.DataFrame(logged))


def compare(
    requests: Requests,
    day: pl.DataFrame,
    before: pl.DataFrame | None,
    *,
    model: Path,
    schema: Schema,
    config: SkewConfig,
) -> tuple[list[FeatureSkew], list[OutputSkew]]:
    """Compare with the rows of `interactions` of the training `day` and of the day `before` it (None: it is
    the first), and with the scores of the SavedModel at `model`.

    An id's default counts as missing, as a client that has no null sends it; so does a number that is not
    finite. What the model does not take is left out. The outputs cannot be told where a feature has a wrong
    dtype. A downsampled day is compared as it was before. Raises UserError for a score that is logged and that the
    model has not.
    """
    day, before = as_met(day, schema), None if before is None else as_met(before, schema)
    loaded = tf.saved_model.load(str(model))
    signature = loaded.signatures["serving_default"]
    takes = signature.structured_input_signature[1]
    features = [_feature(f, requests, day, before, config) for f in schema.inputs() if f.name in takes]
    return features, _outputs(requests, day, model, signature, schema, config)


def as_met(day: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """As many rows, each as often as its share of the rows of the day before it was downsampled: evenly spaced along
    what the rows stand for, in the order of example_id, which is a hash (systematic resampling)."""
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
        dtype=_named(feature)[0],
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
                f"{name!r} is a logged score and no output of {model}; it has {', '.join(outputs)}"
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
    """The names of those that are above their limits; a NaN is."""
    return tuple(name for name, (value, limit) in values.items() if value is not None and not value <= limit)


def _missing(feature: Feature, frame: pl.DataFrame) -> float:
    if feature.length:
        return float(1 - np.mean((feature.array(frame[feature.name]) != feature.default).any(axis=1)))
    return 1 - _present(feature, frame).len() / frame.height


def _present(feature: Feature, frame: pl.DataFrame) -> pl.Series:
    """What is there: the values, or the items of all lists as far as models read them."""
    values = frame[feature.name]
    if feature.length:
        values = values.list.head(feature.length).explode()
    values = values.drop_nulls()
    return values.filter(values != feature.default) if feature.is_id else values.filter(values.is_finite())


def _dtype(feature: Feature) -> pl.DataType:
    return pl.List(_POLARS[feature.dtype]) if feature.length else _POLARS[feature.dtype]


def _named(feature: Feature) -> tuple[str, ...]:
    """What its dtype is called where it is as it should be; lists that are all empty have none of items."""
    return (f"{_LIST}{feature.dtype}", f"{_LIST}null") if feature.length else (feature.dtype,)


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


def _read_json_lines(path: Path, schema: Schema) -> dict[str, tuple[str, pl.Series]]:
    """Column → the dtype found and the values."""
    try:
        frame = pl.read_ndjson(path, infer_schema_length=None)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{path}{_bad_line(path)}: {' '.join(str(error).split())}") from None
    floats = {feature.name for feature in schema.numbers}
    if _SCORES in frame.columns:
        scores = frame.drop_in_place(_SCORES)
        if isinstance(scores.dtype, pl.Struct):
            by_output = scores.struct.unnest().select(pl.all().name.prefix(f"{_SCORES}/"))
            floats |= set(by_output.columns)
            frame = frame.hstack(by_output)
        elif scores.dtype != pl.Null:
            raise UserError(f"{path}: scores is {scores.dtype}, expected an object of numbers by output")
    columns = {}
    for values in frame:
        if values.name in floats and values.dtype.is_numeric():
            columns[values.name] = ("float32", values)
        elif values.dtype == pl.List:
            items = values.dtype.inner  # type: ignore[attr-defined]
            columns[values.name] = (_LIST + DTYPES.get(items, str(items).lower()), values)
        elif values.dtype != pl.Null:
            columns[values.name] = (DTYPES.get(values.dtype, str(values.dtype)), values)
    return columns


def _bad_line(path: Path) -> str:
    """Polars does not say where."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                if line.strip() and isinstance(json.loads(line), dict):
                    continue
            except ValueError:
                pass
            if line.strip():
                return f", line {number} is no JSON object"
    return ", read as JSON lines"


def _read_examples(path: Path, known: Mapping[str, Feature]) -> dict[str, tuple[str, pl.Series]]:
    """Column → the dtype found and the values."""
    try:
        batches = list(tf.data.TFRecordDataset(str(path)).batch(_BATCH))
        if not batches:
            return {}
        records = tf.concat(batches, axis=0)
        kinds = _kinds(records)
        spec = {
            name: tf.io.RaggedFeature(tf.as_dtype(*kind)) for name, kind in kinds.items() if len(kind) == 1
        }
        parsed = tf.io.parse_example(records, spec) if spec else {}
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        why = re.sub(r"\{\{.*?\}\} | \[Op:.*", "", " ".join(error.message.split()))
        raise UserError(f"{path}: is no TFRecord of tf.Example with a feature: {why}") from None
    columns = {}
    for name, kind in kinds.items():
        found, values = ", ".join(sorted(kind)), pl.repeat(None, len(records), eager=True)
        if len(kind) == 1:
            splits, flat = (part.numpy() for part in (parsed[name].row_splits, parsed[name].flat_values))
            lists = pl.Series(pa.LargeListArray.from_arrays(splits, pa.array(flat)))
            values = lists.list.first()
            if name in known and known[name].length:
                values = lists.cast(pl.List(_POLARS[found]), strict=False)
                found = f"{_LIST}{found}"
            elif lists.list.len().max() > 1:  # type: ignore[operator]
                found = f"{_LIST}{found}"
            elif found == "string":
                values = values.cast(pl.String, strict=False)
        columns[name] = (found, values)
    return columns


def _kinds(records: tf.Tensor) -> dict[str, set[str]]:
    """The keys of serialised Examples and the dtypes that each has in them, without a loop over rows."""
    _, (features,) = tf.io.decode_proto(records, "tensorflow.Example", ["features"], [tf.string])
    _, (entries,) = tf.io.decode_proto(features, "tensorflow.Features", ["feature"], [tf.string])
    _, (keys, values) = tf.io.decode_proto(
        entries, "tensorflow.Features.FeatureEntry", ["key", "value"], [tf.string, tf.string]
    )
    lists = ["bytes_list", "float_list", "int64_list"]
    sizes, _ = tf.io.decode_proto(values, "tensorflow.Feature", lists, [tf.string] * 3)
    flags = tf.reshape(sizes, [-1, 3]).numpy() > 0
    names = np.array([key.decode(errors="replace") for key in tf.reshape(keys, [-1]).numpy()])
    # Examples of fewer keys are filled up with an empty one; a key without a value is missing.
    found = {name: flags[names == name].any(axis=0) for name in np.unique(names) if name}
    return {
        str(name): {_KINDS[i] for i in np.flatnonzero(kind)} for name, kind in found.items() if kind.any()
    }
