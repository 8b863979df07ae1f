"""What a study tells of an arm beside its losses: ranking, calibration by bucket, leakage, diversity, cost."""

from collections.abc import Mapping, Sequence
from datetime import date

import numpy as np
import polars as pl

from tutelage.launch.experiment import Experiment
from tutelage.pipeline.schema import Task
from tutelage.trainers.checkpoints import State
from tutelage.trainers.diagnosis import agreement, bias_leakage, buckets, calibration_by, diversity
from tutelage.trainers.metrics import Weight, mean, sigmoid

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
    "leakage_slope": "leakage slope",
    "leakage_r2": "leakage R²",
    "coverage": "coverage",
    "gini": "Gini",
    "popularity_lift": "popularity lift",
    "truth": "from the truth",
    "seconds": "seconds",
}
"""Facts in the order of the page, and the heads of their columns."""

HOW_TO_READ = (
    "Means over seeds. Error by a bucket: Σ |predicted − observed| / Σ observed, over deciles of the user's rows in "
    "earlier days, of the item's, of the days since the item was first seen, and of the prediction. Rank "
    "correlation: with the scores of the teacher that the arm learnt from. Leakage: the arm's log calibration by "
    "bucket of activity and popularity on that of its teacher; an arm that is off as its teacher is has a slope "
    f"of 1. Coverage, Gini of the items' places and popularity lift: of the top {TOP} of each user's rows. From the "
    "truth: mean KL divergence from the probability that a synthetic label was drawn with. Seconds: of its updates."
)


def context(interactions: pl.LazyFrame, experiment: Experiment, judged: Sequence[date]) -> pl.DataFrame:
    """The judged rows and the buckets that they fall in; what is earlier than a row's day says which."""
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
    predictions: pl.DataFrame,
    teacher: pl.DataFrame,
    *,
    experiment: Experiment,
    metrics: pl.DataFrame,
    states: Sequence[State],
) -> pl.DataFrame:
    """task, metric, value of one arm with one seed.

    `rows`: of `context`; `predictions` and `teacher`: example_id and the raw outputs of those rows, of the arm and
    of its teacher; `metrics`: the arm's rows of the metrics table on the judged days.
    """
    order = rows.select("example_id")
    own, other = (
        order.join(p, on="example_id", how="left", maintain_order="left") for p in (predictions, teacher)
    )
    ahead = (
        metrics.filter(pl.col("basis") == "day_ahead").group_by("task", "metric").agg(pl.col("value").mean())
    )
    found = [(task, metric, value) for task, metric, value in ahead.iter_rows() if metric in TITLES]
    truth = getattr(experiment.source, "truth", None)
    true = truth(rows) if truth else None
    weight = experiment.schema.example_weight(rows)
    for task in experiment.schema.tasks:
        if task.kind == "binary":
            logit, taught = (frame[task.outputs[0]].to_numpy() for frame in (own, other))
            values = _of_task(rows, rows[task.label].to_numpy(), logit, taught, weight)
            if true is not None:
                values["truth"] = mean(_divergence(true[task.label].to_numpy(), sigmoid(logit)), weight)
            found += [(task.name, name, value) for name, value in values.items()]
    first = next((task for task in experiment.schema.tasks if task.kind == "binary"), None)
    if first is not None:
        found += [(first.name, *item) for item in _diversity(rows, own, first, experiment).items()]
    found.append(("", "seconds", sum(state.seconds for state in states)))
    return pl.DataFrame(
        found, schema={"task": pl.String, "metric": pl.String, "value": pl.Float64}, orient="row"
    )


def _of_task(
    rows: pl.DataFrame, label: np.ndarray, logit: np.ndarray, teacher: np.ndarray, weight: Weight
) -> dict[str, float]:
    student, taught = sigmoid(logit), sigmoid(teacher)
    values = {}
    for name in ("activity", "popularity", "age"):
        by = calibration_by(label, student, rows[f"{name}_bucket"].to_numpy(), weight)
        values[f"error_{name}"] = _error(by)
    values["error_decile"] = _error(calibration_by(label, student, buckets(student), weight))
    values["spearman"] = agreement(teacher, logit)["spearman"]
    # Two ways of cutting the same rows, side by side.
    cuts = [rows["activity_bucket"].to_numpy(), rows["popularity_bucket"].to_numpy() + 100]
    of_student, of_teacher = (
        pl.concat([calibration_by(label, scores, cut, weight) for cut in cuts])
        for scores in (student, taught)
    )
    leakage = bias_leakage(of_student, of_teacher)
    return values | {"leakage_slope": leakage["slope"], "leakage_r2": leakage["r2"]}


def _error(by: pl.DataFrame) -> float:
    return float((by["predicted"] - by["observed"]).abs().sum()) / float(by["observed"].sum())


def _divergence(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """KL(true ‖ predicted) [rows] of Bernoulli variables, in nats."""
    low, high = np.finfo(np.float64).tiny, 1.0
    p, q = (np.clip(x, low, high) for x in (true, predicted))
    r, s = (np.clip(1 - x, low, high) for x in (true, predicted))
    return np.asarray(p * np.log(p / q) + r * np.log(r / s))


def _diversity(
    rows: pl.DataFrame, predictions: pl.DataFrame, task: Task, experiment: Experiment
) -> Mapping[str, float]:
    assert experiment.study
    user, item = (
        rows[name].rank("dense").fill_null(0).to_numpy()
        for name in (experiment.schema.user or "", experiment.study.item)
    )
    score = predictions[task.outputs[0]].to_numpy()
    return diversity(score, user, item, rows["popularity"].to_numpy(), k=TOP)
