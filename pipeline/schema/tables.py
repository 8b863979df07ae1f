"""Columns of the tables that are the same for every schema."""

import pyarrow as pa

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
    ]
)
"""Columns of a data file of `statistics` (the partition column `day` is not in the file): a row for each feature
and label of the day, see `pipeline/statistics.py`."""
