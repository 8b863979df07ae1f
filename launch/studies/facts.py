"""What a study reports of an arm beside its losses: ranking, calibration by bucket, diversity and cost."""

from collections.abc import Iterator, Sequence
from datetime import date

import numpy as np
import polars as pl

from tutelage.launch.experiment import Experiment
from tutelage.models.metrics import Weight, mean, sigmoid
from tutelage.pipeline.schema import Task
from tutelage.trainers.checkpoints import State
from tutelage.trainers.diagnosis import agreement, buckets, calibration_by, diversity

TOP = 3
"""Places of a user's list that diversity looks at: a median user has a handful of rows in the judged days."""

TITLES = {
    "auc": "AUC",
    "gauc": "GAUC",
    "pr_auc": "PR-AUC",
    "ndcg@10": "NDCG@10",
    "error_activity": "error by activity",
    "error_popularity": "error by popularity",
    "error_age": "error by age",
    "error_decile": "error by decile",
    "spearman": "rank corr. with teacher",
    "leakage": "leakage",
    "coverage": "coverage",
    "gini": "Gini",
    "popularity_lift": "popularity lift",
    "truth": "distance from the truth",
    "seconds": "seconds",
}
"""The facts in the order of the page, and the heads of their columns."""

HOW_TO_READ = (
    "Means over seeds. Error by a bucket: Σ |predicted − observed| / Σ observed, over deciles of the user's rows in "
    "earlier days, of the item's, of the days since the item first occurred, and of the prediction. Rank "
    "correlation: with the teacher's scores that the arm's labels were made of. Leakage: how much of its teacher's "
    "error by bucket of activity and popularity an arm takes over. It is the slope of the arm's log calibration minus "
    "its baseline's on the teacher's log calibration: 0 is none, 1 is all. In brackets: a 95 % interval over seeds "
    f"(Student's t). Coverage, Gini of the items' places and popularity lift: of the top {TOP} of each user's rows. "
    "Distance from the truth: mean KL divergence from the probability that a synthetic label was drawn with. Seconds: "
    "the time of the arm's updates."
)


def context(interactions: pl.LazyFrame, experiment: Experiment, judged: Sequence[date]) -> pl.DataFrame:
    """Return the judged rows with `popularity` and the buckets they fall in, in the order of day and example_id.

    `activity_bucket`, `popularity_bucket` and `age_bucket` are deciles of what is known from the days before the judged
    ones: the user's rows, the item's rows, and the days since the item first occurred.
    """
    assert experiment.study
    schema, item = experiment.schema, experiment.study.item
    rows = interactions.filter(pl.col("day").is_in(judged)).collect().sort("day", "example_id")
    past = interactions.filter(pl.col("day") < judged[0]).select("day", item, schema.user).collect()
    first = past.group_by(item).agg(first=pl.col("day").min(), popularity=pl.len())
    active = past.group_by(schema.user).agg(activity=pl.len())
    rows = rows.join(first, on=item, how="left", maintain_order="left", nulls_equal=True)
    rows = rows.join(active, on=schema.user, how="left", maintain_order="left", nulls_equal=True)
    age = (pl.col("day") - pl.col("first")).dt.total_days().fill_null(0)
    rows = rows.with_columns(pl.col("popularity", "activity").fill_null(0), age=age)
    return rows.with_columns(
        pl.Series(f"{name}_bucket", buckets(rows[name].to_numpy().astype(np.float64)))
        for name in ("activity", "popularity", "age")
    )


def facts_of_arm(
    rows: pl.DataFrame,
    *,
    predictions: pl.DataFrame,
    teacher: pl.DataFrame,
    experiment: Experiment,
    metrics: pl.DataFrame,
    states: Sequence[State],
) -> pl.DataFrame:
    """Return task, metric and value of one arm with one seed. Leakage is not among them: it needs the baseline.

    `rows`: as `context` returns them; `predictions`: example_id and the arm's raw outputs of all of these rows;
    `teacher`: the same of its teacher, of some or all rows; `metrics`: the arm's rows of the metrics table on the
    judged days; `states`: a state per trained day.
    """
    ahead = metrics.filter(basis="day_ahead").group_by("task", "metric").agg(pl.col("value").mean())
    found = [(task, metric, value) for task, metric, value in ahead.iter_rows() if metric in TITLES]
    order = rows.select("example_id")
    own, taught = (
        order.join(scores, on="example_id", how="left", maintain_order="left")
        for scores in (predictions, teacher)
    )
    binary = [task for task in experiment.schema.tasks if task.is_binary]
    truth = getattr(experiment.source, "truth", None)
    true = truth(rows) if truth and binary else None
    weight = experiment.schema.example_weight(rows)
    for task in binary:
        logit = own[task.outputs[0]].to_numpy()
        found += [(task.name, *error) for error in _errors(rows, rows[task.label].to_numpy(), logit, weight)]
        found.append((task.name, "spearman", _rank_correlation(taught[task.outputs[0]], logit)))
        if true is not None:
            off = mean(_divergence(true[task.label].to_numpy(), sigmoid(logit)), weight)
            found.append((task.name, "truth", off))
    found += [(task.name, *item) for task in binary[:1] for item in _diversity(rows, own, task, experiment)]
    found.append(("", "seconds", sum(state.seconds for state in states)))
    return pl.DataFrame(
        found, schema={"task": pl.String, "metric": pl.String, "value": pl.Float64}, orient="row"
    )


def _errors(
    rows: pl.DataFrame, label: np.ndarray, logit: np.ndarray, weight: Weight
) -> Iterator[tuple[str, float]]:
    """Yield the name and the value of each error by bucket."""
    predicted = sigmoid(logit)
    cuts = {name: rows[f"{name}_bucket"].to_numpy() for name in ("activity", "popularity", "age")}
    for name, bucket in {**cuts, "decile": buckets(predicted)}.items():
        by = calibration_by(label, predicted, bucket, weight)
        error = float((by["predicted"] - by["observed"]).abs().sum()) / float(by["observed"].sum())
        yield f"error_{name}", error


def _rank_correlation(teacher: pl.Series, logit: np.ndarray) -> float:
    """Return Spearman's correlation over the rows that the teacher scored; NaN where it scored none."""
    scored = teacher.is_not_null().to_numpy()
    if not scored.any():
        return float("nan")
    return agreement(teacher.to_numpy()[scored], logit[scored])["spearman"]


def _divergence(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return KL(true ‖ predicted) [rows] of Bernoulli variables, in nats."""
    low, high = np.finfo(np.float64).tiny, 1.0
    p, q = (np.clip(x, low, high) for x in (true, predicted))
    r, s = (np.clip(1 - x, low, high) for x in (true, predicted))
    return np.asarray(p * np.log(p / q) + r * np.log(r / s))


def _diversity(
    rows: pl.DataFrame, predictions: pl.DataFrame, task: Task, experiment: Experiment
) -> Iterator[tuple[str, float]]:
    """Yield the name and the value of each measure of diversity."""
    assert experiment.study
    user, item = (
        rows[name].rank("dense").fill_null(0).to_numpy()
        for name in (experiment.schema.user or "", experiment.study.item)
    )
    score = predictions[task.outputs[0]].to_numpy()
    yield from diversity(score, user, item, rows["popularity"].to_numpy(), k=TOP).items()
