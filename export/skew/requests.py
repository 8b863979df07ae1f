"""Logged production requests, read from JSON lines or TFRecords."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import tensorflow as tf

from tutelage.export.golden import DTYPES
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Feature, Schema

_BATCH = 8192
_POLARS = {name: dtype for dtype, name in DTYPES.items()}
_KINDS = ("string", "float32", "int64")  # of bytes_list, float_list, int64_list
_SCORES = "scores"
_LIST = "a list of "


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """Logged requests, a row each, with the scores that were logged beside them."""

    features: pl.DataFrame
    """The schema's inputs in its dtypes. A missing value is null, and so is a whole column of a wrong dtype."""
    wrong: dict[str, str]
    """The dtype that was found for each input that has another one than in the schema."""
    scores: pl.DataFrame
    """Logged scores, a float64 column per output, null where none was logged. An output without any has no column."""


def read_requests(path: Path, schema: Schema) -> Requests:
    """Read a whole log of requests into memory.

    - `.jsonl`: one object a line, with features by name and, in the object `scores`, scores by output. A column
      that mixes numbers and strings is read as strings.
    - `.tfrecord`: one serialised tf.Example a record, with a score under the key `scores/OUTPUT`.

    A value that is absent or null is missing. Raises UserError for any other file, for a line or record that
    cannot be read, and for a feature that the schema does not have.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a log of requests")
    if path.suffix not in (".jsonl", ".tfrecord"):
        raise UserError(f"{path}: unknown format {path.suffix!r}; expected .jsonl or .tfrecord")
    known = {feature.name: feature for feature in schema.inputs()}
    columns = _read_json_lines(path, schema) if path.suffix == ".jsonl" else _read_examples(path, known)
    logged, wrong, features = {}, {}, {}
    for name, (found, values) in columns.items():
        if name.startswith(f"{_SCORES}/"):
            if found != "float32":
                raise UserError(f"{path}: {name} is {found}, expected one number per request")
            logged[name.removeprefix(f"{_SCORES}/")] = values.cast(pl.Float64)
        elif name not in known:
            raise UserError(f"{path}: {name!r} is not a feature of the schema, which has {', '.join(known)}")
        elif found not in dtype_names(known[name]):
            wrong[name] = found
        else:
            features[name] = values
    rows = next((values.len() for _, values in columns.values()), 0)
    if not rows:
        raise UserError(f"{path}: no request in it has a feature; give a log of requests")
    frame = pl.DataFrame(
        [
            features.get(name, pl.repeat(None, rows, eager=True)).cast(_dtype(feature)).alias(name)
            for name, feature in known.items()
        ]
    )
    return Requests(features=frame, wrong=wrong, scores=pl.DataFrame(logged))


def _dtype(feature: Feature) -> pl.DataType:
    return pl.List(_POLARS[feature.dtype]) if feature.length else _POLARS[feature.dtype]


def dtype_names(feature: Feature) -> tuple[str, ...]:
    """Return the names of the dtypes that fit. Lists that are all empty have items of no dtype."""
    return (f"{_LIST}{feature.dtype}", f"{_LIST}null") if feature.length else (feature.dtype,)


def _read_json_lines(path: Path, schema: Schema) -> dict[str, tuple[str, pl.Series]]:
    """Return by column the dtype that was found and the values."""
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
    """Return which line is at fault: Polars does not say."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                if line.strip() and isinstance(json.loads(line), dict):
                    continue
            except ValueError:
                pass
            if line.strip():
                return f", line {number} is not a JSON object"
    return ", read as JSON lines"


def _read_examples(path: Path, known: Mapping[str, Feature]) -> dict[str, tuple[str, pl.Series]]:
    """Return by column the dtype that was found and the values."""
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
        raise UserError(f"{path}: is not a TFRecord of tf.Examples with features: {why}") from None
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
    """Return the dtypes that each key has in serialised Examples [rows], without a loop over rows."""
    _, (features,) = tf.io.decode_proto(records, "tensorflow.Example", ["features"], [tf.string])
    _, (entries,) = tf.io.decode_proto(features, "tensorflow.Features", ["feature"], [tf.string])
    _, (keys, values) = tf.io.decode_proto(
        entries, "tensorflow.Features.FeatureEntry", ["key", "value"], [tf.string, tf.string]
    )
    lists = ["bytes_list", "float_list", "int64_list"]
    sizes, _ = tf.io.decode_proto(values, "tensorflow.Feature", lists, [tf.string] * 3)
    flags = tf.reshape(sizes, [-1, 3]).numpy() > 0
    names = np.array([key.decode(errors="replace") for key in tf.reshape(keys, [-1]).numpy()])
    # decode_proto pads Examples that have fewer keys with an empty key. A key without a value is missing.
    found = {name: flags[names == name].any(axis=0) for name in np.unique(names) if name}
    return {
        str(name): {_KINDS[i] for i in np.flatnonzero(kind)} for name, kind in found.items() if kind.any()
    }
