"""The report's pictures of the data: drift, new ids, nulls and the labels' means over the days."""

from collections.abc import Sequence
from datetime import date, timedelta
from itertools import pairwise
from typing import NamedTuple

import matplotlib
import numpy as np
import polars as pl
from markupsafe import Markup
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure

from tutelage.launch.report.charts import (
    COLOURS,
    INK,
    STYLE,
    short_name,
    to_svg,
)

_DAYS = 60
"""The last ones are drawn, so that a day stays wide enough to be seen."""
_TEXT_DAYS = 14
"""Up to so many, each cell says its value."""
_SEEN = 0.005
"""What rounds to less than .01 is left blank."""
_CELLS = ListedColormap([(*to_rgb(COLOURS[1]), alpha) for alpha in np.linspace(0.04, 1, 256)])
"""From nothing to a full colour, so that it can be read on a light page and on a dark one."""


class Drawn(NamedTuple):
    title: str
    svg: Markup
    read: str
    """How to read it."""


def charts(statistics: pl.DataFrame, labels: Sequence[str]) -> list[Drawn]:
    """`statistics`: a row per day and column, with `quarantined`, as `pipeline.admit.statistics` gives them."""
    if statistics.is_empty():
        return []
    days = statistics["day"].unique().sort()
    recent = statistics.filter(pl.col("day") > days[-1] - timedelta(days=_DAYS)).with_columns(
        nulls=pl.col("nulls") / pl.col("rows")
    )
    marked = " A day between dashed lines is in quarantine." if recent["quarantined"].any() else ""
    of_binary = pl.col("max").max().over("column") <= 1
    drift = recent.filter(~(pl.col("column").is_in(list(labels)) & of_binary))
    nulls = recent.filter(pl.col("nulls").max().over("column") > 0)
    drawn = [
        Drawn(
            "Drift of each column",
            heat(drift, "drift", "drift of each column from the days before, by day", top=0.3),
            "From the days before it: of ids the Jensen–Shannon distance, of numbers the population stability "
            f"index.{marked}",
        ),
        Drawn(
            "New ids",
            heat(
                recent.filter(pl.col("new_ids").max().over("column") >= _SEEN),
                "new_ids",
                "share of rows with a new id, by column and day",
                top=1.0,
            ),
            f"Share of rows with an id that none of the days before had; columns without are left out.{marked}",
        ),
        Drawn(
            "Nulls",
            heat(nulls, "nulls", "share of nulls, by column and day", top=1.0),
            f"Share of a day's rows without a value, of the columns that lack some.{marked}",
        ),
        Drawn(
            "Labels",
            means(recent.filter(pl.col("column").is_in(list(labels)))),
            f"Mean of each label: of a binary one its rate, of others in their unit.{marked}",
        ),
    ]
    return [picture for picture in drawn if picture.svg]


@matplotlib.rc_context(STYLE)
def heat(rows: pl.DataFrame, value: str, label: str, *, top: float) -> Markup:
    """A line for each column and a cell for each day; empty where no column has a value."""
    if not rows[value].is_not_null().any():
        return Markup()
    days = rows["day"].unique().sort().to_list()
    table = rows.pivot(on="day", index="column", values=value, maintain_order=True).select(
        "column", *map(str, days)
    )
    values = table.drop("column").to_numpy()
    figure = Figure(figsize=(4.6, 0.6 + 0.17 * table.height), layout="constrained")
    axes = figure.subplots()
    x = [day.toordinal() for day in days]
    width = min((b - a for a, b in pairwise(x)), default=1)
    high = max(top, float(np.nanmax(values)))
    for column, place in enumerate(x):
        # Days that are not there leave a gap.
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
                axes.text(x[column], line, _short(number), ha="center", va="center", fontsize=5.5)
    axes.set_yticks(range(table.height), [short_name(name) for name in table["column"]], fontsize=7)
    axes.set_ylim(table.height - 0.5, -0.5)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    _calendar(axes, days, width)
    _mark(axes, rows, width)
    return to_svg(figure, label)


@matplotlib.rc_context(STYLE)
def means(rows: pl.DataFrame) -> Markup:
    """A panel for each label: they have units of their own."""
    names = rows["column"].unique(maintain_order=True).to_list()
    if not names:
        return Markup()
    figure = Figure(figsize=(4.6, 0.5 + 0.85 * len(names)), layout="constrained")
    days = rows["day"].unique().sort().to_list()
    x = [day.toordinal() for day in days]
    width = min((b - a for a, b in pairwise(x)), default=1)
    for axes, name in zip(
        figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0], names, strict=True
    ):
        of = rows.filter(column=name)
        kept, quarantined_days = of.filter(~pl.col("quarantined")), of.filter("quarantined")
        for part, style in ((kept, "o-"), (quarantined_days, "x")):
            colour = COLOURS[0] if part is kept else COLOURS[1]
            axes.plot(_ordinals(part["day"].to_list()), part["mean"], style, color=colour, markersize=4)
        axes.set_title(short_name(name), loc="left", fontsize=9)
        axes.set_ylim(0, 1.15 * max(of["mean"].drop_nulls().to_list(), default=0.0) or 1.0)
        _calendar(axes, days, width)
        _mark(axes, rows, width)
    return to_svg(figure, "mean of each label, by day")


def _short(number: float) -> str:
    """Two places, as far as they say something: .05, 1.3."""
    return f"{number:.1f}" if number >= 1 else f"{number:.2f}"[1:] if f"{number:.2f}" != "1.00" else "1.0"


def _ordinals(days: Sequence[date]) -> list[int]:
    return [day.toordinal() for day in days]


def _calendar(axes: "matplotlib.axes.Axes", days: Sequence[date], width: int) -> None:
    ticks = days[:: -max(1, -(-len(days) // 5))][::-1]
    axes.set_xticks(_ordinals(ticks), [f"{day:%m-%d}" for day in ticks])
    axes.set_xlim(days[0].toordinal() - 0.6 * width, days[-1].toordinal() + 0.6 * width)


def _mark(axes: "matplotlib.axes.Axes", rows: pl.DataFrame, width: int) -> None:
    for day in rows.filter("quarantined")["day"].unique().sort():
        for side in (-0.5, 0.5):
            axes.axvline(day.toordinal() + side * width, color=INK, linewidth=1, linestyle=(0, (3, 2)))
