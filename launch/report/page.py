"""The HTML report of a run: one file without scripts that opens offline."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from tutelage.launch.report import charts
from tutelage.launch.report.data import ReportData, total_counts
from tutelage.launch.report.drawing import Chart
from tutelage.launch.report.drift import data_charts
from tutelage.launch.report.headlines import headlines, last_day
from tutelage.launch.report.summary import (
    FEED_WAIT,
    LAST_DAYS,
    NOTES,
    Results,
    label_of,
    show,
    throughput,
    throughput_cells,
)
from tutelage.pipeline.io.atomic import atomic_write
from tutelage.pipeline.io.printable import printable_lines

_RESOURCES = (
    (
        "memory",
        "Memory",
        "Memory of the model's process at the end of each day. Steady growth points to a leak.",
    ),
    (
        "size",
        "Checkpoint",
        "Size of each day's variables on disk, with those of the optimizer and the known ids.",
    ),
)
_TEMPLATE = Path(__file__).with_name("report.html.j2")


class _Section(NamedTuple):
    """The results of a task; those of the soft labels have task ''."""

    task: str
    measures: list[str]
    counts: list[str]
    """Metrics that are only in the table of every day."""
    models: set[str]
    charts: list[Chart]


def write_report(path: Path, data: ReportData) -> None:
    """Write the report to the file `path`, whole or not at all. The same data gives the same bytes."""
    results, days, last = data.results, data.counts, last_day(data)
    page = environment().from_string(_TEMPLATE.read_text("utf-8"))
    html = page.render(
        data=data,
        results=results,
        study=os.path.relpath(str(data.study), str(path.parent))
        if data.study and data.study.exists()
        else None,
        headlines=headlines(data, last),
        last=last,
        means=results.means(LAST_DAYS),
        span=results.span(LAST_DAYS),
        caption=results.caption(LAST_DAYS),
        sections=list(_sections(results)),
        daily={tuple(key): value for *key, value in results.values.iter_rows()},
        trained={model: set(days) for model, days in results.trained.items()},
        rows_chart=charts.rows_by_day(days) if days else None,
        total=total_counts(days) if days else None,
        notes={name: head for name, head in NOTES.items() if any(day.notes[name] for day in days)},
        speed={speed.model: throughput_cells(speed) for speed in throughput(data.states)},
        feed_wait=FEED_WAIT,
        id_maps=[charts.id_map(name, counts, results.teacher) for name, counts in data.id_maps.items()],
        resources=list(_resources(data)),
        versions=[charts.versions_by_day(model, compared) for model, compared in data.compared.items()],
        data_charts=[] if data.statistics is None else data_charts(data.statistics, data.labels),
        name=label_of,
        show=show,
    )
    with atomic_write(path) as unfinished:
        unfinished.write_text(html, "utf-8")


def environment() -> Environment:
    """Return how templates are rendered: names are escaped and printable, and a name that is missing raises."""
    return Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )


def _printable(value: Any) -> Any:
    """Return text that came from outside without its passwords and control characters; our own markup stays."""
    return printable_lines(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def style() -> str:
    """Return the report's style sheet, which other pages share."""
    return _TEMPLATE.read_text("utf-8").partition("<style>")[2].partition("</style>")[0]


def _sections(results: Results) -> Iterator[_Section]:
    """Yield the section of each task, and last that of the soft labels."""
    for task in (*results.tasks, ""):
        measures = [metric for column, metric in results.columns() if column == task]
        found = results.values.filter(task=task)
        counts = [] if task else sorted(set(found["metric"]) - set(measures))
        drawn = [charts.metric_by_day(results, task, metric) for metric in measures]
        if measures or counts:
            yield _Section(task, measures, counts, set(found["model"]), drawn)


def _resources(data: ReportData) -> Iterator[Chart]:
    """Yield a chart of what models used after each day that has metrics, in memory and on disk, if it was recorded."""
    trained = {model: set(days) for model, days in data.results.trained.items()}
    for field, title, caption in _RESOURCES:
        values: dict[Any, int] = {
            (model, state.day): getattr(state, field)
            for model, states in data.states.items()
            for state in states
            if getattr(state, field) and state.day in trained.get(model, ())
        }
        if values:
            yield charts.bytes_by_day(data.results, title, values, caption)
