"""Two versions on the same rows: how much worse the candidate is, and how sure that is.

The difference of a metric is paired, as both versions score the same rows. Its standard error comes from a bootstrap
in which users are resampled, because the rows of one user resemble one another. The interval is the difference ± the
quantile of Student's t · the standard error (Cameron, Gelbach and Miller, REStat 2008, on few clusters).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import zip_longest

import numpy as np
from scipy import special

from tutelage.export.config import ServingConfig
from tutelage.models.task_kinds import Quality, TaskKind, kind_of
from tutelage.pipeline.schema import Task
from tutelage.pipeline.verdict import Check

CONFIDENCE = 0.95
RESAMPLES = 400
"""The standard error of 400 resamples is itself within 4 %."""
FEWEST_USERS = 5
"""Effective users without which there is no interval: the variance of three or four says nothing of others."""
_CELLS = 2_000_000
"""Numbers that an array of resamples · rows holds at most: 16 MB."""
_CLIP = 1e-7
"""Served probabilities are float32; nearer to 0 or 1 than this they are rounded."""

Scores = Mapping[str, np.ndarray]
"""float64 [rows] by served output."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JudgedRows:
    """Rows that neither version was trained on."""

    day: date
    targets: Mapping[str, np.ndarray]
    """What each task is trained on (`TaskKind.target`), float64 [rows] by task; NaN where there is no label."""
    weight: np.ndarray
    """`Schema.example_weight` [rows], 1 where nothing was downsampled."""
    users: np.ndarray
    """Whose row it is, int [rows], from 0 on. A row without a known user is a user of its own."""
    slices: Mapping[str, np.ndarray]
    """bool [rows] by name, as in `tab=1`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Check):
    """A quality metric of the candidate (`value`) and of the served version (`reference`) on the same rows.

    It passes unless the candidate is worse by more than the margin, with `CONFIDENCE`.
    """

    worse: float | None = None
    """How much worse the candidate is: of a loss the share of the reference, otherwise the difference. None: a value is
    missing."""
    low: float | None = None
    """The interval of `worse`. None: of so few users none can be given."""
    high: float | None = None
    margin: float = 0.0
    field: str = ""
    """The field of `ServingConfig` that holds the margin."""
    share: bool = False
    """Whether `worse` is a share."""
    slice: str = ""
    """'': all rows."""
    day: date
    rows: int
    users: int

    @property
    def undecided(self) -> bool:
        """Whether the rows show neither that the candidate is worse by more than the margin nor that it is not."""
        return self.passed and not (self.high is not None and self.high <= self.margin)

    @property
    def where(self) -> str:
        """The rows, as in `104 rows of 11 users of 2026-01-03`."""
        return f"{self.rows:,} rows of {self.users:,} users of {self.day}"

    def describe(self) -> str:
        """Return both values, the difference with its interval, the field that holds the margin, and the rows."""
        if self.worse is None or self.low is None or self.high is None:
            return f"{self.name}: {'no interval' if self.rows else 'nothing to compare'} on {self.where}"
        worse, low, high, margin = (
            f"{100 * number:.3g} %" if self.share else f"{number:.3g}"
            for number in (self.worse, self.low, self.high, self.margin)
        )
        return (
            f"{self.name} is {self.value:.4g}, the served version {self.reference:.4g}: worse by {worse} "
            f"({low} to {high}) and serving.{self.field} allows {margin}, on {self.where}"
        )


def compare(
    tasks: Sequence[Task],
    rows: JudgedRows,
    candidate: Scores,
    served: Scores | None,
    serving: ServingConfig,
    *,
    seed: int,
) -> list[Comparison]:
    """Return a comparison for each task and quality metric, on all rows and then on each slice.

    A task without a label, or whose output the served version does not have, is left out. With `served` None only
    the candidate's values are there. Each comparison on all rows holds with `CONFIDENCE`; those on slices share that
    chance of being wrong (Bonferroni), because there are many.
    """
    parts = [
        _Part.of(task, rows, inside, name, candidate, served)
        for name, inside in {"": np.ones(len(rows.weight), bool), **rows.slices}.items()
        for task in tasks
        if served is None or task.score in served
    ]
    metrics = [
        _Metric(part, quality)
        for part in parts
        # A masked task may have no label yet, and a slice none of the labelled rows.
        if len(part.target) or not (part.slice or len(rows.weight))
        for quality in part.kind.served_qualities
    ]
    resampled = _resample(metrics, int(rows.users.max(initial=-1)) + 1, seed) if served is not None else []
    on_slices = sum(bool(metric.part.slice) for metric in metrics)
    return [
        _comparison(metric, of_metric, serving, rows, tests=on_slices if metric.part.slice else 1)
        for metric, of_metric in zip_longest(metrics, resampled)
    ]


def interval(worse: float, resampled: np.ndarray, *, tests: int, dof: float) -> tuple[float, float] | None:
    """Return the interval of a difference, `worse` ± t · the standard deviation of `resampled`, [resamples].

    t is the quantile of Student's t with `dof` degrees of freedom at 1 − (1 − `CONFIDENCE`) / `tests`, so each end
    holds with that confidence. A bootstrap of n users is too narrow by √((n − 1) / n), which is made good. None where
    it cannot be given: there are fewer than `FEWEST_USERS`, which are `dof` + 1, or in more than half of the resamples
    the metric has no value.

    Example:
        >>> low, high = interval(0.0, np.array([-1.0, 0.0, 1.0]), tests=1, dof=np.inf)
        >>> round(low, 3), round(high, 3)  # the standard deviation is 1
        (-1.645, 1.645)
    """
    known = resampled[np.isfinite(resampled)]
    if dof + 1 < FEWEST_USERS or 2 * len(known) < len(resampled):
        return None
    dof = min(dof, 1e9)
    error = float(np.std(known, ddof=1)) * float(np.sqrt((dof + 1) / dof))
    far = -float(special.stdtrit(dof, (1 - CONFIDENCE) / tests)) * error
    return worse - far, worse + far


def effective_users(weight: np.ndarray, users: np.ndarray) -> float:
    """Return (Σ w)² / Σ w² of the users' weights w: how many users of equal weight would tell as much.

    >>> effective_users(np.array([1.0, 1.0, 2.0]), np.array([0, 0, 1]))
    2.0
    """
    by_user = np.bincount(users, weight)
    return float(by_user.sum() ** 2 / np.square(by_user).sum()) if by_user.any() else 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Part:
    """The rows of a task that have a label, in one slice ('': all)."""

    task: Task
    kind: TaskKind
    slice: str
    target: np.ndarray
    weight: np.ndarray
    present: np.ndarray
    """The users that have one of the rows."""
    users: np.ndarray
    """[rows]: places in `present`."""
    scores: list[np.ndarray]
    """Of the candidate, and of the served version if there is one."""

    @classmethod
    def of(
        cls,
        task: Task,
        rows: JudgedRows,
        inside: np.ndarray,
        name: str,
        candidate: Scores,
        served: Scores | None,
    ) -> "_Part":
        target = rows.targets[task.name]
        chosen = inside & ~np.isnan(target)
        present, users = np.unique(rows.users[chosen], return_inverse=True)
        both = [candidate] if served is None else [candidate, served]
        return cls(
            task=task,
            kind=kind_of(task),
            slice=name,
            target=target[chosen],
            weight=rows.weight[chosen],
            present=present,
            users=users,
            scores=[scores[task.score][chosen] for scores in both],
        )

    @property
    def dof(self) -> float:
        """One less than the effective users; of a binary task, than those of the class that has fewer."""
        classes = (
            [self.target > 0, self.target <= 0] if self.kind.is_binary else [np.ones(len(self.target), bool)]
        )
        return min(effective_users(self.weight[inside], self.users[inside]) for inside in classes) - 1


class _Metric:
    """A metric of each version on the rows of a part, from how often each user counts."""

    def __init__(self, part: _Part, quality: Quality):
        self.part, self.quality = part, quality
        self._of = [_METRICS[quality.metric](part, score) for score in part.scores]

    def values(self, counts: np.ndarray) -> list[np.ndarray]:
        """Return each version's values [resamples]; `counts` is [resamples, users of the part]."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return [of(counts) for of in self._of]

    def worse(self, now: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Return how much worse `now` is than `before`; no finite number where one of them has no value."""
        with np.errstate(invalid="ignore", divide="ignore"):
            if self.quality.better == "higher":
                return before - now
            if self.quality.better == "one":
                return np.abs(now - 1) - np.abs(before - 1)
            return now / before - 1


_Values = Callable[[np.ndarray], np.ndarray]


def _auc(part: _Part, score: np.ndarray) -> _Values:
    """Return the AUC as a function of the users' counts. Scores are sorted once; a resample only adds up weights."""
    order = np.argsort(score, kind="stable")
    users, weight, positive = part.users[order], part.weight[order], part.target[order] > 0
    ties = np.flatnonzero(np.diff(score[order], prepend=-np.inf))

    def values(counts: np.ndarray) -> np.ndarray:
        weights = counts[:, users] * weight
        p = np.add.reduceat(weights * positive, ties, axis=1)
        n = np.add.reduceat(weights * ~positive, ties, axis=1)
        wins = np.sum(p * (np.cumsum(n, axis=1) - n / 2), axis=1)
        return wins / (p.sum(axis=1) * n.sum(axis=1))

    return values if len(order) else lambda counts: np.full(len(counts), np.nan)


def _of_sums(part: _Part, formula: Callable[..., np.ndarray], *columns: np.ndarray) -> _Values:
    """Return `formula` of the weighted sums of `columns` [rows], as a function of the users' counts."""
    users = len(part.present)
    sums = np.stack([np.bincount(part.users, part.weight * c, users) for c in columns], axis=1)
    return lambda counts: formula(*(counts @ sums).T)


def _normalized_entropy(part: _Part, score: np.ndarray) -> _Values:
    p = np.clip(score, _CLIP, 1 - _CLIP)
    loss = -part.target * np.log(p) - (1 - part.target) * np.log1p(-p)

    def formula(loss: np.ndarray, rows: np.ndarray, positives: np.ndarray) -> np.ndarray:
        rate = positives / rows
        return loss / rows / -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))

    return _of_sums(part, formula, loss, np.ones_like(p), part.target)


def _relative_squared_error(part: _Part, score: np.ndarray) -> _Values:
    target, predicted = part.kind.error_scale(part.target), part.kind.error_scale(score)

    def formula(loss: np.ndarray, rows: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        variance = second / rows - np.square(first / rows)
        return loss / rows / np.where(variance > 0, variance, np.nan)

    # Around the mean of all rows, so that the variance is not a difference of large numbers.
    centred = target - (target.mean() if len(target) else 0.0)
    squared = np.square(target - predicted)
    return _of_sums(part, formula, squared, np.ones_like(target), centred, np.square(centred))


def _calibration(part: _Part, score: np.ndarray) -> _Values:
    return _of_sums(part, lambda predicted, observed: predicted / observed, score, part.target)


_METRICS: Mapping[str, Callable[[_Part, np.ndarray], _Values]] = {
    "auc": _auc,
    "normalized_entropy": _normalized_entropy,
    "relative_squared_error": _relative_squared_error,
    "calibration": _calibration,
}


def _resample(metrics: Sequence[_Metric], users: int, seed: int) -> list[np.ndarray]:
    """Return how much worse the candidate is in each resample of the users, [resamples] for each metric."""
    if not users:
        return []
    found: list[list[np.ndarray]] = [[] for _ in metrics]
    rng = np.random.default_rng(seed)
    rows = max((len(metric.part.target) for metric in metrics), default=0)
    block = max(1, _CELLS // max(rows, users))
    for start in range(0, RESAMPLES, block):
        size = min(block, RESAMPLES - start)
        counts = rng.multinomial(users, np.full(users, 1 / users), size=size).astype(np.float64)
        for metric, blocks in zip(metrics, found, strict=True):
            blocks.append(metric.worse(*metric.values(counts[:, metric.part.present])))
    return [np.concatenate(blocks) for blocks in found]


def _comparison(
    metric: _Metric, resampled: np.ndarray | None, serving: ServingConfig, rows: JudgedRows, *, tests: int
) -> Comparison:
    part, quality = metric.part, metric.quality
    found = [float(v[0]) for v in metric.values(np.ones((1, len(part.present))))]
    value, reference = (*(v if np.isfinite(v) else None for v in found), None)[:2]
    worse, ends = None, None
    margin = getattr(serving, quality.margin)
    if value is not None and reference is not None and resampled is not None:
        worse = float(metric.worse(np.array(value), np.array(reference)))
        ends = interval(worse, resampled, tests=tests, dof=part.dof)
    low, high = ends or (None, None)
    return Comparison(
        name=f"{part.task.name} {quality.metric}" + (f", {part.slice}" if part.slice else ""),
        value=value,
        reference=reference,
        worse=worse,
        low=low,
        high=high,
        margin=margin,
        field=quality.margin,
        share=quality.better == "lower",
        slice=part.slice,
        day=rows.day,
        rows=len(part.target),
        users=len(part.present),
        passed=low is None or low <= margin,
    )
