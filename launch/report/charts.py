"""The report's pictures: SVG in the page's own font and colours."""

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

from tutelage.launch.report.summary import LABELS, Results

INK = "#010203"  # becomes currentColor in the page: pictures follow its light or dark scheme
# Okabe and Ito's colours, told apart by the colour-blind, without black and the pale yellow.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's font
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "text.parse_math": False,  # a name is no formula
    "grid.alpha": 0.14,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color", "hatch.color"), INK
    ),
}
_LINE_AT = {"calibration": 1.0}
_ID_COUNTS = {
    "ids_with_rows": "in use",
    "ids_given": "given",
    "ids_evicted": "evicted",
    "ids_full": "none left",
}


class Picture(NamedTuple):
    title: str
    metric: str
    svg: Markup
    outside: int
    """Values that are not in the picture."""


@matplotlib.rc_context(STYLE)
def lines(results: Results, task: str, metric: str) -> Picture:
    """One line over the days per model, a gap where a value is missing."""
    loss = metric.removesuffix("_delta")
    title = f"{task or 'Soft'} {LABELS[loss]}" + (" against the baseline" if loss != metric else "")
    rows = results.values.filter(task=task, metric=metric).select("model", "day", "value")
    values = {(model, day): value for model, day, value in rows.iter_rows() if value is not None}
    figure, drawn = _draw(results, values)
    axes = figure.axes[0]
    line_at = _LINE_AT.get(metric) if loss == metric else 0.0
    settled = [] if line_at is None else [line_at]
    for line in drawn.values():
        # A model's first days, before it has learnt much, would flatten all that follow.
        settled += line[min(3, len(line) // 2) :]
    if metric == "label_coverage":
        settled = [0.0, 1.0]
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    elif loss != metric:
        axes.yaxis.set_major_formatter(PercentFormatter())
    low, high = min(settled, default=0.0), max(settled, default=1.0)
    pad = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
    axes.set_ylim(low - pad, high + pad)
    outside = sum(not low - pad <= value <= high + pad for value in values.values())
    if line_at is not None:
        axes.axhline(line_at, color=INK, linewidth=1, alpha=0.6, zorder=1)
    _name_lines(figure, results, drawn)
    svg = to_svg(figure, f"{title} by day, one line per model")
    return Picture(title, metric, svg, outside)


@matplotlib.rc_context(STYLE)
def sizes(results: Results, title: str, values: Mapping[tuple[str, date], float]) -> Markup:
    """Bytes by (model, day), from 0 on, so that what is flat looks flat."""
    figure, drawn = _draw(results, values)
    figure.axes[0].set_ylim(0, 1.08 * max(map(max, drawn.values())))
    figure.axes[0].yaxis.set_major_formatter(EngFormatter("B", sep="\N{NO-BREAK SPACE}"))
    _name_lines(figure, results, drawn)
    return to_svg(figure, f"{title} by day, one line per model")


@matplotlib.rc_context(STYLE)
def id_rows(feature: str, rows: int, counts: Mapping[str, Mapping[date, float]]) -> Picture:
    """`counts` by metric and day: above, how many of the `rows` ids have; below, those given and evicted."""
    days = _calendar(sorted(counts["ids_with_rows"]))
    figure = _figure(days, panels=2)
    in_use, changed = figure.axes
    drawn: list[list[float]] = []
    for i, (metric, name) in enumerate(_ID_COUNTS.items()):
        drawn.append([counts[metric].get(day, math.nan) for day in days])
        style: dict[str, Any] = {"linewidth": 1.6, "marker": "o", "markersize": 2, "color": COLOURS[i]}
        axes = changed if i else in_use
        axes.plot([day.toordinal() for day in days], drawn[-1], label=name, **style)
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    in_use.axhline(rows, color=INK, linewidth=1, alpha=0.6, zorder=1)
    in_use.set_title(f"rows in use, of {rows:,}", loc="left", fontsize=9)
    in_use.set_ylim(0, 1.08 * rows)
    # On the first days all ids are new.
    resume_from = min(3, len(days) // 2)
    top = 1.08 * max((v for line in drawn[1:] for v in line[resume_from:] if v == v), default=0.0) or 1.0
    changed.set_title("ids that a row was given to, taken from, or not left for", loc="left", fontsize=9)
    changed.set_ylim(0, top)
    changed.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    svg = to_svg(figure, f"{feature}: rows of the id map by day")
    return Picture(feature, "ids_with_rows", svg, sum(value > top for line in drawn[1:] for value in line))


def _draw(
    results: Results, values: Mapping[tuple[str, date], float]
) -> tuple[Figure, dict[str, list[float]]]:
    """A line over the days per model that has `values`, a gap where one is missing; returns those of each."""
    days = _calendar(results.days)
    # As high as the names at the ends of many lines need.
    figure = _figure(days, height=max(2.6, 0.5 + 0.2 * len(results.models)))
    drawn = {}
    for model in results.models:
        line = [values.get((model, day), math.nan) for day in days]
        finite = [value for value in line if not math.isnan(value)]
        if finite:
            size = 4 if len(days) <= 31 else 1.5
            figure.axes[0].plot(
                [day.toordinal() for day in days], line, markersize=size, **_style(results, model)
            )
            drawn[model] = finite
    return figure, drawn


@matplotlib.rc_context(STYLE)
def rows_by_reason(days: Sequence[Mapping[str, Any]]) -> Markup:
    """Rows kept above, rows dropped, if any, below: on one scale the dropped could not be seen."""
    calendar = _calendar([day["day"] for day in days])
    tops = {"rows kept": max(day["kept"] for day in days)}
    if some := max(day["dropped_rows"] for day in days):
        tops["rows dropped"] = some
    figure = _figure(calendar, panels=len(tops))
    kept, dropped = figure.axes[0], figure.axes[-1]
    x = [day["day"].toordinal() for day in days]
    width = 0.75 * (calendar[1] - calendar[0]).days if len(calendar) > 1 else 0.5
    kept.bar(x, [day["kept"] for day in days], width=width, color=COLOURS[0])
    base = [0] * len(days)
    for i, reason in enumerate(days[0]["dropped"] if some else ()):
        rows = [day["dropped"][reason] for day in days]
        colour, hatch = COLOURS[(i + 1) % 6], ("", "///", "...")[(i + 1) // 6 % 3]
        name = short_name(reason.replace("_", " "))
        dropped.bar(x, rows, width=width, bottom=base, label=name, color=colour, hatch=hatch)
        base = [a + b for a, b in zip(base, rows, strict=True)]
    if some:
        dropped.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, reverse=True)
    for axes, (title, top) in zip(figure.axes, tops.items(), strict=True):
        axes.set_title(title, loc="left", fontsize=9)
        axes.set_ylim(0, 1.08 * top or 1)
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.locator_params(axis="y", integer=True)
        axes.grid(axis="x", visible=False)
    label = "rows kept and rows dropped by reason" if some else "rows kept"
    return to_svg(figure, f"{label}, by day")


def _calendar(days: Sequence[date]) -> list[date]:
    """Every slice from the first day to the last, so that one that nobody learnt is a gap."""
    step = math.gcd(*((b - a).days for a, b in pairwise(days))) or 1
    span = (days[-1] - days[0]).days if days else -1
    return [days[0] + timedelta(days=n) for n in range(0, span + 1, step)]


def _figure(days: Sequence[date], *, panels: int = 1, height: float = 2.6) -> Figure:
    figure = Figure(figsize=(4.6, height), layout="constrained")
    ticks = days[:: -max(1, math.ceil(len(days) / 5))][::-1]
    texts = [f"{day:%m-%d}" for day in ticks]
    if len({day.year for day in ticks}) > 1:
        years = [day.year for day in ticks]
        new = [a != b for a, b in zip(years, [None, *years], strict=False)]
        texts = [f"{day:%m-%d}\n{day.year if first else ' '}" for day, first in zip(ticks, new, strict=True)]
    for axes in figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]:
        axes.set_xticks([day.toordinal() for day in ticks], texts)
        if days:
            margin = max(0.5, 0.03 * (days[-1] - days[0]).days)
            axes.set_xlim(days[0].toordinal() - margin, days[-1].toordinal() + margin)
    return figure


def _style(results: Results, model: str) -> dict[str, Any]:
    if model == results.teacher:
        return {"color": INK, "linewidth": 2.6, "marker": "o", "zorder": 3}
    i = [name for name in results.models if name != results.teacher].index(model)
    dashes = ("-", "--", ":")[i // 6 % 3]
    return {"color": COLOURS[i % 6], "linewidth": 1.6, "marker": "os^Dv"[i % 5], "linestyle": dashes}


def short_name(name: str) -> str:
    return name if len(name) <= 22 else f"{name[:12]}…{name[-9:]}"


def _name_lines(figure: Figure, results: Results, drawn: Mapping[str, Sequence[float]]) -> None:
    """Writes each name where its line ends, moved apart where they end close together."""
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
        style = {**_style(results, name), "transform": axes.transAxes, "clip_on": False}
        axes.plot([1.0, 1.035], [end, y], **{**style, "marker": "", "linewidth": 0.8, "linestyle": "-"})
        axes.plot([1.05], [y], **style, markersize=4)
        axes.text(1.075, y, short_name(name), transform=axes.transAxes, va="center", fontsize=8.5)


def to_svg(figure: Figure, label: str) -> Markup:
    # Ids that are the same every time, and differ from picture to picture.
    matplotlib.rcParams["svg.hashsalt"] = label
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = re.sub(r'<metadata>.*?</metadata>| id="[\w.]+_\d+"', "", buffer.getvalue(), flags=re.DOTALL)
    # Without a width and a height it fills its place in the page.
    body = re.sub(r'^.*?<svg [^>]*(viewBox="[^"]*")[^>]*>', r"\1>", svg, flags=re.DOTALL)
    return Markup(f'<svg role="img" aria-label="{html.escape(label)}" {body.replace(INK, "currentColor")}')
