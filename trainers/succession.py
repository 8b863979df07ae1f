"""Whether a successor is as good as the teacher: their scores ahead of the days that both have learnt."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import polars as pl

from tutelage.models.task_kinds import kind_of
from tutelage.pipeline.verdict import Check, Verdict
from tutelage.trainers.config import SuccessorConfig
from tutelage.trainers.run import Run, successor_model


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What was found by some days."""

    days: Sequence[date]
    verdict: Verdict


def judge(run: Run, successor: SuccessorConfig, *, since: date | None) -> Judged | None:
    """The first verdict by which the successor takes over, else the last one; None: too few days to judge by.

    It is judged after each day that both it and the teacher have learnt, from `since` on (None: all of them), by
    that day and those before it. Each task's loss, of scores made before any of a day was learnt, is compared as
    a plain mean over these days.
    """
    models = {"reference": run.teacher_model, "value": successor_model(successor.teacher.name)}
    # An untrained model made the scores ahead of its first day.
    trained = [{state.day for state in run.checkpoints(model).states()[1:]} for model in models.values()]
    # A task that is new to the teachers has no loss of the old one.
    without = {*run.teacher.model.without, *successor.teacher.model.without}
    tasks = run.schema.for_model(without).tasks
    wanted = pl.DataFrame(
        {"task": [task.name for task in tasks], "metric": [kind_of(task).loss_name for task in tasks]}
    )
    rows = (
        run.lake.metrics.scan(run=run.name, basis="day_ahead", slice="")
        .filter(pl.col("day").is_in(sorted(set.intersection(*trained))))
        .join(wanted.lazy(), on=["task", "metric"])
        .select("model", "day", "task", "value")
        .collect()
    )
    key = ["day", "task"]
    value, reference = (rows.filter(model=models[name]).drop("model") for name in ("value", "reference"))
    both = value.join(reference.rename({"value": "reference"}), on=key)
    whole = both.group_by("day").len().filter(len=wanted.height)["day"].sort().to_list()
    found = None
    for n, day in enumerate(whole, 1):
        if n < successor.judged_days or (since and day < since):
            continue
        days = whole[n - successor.judged_days : n]
        means = both.filter(pl.col("day").is_in(days)).group_by("task").mean()
        found = Judged(days=days, verdict=_verdict(wanted, means, successor.margin))
        if found.verdict.blessed:
            break
    return found


def _verdict(wanted: pl.DataFrame, means: pl.DataFrame, margin: float) -> Verdict:
    checks = []
    for task, metric, value, reference in (
        wanted.join(means, on="task", maintain_order="left")
        .select("task", "metric", "value", "reference")
        .iter_rows()
    ):
        # A teacher without a loss is no measure: then nothing is shown to be as good.
        bound = reference + margin * reference
        checks.append(
            Check(
                name=f"{task} {metric}",
                value=value,
                reference=reference,
                bound=bound,
                passed=math.isfinite(value) and value <= bound,
            )
        )
    passed = all(check.passed for check in checks)
    return Verdict(verdict="pass" if passed else "fail", checks=tuple(checks))
