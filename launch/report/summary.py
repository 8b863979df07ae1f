"""The results of a run: the numbers that the terminal and the HTML report share, and the terminal's tables."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from types import MappingProxyType
from typing import TextIO

import polars as pl
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.printable import printable_lines
from tutelage.trainers.checkpoints import State
from tutelage.trainers.run import TEACHER, is_teacher

DASH = "–"
FEED_WAIT = "Feed wait: the share of a model's time spent waiting for its days to be read."
LAST_DAYS = 3
"""How many of the run's last days a mean is taken over."""
LABELS = {
    "auc": "AUC",
    "log_loss": "log loss",
    "log_loss_delta": "Δ %",
    "calibration": "calibration",
    "ltv_loss": "E(LTV) loss",
    "ltv_loss_delta": "Δ %",
    "label_coverage": "label coverage",
}
"""What known metrics are called, in the order of the columns. Losses of a user's own tasks come after them."""
NOTES = {"sampled": "negatives sampled", "late": "late", "masked": "labels not mature"}
"""Further counts of a day's kept rows (`pipeline.materialize.Counts`), and what they are called."""
_FORMATS = {"calibration": ".3f", "label_coverage": ".1%"}
# In two lines, so that three tasks fit in 100 columns.
_NARROW = {
    "log_loss": "log\nloss",
    "calibration": "\ncalib.",
    "ltv_loss": "E(LTV)\nloss",
    "label_coverage": "label\ncover.",
}
_KEY = ["day", "model", "task", "metric"]


def is_loss(metric: str) -> bool:
    """Return whether a metric is a loss, by which models are compared with their baselines."""
    return metric.endswith("_loss")


def label_of(metric: str) -> str:
    """Return what a metric is called; one that is not in `LABELS` is called by its name."""
    return LABELS.get(metric, "Δ %" if metric.endswith("_delta") else metric.replace("_", " "))


def show(value: float | None, metric: str = "") -> str:
    """Return a number as people read it, in the format of `metric`; a dash if it is unknown or not finite.

    Without a metric, and for a metric that is neither known nor a loss, it is a count.
    """
    if value is None or not math.isfinite(value):
        return DASH
    if metric.endswith("_delta"):
        return format(value, "+z.2f")
    return format(value, _FORMATS.get(metric, ".4f" if metric in LABELS or is_loss(metric) else ",.0f"))


def noted(counts: Mapping[str, int]) -> str:
    """Return the counts that are not 0, as in ` (5 late, 3 labels not mature)`; '' where all are 0.

    Sampled negatives are left out, because they are no part of the rows that came in.
    """
    shown = {name: what for name, what in NOTES.items() if name != "sampled"}
    found = ", ".join(f"{counts[name]:,} {what}" for name, what in shown.items() if counts[name])
    return f" ({found})" if found else ""


def came_in(rows_in: int, sampled: int, rows: str = "rows in") -> str:
    """Return what kept and dropped rows add up to, as in `20 rows in + 80 negatives sampled`."""
    return f"{rows_in:,} {rows}" + (f" + {sampled:,} negatives sampled" if sampled else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What a run's `metrics` say about all rows (slice '') of each day.

    `values` has the columns day, model, task, metric, value. Scores have the basis `day_ahead`, counts (task '') the
    basis `pre_update`. For each loss there is `<loss>_delta`, the difference from the loss of the model's baseline in
    percent, on the days that both have. A value that is not finite is null.
    """

    values: pl.DataFrame
    models: tuple[str, ...]
    tasks: tuple[str, ...]
    trained: dict[str, list[date]]
    """The days that each model has been trained on."""
    baselines: dict[str, str]
    """From a student to its baseline."""
    teacher: str = TEACHER
    """The model that labels."""
    units: Mapping[str, str] = field(default_factory=dict)
    """The unit of a task's values, where it is known."""

    @classmethod
    def of(
        cls,
        metrics: pl.DataFrame,
        baselines: Mapping[str, str],
        *,
        students: Sequence[str] = (),
        tasks: Sequence[str] = (),
        teacher: str = TEACHER,
        units: Mapping[str, str] = MappingProxyType({}),
    ) -> "Results":
        """Return the results in `metrics`, which are of one run.

        The models are in this order: `teacher`, other teachers, `students` (trained or not), any others. `tasks` come
        before any other task. Raises UserError where a value occurs twice, as in the metrics of two runs.
        """
        basis = pl.when(pl.col("task") == "").then(pl.lit("pre_update")).otherwise(pl.lit("day_ahead"))
        values = metrics.filter(pl.col("slice") == "", pl.col("basis") == basis)
        twice = values.filter(pl.struct(_KEY).is_duplicated())
        if not twice.is_empty():
            runs = twice["run"].unique().sort().to_list()
            raise UserError(f"metrics hold {twice.row(0, named=True)} twice, in runs {runs}; keep one run")
        # A day that did not pass its gate has a verdict in the metrics, but was not trained on.
        metrics = metrics.filter(pl.col("basis").is_in(["day_ahead", "pre_update"]))
        trained = metrics.group_by("model", maintain_order=True).agg(pl.col("day").unique().sort())
        found = trained["model"].to_list()
        teachers = sorted((m for m in found if is_teacher(m)), key=lambda m: m != teacher)
        models = dict.fromkeys([*teachers, *students, *found])
        found_tasks = metrics["task"].unique(maintain_order=True)
        values = values.select(*_KEY, "value")
        values = pl.concat([values, _deltas(values, baselines)]).sort(_KEY)
        return cls(
            values=values.with_columns(value=pl.when(pl.col("value").is_finite()).then("value")),
            models=tuple(models),
            tasks=tuple(dict.fromkeys([*tasks, *(task for task in found_tasks if task)])),
            trained={**{model: [] for model in models}, **dict(trained.iter_rows())},
            baselines=dict(baselines),
            teacher=teacher,
            units=dict(units),
        )

    @property
    def days(self) -> list[date]:
        """The days that any model has been trained on, in order."""
        return sorted({day for days in self.trained.values() for day in days})

    def columns(self, *, brief: bool = False) -> list[tuple[str, str]]:
        """Return (task, metric) of each column; `brief` keeps AUC and one loss of every binary task but the first."""
        present = set(self.values.select("task", "metric").unique().iter_rows())
        compared = {(task, f"{loss}_delta") for task, loss in present if is_loss(loss) and self.baselines}
        own = sorted({m for _, m in present | compared if is_loss(m.removesuffix("_delta"))} - LABELS.keys())
        columns = [(t, m) for t in (*self.tasks, "") for m in (*LABELS, *own) if (t, m) in present | compared]
        binary = [task for task, metric in columns if metric == "auc"]
        dropped = {"calibration", "log_loss"} if compared else {"calibration"}
        return [(t, m) for t, m in columns if not (brief and t in binary[1:] and m in dropped)]

    def means(self, last_days: int) -> dict[tuple[str, str, str], float | None]:
        """Return (model, task, metric) → plain mean over those of the run's last days that the model has."""
        recent = self.values.filter(pl.col("day").is_in(self.days[-last_days:]))
        means = recent.group_by("model", "task", "metric").agg(pl.col("value").mean())
        return {(model, task, metric): value for model, task, metric, value in means.iter_rows()}

    def span(self, last_days: int) -> str:
        """Return the run's last `last_days` days, as in `2024-05-01 to 2024-05-03`."""
        days = self.days[-last_days:]
        return " to ".join(str(day) for day in dict.fromkeys([*days[:1], *days[-1:]]))

    def caption(self, last_days: int) -> str:
        """Return how the means were made and how to read them."""
        if not self.days:
            return "No model has been trained yet."
        count = len(self.days[-last_days:])
        days = "day" if count == 1 else "days"
        text = f"Plain mean over the last {count} {days} ({self.span(last_days)}) that a model has."
        text += " Every day is scored before the model is trained on it."
        text += " Better: higher AUC, lower loss, calibration near 1."
        if self.baselines:
            text += f" Δ %: difference from the baseline's loss on the days both have ({self.against});"
            text += " negative is better."
        shown = dict(self.columns())
        if units := [f"{unit} for {task}" for task, unit in self.units.items() if task in shown]:
            text += f" Values are in {', '.join(units)}; losses of values are of their log1p."
        return text

    @property
    def against(self) -> str:
        """Which students are compared with which baseline."""
        students: dict[str, list[str]] = {}
        for student, baseline in self.baselines.items():
            students.setdefault(baseline, []).append(student)
        return "; ".join(f"{', '.join(names)} against {baseline}" for baseline, names in students.items())

    def _end(self, until: date | None) -> date:
        return max(self.days[-1], until or self.days[-1])

    def behind(self, until: date | None = None) -> list[str]:
        """Return which models have not reached the last day, and how far they are.

        The last day is the last that any model has been trained on, or `until` if that is later.
        """
        return [
            f"{model} {f'ended on {days[-1]}' if days else 'has not been trained yet'}"
            for model, days in self.trained.items()
            if not self.days or days[-1:] != [self._end(until)]
        ]

    def reached(self, until: date | None = None) -> str:
        """Return a sentence that says whether all models have reached the last day; `until` as in `behind`."""
        if not self.days:
            return "No model has been trained yet."
        if behind := self.behind(until):
            return f"Not all models reached {self._end(until)}: {'; '.join(behind)}."
        return f"All {len(self.models)} models reached {self._end(until)}."


def _deltas(values: pl.DataFrame, baselines: Mapping[str, str]) -> pl.DataFrame:
    pairs = pl.DataFrame(
        list(baselines.items()), schema={"model": pl.String, "other": pl.String}, orient="row"
    )
    base = values.select("day", "task", "metric", other="model", base="value")
    losses = values.filter(pl.col("metric").str.ends_with("_loss")).join(pairs, on="model")
    both = losses.join(base, on=["day", "task", "metric", "other"])  # an inner join: the days that both have
    percent = 100 * (pl.col("value") / pl.col("base") - 1)
    return both.select("day", "model", "task", metric=pl.col("metric") + "_delta", value=percent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """How fast a model was trained."""

    model: str
    examples: int
    examples_per_second: float
    """Of its updates alone."""
    feed_wait_share: float
    """Share of the time spent waiting for the feed."""


def throughput(states: Mapping[str, Sequence[State]]) -> list[Throughput]:
    """Return the throughput of each model, from its states; a model whose time was not recorded is left out."""
    found = []
    for model, trained in states.items():
        seconds = sum(state.seconds for state in trained)
        waited = sum(state.waited for state in trained)
        examples = sum(state.rows for state in trained)
        if seconds:
            speed = Throughput(
                model=model,
                examples=examples,
                examples_per_second=examples / seconds,
                feed_wait_share=waited / (waited + seconds),
            )
            found.append(speed)
    return found


def throughput_cells(speed: Throughput) -> list[str]:
    """Return examples, examples per second and feed wait as text."""
    counts = [show(speed.examples), show(speed.examples_per_second)]
    return [*counts, show(speed.feed_wait_share, "label_coverage")]


class PrintableConsole(Console):
    """Prints names and texts that came from outside as `printable` shows them, in tables and bars too."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        # A cell is escaped before it is folded to the width of its column.
        if isinstance(renderable, Text) and (shown := printable_lines(renderable.plain)) != renderable.plain:
            renderable = Text(shown, style=renderable.style, overflow=renderable.overflow)
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable_lines(segment.text))


def print_summary(results: Results, *, speeds: Sequence[Throughput] = (), file: TextIO | None = None) -> None:
    """Print whether all models reached the last day, the results, and `speeds` if there are any."""
    console = PrintableConsole(file=file, highlight=False, markup=False)
    console.print(f"\n{results.reached()}", soft_wrap=True)
    print_table(console, results_table(results))
    if speeds:
        table = simple_table("model", "examples", "examples/s", "feed wait", caption=FEED_WAIT)
        for speed in speeds:
            table.add_row(*(Text(cell) for cell in (speed.model, *throughput_cells(speed))))
        print_table(console, table)
    console.print()


def results_table(results: Results, *, last_days: int = LAST_DAYS) -> Table:
    """Return a table with a row per model: the days trained and, for each task, the mean over the last days."""
    columns, means = results.columns(brief=True), results.means(last_days)
    table = simple_table("model", "days", caption=results.caption(last_days))
    for (task, metric), (before, _) in zip(columns, [("", ""), *columns], strict=False):
        alone = metric == "log_loss_delta" and (task, "log_loss") not in columns
        first = task != before  # names the task and stands a little apart
        label = "loss\nΔ %" if alone else _NARROW.get(metric, f"\n{label_of(metric)}")
        head = Text(f"{task if first else ''}\n{label}")
        table.add_column(head, justify="right", min_width=8 if first else None)
    for model in results.models:
        cells = [show(means.get((model, *column)), column[1]) for column in columns]
        styles = ["" if cell == "+0.00" else {"-": "green", "+": "red"}.get(cell[0], "") for cell in cells]
        table.add_row(
            Text(model, style="bold" if model == results.teacher else ""),
            str(len(results.trained[model])),
            *(Text(cell, style=style) for cell, style in zip(cells, styles, strict=True)),
        )
    return table


def print_table(console: Console, table: Table) -> None:
    """Print the table after an empty line, as wide as it is."""
    # A log has no width, and in a narrow terminal a wrapped line is better than a number cut short.
    console.width = max(console.width, Console(width=10_000).measure(table).maximum)
    console.print()
    console.print(table)


def simple_table(first: str, *others: str, title: str = "", caption: str = "") -> Table:
    """Return an empty table: the `first` column holds names, the `others` numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.title, table.title_justify = Text(title, style="bold") if title else None, "left"
    table.caption, table.caption_justify = Text(caption, style="dim") if caption else None, "left"
    table.add_column(first, overflow="fold", max_width=28, vertical="bottom")
    for name in others:
        table.add_column(name, justify="right", vertical="bottom")
    return table
