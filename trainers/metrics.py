"""How good a day's scores were: exact, over all rows of the day."""

import math
from collections.abc import Mapping, Sequence
from datetime import date
from types import MappingProxyType

import numpy as np
import polars as pl

from tutelage.pipeline.schema import Schema, Task
from tutelage.pipeline.table import Table

_LOG_MEAN = 40.0
"""What the served expectation caps the log of a positive value's mean at, too (see `models.ziln`)."""
Weight = np.ndarray | None
_nodes, _weights = np.polynomial.hermite_e.hermegauss(32)
_QUADRATURE = tuple(zip(_nodes, _weights / math.sqrt(2 * math.pi), strict=True))


def sigmoid(logit: np.ndarray) -> np.ndarray:
    """float64, without overflow for a large negative logit."""
    return np.exp(-np.logaddexp(0.0, -logit.astype(np.float64)))


def counts_by_score(
    label: np.ndarray, score: np.ndarray, weight: Weight = None
) -> tuple[np.ndarray, np.ndarray]:
    """(positives, negatives) of each distinct score, lowest first."""
    _, tie, rows = np.unique(score, return_inverse=True, return_counts=True)
    positive = label > 0 if weight is None else (label > 0) * weight.astype(np.float64)
    positives = np.bincount(tie, positive, len(rows))
    return positives, (rows if weight is None else np.bincount(tie, weight, len(rows))) - positives


def auc_of_counts(positives: np.ndarray, negatives: np.ndarray, group: np.ndarray) -> np.ndarray:
    """AUC [groups] from counts of each class [n], by group 0, 1, … and in it by score, lowest first.

    A tie counts half (Mann and Whitney). NaN for one class. Exact: sums of whole and half numbers.
    """
    wins = np.bincount(group, positives * (np.cumsum(negatives) - negatives / 2))
    p, n = np.bincount(group, positives), np.bincount(group, negatives)
    with np.errstate(invalid="ignore"):
        return (wins - p * (np.cumsum(n) - n)) / (p * n)


def auc(label: np.ndarray, score: np.ndarray, weight: Weight = None) -> float:
    """Area under the ROC curve; a tie counts half. NaN for one class."""
    positives, negatives = counts_by_score(label, score, weight)
    values = auc_of_counts(positives, negatives, np.zeros(len(positives), np.int64))
    return float(values[0]) if len(values) else float("nan")


def pr_auc_of_counts(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Average precision from counts of each class by score, lowest first. NaN without a positive."""
    positives, negatives = positives[::-1], negatives[::-1]
    found, rows = np.cumsum(positives), np.cumsum(positives + negatives)
    if not positives.any():
        return float("nan")
    return float(np.sum(positives * found / np.maximum(rows, 1)) / found[-1])


def pr_auc(label: np.ndarray, score: np.ndarray, weight: Weight = None) -> float:
    """Average precision, Σ (recall's step · precision) over thresholds, without interpolation.

    NaN without a positive.
    """
    return pr_auc_of_counts(*counts_by_score(label, score, weight))


def ranked(score: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows by group, and in it by score, lowest first, then as they stand.

    Returns (order [rows]; of each row in this order, the number of its group and its place in it, from 0).
    """
    order = np.lexsort((score, group))
    number = np.cumsum(_changes(group[order])) - 1
    rows = np.bincount(number)
    return order, number, np.arange(len(order)) - (np.cumsum(rows) - rows)[number]


def _changes(values: np.ndarray) -> np.ndarray:
    """bool [n]: where a value is not the one before."""
    changes = np.ones(len(values), bool)
    changes[1:] = values[1:] != values[:-1]
    return changes


def auc_by_group(label: np.ndarray, score: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(AUC, rows) of each group, in the order of their ids; NaN for a group of one class."""
    order, number, place = ranked(score, group)
    first = (place == 0) | _changes(score[order])
    tie = np.cumsum(first) - 1
    positives = np.bincount(tie, label[order] > 0)
    return auc_of_counts(positives, np.bincount(tie) - positives, number[first]), np.bincount(number)


def gauc(label: np.ndarray, score: np.ndarray, group: np.ndarray) -> float:
    """Mean of the users' AUC, weighted by their rows (Zhou et al., DIN, arXiv 1706.06978).

    Users of one class are left out; NaN where all are.
    """
    values, rows = auc_by_group(label, score, group)
    known = ~np.isnan(values)
    return float(np.average(values[known], weights=rows[known])) if known.any() else float("nan")


def ndcg_by_group(label: np.ndarray, score: np.ndarray, group: np.ndarray, k: int) -> np.ndarray:
    """NDCG@k of each group, in the order of their ids; NaN for a group without a label above 0.

    Gain: the label, ≥ 0; discount: 1 / log2(place + 1), places from 1. Rows of one score share the mean
    discount of their places (McSherry and Najork, ECIR 2008).
    """
    order, number, place = ranked(-score, group)
    tie = np.cumsum((place == 0) | _changes(score[order])) - 1
    discount = np.where(place < k, 1 / np.log2(place + 2), 0.0)
    shared = (np.bincount(tie, discount) / np.bincount(tie))[tie]
    best = label[np.lexsort((-label, group))]
    gain, ideal = np.bincount(number, label[order] * shared), np.bincount(number, best * discount)
    with np.errstate(invalid="ignore"):
        return gain / ideal


def ndcg(label: np.ndarray, score: np.ndarray, group: np.ndarray, k: int) -> float:
    """Mean NDCG@k (see `ndcg_by_group`) of the users with a label above 0; NaN where there is none.

    A user without one has no order that is right: counted as 0, it would measure how many there are.
    """
    values = ndcg_by_group(label, score, group, k)
    known = ~np.isnan(values)
    return float(np.mean(values[known])) if known.any() else float("nan")


def cross_entropy(label: np.ndarray, logit: np.ndarray) -> np.ndarray:
    """[rows], in nats, from logits, so that a sure and wrong score is not clipped."""
    logit = logit.astype(np.float64)
    return np.logaddexp(0.0, logit) - label * logit


def mean(values: np.ndarray, weight: Weight = None) -> float:
    """Of [rows], each as often as it weighs."""
    return float(np.mean(values) if weight is None else np.average(values, weights=weight))


def log_loss(label: np.ndarray, logit: np.ndarray, weight: Weight = None) -> float:
    """Mean cross-entropy in nats."""
    return mean(cross_entropy(label, logit), weight)


def entropy(rate: float) -> float:
    """Log loss, in nats, of always saying the base rate. NaN where that is 0 or 1."""
    if not 0 < rate < 1:
        return float("nan")
    return float(-rate * np.log(rate) - (1 - rate) * np.log1p(-rate))


def normalized_entropy(label: np.ndarray, logit: np.ndarray, weight: Weight = None) -> float:
    """Log loss / that of always saying the base rate (He et al., ADKDD 2014, eq. 1). NaN for one class."""
    return log_loss(label, logit, weight) / entropy(mean(label, weight))


def calibration(label: np.ndarray, logit: np.ndarray, weight: Weight = None) -> float:
    """Σ predicted / Σ observed on the probability scale; 1 is right. NaN where nothing is observed."""
    return over_observed(sigmoid(logit), label, weight)


def over_observed(predicted: np.ndarray, label: np.ndarray, weight: Weight = None) -> float:
    """Σ predicted / Σ observed, both in the label's unit. NaN where nothing is observed."""
    if weight is not None:
        predicted, label = predicted * weight, label * weight
    observed = float(np.sum(label))
    return float(predicted.sum() / observed) if observed else float("nan")


def ziln_expected(logit: np.ndarray, mu: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """E[Y] [rows] of a zero-inflated log-normal (arXiv 1912.07753), in the label's unit; as it is served."""
    mu, sigma = mu.astype(np.float64), sigma.astype(np.float64)
    return sigmoid(logit) * np.exp(np.minimum(mu + np.square(sigma) / 2, _LOG_MEAN))


def ziln_expected_log1p(logit: np.ndarray, mu: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """E[log1p(Y)] [rows] of a zero-inflated log-normal: P(Y > 0) · E[softplus(μ + σZ)], Z standard normal.

    By Gauss-Hermite quadrature with 32 nodes, as in `models.ziln`.
    """
    mu, sigma = mu.astype(np.float64), sigma.astype(np.float64)
    mean = np.zeros(len(mu))
    for node, weight in _QUADRATURE:  # one by one: all at once would take 32 times the day's memory
        mean += weight * np.logaddexp(0.0, mu + sigma * node)
    return sigmoid(logit) * mean


def ziln_nll(label: np.ndarray, logit: np.ndarray, mu: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """−log likelihood [rows] of labels ≥ 0 (arXiv 1912.07753, section 3), in nats; its level hangs on
    the label's unit."""
    positive = label > 0
    log = np.log(np.where(positive, label, 1.0))
    sigma = sigma.astype(np.float64)
    normal = np.log(sigma) + 0.5 * math.log(2 * math.pi) + np.square((log - mu) / sigma) / 2
    return cross_entropy(positive, logit) + np.where(positive, log + normal, 0.0)


def served_score(task: Task, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """float64 [rows]: what is served under `task.score`, from the task's raw outputs [rows] by name."""
    columns = [outputs[name] for name in task.outputs]
    if task.kind == "binary":
        return sigmoid(*columns)
    return ziln_expected(*columns) if task.kind == "ziln" else columns[0].astype(np.float64)


def task_metrics(
    task: Task,
    label: np.ndarray,
    outputs: Mapping[str, np.ndarray],
    *,
    groups: np.ndarray | None = None,
    weight: Weight = None,
) -> dict[str, float]:
    """The metrics of a task from hard targets [rows] and raw outputs [rows] by name (see `Task.outputs`).

    `groups`, the users' ids [rows], adds a binary task's `gauc` and `ndcg@10`.
    `weight` [rows] is how many rows each stands for, in all but these two: they compare the rows that are there.
    A value task's `ltv_loss` and `relative_squared_error` are of log1p of the value, in both kinds;
    `rmse` is in the unit of the targets: log1p of the label's for a `log1p` task, the label's for a
    `ziln` task.
    """
    columns = [outputs[name] for name in task.outputs]
    if task.kind == "binary":
        (logit,) = columns
        found = {
            "auc": auc(label, logit, weight),
            "pr_auc": pr_auc(label, logit, weight),
            "log_loss": log_loss(label, logit, weight),
            "normalized_entropy": normalized_entropy(label, logit, weight),
            "calibration": calibration(label, logit, weight),
        }
        if groups is not None:
            found |= {"gauc": gauc(label, logit, groups), "ndcg@10": ndcg(label, logit, groups, 10)}
        return found
    label = label.astype(np.float64)
    if task.kind == "log1p":
        errors = _squared_errors(label, columns[0], weight)
        return {**errors, "rmse": math.sqrt(errors["ltv_loss"])}
    expected = ziln_expected(*columns)
    return {
        **_squared_errors(np.log1p(label), ziln_expected_log1p(*columns), weight),
        "ziln_nll": mean(ziln_nll(label, *columns), weight),
        "rmse": math.sqrt(mean(np.square(label - expected), weight)),
        "calibration": over_observed(expected, label, weight),
    }


def _squared_errors(target: np.ndarray, output: np.ndarray, weight: Weight) -> dict[str, float]:
    loss = mean(np.square(target - output), weight)
    variance = (
        float(np.var(target)) if weight is None else mean(np.square(target - mean(target, weight)), weight)
    )
    # Against always saying the mean; NaN where all labels are one value.
    return {"ltv_loss": loss, "relative_squared_error": loss / variance if variance else float("nan")}


def day_metrics(
    schema: Schema,
    targets: np.ndarray,
    outputs: Mapping[str, np.ndarray],
    *,
    basis: str,
    slices: Mapping[str, np.ndarray] = MappingProxyType({}),
    groups: np.ndarray | None = None,
    weight: Weight = None,
) -> list[dict[str, object]]:
    """Rows of the `metrics` table from targets [rows, tasks] and raw outputs [rows] by name.

    Rows whose target is NaN are left out of their task; a task that none is left of has no metrics.

    `slices`: bool [rows] by name; each is judged on its own, after all rows (slice '').
    `groups`: the users' ids [rows], for the metrics that compare the rows of one user.
    `weight` [rows]: how many rows each stands for; `rows` counts those that are there.
    """
    everything = {"": np.ones(len(targets), bool), **slices}
    return [
        {
            "task": task.name,
            "metric": metric,
            "slice": name,
            "basis": basis,
            "value": value,
            "rows": int(inside.sum()),
        }
        for name, chosen in everything.items()
        for i, task in enumerate(schema.tasks)
        if (inside := chosen & ~np.isnan(targets[:, i])).any()
        for metric, value in task_metrics(
            task,
            targets[inside, i],
            {column: outputs[column][inside] for column in task.outputs},
            groups=None if groups is None else groups[inside],
            weight=None if weight is None else weight[inside],
        ).items()
    ]


def write_metrics(
    table: Table, rows: Sequence[Mapping[str, object]], *, run: str, day: date, model: str
) -> None:
    """Replace what this model reported of this day."""
    frame = pl.DataFrame(rows).with_columns(run=pl.lit(run), day=pl.lit(day))
    table.replace(frame, {"model": model}, day=day, run=run)
