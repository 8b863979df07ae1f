"""The HTML report of a run: one file without scripts that opens offline."""

import os
from collections.abc import Mapping, Sequence
from datetime import date
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any

import polars as pl
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from tutelage.launch.report import charts, drift
from tutelage.launch.report.summary import (
    DASH,
    FEED_WAIT,
    LABELS,
    NOTES,
    Results,
    is_loss,
    noted,
    show,
    throughput_rows,
)
from tutelage.pipeline.io.atomic import atomic_write
from tutelage.trainers.checkpoints import State
from tutelage.trainers.run import TEACHER

_HELD = (
    (
        "memory",
        "Memory",
        "What a model's process held when it had learnt the day. It is flat where nothing piles up.",
    ),
    (
        "size",
        "Checkpoint",
        "The day's variables on disk, those of the optimizer and the ids that are known among them.",
    ),
)
_TEMPLATE = Path(__file__).with_name("report.html.j2")


def write_report(
    path: Path,
    *,
    experiment: str,
    metrics: pl.DataFrame,
    baselines: Mapping[str, str],
    counts: pl.DataFrame,
    throughput: Sequence[Mapping[str, Any]] = (),
    states: Mapping[str, Sequence[State]] = MappingProxyType({}),
    id_rows: Mapping[str, int] = MappingProxyType({}),
    versions: Mapping[str, str] | None = None,
    quarantined: Sequence[str] = (),
    statistics: pl.DataFrame | None = None,
    labels: Sequence[str] = (),
    teacher: str = TEACHER,
    teachers: Sequence[str] = (),
    students: Sequence[str] = (),
    tasks: Sequence[str] = (),
    last_days: int = 3,
    created: str = "",
    study: Path | None = None,
) -> None:
    """Writes the report to the file `path`, whole or not at all; the same input gives the same bytes.

    `metrics` are those of one run. `counts` has one row per day and reason: day, rows_in, kept, reason,
    dropped (for a day that dropped nothing, one with reason null), late, masked. `statistics` are the days' as
    `pipeline.admit.statistics` gives them, `labels` those of its columns that are labels. `students` and `tasks` set
    an order. `states` are those of each model, `id_rows` the rows that ids of a growing feature may have, by its name.
    `teacher` is the model that labels, `teachers` what is to be said of changes of it. `created` is shown
    as it is. `study`: a page that is linked to where it is there.
    """
    results = Results.of(metrics, baselines, students=students, tasks=tasks, teacher=teacher)
    days = _per_day(counts)
    last = _last_day(results, days)
    versions = versions or {}
    jinja = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = jinja.from_string(_TEMPLATE.read_text("utf-8")).render(
        experiment=experiment,
        created=created,
        study=os.path.relpath(study, path.parent) if study and study.exists() else None,
        facts=_facts(results, days, last, versions, quarantined, teachers),
        last=last,
        results=results,
        means=results.means(last_days),
        span=results.span(last_days),
        caption=results.caption(last_days),
        sections=_sections(results),
        daily={tuple(key): value for *key, value in results.values.iter_rows()},
        rows_svg=charts.rows_by_reason(days) if days else None,
        counts=days,
        total=_total(days) if days else None,
        notes={name: head for name, head in NOTES.items() if any(day[name] for day in days)},
        speed={model: cells for model, *cells in throughput_rows(throughput)},
        feed_wait=FEED_WAIT,
        versions=versions,
        grown=_grown(metrics, id_rows, results.teacher),
        held=_held(results, states),
        drift=[] if statistics is None else drift.charts(statistics, labels),
        labels=LABELS | {metric: LABELS[metric] for _, metric in results.columns()},
        show=show,
    )
    with atomic_write(path) as unfinished:
        unfinished.write_text(page, "utf-8")


def _per_day(counts: pl.DataFrame) -> list[dict[str, Any]]:
    """Per day: day, rows_in, kept, late, masked, dropped (every reason → rows), dropped_rows, reconciled."""
    reasons = sorted(set(counts["reason"].drop_nulls()) - {""})
    days: dict[date, dict[str, Any]] = {}
    for row in counts.sort("day").iter_rows(named=True):
        day = days.setdefault(row["day"], {**row, "dropped": dict.fromkeys(reasons, 0)})
        if row["reason"]:
            day["dropped"][row["reason"]] += row["dropped"]
    for day in days.values():
        day["dropped_rows"] = sum(day["dropped"].values())
        day["reconciled"] = day["rows_in"] == day["kept"] + day["dropped_rows"]
    return list(days.values())


def _total(days: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The same of all days."""
    total = {name: sum(day[name] for day in days) for name in ("rows_in", "kept", "dropped_rows", *NOTES)}
    dropped = {reason: sum(day["dropped"][reason] for day in days) for reason in days[0]["dropped"]}
    return {"day": "total", **total, "dropped": dropped, "reconciled": all(day["reconciled"] for day in days)}


def _facts(
    results: Results,
    days: Sequence[Mapping[str, Any]],
    last: Mapping[str, Any],
    versions: Mapping[str, str],
    quarantined: Sequence[str],
    teachers: Sequence[str],
) -> list[tuple[str, str]]:
    """What the person on call asks first, and how it stands: `amiss`, to `look` at, or `sound`, in this order."""
    reached = results.reached(until=last["day"])
    facts = [(reached, "sound" if reached.startswith("All") else "amiss")]
    facts += [(f"Quarantine: {line}.", "amiss") for line in quarantined]
    facts += [(f"Teacher: {line}.", "sound") for line in teachers]
    worse = [f"{row['name']} ({row['note']})" for row in last["rows"] if row["note"]]
    what = f"Teacher, label coverage and rows of {last['day']}"
    if worse:
        facts.append((f"{what}, to look at: {', '.join(worse)}.", "look"))
    elif last["rows"]:
        facts.append((f"{what}: none worse than on all the days before.", "sound"))
    ends = {model: trained[-1] for model, trained in results.trained.items() if trained}
    unpublished = [m for m, day in ends.items() if not versions.get(m, "").startswith(f"{day:%Y%m%d}")]
    if unpublished:
        facts.append(
            (
                f"Not served: the last day of {', '.join(unpublished)} (not blessed, see rejected/, or not exported).",
                "amiss",
            )
        )
    elif ends:
        facts.append(("The last day of every model is served.", "sound"))
    wrong = [str(day["day"]) for day in days if not day["reconciled"]]
    if wrong:
        facts.append((f"Rows do not reconcile on {', '.join(wrong)}: in is not kept + dropped.", "amiss"))
    elif days:
        total = _total(days)
        kept = f"{total['kept']:,} kept{noted(total)}"
        text = f"{total['rows_in']:,} in = {kept} + {total['dropped_rows']:,} dropped"
        facts.append((f"Rows reconcile on every day ({len(days)}): {text}.", "sound"))
    gaps = results.values.filter(pl.col("value").is_null(), ~pl.col("metric").str.ends_with("_delta"))
    if len(gaps):
        models = ", ".join(gaps["model"].unique().sort())
        text = f"{len(gaps)} ({models}; last on {gaps['day'].sort()[-1]})"
        facts.append((f"Values that are not finite, shown as {DASH}: {text}.", "amiss"))
    return sorted(facts, key=itemgetter(1))  # amiss < look < sound


def _last_day(results: Results, days: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What tells whether the last day is sound, each beside its (up to) seven days before."""
    last = max([*results.days[-1:], *(day["day"] for day in days[-1:])], default=None)
    # The teacher's go by their task alone.
    measures = [
        (results.teacher, task, m) for task, m in results.columns() if task and not m.endswith("_delta")
    ]
    measures += [(model, "", "label_coverage") for model in results.models]
    series = []
    for model, task, metric in measures:
        values = results.values.filter(model=model, task=task, metric=metric).select("day", "value")
        series.append((f"{task or model} {LABELS[metric]}", metric, dict(values.iter_rows())))
    series.append(("rows kept", "", {day["day"]: day["kept"] for day in days}))
    rows = []
    for name, metric, by_day in series:
        value = by_day.get(last)
        before = [by_day[day] for day in sorted(by_day) if day < last and by_day[day] is not None][-7:]
        note = ""
        if value is None:
            note = "missing"
        elif before and all(_badness(value, metric) > _badness(other, metric) for other in before):
            note = f"worse than all {len(before)}"
        spread = [f(before) if before else None for f in (fmean, min, max)]
        if by_day:
            rows.append({"name": name, "metric": metric, "values": [value, *spread], "note": note})
    return {"day": last, "rows": rows}


def _badness(value: float, metric: str) -> float:
    """Higher is worse. Of a count of rows, as of AUC and label coverage, more is better."""
    if metric == "calibration":
        return abs(value - 1)
    return value if is_loss(metric) else -value


def _grown(metrics: pl.DataFrame, id_rows: Mapping[str, int], model: str) -> list[charts.Picture]:
    """A picture of each growing feature's map, as far as the model has one."""
    drawn = []
    for feature, rows in id_rows.items():
        counted = metrics.filter(model=model, task="", slice=feature, basis="pre_update")
        counts = {
            metric: dict(by_day.select("day", "value").iter_rows())
            for (metric,), by_day in counted.partition_by("metric", as_dict=True).items()
        }
        if counts:
            drawn.append(charts.id_rows(feature, rows, counts))
    return drawn


def _held(results: Results, states: Mapping[str, Sequence[State]]) -> list[tuple[str, Markup, str]]:
    """What models held after each day that has metrics, in memory and on disk, as far as it was recorded."""
    drawn = []
    for field, title, read in _HELD:
        values = {
            (model, state.day): getattr(state, field)
            for model, trained in states.items()
            for state in trained
            if getattr(state, field) and state.day in results.trained.get(model, ())
        }
        if values:
            drawn.append((title, charts.sizes(results, title, values), read))
    return drawn


def _sections(results: Results) -> list[dict[str, Any]]:
    """Per task, and last for the soft labels (task ''): its metrics and a picture of each."""
    counted = results.values.filter(pl.col("task") == "", ~pl.col("metric").is_in(list(LABELS)))["metric"]
    sections = []
    for task in (*results.tasks, ""):
        metrics = [metric for column, metric in results.columns() if column == task]
        drawn = [charts.lines(results, task, metric) for metric in metrics]
        metrics += sorted(set(counted)) if not task else []
        if metrics:
            models = set(results.values.filter(task=task)["model"])
            sections.append({"task": task, "pictures": drawn, "metrics": metrics, "models": models})
    return sections
