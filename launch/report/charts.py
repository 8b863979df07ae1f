"""The report's charts of models and rows. A new one is a function that returns a `Chart`, called in `page.py`."""

import math
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

from tutelage.launch.report.data import Compared, DayCounts, IdMap
from tutelage.launch.report.drawing import (
    COLOURS,
    INK,
    LINE_WIDTH,
    MARKERS,
    Chart,
    every_slice,
    figure_of,
    legend_beside,
    ordinals,
    reference_line,
    short_name,
    slice_length,
    styled,
    time_axis,
    to_svg,
)
from tutelage.launch.report.summary import Results, label_of

_HEIGHT = 2.6
_MARKED = 60
"""Values of a line that have a marker: of a thousand days, markers would hide the lines and take most of the page."""
_CAPTIONS = {
    "auc": "How well examples are ranked. Higher is better; 0.5 is chance.",
    "log_loss": "How far the predicted probabilities are from the labels. Lower is better.",
    "calibration": "Sum of predictions over sum of labels. 1 is right; above it the model predicts too much.",
    "ltv_loss": "Mean squared error of log1p of {value}. Lower is better.",
    "label_coverage": "Share of a day's kept rows whose soft label was used. The hard label is used on every row.",
}
_ID_COUNTS = {
    "ids_with_rows": "in use",
    "ids_given": "added",
    "ids_evicted": "evicted",
    "ids_full": "no place left",
}


@styled
def metric_by_day(results: Results, task: str, metric: str) -> Chart:
    """Draw a line over the days for each model, with a gap where a value is missing."""
    loss = metric.removesuffix("_delta")
    title = f"{task or 'Soft'} {label_of(loss)}" + (" against the baseline" if loss != metric else "")
    rows = results.values.filter(task=task, metric=metric).select("model", "day", "value")
    values = {(model, day): value for model, day, value in rows.iter_rows() if value is not None}
    figure, drawn = _model_lines(results, values)
    axes = figure.axes[0]
    reference = 0.0 if loss != metric else 1.0 if metric == "calibration" else None
    settled = [] if reference is None else [reference]
    for line in drawn.values():
        # A model's first days, before it has been trained on much, would flatten many that follow.
        settled += line[3:] if len(line) > 6 else line
    if metric == "label_coverage":
        settled = [0.0, 1.0]
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    elif loss != metric:
        axes.yaxis.set_major_formatter(PercentFormatter())
    low, high = min(settled, default=0.0), max(settled, default=1.0)
    pad = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
    axes.set_ylim(low - pad, high + pad)
    outside = sum(not low - pad <= value <= high + pad for value in values.values())
    reference_line(axes, y=reference)
    _name_lines(figure, results, drawn)
    svg = to_svg(figure, f"{title} by day, one line per model")
    unit = results.units.get(task)
    caption = _CAPTIONS.get(metric, "The task's loss. Lower is better.")
    caption = caption.format(value=f"the {unit}" if unit else "the value")
    if loss != metric:
        caption = f"{results.against}. Below the line at 0 the student is better."
    return Chart(title, svg, caption + _outside(outside))


@styled
def bytes_by_day(
    results: Results, title: str, values: Mapping[tuple[str, date], float], caption: str
) -> Chart:
    """Draw bytes by (model, day). The axis begins at 0, so that what is flat looks flat."""
    figure, drawn = _model_lines(results, values)
    figure.axes[0].set_ylim(0, 1.08 * max(map(max, drawn.values())))
    figure.axes[0].yaxis.set_major_formatter(EngFormatter("B", sep="\N{NO-BREAK SPACE}"))
    _name_lines(figure, results, drawn)
    return Chart(title, to_svg(figure, f"{title} by day, one line per model"), caption)


@styled
def versions_by_day(model: str, compared: Compared) -> Chart:
    """Draw a panel for each metric: each day's version and, dashed, the version served then, on the same rows."""
    days = every_slice(sorted({day for values in compared.values() for day in values}))
    figure, panels = figure_of(max(_HEIGHT, 1.3 * len(compared)), panels=len(compared))
    for axes, (metric, values) in zip(panels, compared.items(), strict=True):
        for i, (name, dashes) in enumerate((("the day's version", "-"), ("served then", "--"))):
            line = [values.get(day, (math.nan, math.nan))[i] for day in days]
            style: dict[str, Any] = {"linewidth": LINE_WIDTH, "linestyle": dashes, "marker": MARKERS[i]}
            axes.plot(ordinals(days), line, label=name, color=COLOURS[i], markersize=3, **style)
        axes.set_title(metric.replace("_", " "))
        time_axis(axes, days)
    legend_beside(panels[0])
    svg = to_svg(figure, f"{model}: loss of each day's version and of the one served then")
    caption = "Both on the same rows, which neither was trained on; the rows differ from day to day. Lower is better."
    return Chart(model, svg, caption)


@styled
def id_map(feature: str, counts: IdMap, model: str) -> Chart:
    """Draw, for a growing feature, how full its id map is, and below it the ids added, evicted and turned away."""
    days = every_slice(sorted(counts.by_metric["ids_with_rows"]))
    figure, (in_use, changed) = figure_of(_HEIGHT, panels=2)
    drawn: list[list[float]] = []
    for i, (metric, name) in enumerate(_ID_COUNTS.items()):
        drawn.append([counts.by_metric[metric].get(day, math.nan) for day in days])
        axes = changed if i else in_use
        style: dict[str, Any] = {"linewidth": LINE_WIDTH, "marker": "o", "markersize": 2}
        axes.plot(ordinals(days), drawn[-1], label=name, color=COLOURS[i], **style)
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    reference_line(in_use, y=counts.capacity)
    in_use.set_title(f"ids in the map, of at most {counts.capacity:,}")
    in_use.set_ylim(0, 1.08 * counts.capacity)
    # On the first days all ids are new.
    settled = min(3, len(days) // 2)
    top = 1.08 * max((v for line in drawn[1:] for v in line[settled:] if v == v), default=0.0) or 1.0
    changed.set_title("ids added, evicted, or without a place")
    changed.set_ylim(0, top)
    legend_beside(changed)
    for axes in (in_use, changed):
        time_axis(axes, days)
    outside = sum(value > top for line in drawn[1:] for value in line)
    caption = (
        f"The map of {model}. An id that comes often enough gets an embedding; one that stays away loses it."
    )
    return Chart(feature, to_svg(figure, f"{feature}: ids in the map by day"), caption + _outside(outside))


@styled
def rows_by_day(days: Sequence[DayCounts]) -> Chart:
    """Draw the rows kept and, below on a scale of their own, the rows dropped: on one scale they would not show."""
    calendar = every_slice([day.day for day in days])
    tops = {"rows kept": max(day.kept for day in days)}
    if dropped := max(day.dropped_rows for day in days):
        tops["rows dropped"] = dropped
    figure, panels = figure_of(_HEIGHT, panels=len(tops))
    width = 0.75 * slice_length(calendar) if len(calendar) > 1 else 0.5
    x = ordinals([day.day for day in days])
    panels[0].bar(x, [day.kept for day in days], width=width, color=COLOURS[0])
    base = [0] * len(days)
    for i, reason in enumerate(days[0].dropped if dropped else ()):
        rows = [day.dropped[reason] for day in days]
        colour, hatch = COLOURS[(i + 1) % 6], ("", "///", "...")[(i + 1) // 6 % 3]
        name = short_name(reason.replace("_", " "))
        panels[-1].bar(x, rows, width=width, bottom=base, label=name, color=colour, hatch=hatch)
        base = [a + b for a, b in zip(base, rows, strict=True)]
    if dropped:
        legend_beside(panels[-1], reverse=True)
    for axes, (title, top) in zip(panels, tops.items(), strict=True):
        axes.set_title(title)
        axes.set_ylim(0, 1.08 * top or 1)
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.locator_params(axis="y", integer=True)
        axes.grid(axis="x", visible=False)
        time_axis(axes, calendar)
    label = "rows kept and rows dropped by reason" if dropped else "rows kept"
    read = "or dropped for one reason. The two scales differ." if dropped else "and none was dropped."
    return Chart("Rows by day", to_svg(figure, f"{label}, by day"), f"Every row that came in is kept, {read}")


def _outside(values: int) -> str:
    return f" Values outside the chart, from the first days: {values}." if values else ""


def _model_lines(
    results: Results, values: Mapping[tuple[str, date], float]
) -> tuple[Figure, dict[str, list[float]]]:
    """Draw a line for each model that has values, by (model, day); return the figure and each line's finite values."""
    days = every_slice(results.days)
    # As high as the names at the ends of many lines need.
    figure, (axes,) = figure_of(max(_HEIGHT, 0.5 + 0.2 * len(results.models)))
    drawn = {}
    for model in results.models:
        line = [values.get((model, day), math.nan) for day in days]
        finite = [value for value in line if not math.isnan(value)]
        if finite:
            size = 4 if len(days) <= 31 else 1.5
            style = {"markersize": size, "markevery": _marked(line), **_model_style(results, model)}
            axes.plot(ordinals(days), line, **style)
            drawn[model] = finite
    # Close to the names on the right.
    time_axis(axes, days, 0.05 * (days[-1] - days[0]).days if len(days) > 1 else None)
    return figure, drawn


def _marked(line: Sequence[float]) -> list[int]:
    """Return which values of a line have a marker: all of up to 60, else about as many.

    A value between two gaps always has one, because no line shows it.
    """
    every = -(-len(line) // _MARKED)
    gap = [math.isnan(value) for value in (math.nan, *line, math.nan)]
    return [i for i in range(len(line)) if i % every == 0 or (gap[i] and gap[i + 2])]


def _model_style(results: Results, model: str) -> dict[str, Any]:
    if model == results.teacher:
        return {"color": INK, "linewidth": 2.6, "marker": "o", "zorder": 3}
    i = [name for name in results.models if name != results.teacher].index(model)
    dashes = ("-", "--", ":")[i // 6 % 3]
    style = {"color": COLOURS[i % 6], "linewidth": LINE_WIDTH, "linestyle": dashes}
    return {**style, "marker": MARKERS[i % 5]}


def _name_lines(figure: Figure, results: Results, drawn: Mapping[str, Sequence[float]]) -> None:
    """Write each model's name where its line ends, and move names apart where lines end close together."""
    axes = figure.axes[0]
    ends = {model: line[-1] for model, line in drawn.items()}
    gap = 0.19 / (figure.get_figheight() - 0.4)
    low, high = axes.get_ylim()
    names = sorted(ends, key=lambda name: ends[name])
    true = [min(max((ends[name] - low) / (high - low), 0), 1) for name in names]
    at = list(true)
    for i in range(1, len(at)):
        at[i] = max(at[i], at[i - 1] + gap)
    for i in reversed(range(len(at))):
        at[i] = min(at[i], at[i + 1] - gap if i + 1 < len(at) else 1.0)
    for name, end, y in zip(names, true, at, strict=True):
        style = {**_model_style(results, name), "transform": axes.transAxes, "clip_on": False}
        axes.plot([1.0, 1.035], [end, y], **{**style, "marker": "", "linewidth": 0.8, "linestyle": "-"})
        axes.plot([1.05], [y], **style, markersize=4)
        axes.text(1.075, y, short_name(name), transform=axes.transAxes, va="center", fontsize=8.5)
