"""How far a day's metrics are off by chance: standard errors, in NumPy, of rows that are drawn by user.

Each function returns the influence of every row on a metric, [rows]: how far the metric would move if the row weighed
a little more. The variance of a metric is the sum of the squared influences (infinitesimal jackknife, Efron 1982; for
the AUC it is that of DeLong et al., Biometrics 1988). Rows of one user are not independent, so the influences of a user
are added up first (for the AUC: Obuchowski, Biometrics 1997).

Arguments are arrays [rows]. `weight` is the weight of each row; None: one.
"""

import numpy as np

from tutelage.models.metrics import Weight, counts_by_score, mean

FEWEST = 10
"""Rows of each class below which a metric that ranks or divides by the base rate is not judged: its distribution is
then far from a normal one, and its standard error is not known."""


def clustered(influence: np.ndarray, groups: np.ndarray | None = None) -> float:
    """Return the standard error of a metric from the influence of each row, summed by group.

    `groups` are the users' numbers, small and not negative; None: each row is on its own. NaN for a single group.

    >>> clustered(np.array([0.1, -0.1, 0.1, -0.1]))
    0.23094010767585033
    >>> clustered(np.array([0.1, 0.1, -0.1, -0.1]), np.array([1, 1, 2, 2]))
    0.4
    """
    sums = influence
    if groups is not None:
        sums = np.bincount(groups, influence)[np.bincount(groups) > 0]
    if len(sums) < 2:
        return float("nan")
    return float(np.sqrt(np.sum(np.square(sums)) * len(sums) / (len(sums) - 1)))


def of_mean(values: np.ndarray, weight: Weight = None) -> np.ndarray:
    """Return the influence of each row on the mean of `values`."""
    return _share(values - mean(values, weight), weight)


def of_ratio(above: np.ndarray, below: np.ndarray, weight: Weight = None) -> np.ndarray:
    """Return the influence of each row on Σ `above` / Σ `below`; NaN where the latter is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        whole = np.float64(mean(below, weight))
        return _share(above - mean(above, weight) / whole * below, weight) / whole


def of_normalized_entropy(label: np.ndarray, loss: np.ndarray, weight: Weight = None) -> np.ndarray:
    """Return the influence of each row on the normalised entropy, from its log loss; NaN for one class.

    The row moves the log loss above, and the base rate r below: H(r) has the derivative log((1 − r) / r).
    """
    rate = np.float64(mean(label, weight))
    with np.errstate(invalid="ignore", divide="ignore"):
        entropy = -rate * np.log(rate) - (1 - rate) * np.log1p(-rate)
        ratio = mean(loss, weight) / entropy
        slope = np.log((1 - rate) / rate)
        return (of_mean(loss, weight) - ratio * slope * of_mean(label, weight)) / entropy


def of_relative_squared_error(target: np.ndarray, loss: np.ndarray, weight: Weight = None) -> np.ndarray:
    """Return the influence of each row on Σ `loss` / Σ (target − mean)²; NaN for targets of one value."""
    return of_ratio(loss, np.square(target - mean(target, weight)), weight)


def of_auc(label: np.ndarray, score: np.ndarray, weight: Weight = None) -> np.ndarray:
    """Return the influence of each row on the AUC: the share of the other class that it is ranked right against, less
    the AUC, over the rows of its own class. NaN for one class."""
    positives, negatives = counts_by_score(label, score, weight)
    _, tie = np.unique(score, return_inverse=True)
    right_of_negatives = np.cumsum(negatives) - negatives / 2
    right_of_positives = np.sum(positives) - np.cumsum(positives) + positives / 2
    p, n = np.float64(np.sum(positives)), np.float64(np.sum(negatives))
    with np.errstate(invalid="ignore", divide="ignore"):
        area = np.sum(positives * right_of_negatives) / (p * n)
        found = np.where(
            label > 0, (right_of_negatives[tie] / n - area) / p, (right_of_positives[tie] / p - area) / n
        )
    return found if weight is None else found * weight


def hanley_mcneil(area: float, positives: int, negatives: int) -> float:
    """Return the standard error of an AUC from the numbers of rows alone (Hanley and McNeil, Radiology 1982).

    It holds for exponential scores. With few rows of one class it is steadier than what the rows themselves show.

    >>> round(hanley_mcneil(0.75, 10, 90), 4)
    0.0941
    """
    a = max(area, 1 - area)
    of_positives, of_negatives = a / (2 - a) - a**2, 2 * a**2 / (1 + a) - a**2
    spread = a * (1 - a) + (positives - 1) * of_positives + (negatives - 1) * of_negatives
    return float(np.sqrt(spread / (positives * negatives)))


def _share(values: np.ndarray, weight: Weight) -> np.ndarray:
    return values / len(values) if weight is None else values * weight / np.sum(weight, dtype=np.float64)
