"""Metrics of examples that no single process holds: sums that are added up in any order, and read at the end.

A feed of mini-batches, or several trainers of one model, report a day by them; `metrics` needs the whole day at once.
The day loop uses them for a day of more than a chunk (`by_part.py`).

Each class is frozen: `update` returns the sums with some examples more, `+` those of two disjoint sets of examples.
Without examples the sums are zeros, and the results NaN.

>>> one = SquaredErrorSums().update(np.array([1.0]), np.array([3.0]))
>>> (one + SquaredErrorSums().update(np.array([1.0]), np.array([1.0]))).result()["mean_squared_error"]
2.0
"""

from dataclasses import dataclass, field, fields
from typing import Self

import numpy as np

from tutelage.models import metrics

_EDGE, _BINS = 16.0, 4096
"""Logits between ±16 fall in bins of 1/128; those beyond in the outermost, with probabilities within 1.2e-7."""


@dataclass(frozen=True, slots=True, eq=False)
class _Sums:
    def __add__(self, other: Self) -> Self:
        return type(self)(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True, slots=True, eq=False)
class BinarySums(_Sums):
    """The sums of a binary task. AUC and average precision come from a histogram of the logits: see `bounds`."""

    loss: float = 0.0
    """Σ cross-entropy, in nats."""
    predicted: float = 0.0
    """Σ probability."""
    counts: np.ndarray = field(default_factory=lambda: np.zeros((2, _BINS), np.int64))
    """[2, bins]: examples of each class (positives, negatives), or their weight, by bin of the logit, lowest first."""

    def update(self, label: np.ndarray, logit: np.ndarray, weight: metrics.Weight = None) -> Self:
        """Return the sums with more examples, given by label, logit and weight [examples]."""
        clipped = np.clip(logit, -_EDGE, _EDGE)
        each = np.ones(len(label)) if weight is None else weight.astype(np.float64)
        counts = [
            np.histogram(
                clipped[chosen], _BINS, (-_EDGE, _EDGE), weights=None if weight is None else each[chosen]
            )[0]
            for chosen in (label > 0, label <= 0)
        ]
        loss = (metrics.cross_entropy(label, logit) * each).sum()
        predicted = (metrics.sigmoid(logit) * each).sum()
        return self + type(self)(float(loss), float(predicted), np.stack(counts))

    def result(self) -> dict[str, float]:
        """Return the metrics by name."""
        positives, negatives = self.counts
        rows, found = float(self.counts.sum()), float(positives.sum())
        loss = _ratio(self.loss, rows)
        return {
            "auc": float(metrics.auc_of_counts(positives, negatives, np.zeros(_BINS, np.int64))[0]),
            "pr_auc": metrics.pr_auc_of_counts(positives, negatives),
            "log_loss": loss,
            "normalized_entropy": loss / metrics.entropy(_ratio(found, rows)),
            "calibration": _ratio(self.predicted, found),
        }

    def bounds(self) -> dict[str, float]:
        """Return how far `auc` and `pr_auc` are from exact at most, whatever the order within the bins is.

        For each pair within a bin, half a win may be wrong. The precision at a positive is lowest if it comes first
        after all negatives of its bin, and highest if all positives of the bin come before them.
        """
        p, n = self.counts[:, ::-1]
        found, rows = np.cumsum(p) - p, np.cumsum(p + n) - p - n
        high, low = (found + p) / np.maximum(rows + p, 1), (found + 1) / (rows + n + 1)
        message = (found + p) / np.maximum(rows + p + n, 1)
        return {
            "auc": _ratio(float(np.sum(p * n)) / 2, float(p.sum() * n.sum())),
            "pr_auc": _ratio(float(np.sum(p * np.maximum(high - message, message - low))), float(p.sum())),
        }


@dataclass(frozen=True, slots=True, eq=False)
class SquaredErrorSums(_Sums):
    """The sums of a value and its prediction, which share a unit."""

    rows: int = 0
    squared_error: float = 0.0

    def update(self, label: np.ndarray, predicted: np.ndarray) -> Self:
        """Return the sums with more examples, given by label and prediction [examples]."""
        error = np.square(label.astype(np.float64) - predicted).sum()
        return self + type(self)(len(label), float(error))

    def result(self) -> dict[str, float]:
        """Return the metrics by name."""
        loss = _ratio(self.squared_error, self.rows)
        return {"mean_squared_error": loss, "rmse": float(np.sqrt(loss))}


@dataclass(frozen=True, slots=True, eq=False)
class GroupSums(_Sums):
    """The sums over users. All examples of a user must come in one update, or they count as two users."""

    auc: float = 0.0
    """Σ examples · AUC, over users with both classes."""
    rows: int = 0
    """The examples of these users."""
    ndcg: float = 0.0
    """Σ NDCG@10, over users with a positive."""
    users: int = 0
    """The number of these users."""

    def update(self, label: np.ndarray, score: np.ndarray, group: np.ndarray) -> Self:
        """Return the sums with more examples, given by label, score and user [examples]."""
        auc, rows = metrics.auc_by_group(label, score, group)
        ndcg = metrics.ndcg_by_group(label, score, group, 10)
        return self + type(self)(
            float(np.nansum(auc * rows)),
            int(rows[~np.isnan(auc)].sum()),
            float(np.nansum(ndcg)),
            int((~np.isnan(ndcg)).sum()),
        )

    def result(self) -> dict[str, float]:
        """Return the metrics by name."""
        return {"gauc": _ratio(self.auc, self.rows), "ndcg@10": _ratio(self.ndcg, self.users)}


def _ratio(above: float, below: float) -> float:
    return above / below if below else float("nan")
