"""Metrics of one day's scores, exact, in NumPy: over all rows, or by user.

Arguments are arrays [rows] unless they say otherwise. `weight` is the weight of each row; None: one.
"""

import numpy as np

Weight = np.ndarray | None


def sigmoid(logit: np.ndarray) -> np.ndarray:
    """Return probabilities, float64, without overflow for a large negative logit."""
    return np.exp(-np.logaddexp(0.0, -logit.astype(np.float64)))


def counts_by_score(
    label: np.ndarray, score: np.ndarray, weight: Weight = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return (positives, negatives) of each distinct score, lowest first."""
    _, tie, rows = np.unique(score, return_inverse=True, return_counts=True)
    positive = label > 0 if weight is None else (label > 0) * weight.astype(np.float64)
    positives = np.bincount(tie, positive, len(rows))
    return positives, (rows if weight is None else np.bincount(tie, weight, len(rows))) - positives


def auc_of_counts(positives: np.ndarray, negatives: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return the AUC of each group, [groups].

    A tie counts half (Mann and Whitney). A group of one class has NaN. Exact: sums of whole and half numbers.

    Args:
        positives, negatives: counts [n], within a group by score, lowest first.
        group: 0, 1, … ascending, [n].
    """
    wins = np.bincount(group, positives * (np.cumsum(negatives) - negatives / 2))
    p, n = np.bincount(group, positives), np.bincount(group, negatives)
    with np.errstate(invalid="ignore"):
        return (wins - p * (np.cumsum(n) - n)) / (p * n)


def auc(label: np.ndarray, score: np.ndarray, weight: Weight = None) -> float:
    """Return the area under the ROC curve; a tie counts half. NaN for one class.

    >>> auc(np.array([0, 1, 1]), np.array([0.1, 0.1, 0.9]))  # of two pairs one is right and one a tie
    0.75
    """
    positives, negatives = counts_by_score(label, score, weight)
    values = auc_of_counts(positives, negatives, np.zeros(len(positives), np.int64))
    return float(values[0]) if len(values) else float("nan")


def pr_auc_of_counts(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Return the average precision from counts of each class by score, lowest first. NaN without a positive."""
    positives, negatives = positives[::-1], negatives[::-1]
    found, rows = np.cumsum(positives), np.cumsum(positives + negatives)
    if not positives.any():
        return float("nan")
    return float(np.sum(positives * found / np.maximum(rows, 1)) / found[-1])


def pr_auc(label: np.ndarray, score: np.ndarray, weight: Weight = None) -> float:
    """Return the average precision: Σ (step of recall · precision) over thresholds, without interpolation.

    NaN without a positive.
    """
    return pr_auc_of_counts(*counts_by_score(label, score, weight))


def ranked(score: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort rows by group, within it by score, lowest first, and rows of one score as they stand.

    Returns (order [rows], the number of each sorted row's group, its place within the group), both from 0.
    """
    order = np.lexsort((score, group))
    number = np.cumsum(_changes(group[order])) - 1
    rows = np.bincount(number)
    return order, number, np.arange(len(order)) - (np.cumsum(rows) - rows)[number]


def _changes(values: np.ndarray) -> np.ndarray:
    """Return bool [n]: where a value differs from the one before."""
    changes = np.ones(len(values), bool)
    changes[1:] = values[1:] != values[:-1]
    return changes


def auc_by_group(label: np.ndarray, score: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (AUC, rows) of each group, in the order of their ids; NaN for a group of one class."""
    order, number, place = ranked(score, group)
    first = (place == 0) | _changes(score[order])
    tie = np.cumsum(first) - 1
    positives = np.bincount(tie, label[order] > 0)
    return auc_of_counts(positives, np.bincount(tie) - positives, number[first]), np.bincount(number)


def gauc(label: np.ndarray, score: np.ndarray, group: np.ndarray) -> float:
    """Return the mean of the users' AUC, weighted by their rows (Zhou et al., DIN, arXiv 1706.06978).

    Users of one class are left out; NaN where all are.
    """
    values, rows = auc_by_group(label, score, group)
    known = ~np.isnan(values)
    return float(np.average(values[known], weights=rows[known])) if known.any() else float("nan")


def ndcg_by_group(label: np.ndarray, score: np.ndarray, group: np.ndarray, k: int) -> np.ndarray:
    """Return NDCG@k of each group, in the order of their ids; NaN for a group without a label above 0.

    The gain is the label, ≥ 0; the discount is 1 / log2(place + 1), with places from 1. Rows of one score share the
    mean discount of their places (McSherry and Najork, ECIR 2008).
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
    """Return the mean NDCG@k (`ndcg_by_group`) of the users with a label above 0; NaN where there is none.

    A user without one has no right order. Counted as 0, such users would make the metric measure how many they are.
    """
    values = ndcg_by_group(label, score, group, k)
    known = ~np.isnan(values)
    return float(np.mean(values[known])) if known.any() else float("nan")


def cross_entropy(label: np.ndarray, logit: np.ndarray) -> np.ndarray:
    """Return the cross-entropy [rows] in nats, from logits, so that a score that is sure and wrong is not clipped."""
    logit = logit.astype(np.float64)
    return np.logaddexp(0.0, logit) - label * logit


def mean(values: np.ndarray, weight: Weight = None) -> float:
    """Return the weighted mean."""
    return float(np.mean(values) if weight is None else np.average(values, weights=weight))


def log_loss(label: np.ndarray, logit: np.ndarray, weight: Weight = None) -> float:
    """Return the mean cross-entropy in nats."""
    return mean(cross_entropy(label, logit), weight)


def entropy(rate: float) -> float:
    """Return the log loss, in nats, of always predicting the base rate. NaN where that is 0 or 1."""
    if not 0 < rate < 1:
        return float("nan")
    return float(-rate * np.log(rate) - (1 - rate) * np.log1p(-rate))


def normalized_entropy(label: np.ndarray, logit: np.ndarray, weight: Weight = None) -> float:
    """Return log loss / that of always predicting the base rate (He et al., ADKDD 2014, eq. 1). NaN for one class."""
    return log_loss(label, logit, weight) / entropy(mean(label, weight))


def calibration(label: np.ndarray, logit: np.ndarray, weight: Weight = None) -> float:
    """Return Σ predicted / Σ observed, in probabilities; 1 is right. NaN where nothing is observed."""
    return over_observed(sigmoid(logit), label, weight)


def over_observed(predicted: np.ndarray, label: np.ndarray, weight: Weight = None) -> float:
    """Return Σ predicted / Σ observed, both in the label's unit. NaN where nothing is observed."""
    if weight is not None:
        predicted, label = predicted * weight, label * weight
    observed = float(np.sum(label))
    return float(predicted.sum() / observed) if observed else float("nan")


def relative_squared_error(target: np.ndarray, loss: float, weight: Weight = None) -> float:
    """Return `loss`, a mean squared error, / that of always predicting the mean. NaN for targets of one value."""
    variance = (
        float(np.var(target)) if weight is None else mean(np.square(target - mean(target, weight)), weight)
    )
    return loss / variance if variance else float("nan")
