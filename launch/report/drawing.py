"""How every chart is drawn: one palette, one style, one time axis, one way to SVG."""

import html
import io
import math
import re
from collections.abc import Sequence
from datetime import date, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tutelage.pipeline.io.printable import printable_lines

INK = "#010203"  # `to_svg` turns it into currentColor, so that charts follow the page's light or dark scheme
# The palette of Okabe and Ito, which colour-blind readers can tell apart, without black and pale yellow.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = "os^Dv"
LINE_WIDTH = 1.6
_WIDTH = 4.6
"""Inches. The page scales every chart to the width of its column."""
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, searchable and in the page's font
    "font.size": 9,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "legend.frameon": False,
    "text.parse_math": False,  # a name with dollar signs is no formula
    "grid.alpha": 0.14,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), INK
    ),
    "hatch.color": INK,
}
styled = matplotlib.rc_context(_STYLE)
"""Decorates every function that draws."""


class Chart(NamedTuple):
    """A chart as the page shows it."""

    title: str
    svg: Markup
    caption: str
    """How to read it."""


def figure_of(height: float, panels: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure of `height` inches and its panels, which stand one above the other and share the x axis."""
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, list(figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0])


def every_slice(days: Sequence[date]) -> list[date]:
    """Return every slice from the first of `days` to the last, so that one that is missing becomes a gap."""
    step = slice_length(days)
    span = (days[-1] - days[0]).days if days else -1
    return [days[0] + timedelta(days=n) for n in range(0, span + 1, step)]


def slice_length(days: Sequence[date]) -> int:
    """Return the longest step, in days, that leads from the first of `days` to each of the others."""
    return math.gcd(*((b - a).days for a, b in pairwise(days))) or 1


def time_axis(axes: Axes, days: Sequence[date], margin: float | None = None) -> None:
    """Label at most about five of `days`, the last among them; name the year where it changes.

    `margin`: days left free on either side.
    """
    ticks = days[:: -max(1, math.ceil(len(days) / 5))][::-1]
    texts = [f"{day:%m-%d}" for day in ticks]
    years = [day.year for day in ticks]
    if len(set(years)) > 1:
        new = [a != b for a, b in zip(years, [None, *years], strict=False)]
        texts = [
            f"{text}\n{year if first else ' '}" for text, year, first in zip(texts, years, new, strict=True)
        ]
    axes.set_xticks(ordinals(ticks), texts)
    if days:
        margin = max(0.5, 0.03 * (days[-1] - days[0]).days) if margin is None else margin
        axes.set_xlim(days[0].toordinal() - margin, days[-1].toordinal() + margin)


def ordinals(days: Sequence[date]) -> list[int]:
    """Return the place of each day on the time axis."""
    return [day.toordinal() for day in days]


def reference_line(axes: Axes, *, x: float | None = None, y: float | None = None) -> None:
    """Draw the value that the others are compared with, below them."""
    style: dict[str, Any] = {"color": INK, "linewidth": 1, "alpha": 0.6, "zorder": 1}
    if x is not None:
        axes.axvline(x, **style)
    if y is not None:
        axes.axhline(y, **style)


def legend_beside(axes: Axes, *, reverse: bool = False) -> None:
    """Put the legend to the right of the panel."""
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), reverse=reverse)


def short_name(name: str) -> str:
    """Return `name`, its middle left out where it is longer than 22 characters."""
    return name if len(name) <= 22 else f"{name[:12]}…{name[-9:]}"


def to_svg(figure: Figure, label: str) -> Markup:
    """Return the figure as an SVG element that a screen reader calls `label`; equal figures give equal bytes."""
    # Ids that are the same every time, and differ from chart to chart.
    matplotlib.rcParams["svg.hashsalt"] = label
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawn = printable_lines(buffer.getvalue())
    svg = re.sub(r'<metadata>.*?</metadata>| id="[\w.]+_\d+"', "", drawn, flags=re.DOTALL)
    # Without a width and a height it fills its place in the page.
    body = re.sub(r'^.*?<svg [^>]*(viewBox="[^"]*")[^>]*>', r"\1>", svg, flags=re.DOTALL)
    return Markup(f'<svg role="img" aria-label="{html.escape(label)}" {body.replace(INK, "currentColor")}')
