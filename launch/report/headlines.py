"""The report's first lines: what the person on call asks first, what is wrong before what is well."""

from collections.abc import Iterator, Sequence
from datetime import date
from statistics import fmean
from typing import Literal, NamedTuple

import polars as pl

from tutelage.launch.report.data import DayCounts, ReportData, total_counts
from tutelage.launch.report.summary import DASH, Results, came_in, is_loss, label_of, noted

_BEFORE = 7
"""Days that the last day is compared with."""
_ORDER = ("error", "warning", "ok")


class Headline(NamedTuple):
    text: str
    severity: Literal["error", "warning", "ok"]


class Measure(NamedTuple):
    """One measure of the last day beside the days before it."""

    name: str
    metric: str
    """As `summary.show` takes it; empty for a count of rows."""
    values: list[float | None]
    """On the last day; mean, lowest and highest of the days before."""
    note: str
    """What is wrong with it; empty where nothing is."""


class LastDay(NamedTuple):
    day: date | None
    measures: list[Measure]


def headlines(data: ReportData, last: LastDay) -> list[Headline]:
    """Return the first lines, errors first, then warnings; `last` is `last_day` of the same data."""
    lines = [*_training(data, last), *_published(data), *_rows(data.counts), *_finite(data.results)]
    return sorted(lines, key=lambda line: _ORDER.index(line.severity))


def _training(data: ReportData, last: LastDay) -> Iterator[Headline]:
    complete = data.results.days and not data.results.behind(last.day)
    yield Headline(data.results.reached(last.day), "ok" if complete else "error")
    yield from (Headline(f"Quarantine: {line}.", "error") for line in data.quarantined)
    yield from (Headline(f"Teacher: {line}.", "ok") for line in data.teachers)
    wrong = ", ".join(f"{measure.name} ({measure.note})" for measure in last.measures if measure.note)
    if wrong:
        yield Headline(f"Check {last.day}: {wrong}.", "warning")
    elif last.measures:
        text = f"On {last.day} no score of the teacher, label coverage or row count is the worst of the last days."
        yield Headline(text, "ok")


def _published(data: ReportData) -> Iterator[Headline]:
    ends = {model: trained[-1] for model, trained in data.results.trained.items() if trained}
    yield from (Headline(f"{model}: {waits}.", "warning") for model, waits in data.version_waits.items())
    ends = {model: day for model, day in ends.items() if model not in data.version_waits}
    missing = [m for m, day in ends.items() if not data.versions.get(m, "").startswith(f"{day:%Y%m%d}")]
    if missing:
        text = f"Not published: the last trained day of {', '.join(missing)}."
        yield Headline(f"{text} The gate rejected it (see rejected/), or it was not exported.", "error")
    elif ends:
        yield Headline("The last trained day of every model is published.", "ok")


def _rows(days: Sequence[DayCounts]) -> Iterator[Headline]:
    wrong = [str(day.day) for day in days if not day.reconciled]
    if wrong:
        text = f"Rows do not add up on {', '.join(wrong)}: rows in are not kept + dropped."
        yield Headline(text, "error")
    elif days:
        total = total_counts(days)
        kept = f"{total.kept:,} kept{noted(total.notes)}"
        text = f"{came_in(total.rows_in, total.sampled, 'in')} = {kept} + {total.dropped_rows:,} dropped"
        yield Headline(f"Rows add up on every day ({len(days)}): {text}.", "ok")


def _finite(results: Results) -> Iterator[Headline]:
    gaps = results.values.filter(pl.col("value").is_null(), ~pl.col("metric").str.ends_with("_delta"))
    if len(gaps):
        models = ", ".join(gaps["model"].unique().sort())
        text = f"Metric values that are not finite (shown as {DASH}): {len(gaps)}, of {models}"
        yield Headline(f"{text}, the last on {max(gaps['day'])}.", "error")


def last_day(data: ReportData) -> LastDay:
    """Compare the last day with up to seven days before it.

    The measures are the teacher's scores, each student's label coverage and the rows kept.
    """
    results = data.results
    last = max([*results.days[-1:], *(day.day for day in data.counts[-1:])], default=None)
    # The teacher's scores are named by their task alone.
    wanted = [
        (results.teacher, task, m) for task, m in results.columns() if task and not m.endswith("_delta")
    ]
    wanted += [(model, "", "label_coverage") for model in results.models]
    series: list[tuple[str, str, dict[date, float]]] = []
    for model, task, metric in wanted:
        values = results.values.filter(model=model, task=task, metric=metric).select("day", "value")
        series.append((f"{task or model} {label_of(metric)}", metric, dict(values.iter_rows())))
    series.append(("rows kept", "", {day.day: float(day.kept) for day in data.counts}))
    measures = [_measure(name, metric, by_day, last) for name, metric, by_day in series if last and by_day]
    return LastDay(last, measures)


def _measure(name: str, metric: str, by_day: dict[date, float], last: date) -> Measure:
    value = by_day.get(last)
    before = [by_day[day] for day in sorted(by_day) if day < last and by_day[day] is not None][-_BEFORE:]
    note = ""
    if value is None:
        note = "missing"
    elif before and all(_badness(value, metric) > _badness(other, metric) for other in before):
        note = f"worst of {len(before) + 1} days"
    spread = [f(before) if before else None for f in (fmean, min, max)]
    return Measure(name, metric, [value, *spread], note)


def _badness(value: float, metric: str) -> float:
    """Return a number that is higher where the value is worse. More rows, AUC and label coverage are better."""
    if metric == "calibration":
        return abs(value - 1)
    return value if is_loss(metric) else -value
