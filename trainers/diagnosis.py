"""What a study asks of scores besides their quality: where they are off, and what they took from the teacher."""

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from tutelage.models.metrics import Weight, ranked, sigmoid


def buckets(values: np.ndarray, edges: ArrayLike | None = None) -> np.ndarray:
    """Return the bucket of each value [examples]: how many of the ascending `edges` are at or below it.

    Without edges the buckets are the deciles, 0 to 9. Equal values share a bucket, so that some may stay empty.
    A value that is NaN is in bucket −1, and does not count for the deciles.

    >>> buckets(np.array([0.5, 1.0, 7.0]), edges=[1, 5]).tolist()
    [0, 1, 2]
    """
    known = ~np.isnan(values)
    if edges is None:
        edges = np.quantile(values[known], np.arange(1, 10) / 10) if known.any() else []
    return np.where(known, np.searchsorted(np.asarray(edges), values, side="right"), -1)


def calibration_by(
    label: np.ndarray, predicted: np.ndarray, bucket: np.ndarray, weight: Weight = None
) -> pl.DataFrame:
    """Return `rows`, `predicted` (Σ) and `observed` (Σ) of each `bucket`, ascending.

    Labels and predictions [examples] share a unit, probability or seconds. Calibration is `predicted` / `observed`,
    and not a number where nothing is observed. `weight` is the examples' weight.
    """
    weight = np.ones(len(label), np.int64) if weight is None else weight.astype(np.float64)
    rows = pl.DataFrame({"bucket": bucket, "rows": weight, "predicted": predicted, "observed": label})
    sums = (pl.col("predicted", "observed").cast(pl.Float64) * pl.col("rows")).sum()
    return rows.group_by("bucket").agg(pl.col("rows").sum(), sums).sort("bucket")


def agreement(teacher: np.ndarray, student: np.ndarray) -> dict[str, float]:
    """Return how near a student's logits [examples] are to the teacher's of the same examples; none may be NaN.

    `pearson` and `spearman` are the correlations of the logits and of their ranks, ties at their mean rank; NaN where
    one side is constant. `probability_difference` is the mean absolute difference on the probability scale.
    """
    return {
        "pearson": _correlation(teacher, student),
        "spearman": _correlation(_ranks(teacher), _ranks(student)),
        "probability_difference": float(np.mean(np.abs(sigmoid(teacher) - sigmoid(student)))),
    }


def diversity(
    score: np.ndarray, user: np.ndarray, item: np.ndarray, popularity: np.ndarray, *, k: int
) -> dict[str, float]:
    """Return how diverse the top k of the users' lists are, from exposures. Equal scores rank in the given order.

    All arrays are [exposures]; `popularity` has any unit.
    `coverage` is items in a top k / items among the candidates (Ge et al., RecSys 2010).
    `gini` is that of the items' places in a top k, over all candidate items: 0 where all have as many, 1 where one has
    all (Shani and Gunawardana, Recommender Systems Handbook, 2011); NaN for one item.
    `popularity_lift` is the mean popularity of a user's top k over that of all the user's candidates, each as the mean
    of the users' means; 1 where the order ignores popularity, NaN where nothing is popular.
    """
    order, number, place = ranked(-score, user)
    top = place < k
    items, index = np.unique(item, return_inverse=True)
    places = np.sort(np.bincount(index[order][top], minlength=len(items)))
    n = len(items)
    share = places / places.sum()
    popularity = popularity[order].astype(np.float64)
    shown = np.bincount(number[top], popularity[top]) / np.bincount(number[top])
    there = np.bincount(number, popularity) / np.bincount(number)
    return {
        "coverage": float(np.mean(places > 0)),
        "gini": float(np.sum((2 * np.arange(1, n + 1) - n - 1) * share) / (n - 1)) if n > 1 else float("nan"),
        "popularity_lift": float(shown.mean() / there.mean()) if there.any() else float("nan"),
    }


def _ranks(values: np.ndarray) -> np.ndarray:
    _, tie, rows = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(rows) - (rows - 1) / 2.0)[tie]


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x.astype(np.float64), y.astype(np.float64))[0, 1])
