"""A label of 0 or 1."""

from __future__ import annotations

import numpy as np

from tutelage.models import metrics as m
from tutelage.models.lazy_tf import tf
from tutelage.models.losses.cross_entropy import CrossEntropy
from tutelage.models.task_kinds.base import CALIBRATION, Quality, TaskKind
from tutelage.pipeline import task_kinds as specs


class Binary(TaskKind, specs.Binary):
    """The network gives a logit, trained by cross-entropy. The served score is the probability of a 1."""

    __slots__ = ()
    loss_name = "log_loss"
    soft_loss = CrossEntropy()
    # Normalised entropy instead of log loss, because base rates differ from day to day.
    qualities = served_qualities = (
        Quality("auc", "higher", "auc_drop"),
        Quality("normalized_entropy", "lower", "entropy_rise"),
        CALIBRATION,
    )

    def hard_loss(self, target: tf.Tensor, raw: tf.Tensor) -> tf.Tensor:
        return tf.nn.sigmoid_cross_entropy_with_logits(labels=target, logits=raw[:, 0])

    def served(self, raw: tf.Tensor) -> tf.Tensor:
        return tf.sigmoid(raw[:, 0])

    def score(self, raw: np.ndarray) -> np.ndarray:
        return m.sigmoid(raw[:, 0])

    def row_loss(self, target: np.ndarray, raw: np.ndarray) -> np.ndarray:
        return m.cross_entropy(target, raw[:, 0])

    def metrics(
        self,
        target: np.ndarray,
        raw: np.ndarray,
        *,
        groups: np.ndarray | None = None,
        weight: m.Weight = None,
    ) -> dict[str, float]:
        """Return AUC, PR-AUC, log loss, normalised entropy and calibration; with `groups`, also GAUC and NDCG@10.

        GAUC and NDCG compare the rows that are there, whatever they weigh.
        """
        logit = raw[:, 0]
        found = {
            "auc": m.auc(target, logit, weight),
            "pr_auc": m.pr_auc(target, logit, weight),
            "log_loss": m.log_loss(target, logit, weight),
            "normalized_entropy": m.normalized_entropy(target, logit, weight),
            "calibration": m.calibration(target, logit, weight),
        }
        if groups is not None:
            found |= {"gauc": m.gauc(target, logit, groups), "ndcg@10": m.ndcg(target, logit, groups, 10)}
        return found
