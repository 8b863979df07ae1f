"""A study's figures: sums by user, and from these what an arm gains over its baseline, with intervals.

The paired bootstrap is written by hand because no library has it. `scipy.stats.bootstrap` resamples one axis: with
`paired` all samples share the indices, without it each is resampled alone. Here users are resampled within each day
(the days stay), the draw is shared by all arms, seeds and tasks, and the seeds, which are too few to be resampled,
scatter by Student's t in the same draw.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from tutelage.models.task_kinds import kind_of
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Schema
from tutelage.trainers.metrics import raw_outputs

_INTERVAL = (0.025, 0.975)
_INTERVALS = ("delta", "calibration", "farther", "transfer_ratio")

COMPARISONS = pl.Schema(
    {
        "study": pl.String,
        "arm": pl.String,
        "baseline": pl.String,
        "group": pl.String,
        "x": pl.Float64,
        "task": pl.String,
        "rows": pl.Int64,
        "seeds": pl.Int64,
        "loss": pl.Float64,
        **{f"{name}{end}": pl.Float64 for name in _INTERVALS for end in ("", "_low", "_high")},
    }
)
"""The columns of what `compare` returns. A value that is unknown is null.

`rows`: rows of the judged days, weighted by `Schema.example_weight`; `loss`: log loss, or the squared error of log1p
of the value; `delta`: difference from the baseline's loss in percent; `calibration`: Σ predicted / Σ observed;
`farther`: how much farther from 1 the calibration is than the baseline's; `transfer_ratio`: (baseline − arm) /
(baseline − teacher), in losses. `_low` and `_high` bound 95 %.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One model in one study, and what it is compared with. A second comparison is a second Arm of the same name."""

    study: str
    """A number and what is varied, as in `1 losses`."""
    name: str
    baseline: str | None
    """The arm that it is compared with, seed by seed; None for a baseline and for a teacher."""
    x: float | None = None
    """Its place on the x axis of the study's chart, in the unit of what the study varies; None if it has none."""
    group: str = ""
    """The curve it belongs to."""
    teacher: str | None = None
    """The arm of the teacher that it is distilled from; None if it has no transfer ratio."""


def user_sums(predictions: pl.DataFrame, labels: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """Return the sums of one arm with one seed, for each user of one day and each task.

    `predictions`: example_id and the raw outputs; `labels`: rows of `interactions` (example_id, the
    schema's user, its labels, `sampling_rate` where it is downsampled), of the same examples in any order.

    The columns are user, task, rows, loss (Σ log loss, or Σ squared error of log1p of the value), predicted and
    observed (Σ in the label's unit; predicted is NaN for a `log1p` task, which predicts nothing in that unit). Each row
    is weighted by `Schema.example_weight`.

    Raises UserError where the two do not hold the same examples.
    """
    assert schema.user is not None
    frame = labels.join(predictions, on="example_id", validate="1:1")
    if not len(labels) == len(predictions) == len(frame):
        raise UserError(
            f"{len(labels)} examples and {len(predictions)} predictions have {len(frame)} in common; "
            "a day is judged by all of its examples"
        )
    (default,) = (feature.default for feature in schema.ids if feature.name == schema.user)
    user = frame[schema.user].fill_null(default)
    users = user.unique().sort()
    index = user.rank("dense").to_numpy() - 1
    weight = schema.example_weight(frame)

    parts = []
    for task in schema.tasks:
        label = frame[task.label].to_numpy().astype(np.float64)
        kind = kind_of(task)
        raw = raw_outputs(task, {name: frame[name].to_numpy() for name in task.outputs})
        target, predicted = kind.target(label), kind.predicted(raw)
        # What is not predicted is not compared with the labels; their sum is kept as it is.
        observed = label if np.isnan(predicted).all() else target
        sums = {"loss": kind.row_loss(target, raw), "predicted": predicted, "observed": observed}
        parts.append(
            pl.DataFrame(
                {
                    "user": users,
                    "task": pl.repeat(task.name, len(users), eager=True),
                    "rows": np.bincount(index, weight),
                    **{
                        name: np.bincount(index, values if weight is None else values * weight)
                        for name, values in sums.items()
                    },
                }
            )
        )
    return pl.concat(parts)


def compare(
    sums: pl.DataFrame | pl.LazyFrame,
    arms: Sequence[Arm],
    *,
    days: Sequence[date],
    draws: int = 1000,
    seed: int,
) -> pl.DataFrame:
    """Return each arm's figures on `days`, alone and against its baseline, in the columns `COMPARISONS`.

    `sums`: `user_sums` with their arm, seed and day. All arms have the same seeds, users and rows.

    A loss is the plain mean over seeds and days of a day's mean over rows. A calibration is taken over all days
    together. Intervals are percentiles over draws. A draw takes the users of each day with replacement, the same users
    for all arms, seeds and tasks (a cluster bootstrap: Field and Welsh, JRSS B 2007). Seeds are too few for that, so
    they are weighted instead (see `seed_weights`), in the same way for all arms.

    Memory: a few times draws × users and arms × seeds × tasks × users numbers, for one day.

    Raises UserError for an unknown arm, and for arms that cannot be paired.
    """
    names = list(dict.fromkeys(arm.name for arm in arms))
    for arm in arms:
        for other in (arm.baseline, arm.teacher):
            if other is not None and other not in names:
                have = ", ".join(names)
                raise UserError(
                    f"arm {arm.name!r} is compared with {other!r}, which is not an arm; expected {have}"
                )
    drawn = _draw(sums.lazy(), arms, names, days=days, draws=draws, seed=seed)
    found = []
    with np.errstate(divide="ignore", invalid="ignore"):  # what is not finite is null below
        calibration = drawn.predicted / drawn.observed[:, :, None]
        distance = np.abs(calibration - 1)
        for arm in arms:
            for t, task in enumerate(drawn.tasks):
                me = names.index(arm.name)
                row: dict[str, Any] = {"study": arm.study, "arm": arm.name, "baseline": arm.baseline}
                row |= {"group": arm.group, "x": arm.x, "task": task, "loss": drawn.loss[t, 0, me]}
                row |= {"rows": drawn.rows[t], "seeds": drawn.seeds}
                row |= with_interval("calibration", calibration[t, :, me])
                if arm.baseline is not None:
                    base = names.index(arm.baseline)
                    gap = drawn.gaps[arm.name, arm.baseline][t]
                    row |= with_interval("delta", 100 * gap / drawn.loss[t, :, base])
                    row |= with_interval("farther", distance[t, :, me] - distance[t, :, base])
                    if arm.teacher is not None:
                        row |= _transfer_ratio(gap, drawn.gaps[arm.teacher, arm.baseline][t])
                found.append(row)
    return pl.DataFrame(found, schema=COMPARISONS).with_columns(
        pl.when(pl.col(pl.Float64).is_finite()).then(pl.col(pl.Float64))
    )


class _Drawn(NamedTuple):
    """What `_draw` returns, for each task. The first draw is the days as they were."""

    tasks: list[str]
    seeds: int
    rows: list[int]
    loss: np.ndarray
    """[tasks, 1 + draws, arms]."""
    gaps: dict[tuple[str, str], np.ndarray]
    """From (arm, other) to the loss of the arm − the loss of the other [tasks, 1 + draws]."""
    predicted: np.ndarray
    """[tasks, 1 + draws, arms]."""
    observed: np.ndarray
    """[tasks, 1 + draws]."""


def _draw(
    sums: pl.LazyFrame,
    arms: Sequence[Arm],
    names: Sequence[str],
    *,
    days: Sequence[date],
    draws: int,
    seed: int,
) -> _Drawn:
    judged = sums.filter(pl.col("arm").is_in(names), pl.col("day").is_in(days))
    seeds = judged.select("seed").unique().collect()["seed"].sort().to_list()
    tasks = judged.select("task").unique(maintain_order=True).collect()["task"].to_list()
    have = judged.select("day").unique().collect()["day"].to_list()
    missing = ", ".join(str(day) for day in days if day not in have)
    if missing:
        raise UserError(f"no sums of {', '.join(names)} on {missing}; let the study run to its end")
    pairs = [(arm.name, arm.baseline) for arm in arms if arm.baseline]
    pairs += [(arm.teacher, arm.baseline) for arm in arms if arm.baseline and arm.teacher]
    pairs = list(dict.fromkeys(pairs))
    left, right = ([names.index(pair[side]) for pair in pairs] for side in (0, 1))

    random = np.random.default_rng(seed)
    of_seeds = seed_weights(random, draws, len(seeds))
    rows = [0] * len(tasks)
    loss, predicted = np.zeros((2, len(tasks), 1 + draws, len(names)))
    gap = np.zeros((len(tasks), 1 + draws, len(pairs)))
    observed = np.zeros((len(tasks), 1 + draws))
    for day in days:
        frame = judged.filter(pl.col("day") == day).collect()
        block = _block(frame, day, names=names, seeds=seeds, tasks=tasks)
        users = block["rows"].shape[1]
        taken = random.multinomial(users, np.full(users, 1 / users), size=draws)
        weights = np.vstack([np.ones(users), taken])
        for t in range(len(tasks)):
            counts, labels = block["rows"][t, :, 0, 0], block["observed"][t, :, 0, 0]
            share = 1 / (weights @ counts)[:, None] / len(days)
            losses = block["loss"][t]
            rows[t] += round(counts.sum())
            loss[t] += _total(losses, weights, of_seeds) * share
            # User by user, before anything is summed: between equal arms it is 0, not nearly 0.
            gap[t] += _total(losses[:, left] - losses[:, right], weights, of_seeds) * share
            predicted[t] += _total(block["predicted"][t], weights, of_seeds)
            observed[t] += weights @ labels
    return _Drawn(
        tasks=tasks,
        seeds=len(seeds),
        rows=rows,
        loss=loss,
        gaps={pair: gap[:, :, i] for i, pair in enumerate(pairs)},
        predicted=predicted,
        observed=observed,
    )


def _total(values: np.ndarray, weights: np.ndarray, seed_weights: np.ndarray) -> np.ndarray:
    """Return the weighted sum [draws, arms] of values [users, arms, seeds]; weights are [draws, users or seeds]."""
    total = weights @ values.reshape(len(values), -1)
    return np.einsum("das,ds->da", total.reshape(len(total), -1, seed_weights.shape[1]), seed_weights)


def _block(
    frame: pl.DataFrame, day: date, *, names: Sequence[str], seeds: Sequence[int], tasks: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return the sums of a day by name, each [tasks, users, arms, seeds]."""
    index = frame.select(
        pl.col("task").cast(pl.Enum(tasks)).to_physical(),
        pl.col("user").rank("dense") - 1,
        pl.col("arm").cast(pl.Enum(names)).to_physical(),
        pl.col("seed").replace_strict(seeds, range(len(seeds)), return_dtype=pl.Int64),
    )
    at = tuple(column.to_numpy() for column in index)
    shape = (len(tasks), frame["user"].n_unique(), len(names), len(seeds))
    block = {name: np.zeros(shape) for name in ("rows", "loss", "predicted", "observed")}
    for name, values in block.items():
        values[at] = frame[name].to_numpy()
    rows = block["rows"]
    alike = (rows == rows.max((2, 3), keepdims=True)).all((0, 1))
    if not alike.all():
        a, s = np.argwhere(~alike)[0]
        raise UserError(
            f"day {day}: arm {names[a]!r} with seed {seeds[s]} lacks users or rows that others have, "
            "so they cannot be paired; let the study run to its end"
        )
    if len(frame) != rows.size:
        raise UserError(f"day {day}: the sums of an arm and seed occur twice; keep one of each")
    return block


def seed_weights(random: np.random.Generator, draws: int, seeds: int) -> np.ndarray:
    """Return the weight of each seed in each draw [1 + draws, seeds]; they sum to 1, and the first draw has equal ones.

    With these weights, the mean of any figure over the seeds is its plain mean + standard error · Student's t with
    seeds − 1 degrees of freedom. Drawing five seeds with replacement would give an interval that is right in 84 of 100
    cases, not in 95. One seed says nothing about the scatter, so its weight is always 1.
    """
    equal = np.full((1 + draws, seeds), 1 / seeds)
    if seeds > 1:
        normal = random.standard_normal((draws, seeds))
        normal -= normal.mean(1, keepdims=True)
        chi = np.sqrt(random.chisquare(seeds - 1, (draws, 1)) / (seeds - 1))
        equal[1:] += normal / chi / np.sqrt(seeds * (seeds - 1))
    return equal


def with_interval(name: str, drawn: np.ndarray) -> dict[str, float]:
    """Return the first of `drawn` [1 + draws] under `name`, and the ends of the others' 95 % interval."""
    low, high = np.quantile(drawn[1:], _INTERVAL)
    return {name: drawn[0], f"{name}_low": low, f"{name}_high": high}


def _transfer_ratio(gap: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
    """Return the ratio of two gaps [1 + draws]: the arm's loss − its baseline's, and the teacher's − the baseline's.

    It is the share of the teacher's lead that the arm takes over (Rec-Distill, arXiv 2605.29755): 0 is none, 1 all.
    A draw whose teacher is no better than the baseline has no ratio, and leaves the interval open on both sides.
    """
    better = teacher < 0
    ratio = gap / np.where(better, teacher, -np.inf)
    low = np.quantile(np.where(better, ratio, -np.inf)[1:], _INTERVAL[0], method="nearest")
    high = np.quantile(np.where(better, ratio, np.inf)[1:], _INTERVAL[1], method="nearest")
    point = ratio[0] if better[0] else np.nan
    return {"transfer_ratio": point, "transfer_ratio_low": low, "transfer_ratio_high": high}
