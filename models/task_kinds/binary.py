"""A label of 0 or 1."""

from __future__ import annotations

import numpy as np

from tutelage.models import metrics as m
from tutelage.models import standard_errors as se
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

    def standard_errors(
        self,
        target: np.ndarray,
        raw: np.ndarray,
        *,
        groups: np.ndarray | None = None,
        weight: m.Weight = None,
    ) -> dict[str, float]:
        """Return those of AUC, normalised entropy and calibration. The first two are infinite with few of a class.

        None is below what so many independent rows give: a few rows of a class may look alike by chance.
        """
        logit = raw[:, 0].astype(np.float64)
        positives = int(np.sum(target > 0))
        negatives = len(target) - positives
        chance = m.sigmoid(logit)
        drawn = (1.0 if weight is None else np.square(weight.astype(np.float64))) * chance * (1 - chance)
        predicted = len(target) * m.mean(chance) if weight is None else np.sum(chance * weight)
        found = {
            "auc": np.inf,
            "normalized_entropy": np.inf,
            "calibration": max(
                np.nan_to_num(se.clustered(se.of_ratio(target, chance, weight), groups)),
                float(np.sqrt(np.sum(drawn)) / predicted),
            ),
        }
        if min(positives, negatives) >= se.FEWEST:
            loss = m.cross_entropy(target, logit)
            area = se.clustered(se.of_auc(target, logit, weight), groups)
            least = se.hanley_mcneil(m.auc(target, logit, weight), positives, negatives)
            found["auc"] = max(np.nan_to_num(area), least)
            found["normalized_entropy"] = se.clustered(se.of_normalized_entropy(target, loss, weight), groups)
        return found
