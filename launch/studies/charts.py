"""The charts of a study: every arm with its interval, and a curve over what the study varies."""

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator, PercentFormatter

from tutelage.launch.report.drawing import (
    COLOURS,
    LINE_WIDTH,
    MARKERS,
    Chart,
    figure_of,
    reference_line,
    short_name,
    styled,
    to_svg,
)
from tutelage.launch.studies.results import Row, StudyResults, axis


def study_charts(results: StudyResults, study: str) -> list[Chart]:
    """Return for each loss a chart of all arms that are compared, then, if arms have an x, a curve over it."""
    arms, curves = [], []
    for _, block in groupby(results.studies[study], itemgetter("task")):
        compared = [row for row in block if row["delta_low"] is not None]
        placed = [row for row in compared if row["x"] is not None]
        if compared:
            title = f"{results.loss(compared[0])} against the baseline"
            caption = "Left of the line at 0 an arm is better than its baseline. Bars: 95 % intervals."
            arms.append(Chart(title, _intervals(compared, f"{study}: {title}, by arm"), caption))
        if len({row["x"] for row in placed}) > 1:
            title += f", by {axis(study)}"
            caption = "Below the line at 0 arms are better than their baselines. Bands: 95 % intervals."
            curves.append(Chart(title, _curves(placed, f"{study}: {title}", axis(study)), caption))
    return arms + curves


@styled
def _intervals(rows: Sequence[Row], label: str) -> Markup:
    figure, (axes,) = figure_of(0.55 + 0.24 * len(rows))
    styles = _styles(rows)
    arms = [row["arm"] for row in rows]
    names = []
    for y, row in enumerate(rows):
        colour, marker = styles[row["group"]]
        axes.plot([row["delta_low"], row["delta_high"]], [y, y], color=colour, linewidth=LINE_WIDTH)
        axes.plot([row["delta"]], [y], color=colour, marker=marker, markersize=5)
        against = f" − {short_name(row['baseline'])}" if arms.count(row["arm"]) > 1 else ""
        names.append(short_name(row["arm"]) + against)
    reference_line(axes, x=0)
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(PercentFormatter())
    return to_svg(figure, label)


@styled
def _curves(rows: Sequence[Row], label: str, name: str) -> Markup:
    figure, (axes,) = figure_of(2.8)
    styles = _styles(rows)
    for group, (colour, marker) in styles.items():
        own = sorted((row for row in rows if row["group"] == group), key=itemgetter("x"))
        x, y, low, high = ([row[name] for row in own] for name in ("x", "delta", "delta_low", "delta_high"))
        axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        style: dict[str, Any] = {"color": colour, "marker": marker, "label": short_name(group)}
        axes.plot(x, y, markersize=4, linewidth=LINE_WIDTH, **style)
    reference_line(axes, y=0)
    places = sorted({row["x"] for row in rows})
    axes.set_xticks(places, [f"{x:g}" for x in places])
    axes.set_xlabel(name)
    axes.yaxis.set_major_formatter(PercentFormatter())
    if len(styles) > 1:
        axes.legend()
    return to_svg(figure, label)


def _styles(rows: Sequence[Row]) -> dict[str, tuple[str, str]]:
    """Return colour and marker of each group."""
    groups = dict.fromkeys(row["group"] for row in rows)
    return {group: (COLOURS[i % 6], MARKERS[i % 5]) for i, group in enumerate(groups)}
