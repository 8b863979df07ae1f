"""The report's charts of the data: drift, new ids, nulls and the labels' means over the days."""

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import polars as pl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb

from tutelage.launch.report.drawing import (
    COLOURS,
    INK,
    Chart,
    figure_of,
    ordinals,
    short_name,
    slice_length,
    styled,
    time_axis,
    to_svg,
)

_DAYS = 60
"""Only the last days are drawn, so that each stays wide enough to be seen."""
_TEXT_DAYS = 14
"""Up to this many days, each cell shows its value."""
_SEEN = 0.005
"""A cell below it would round to .00 and stays blank."""
_CELLS = ListedColormap([(*to_rgb(COLOURS[1]), alpha) for alpha in np.linspace(0.04, 1, 256)])
"""From nearly transparent to a full colour, so that cells can be read on a light page and on a dark one."""


def data_charts(statistics: pl.DataFrame, labels: Sequence[str]) -> list[Chart]:
    """Return the charts that have something to show.

    `statistics`: a row per day and column, with `quarantined`, as `commit_day.statistics` returns them;
    `labels`: which of these columns are labels.
    """
    if statistics.is_empty():
        return []
    days = statistics["day"].unique().sort()
    recent = statistics.filter(pl.col("day") > days[-1] - timedelta(days=_DAYS)).with_columns(
        nulls=pl.col("nulls") / pl.col("rows")
    )
    marked = " A day between dashed lines is in quarantine." if recent["quarantined"].any() else ""
    # The mean of a binary label says all about it, and has a chart of its own.
    binary = pl.col("max").max().over("column") <= 1
    drift = recent.filter(~(pl.col("column").is_in(list(labels)) & binary))
    new = recent.filter(pl.col("new_ids").max().over("column") >= _SEEN)
    nulls = recent.filter(pl.col("nulls").max().over("column") > 0)
    charts = [
        Chart(
            "Drift of each column",
            heat_map(drift, "drift", "drift of each column from the days before, by day", top=0.3),
            "Distance from the days before: Jensen–Shannon distance for ids, population stability index for "
            f"numbers.{marked}",
        ),
        Chart(
            "New ids",
            heat_map(new, "new_ids", "share of rows with a new id, by column and day", top=1.0),
            "Share of rows whose id occurred on none of the days before. Columns without new ids are left "
            f"out.{marked}",
        ),
        Chart(
            "Nulls",
            heat_map(nulls, "nulls", "share of nulls, by column and day", top=1.0),
            f"Share of the day's rows without a value. Columns without nulls are left out.{marked}",
        ),
        Chart(
            "Labels",
            label_means(recent.filter(pl.col("column").is_in(list(labels)))),
            f"Mean of each label: the rate of a binary one, else in the label's unit.{marked}",
        ),
    ]
    return [chart for chart in charts if chart.svg]


@styled
def heat_map(rows: pl.DataFrame, value: str, label: str, *, top: float) -> Markup:
    """Draw a line per column and a cell per day; return '' where there is no value. `top` has the full colour."""
    if not rows[value].is_not_null().any():
        return Markup()
    days = rows["day"].unique().sort().to_list()
    table = rows.pivot(on="day", index="column", values=value, maintain_order=True).select(
        "column", *map(str, days)
    )
    values = table.drop("column").to_numpy()
    figure, (axes,) = figure_of(0.5 + 0.2 * table.height)
    x, width = ordinals(days), slice_length(days)
    high = max(top, float(np.nanmax(values)))
    for column, place in enumerate(x):
        # A mesh per day, so that days without data leave a gap.
        axes.pcolormesh(
            [place - 0.46 * width, place + 0.46 * width],
            np.arange(table.height + 1) - 0.5,
            np.ma.masked_invalid(values[:, [column]]),
            cmap=_CELLS,
            vmin=0,
            vmax=high,
        )
    if len(days) <= _TEXT_DAYS:
        for (line, column), number in np.ndenumerate(values):
            if number >= _SEEN:
                axes.text(x[column], line, _short(number), ha="center", va="center", fontsize=7)
    axes.set_yticks(range(table.height), [short_name(name) for name in table["column"]], fontsize=8)
    axes.set_ylim(table.height - 0.5, -0.5)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    time_axis(axes, days, 0.6 * width)
    _mark_quarantined(axes, rows, width)
    return to_svg(figure, label)


@styled
def label_means(rows: pl.DataFrame) -> Markup:
    """Draw a panel per label, because labels differ in their units."""
    names = rows["column"].unique(maintain_order=True).to_list()
    if not names:
        return Markup()
    figure, panels = figure_of(0.5 + 0.85 * len(names), panels=len(names))
    days = rows["day"].unique().sort().to_list()
    width = slice_length(days)
    for axes, name in zip(panels, names, strict=True):
        label = rows.filter(column=name)
        for quarantined, style, colour in ((False, "o-", COLOURS[0]), (True, "x", COLOURS[1])):
            part = label.filter(quarantined=quarantined)
            axes.plot(ordinals(part["day"].to_list()), part["mean"], style, color=colour, markersize=4)
        axes.set_title(short_name(name))
        axes.set_ylim(0, 1.15 * max(label["mean"].drop_nulls().to_list(), default=0.0) or 1.0)
        time_axis(axes, days, 0.6 * width)
        _mark_quarantined(axes, rows, width)
    return to_svg(figure, "mean of each label, by day")


def _short(number: float) -> str:
    """Return two places, as far as they say something: .05, 1.3."""
    return f"{number:.1f}" if number >= 1 else f"{number:.2f}"[1:] if f"{number:.2f}" != "1.00" else "1.0"


def _mark_quarantined(axes: Axes, rows: pl.DataFrame, width: int) -> None:
    """Put a dashed line on either side of each day in quarantine."""
    for day in rows.filter("quarantined")["day"].unique().sort():
        for side in (-0.5, 0.5):
            axes.axvline(day.toordinal() + side * width, color=INK, linewidth=1, linestyle=(0, (3, 2)))
