"""The columns of the tables."""

import pyarrow as pa

from tutelage.pipeline.schema.schema import Schema
from tutelage.pipeline.schema.tasks import SAMPLING_RATE

METRICS = pa.schema(
    [
        ("run", pa.string()),
        ("day", pa.date32()),
        ("task", pa.string()),
        ("metric", pa.string()),
        ("slice", pa.string()),
        ("basis", pa.string()),
        ("value", pa.float64()),
        ("rows", pa.int64()),
    ]
)
"""Columns of a data file of `metrics` (the partition column `model` is not in the file)."""

STATISTICS = pa.schema(
    [
        ("column", pa.string()),
        ("rows", pa.int64()),
        ("nulls", pa.int64()),
        ("not_finite", pa.int64()),
        ("mean", pa.float64()),
        ("sd", pa.float64()),
        ("min", pa.float64()),
        ("max", pa.float64()),
        ("deciles", pa.list_(pa.float64())),
        ("distinct", pa.float64()),
        ("top", pa.list_(pa.string())),
        ("top_share", pa.list_(pa.float64())),
        ("bucket", pa.list_(pa.float64())),
        ("bucket_rows", pa.list_(pa.int64())),
        ("seen", pa.binary()),
        ("drift", pa.float64()),
        ("new_ids", pa.float64()),
        ("absurd", pa.int64()),
        ("repeats", pa.float64()),
        ("mix", pa.float64()),
        ("drift_rest", pa.float64()),
    ]
)
"""Columns of a data file of `statistics` (the partition column `day` is not in the file): a row for each feature
and label of the day, see `pipeline/statistics.py`. New columns come last: a table of an older release gets them."""


def interaction_columns(schema: Schema) -> pa.Schema:
    """Return the columns of a data file of `interactions` (the partition column `day` is not in the file)."""
    sampled = schema.downsampling is not None or schema.negatives is not None
    binary = {task.label for task in schema.tasks if task.is_binary}
    return pa.schema(
        [("example_id", pa.int64()), ("event_time_us", pa.int64())]
        + [(f.name, f.arrow) for f in schema.features]
        + [(label, pa.int8() if label in binary else pa.float32()) for label in schema.labels]
        + [(SAMPLING_RATE, pa.float32())] * sampled
    )


def history_columns(schema: Schema) -> pa.Schema:
    """Return the columns of a data file of `histories` (the partition column `day` is not in the file)."""
    names = {schema.user, *(history.name for history in schema.histories)}
    return pa.schema([(f.name, f.arrow) for f in schema.inputs() if f.name in names])
