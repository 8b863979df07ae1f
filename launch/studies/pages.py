"""What a study found, as tables, sentences and pictures: Markdown, and an HTML page without scripts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import polars as pl
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator, PercentFormatter

from tutelage.launch.report.charts import (
    COLOURS,
    INK,
    STYLE,
    short_name,
    to_svg,
)
from tutelage.launch.report.summary import DASH, LABELS
from tutelage.launch.studies.facts import HOW_TO_READ, TITLES
from tutelage.models.task_kinds import kind_of
from tutelage.pipeline.schema import Task

_TEMPLATE = Path(__file__).with_name("study.html.j2")
_REPORT = Path(__file__).parents[1] / "report" / "report.html.j2"  # its style is this page's too

Row = Mapping[str, Any]
"""A row of `study_stats.COMPARISONS`."""


class _Figure(NamedTuple):
    """A figure with an interval, as it is shown."""

    name: str
    title: str
    form: str
    unit: str = ""
    factor: float = 1.0
    words: Mapping[str, str] = {}
    """What an interval says that lies below 0 or above it; empty where 0 means nothing."""


_DELTA = _Figure("delta", "Δ %", "+z.2f", " %", words={"better": "better", "worse": "worse"})
_FARTHER = _Figure(
    "farther",
    "farther from 1, points",
    "+z.1f",
    " points",
    100.0,
    words={"better": "nearer to 1", "worse": "farther from 1"},
)
_FIGURES = (
    _DELTA,
    _Figure("calibration", "calibration", ".3f"),
    _FARTHER,
    _Figure("transfer_ratio", "transfer ratio", "z.2f"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResults:
    """What was compared, and how it was made."""

    experiment: str
    comparisons: pl.DataFrame
    """As `study_stats.compare` returns them."""
    facts: pl.DataFrame
    """arm, task, metric, value: the mean over seeds (`study_facts.TITLES`)."""
    tasks: Sequence[Task]
    command: str
    created: str
    """Shown as it is."""
    days: Sequence[date]

    @property
    def studies(self) -> dict[str, list[dict[str, Any]]]:
        """The rows of each study: by task, in the schema's order, and in it by arm, in the study's."""
        order = [task.name for task in self.tasks]
        rows = sorted(self.comparisons.iter_rows(named=True), key=lambda row: order.index(row["task"]))
        names = self.comparisons["study"].unique(maintain_order=True)
        return {study: [row for row in rows if row["study"] == study] for study in names}

    @property
    def made(self) -> str:
        """Days, rows and seeds."""
        seeds, rows = self.comparisons["seeds"][0], self.comparisons["rows"][0]
        counted = f"{seeds} seeds" if seeds > 1 else "one seed"
        return f"Judged on {self.days[0]} to {self.days[-1]} ({rows:,} rows), {counted}. Made {self.created}."

    @property
    def how_to_read(self) -> str:
        scatter = "how few the seeds are is allowed for (Student's t)"
        if self.comparisons["seeds"][0] == 1:
            scatter = "how far another seed would differ is not in them"
        return (
            "Loss: plain mean over seeds and days of a day's mean, of scores made before any of the day was "
            "learnt. Δ %: against the baseline's loss, paired by seed, user and row; negative is better. "
            "Calibration: sum of predictions over sum of labels, of all the days. Farther from 1: than the "
            "baseline's, in hundredths; negative is nearer. Transfer ratio: the share of the teacher's lead over "
            "the baseline that the arm gains. In brackets: 95 % intervals, for which the users of each day are "
            f"drawn with replacement; {scatter}. One in twenty misses by chance, and there are many here. "
            "A ratio has none where it is not sure that the teacher is ahead."
        )

    def facts_of(self, rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
        """Heads and rows of the table beside: of the first binary task, and seconds."""
        task = next((task.name for task in self.tasks if task.is_binary), "")
        chosen = self.facts.filter(pl.col("task").is_in([task, ""]), pl.col("value").is_not_nan())
        values = {
            (arm, metric): value for arm, metric, value in chosen.select("arm", "metric", "value").iter_rows()
        }
        arms = list(dict.fromkeys(row["arm"] for row in rows))
        metrics = [metric for metric in TITLES if any((arm, metric) in values for arm in arms)]

        def cell(arm: str, metric: str) -> str:
            return _number(values.get((arm, metric)), ".1f" if metric == "seconds" else ".4f")

        heads = [f"{task} of", *(TITLES[metric] for metric in metrics)]
        return heads, [[arm, *(cell(arm, metric) for metric in metrics)] for arm in arms]

    def costs(self, rows: Sequence[Row]) -> list[str]:
        """Of the students of one teacher, in the order of x: what n of them cost together."""
        chosen = self.facts.filter(metric="seconds").select("arm", "value").iter_rows()
        seconds = dict(chosen)
        students = {row["x"]: row["arm"] for row in rows if row["group"] == "students" and row["baseline"]}
        teacher = next((seconds[row["arm"]] for row in rows if row["group"] == "teacher"), None)
        if not students or teacher is None:
            return []
        spent, text = 0.0, []
        for n, (_, arm) in enumerate(sorted(students.items()), 1):
            spent += seconds[arm]
            text.append(
                f"{n}: {teacher + spent:.0f} s with one teacher, {n * teacher + spent:.0f} s with one each"
            )
        return [f"Seconds of training by number of students: {'; '.join(text)}."]


def results_markdown(results: StudyResults) -> str:
    """All tables and sentences, for `docs/results.md`."""
    parts = [f"# {results.experiment}: what distillation gives", f"    {results.command}"]
    parts += [results.made, results.how_to_read, f"The second table of a study: {HOW_TO_READ}"]
    for study, rows in results.studies.items():
        table = _table(rows, results.tasks)
        lines = [["loss of", "arm", "against", *table.titles], ["---"] * 3 + ["---:"] * len(table.titles)]
        for loss, arms in table.blocks:
            for row, cells in arms:
                baseline = f"`{row['baseline']}`" if row["baseline"] else DASH
                lines.append([loss, f"`{row['arm']}`", baseline, *cells])
        parts.append(f"## {study}")
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
        message = sentences(study, rows, results.tasks) + results.costs(rows)
        parts.append("\n".join(f"- {sentence}" for sentence in message))
        heads, facts = results.facts_of(rows)
        lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *([f"`{arm}`", *rest] for arm, *rest in facts)]
        if len(heads) > 1:
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts) + "\n"


def results_html(results: StudyResults) -> str:
    """The same and the pictures, a page that opens offline; the same input gives the same bytes."""
    jinja = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    style = _REPORT.read_text("utf-8").partition("<style>")[2].partition("</style>")[0]
    sections = [
        {
            "study": study,
            "table": _table(rows, results.tasks),
            "sentences": sentences(study, rows, results.tasks) + results.costs(rows),
            "facts": results.facts_of(rows),
            "pictures": _pictures(study, rows, results.tasks),
        }
        for study, rows in results.studies.items()
    ]
    page = jinja.from_string(_TEMPLATE.read_text("utf-8"))
    return page.render(
        results=results, sections=sections, style=Markup(style), kind=_kind, dash=DASH, beside=HOW_TO_READ
    )


class _Table(NamedTuple):
    titles: list[str]
    """Of an arm's cells."""
    blocks: list[tuple[str, list[tuple[Row, list[str]]]]]
    """By loss: its arms, each with its cells."""


def _table(rows: Sequence[Row], tasks: Sequence[Task]) -> _Table:
    figures = [figure for figure in _FIGURES if any(row[figure.name] is not None for row in rows)]
    blocks = []
    for loss, block in groupby(rows, lambda row: _loss(row, tasks)):
        arms = [
            (row, [_number(row["loss"], ".4f"), *(_text(row, figure) for figure in figures)]) for row in block
        ]
        blocks.append((loss, arms))
    return _Table(["loss", *(figure.title for figure in figures)], blocks)


def _loss(row: Row, tasks: Sequence[Task]) -> str:
    (task,) = (task for task in tasks if task.name == row["task"])
    return f"{task.name} {LABELS[kind_of(task).loss_name]}"


def _number(value: float | None, form: str) -> str:
    return DASH if value is None else format(value, form).replace("-", "−")


def _text(row: Row, figure: _Figure, unit: str = "") -> str:
    """As in −1.60 (−2.01 to −1.19)."""
    values = [row[figure.name + end] for end in ("", "_low", "_high")]
    value, low, high = (_number(v and figure.factor * v, figure.form) for v in values)
    return f"{value}{unit} ({low} to {high})" if values[0] is not None else DASH


def _verdict(row: Row, figure: _Figure) -> str:
    """`better` or `worse` where the whole interval is, as it is shown; `none`; '' where it is not known."""
    bounds = [row[f"{figure.name}{end}"] for end in ("_low", "_high")]
    if None in bounds or not figure.words:
        return ""
    low, high = (round(figure.factor * bound, int(figure.form[-2])) for bound in bounds)
    return "better" if high < 0 else "worse" if low > 0 else "none"


def _kind(row: Row, title: str) -> str:
    """The class of a table's cell."""
    verdicts = [_verdict(row, figure) for figure in _FIGURES if figure.title == title]
    return {"better": "good", "worse": "bad"}.get("".join(verdicts), "")


def sentences(study: str, rows: Sequence[Row], tasks: Sequence[Task]) -> list[str]:
    """What a study shows: one sentence on the losses, and one on the calibration, of each arm or curve."""
    message: dict[str, list[Row]] = {}
    for row in rows:
        if row["baseline"] is not None:
            of = f"{row['arm']} against {row['baseline']}"
            if row["x"] is not None:
                of = f"{row['group'] or 'arms'} by {_axis(study)}, against {_baselines(rows, row['group'])}"
            message.setdefault(of, []).append(row)
    return [f"{of}: {_findings(own, tasks)}" for of, own in message.items()] or ["Nothing is compared here."]


def _axis(study: str) -> str:
    """What a study varies: its name without its number."""
    return study.partition(" ")[2] or study


def _baselines(rows: Sequence[Row], group: str) -> str:
    names = {row["baseline"] for row in rows if row["x"] is not None and row["group"] == group} - {None}
    return names.pop() if len(names) == 1 else "their baselines"


def _findings(rows: Sequence[Row], tasks: Sequence[Task]) -> str:
    describe = _over_x if rows[0]["x"] is not None else _of_one
    losses, calibrations = [], []
    for _, block in groupby(rows, itemgetter("task")):
        own = list(block)
        losses.append(f"{_loss(own[0], tasks)} {describe(own, _DELTA)}")
        if any(row["farther"] is not None for row in own):
            calibrations.append(f"{own[0]['task']} {describe(own, _FARTHER)}")
    text = "; ".join(losses) + "."
    return f"{text} Calibration: {'; '.join(calibrations)}." if calibrations else text


def _of_one(rows: Sequence[Row], figure: _Figure) -> str:
    (row,) = rows
    verdict = _verdict(row, figure)
    if not verdict:
        return "is not known"
    value = f"{row['calibration']:.3f}, " if figure is _FARTHER else ""
    message = {**figure.words, "none": "no difference is shown"}[verdict]
    return f"{value}{_text(row, figure, figure.unit)}{':' if verdict == 'none' else ','} {message}"


def _over_x(rows: Sequence[Row], figure: _Figure) -> str:
    """At which x it is better, and where most; where worse; where neither is shown."""
    parts = []
    for verdict in ("better", "worse", "none", ""):
        found = sorted((row for row in rows if _verdict(row, figure) == verdict), key=itemgetter("x"))
        if not found:
            continue
        *places, last = (f"{row['x']:g}" for row in found)
        at = f"at {', '.join(places)} and {last}" if places else f"at {last}"
        if verdict in figure.words:
            most = max(found, key=lambda row: abs(row[figure.name]))
            where = f"most at {most['x']:g}: " if places else ""
            parts.append(f"is {figure.words[verdict]} {at}, {where}{_text(most, figure, figure.unit)}")
        else:
            parts.append(f"{'shows no difference' if verdict else 'is not known'} {at}")
    return ", ".join(parts)


class _Picture(NamedTuple):
    title: str
    svg: Markup
    read: str


def _pictures(study: str, rows: Sequence[Row], tasks: Sequence[Task]) -> list[_Picture]:
    """Of each loss: all arms that are compared; and where some stand at an x, a curve over it."""
    arms, curves = [], []
    for _, block in groupby(rows, itemgetter("task")):
        compared = [row for row in block if row["delta_low"] is not None]
        placed = [row for row in compared if row["x"] is not None]
        if compared:
            title = f"{_loss(compared[0], tasks)} against the baseline"
            read = "Left of the line at 0 an arm does better than its baseline. Lines: 95 % intervals."
            arms.append(_Picture(title, _whiskers(compared, f"{study}: {title}, by arm"), read))
        if len({row["x"] for row in placed}) > 1:
            title += f", by {_axis(study)}"
            read = "Below the line at 0 arms do better than their baselines. Bands: 95 % intervals."
            curves.append(_Picture(title, _curves(placed, f"{study}: {title}", _axis(study)), read))
    return arms + curves


def _colours(rows: Sequence[Row]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each group."""
    groups = dict.fromkeys(row["group"] for row in rows)
    return {group: (COLOURS[i % 6], "os^Dv"[i % 5]) for i, group in enumerate(groups)}


@matplotlib.rc_context(STYLE)
def _whiskers(rows: Sequence[Row], label: str) -> Markup:
    canvas = Canvas(figsize=(4.6, 0.55 + 0.24 * len(rows)), layout="constrained")
    axes = canvas.subplots()
    colours = _colours(rows)
    arms = [row["arm"] for row in rows]
    names = []
    for y, row in enumerate(rows):
        colour, marker = colours[row["group"]]
        axes.plot([row["delta_low"], row["delta_high"]], [y, y], color=colour, linewidth=1.6)
        axes.plot([row["delta"]], [y], color=colour, marker=marker, markersize=5)
        against = f" − {short_name(row['baseline'])}" if arms.count(row["arm"]) > 1 else ""
        names.append(short_name(row["arm"]) + against)
    axes.axvline(0, color=INK, linewidth=1, alpha=0.6, zorder=1)
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(PercentFormatter())
    return to_svg(canvas, label)


@matplotlib.rc_context(STYLE)
def _curves(rows: Sequence[Row], label: str, axis: str) -> Markup:
    canvas = Canvas(figsize=(4.6, 2.8), layout="constrained")
    axes = canvas.subplots()
    for group, (colour, marker) in _colours(rows).items():
        own = sorted((row for row in rows if row["group"] == group), key=itemgetter("x"))
        x, y, low, high = ([row[name] for row in own] for name in ("x", "delta", "delta_low", "delta_high"))
        axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(x, y, color=colour, marker=marker, markersize=4, linewidth=1.6, label=short_name(group))
    axes.axhline(0, color=INK, linewidth=1, alpha=0.6, zorder=1)
    places = sorted({row["x"] for row in rows})
    axes.set_xticks(places, [f"{x:g}" for x in places])
    axes.set_xlabel(axis, color=INK)
    axes.yaxis.set_major_formatter(PercentFormatter())
    if len(_colours(rows)) > 1:
        axes.legend(frameon=False)
    return to_svg(canvas, label)
