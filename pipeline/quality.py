"""The quality gate: what the columns of a day must satisfy before the day is committed."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Feature, Schema
from tutelage.pipeline.verdict import Check, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityConfig:
    """What a day of data must satisfy before it is committed.

    A value is compared with the lowest and the highest value of the days before, so that seven days cover the rhythm of
    a week. These fields may change in a workdir at any time.
    """

    trailing_days: int = 7
    """Days of the table (or slices) that a day is compared with: the last ones before it."""
    min_days: int = 3
    """With fewer days before it, a day only needs the columns of the schema, none of them all null, and finite
    numbers."""
    rows_ratio: float = 2.0
    """A day may have up to this many times the most rows of these days, and down to the fewest divided by it."""
    nulls_rise: float = 0.1
    """The share of nulls in a column may exceed the highest of these days by this much; 1 allows any share."""
    not_finite: float = 0.001
    """The share of NaN and infinite values in a number may be this high; models take them as missing."""
    rate_ratio: float = 2.0
    """The mean of a label may be this many times the highest of these days, or the lowest divided by it, and five
    standard errors beyond."""
    new_ids_rise: float = 0.25
    """The share of rows with an id that none of these days has may exceed the highest of these days by this much."""
    id_drift: float = 0.3
    """The Jensen–Shannon distance (0 to 1) of an id column from these days may be this high."""
    number_drift: float = 0.25
    """The population stability index of a number, or of a label that is not binary, may be this high."""
    drift_ratio: float = 2.0
    """A drift may also be up to this many times the largest of these days, because few rows drift far by chance."""

    def __post_init__(self) -> None:
        for count in ("trailing_days", "min_days"):
            if (days := getattr(self, count)) < 1:
                raise UserError(f"quality: {count} is {days}, expected at least 1")
        if self.min_days > self.trailing_days:
            raise UserError(
                f"quality: min_days is {self.min_days}, expected at most trailing_days, {self.trailing_days}"
            )
        for ratio in ("rows_ratio", "rate_ratio", "drift_ratio"):
            if not (value := getattr(self, ratio)) >= 1:
                raise UserError(f"quality: {ratio} is {value}, expected a number of at least 1")
        for margin in ("nulls_rise", "not_finite", "new_ids_rise", "id_drift", "number_drift"):
            if not (value := getattr(self, margin)) >= 0:
                raise UserError(f"quality: {margin} is {value}, expected a number of at least 0")


DEFAULT_QUALITY = QualityConfig()


def judge(
    schema: Schema,
    day: pl.DataFrame,
    before: Sequence[pl.DataFrame],
    config: QualityConfig,
    *,
    differences: Sequence[str] = (),
) -> Verdict:
    """Judge a day by its rows of `statistics`, compared with the rows of the days `before` it.

    `differences` says where the day's columns differ from those that the source offers. The verdict is "pass", "fail",
    or "first" for a day that passes with too few days before it to compare.
    """
    compared = len(before) >= config.min_days
    days = [_by_column(frame) for frame in before] if compared else []
    checks = [
        Check(
            name="columns that differ",
            value=float(len(differences)),
            bound=0.0,
            detail="; ".join(differences[:3]),
            passed=not differences,
        )
    ]
    now = _by_column(day)
    rows, *earlier_rows = (float(next(iter(each.values()))["rows"]) for each in (now, *days))
    checks.append(_between("rows", rows, earlier_rows, config.rows_ratio))
    for feature in schema.features:
        was = [earlier[feature.name] for earlier in days if feature.name in earlier]
        checks += _feature_checks(feature, now[feature.name], was, config)
    binary = {task.label for task in schema.tasks if task.is_binary}
    for name in schema.labels:
        was = [earlier[name] for earlier in days if name in earlier]
        checks.append(_mean(name, now[name], was, config.rate_ratio))
        if name not in binary:
            checks.append(_drift(name, now[name], was, config.number_drift, config))
    if not all(check.passed for check in checks):
        return Verdict(verdict="fail", checks=tuple(checks))
    return Verdict(verdict="pass" if compared else "first", checks=tuple(checks))


_Row = dict[str, float]


def _by_column(statistics: pl.DataFrame) -> dict[str, _Row]:
    """Return what is judged of each column; None where there is no value."""
    names = ("column", "rows", "nulls", "not_finite", "mean", "sd", "drift", "new_ids")
    return {row["column"]: row for row in statistics.select(names).iter_rows(named=True)}


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _feature_checks(
    feature: Feature, now: _Row, was: Sequence[_Row], config: QualityConfig
) -> Iterator[Check]:
    name = feature.name
    yield _nulls(f"nulls of {name}", now, was, config.nulls_rise)
    if feature.is_id:
        yield _at_most(f"new ids of {name}", now["new_ids"], was, "new_ids", rise=config.new_ids_rise)
        yield _drift(name, now, was, config.id_drift, config)
    else:
        yield _finite(name, now, config)
        yield _drift(name, now, was, config.number_drift, config)


def _mean(label: str, now: _Row, was: Sequence[_Row], ratio: float) -> Check:
    """Check the mean of a label, with a slack of five standard errors."""
    largest_sd = max(_known(row["sd"] for row in was), default=0.0)
    labelled = max(now["rows"] - now["nulls"], 1)
    means = _known(row["mean"] for row in was)
    return _between(f"mean of {label}", now["mean"], means, ratio, slack=5 * largest_sd / math.sqrt(labelled))


def _between(
    name: str, value: float | None, days: Sequence[float], ratio: float, *, slack: float = 0.0
) -> Check:
    if value is None or not days:
        return Check(name=name, value=value, passed=True)
    low, high = min(days), max(days)
    # Compare with the end that the value lies beyond, or is nearer to.
    if value - low > high - value:
        bound, reference, passed = high * ratio + slack, high, value <= high * ratio + slack
    else:
        bound = low / ratio - slack
        reference, passed = low, value >= bound
    return Check(name=name, value=value, reference=reference, bound=bound, passed=passed)


def _at_most(name: str, value: float | None, was: Sequence[_Row], field: str, *, rise: float) -> Check:
    high = max(_known(row[field] for row in was), default=None)
    if value is None or high is None:
        return Check(name=name, value=value, passed=True)
    return Check(name=name, value=value, reference=high, bound=high + rise, passed=value <= high + rise)


def _nulls(name: str, now: _Row, was: Sequence[_Row], rise: float) -> Check:
    value = now["nulls"] / now["rows"]
    high = max((row["nulls"] / row["rows"] for row in was), default=None)
    # A column that is all null is useless, so it fails unless it always was so or the config allows any share.
    bound = 1.0 if high == 1 or rise >= 1 else min(1.0 if high is None else high + rise, 1 - 1 / now["rows"])
    return Check(name=name, value=value, reference=high, bound=bound, passed=value <= bound)


def _finite(name: str, now: _Row, config: QualityConfig) -> Check:
    value, bound = (now["not_finite"] or 0) / now["rows"], config.not_finite
    return Check(name=f"share of {name} that is not finite", value=value, bound=bound, passed=value <= bound)


def _drift(name: str, now: _Row, was: Sequence[_Row], bound: float, config: QualityConfig) -> Check:
    high = max(_known(row["drift"] for row in was), default=None)
    value = now["drift"]
    if value is None or not was:
        return Check(name=f"drift of {name}", value=value, passed=True)
    bound = max(bound, config.drift_ratio * (high or 0.0))
    return Check(name=f"drift of {name}", value=value, reference=high, bound=bound, passed=value <= bound)
