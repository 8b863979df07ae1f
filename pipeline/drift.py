"""Measures of drift: how far one histogram is from another, as one number.

A histogram is an array of shape [2, buckets]: the value of each bucket, and its number of rows. The order of the
buckets does not matter, and a bucket may stand there more than once; its rows are then added up.
"""

import numpy as np


def jensen_shannon(current: np.ndarray, reference: np.ndarray) -> float:
    """Return the Jensen–Shannon distance, to base 2, of two histograms over the same buckets.

    It is the root of the Jensen–Shannon divergence (Lin 1991): 0 for equal shares, 1 where no bucket has rows of both.
    With n current rows it is about sqrt(3.6 / n) by chance over 20 buckets. Both histograms need at least one row.
    """
    p, q = _align(current, reference)[1]
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2
    # 0 · log 0 is 0.
    bits = [np.sum(x * np.log2(np.where(x > 0, x, 1) / np.where(x > 0, middle, 1))) for x in (p, q)]
    return float(np.sqrt(max(np.mean(bits), 0)))


def most_changed(current: np.ndarray, reference: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Return Σ (p − q)² of two histograms, and both without the bucket whose share changed most.

    The sum is 0 for equal shares and 2 for one bucket each. Where the buckets are ids, a mean of what belongs to ids
    alone, such as the length of a video, differs by about its root, in standard deviations over ids. With n current
    rows it is about 1 / n by chance. Where nothing would be left of a histogram, both are returned as they are. Both
    histograms need at least one row.
    """
    values, (p, q) = _align(current, reference)
    change = p / p.sum() - q / q.sum()
    rest = np.arange(values.size) != np.argmax(np.abs(change))
    mix = float(np.sum(change**2))
    if not (p[rest].any() and q[rest].any()):
        return mix, current, reference
    return mix, np.array([values[rest], p[rest]]), np.array([values[rest], q[rest]])


def psi(current: np.ndarray, reference: np.ndarray) -> float:
    """Return the population stability index Σ (p − q) · ln(p / q) of two histograms of numbers.

    p and q are the shares of the current and the reference rows in twelve bins: the deciles of the reference, all that
    is below its lowest value, and all that is above its highest. The value of a bucket is its lower edge. Half a row is
    added to each bin, so that an empty one has a logarithm; a bin that is empty on both sides is left out. Above 0.25
    is commonly called a major shift (Siddiqi 2006, "Credit Risk Scorecards"). With n current rows it is about 9 / n by
    chance. Both histograms need at least one row.
    """
    values, (p, q) = _align(current, reference)
    share_below = (np.cumsum(q) - q) / q.sum()
    bins = np.floor(10 * share_below).astype(int)
    bins[values < reference[0].min()] = -1
    counts = np.array([np.bincount(bins + 1, weights=side, minlength=12) for side in (p, q)])
    counts = counts[:, counts.sum(axis=0) > 0] + 0.5
    p, q = counts / counts.sum(axis=1, keepdims=True)
    return float(np.sum((p - q) * np.log(p / q)))


def _align(current: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return the values of all buckets in ascending order, and the rows that each histogram has in them."""
    values, index = np.unique(np.concatenate([current[0], reference[0]]), return_inverse=True)
    split = current.shape[1]
    return values, (
        np.bincount(index[:split], current[1], values.size),
        np.bincount(index[split:], reference[1], values.size),
    )
