"""How much of a teacher's miscalibration its students take over.

The measure is this project's own. It compares a distilled student with its baseline, so that what both have in common,
such as labels that happen to be rare in a bucket of the judged days, does not look like leakage.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from tutelage.launch.studies.statistics import Arm, seed_weights, with_interval
from tutelage.models.metrics import sigmoid
from tutelage.pipeline.schema import Schema
from tutelage.trainers.diagnosis import calibration_by

_CUTS = ("activity", "popularity")
"""Two ways of dividing the same rows into buckets (`facts.context`)."""
_BUCKET = ("seed", "day", "task", "cut", "bucket")
_DRAWS = 1000


def calibration_sums(
    rows: pl.DataFrame, *, predictions: pl.DataFrame, teacher: pl.DataFrame, schema: Schema
) -> pl.DataFrame:
    """Return the sums of an arm and of its teacher by task, day, cut and bucket, of the binary tasks.

    `rows`: as `facts.context` returns them; `predictions` and `teacher`: example_id and raw outputs. Rows without a
    score of the teacher are left out. The columns are task, day, cut, bucket, rows, predicted, predicted_teacher and
    observed.
    """
    both = rows.join(predictions, on="example_id").join(teacher, on="example_id", suffix="_teacher")
    parts = [_sums_of_day(of_day, schema) for of_day in both.partition_by("day", maintain_order=True)]
    return pl.concat([part for day in parts for part in day]) if both.height else pl.DataFrame(schema=_SUMS)


_SUMS = {
    "task": pl.String,
    "day": pl.Date,
    "cut": pl.String,
    "bucket": pl.Int64,
    **dict.fromkeys(("rows", "predicted", "predicted_teacher", "observed"), pl.Float64),
}


def _sums_of_day(rows: pl.DataFrame, schema: Schema) -> Iterator[pl.DataFrame]:
    weight = schema.example_weight(rows)
    for task in schema.tasks:
        if not task.is_binary:
            continue
        label = rows[task.label].to_numpy()
        own, taught = (sigmoid(rows[task.outputs[0] + end].to_numpy()) for end in ("", "_teacher"))
        for cut in _CUTS:
            bucket = rows[f"{cut}_bucket"].to_numpy()
            sums = calibration_by(label, own, bucket, weight)
            of_teacher = calibration_by(label, taught, bucket, weight).select(
                "bucket", predicted_teacher="predicted"
            )
            named = sums.join(of_teacher, on="bucket").with_columns(
                task=pl.lit(task.name), day=pl.lit(rows["day"][0]), cut=pl.lit(cut)
            )
            yield named.select(pl.col(name).cast(dtype) for name, dtype in _SUMS.items())


def leakage(sums: pl.DataFrame, arms: Sequence[Arm], *, seed: int) -> pl.DataFrame:
    """Return the leakage of each arm that has a baseline: arm, task, metric (`leakage`, `_low`, `_high`), value.

    `sums`: `calibration_sums` of all arms, with their arm and seed. An arm that has several baselines is compared with
    the first.

    Of each bucket let x = log(Σ p_teacher / Σ y), the teacher's log calibration, and y = log(Σ p_arm / Σ p_baseline),
    the arm's log calibration minus its baseline's. The leakage is the slope of y on x: least squares through the
    origin, weighted by the buckets' rows. It is 0 for an arm that took over nothing, such as a second student without
    a teacher, and 1 if a baseline that is calibrated takes over the teacher's error in full. There is no intercept,
    because a teacher that is off by as much in every bucket leaks too. Buckets where a sum is 0 are left out.

    The value is the mean of the seeds' slopes. `leakage_low` and `leakage_high` bound 95 % by Student's t over seeds;
    they are missing with one seed.
    """
    baselines: dict[str, str] = {}
    for arm in arms:
        if arm.baseline:
            baselines.setdefault(arm.name, arm.baseline)
    random = np.random.default_rng(seed)
    found = []
    for name, baseline in baselines.items():
        base = sums.filter(arm=baseline).select(*_BUCKET, base="predicted")
        joined = sums.filter(arm=name).join(base, on=_BUCKET)
        for (task,), of_task in joined.group_by("task", maintain_order=True):
            slopes = [_slope(of_seed) for of_seed in of_task.partition_by("seed", maintain_order=True)]
            if any(np.isnan(slopes)):
                continue
            drawn = seed_weights(random, _DRAWS, len(slopes)) @ np.array(slopes)
            values = with_interval("leakage", drawn) if len(slopes) > 1 else {"leakage": slopes[0]}
            found += [(name, task, metric, value) for metric, value in values.items()]
    schema = {"arm": pl.String, "task": pl.String, "metric": pl.String, "value": pl.Float64}
    return pl.DataFrame(found, schema=schema, orient="row")


def _slope(sums: pl.DataFrame) -> float:
    """Return the slope of one arm with one seed; NaN if no bucket is left or the teacher is nowhere off."""
    columns = ("rows", "predicted", "predicted_teacher", "observed", "base")
    buckets = sums.group_by("cut", "bucket", maintain_order=True).agg(pl.col(columns).sum())
    buckets = buckets.filter(pl.min_horizontal(columns) > 0)
    rows, own, teacher, observed, base = (buckets[name].to_numpy() for name in columns)
    x, y = np.log(teacher / observed), np.log(own / base)
    xx = float(np.sum(rows * x * x))
    return float(np.sum(rows * x * y)) / xx if xx else float("nan")
