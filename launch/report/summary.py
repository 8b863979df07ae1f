"""The results of a run: the numbers the terminal and the HTML report share, and the terminal's tables."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, TextIO

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tutelage.pipeline.errors import UserError
from tutelage.trainers.run import TEACHER, is_teacher

DASH = "–"
FEED_WAIT = "Feed wait: share of a model's time spent waiting until its days were read."


def is_loss(metric: str) -> bool:
    """Return whether models are compared by this metric (`TaskKind.loss_name`)."""
    return metric.endswith("_loss")


class _Labels(dict[str, str]):
    """What a metric is called; the loss of a user's own task kind is called by its name."""

    def __missing__(self, metric: str) -> str:
        return "Δ %" if metric.endswith("_delta") else metric.replace("_", " ")


LABELS = _Labels(
    {
        "auc": "AUC",
        "log_loss": "log loss",
        "log_loss_delta": "Δ %",
        "calibration": "calibration",
        "ltv_loss": "E(LTV) loss",
        "ltv_loss_delta": "Δ %",
        "label_coverage": "label coverage",
    }
)
NOTES = {"late": "late", "masked": "labels not mature"}
"""What is said of a day's kept rows besides (`pipeline.materialize.Counts`)."""
_FORMATS = {
    "calibration": ".3f",
    "label_coverage": ".1%",
}
# In two lines, so that three tasks fit in 100 columns.
_NARROW = {
    "log_loss": "log\nloss",
    "calibration": "\ncalib.",
    "ltv_loss": "E(LTV)\nloss",
    "label_coverage": "label\ncover.",
}
_KEY = ["day", "model", "task", "metric"]


def show(value: float | None, metric: str = "") -> str:
    """Format a number for people: a count where `metric` is neither a loss nor in `LABELS`, a dash for None."""
    if value is None or not math.isfinite(value):
        return DASH
    if metric.endswith("_loss_delta"):
        return format(value, "+z.2f")
    measure = metric in LABELS or is_loss(metric)
    return format(value, _FORMATS.get(metric, ".4f" if measure else ",.0f"))


def noted(counts: Mapping[str, int]) -> str:
    """` (5 late, 3 labels not mature)`, of what there is any."""
    found = ", ".join(f"{counts[name]:,} {what}" for name, what in NOTES.items() if counts[name])
    return f" ({found})" if found else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What a run's `metrics` say of all rows (slice '') of each day.

    `values` has the columns day, model, task, metric, value: qualities of basis `day_ahead`, counts (task '')
    of basis `pre_update`, and for each loss `<loss>_delta`, the difference from the model's baseline in
    percent, on the days both have. A value that is not finite is null.
    """

    values: pl.DataFrame
    models: tuple[str, ...]
    tasks: tuple[str, ...]
    trained: dict[str, list[date]]
    baselines: dict[str, str]
    teacher: str = TEACHER
    """The model that labels."""

    @classmethod
    def of(
        cls,
        metrics: pl.DataFrame,
        baselines: Mapping[str, str],
        *,
        students: Sequence[str] = (),
        tasks: Sequence[str] = (),
        teacher: str = TEACHER,
    ) -> "Results":
        """The teacher comes first, others after it, then `students`, with or without a day learnt, then any others.

        Raises UserError where a value is there twice, as in the metrics of two runs.
        """
        basis = pl.when(pl.col("task") == "").then(pl.lit("pre_update")).otherwise(pl.lit("day_ahead"))
        values = metrics.filter(pl.col("slice") == "", pl.col("basis") == basis)
        twice = values.filter(pl.struct(_KEY).is_duplicated())
        if not twice.is_empty():
            runs = twice["run"].unique().sort().to_list()
            raise UserError(f"metrics hold {twice.row(0, named=True)} twice, in runs {runs}; keep one run")
        # A day that did not pass its gate has a verdict, and was not learnt.
        metrics = metrics.filter(pl.col("basis").is_in(["day_ahead", "pre_update"]))
        found = metrics["model"].unique(maintain_order=True).to_list()
        teachers = sorted((m for m in found if is_teacher(m)), key=lambda m: m != teacher)
        models = dict.fromkeys([*teachers, *students, *found])
        values = values.select(*_KEY, "value")
        values = pl.concat([values, _deltas(values, baselines)]).sort(_KEY)
        return cls(
            values=values.with_columns(value=pl.when(pl.col("value").is_finite()).then("value")),
            models=tuple(models),
            tasks=tuple(dict.fromkeys([*tasks, *metrics.filter(pl.col("task") != "")["task"]])),
            trained={
                m: metrics.filter(pl.col("model") == m)["day"].unique().sort().to_list() for m in models
            },
            baselines=dict(baselines),
            teacher=teacher,
        )

    @property
    def days(self) -> list[date]:
        return sorted({day for days in self.trained.values() for day in days})

    def columns(self, *, brief: bool = False) -> list[tuple[str, str]]:
        """(task, metric) of each column; `brief` keeps AUC and one loss of further binary tasks."""
        present = set(self.values.select("task", "metric").unique().iter_rows())
        compared = {(task, f"{loss}_delta") for task, loss in present if is_loss(loss) and self.baselines}
        known = {metric for _, metric in present | compared if is_loss(metric.removesuffix("_delta"))}
        own = sorted(known - set(LABELS))
        columns = [(t, m) for t in (*self.tasks, "") for m in (*LABELS, *own) if (t, m) in present | compared]
        binary = [task for task, metric in columns if metric == "auc"]
        dropped = {"calibration", "log_loss"} if compared else {"calibration"}
        return [(t, m) for t, m in columns if not (brief and t in binary[1:] and m in dropped)]

    def means(self, last_days: int) -> dict[tuple[str, str, str], float | None]:
        """(model, task, metric) → plain mean over the run's last `last_days` days, of the days it has."""
        recent = self.values.filter(pl.col("day").is_in(self.days[-last_days:]))
        means = recent.group_by("model", "task", "metric").agg(pl.col("value").mean())
        return {(model, task, metric): value for model, task, metric, value in means.iter_rows()}

    def span(self, last_days: int) -> str:
        days = self.days[-last_days:]
        return " to ".join(str(day) for day in dict.fromkeys([*days[:1], *days[-1:]]))

    def caption(self, last_days: int) -> str:
        """How the means were made."""
        if not self.days:
            return "No day was learnt."
        count = len(self.days[-last_days:])
        text = f"Plain mean of the days a model has among the last {count} ({self.span(last_days)})."
        text += " Scores made before any of the day was learnt."
        text += " Better: higher AUC, lower loss, calibration near 1."
        if self.baselines:
            text += f" Δ %: loss against the baseline's on the days both have ({self.against});"
            text += " negative is better."
        return text

    @property
    def against(self) -> str:
        """Whose baseline is whose."""
        students: dict[str, list[str]] = {}
        for student, baseline in self.baselines.items():
            students.setdefault(baseline, []).append(student)
        return "; ".join(f"{', '.join(names)} against {baseline}" for baseline, names in students.items())

    def reached(self, *, until: date | None = None) -> str:
        """Whether all models reached the last day: of `until` and of all that was learnt, the later."""
        if not self.days:
            return "No model has learnt a day."
        last = max(self.days[-1], until or self.days[-1])
        behind = [
            f"{model} {f'ended on {days[-1]}' if days else 'has trained on no day'}"
            for model, days in self.trained.items()
            if days[-1:] != [last]
        ]
        if behind:
            return f"Not all models reached {last}: {'; '.join(behind)}."
        return f"All {len(self.models)} models reached {last}."


def _deltas(values: pl.DataFrame, baselines: Mapping[str, str]) -> pl.DataFrame:
    pairs = pl.DataFrame(
        list(baselines.items()), schema={"model": pl.String, "other": pl.String}, orient="row"
    )
    base = values.select("day", "task", "metric", other="model", base="value")
    losses = values.filter(pl.col("metric").str.ends_with("_loss")).join(pairs, on="model")
    both = losses.join(base, on=["day", "task", "metric", "other"])  # inner: the days both have
    percent = 100 * (pl.col("value") / pl.col("base") - 1)
    return both.select("day", "model", "task", metric=pl.col("metric") + "_delta", value=percent)


def results_table(results: Results, *, last_days: int = 3) -> Table:
    """One row per model: days learnt, and for each task the mean over the last days."""
    columns, means = results.columns(brief=True), results.means(last_days)
    table = simple_table("model", "days", caption=results.caption(last_days))
    for (task, metric), (before, _) in zip(columns, [("", ""), *columns], strict=False):
        alone = metric == "log_loss_delta" and (task, "log_loss") not in columns
        first = task != before  # names the task and stands a little apart
        label = "loss\nΔ %" if alone else _NARROW.get(metric, f"\n{LABELS[metric]}")
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


def throughput_rows(throughput: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """Model, examples, examples/s and the share of the time spent waiting for the feed, as text."""
    rates = {"examples": "", "examples_per_second": "", "feed_wait_share": "label_coverage"}
    return [[str(t["model"]), *(show(t[name], like) for name, like in rates.items())] for t in throughput]


def print_summary(
    metrics: pl.DataFrame,
    baselines: Mapping[str, str],
    *,
    throughput: Sequence[Mapping[str, Any]] = (),
    last_days: int = 3,
    students: Sequence[str] = (),
    tasks: Sequence[str] = (),
    teacher: str = TEACHER,
    file: TextIO | None = None,
) -> None:
    """Prints the results, who reached the last day and, where something was trained, how fast."""
    console = Console(file=file, highlight=False, markup=False)
    results = Results.of(metrics, baselines, students=students, tasks=tasks, teacher=teacher)
    print_table(console, results_table(results, last_days=last_days))
    console.print(f"\n{results.reached()}", soft_wrap=True)
    if throughput:
        speed = simple_table("model", "examples", "examples/s", "feed wait", caption=FEED_WAIT)
        for row in throughput_rows(throughput):
            speed.add_row(*(Text(cell) for cell in row))
        print_table(console, speed)
    console.print()


def print_table(console: Console, table: Table) -> None:
    """Prints it after an empty line, as wide as it is."""
    # A log has no width, and in a narrow terminal a wrapped line is better than a number cut short.
    console.width = max(console.width, Console(width=10_000).measure(table).maximum)
    console.print()
    console.print(table)


def simple_table(first: str, *others: str, title: str = "", caption: str = "") -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.title, table.title_justify = Text(title, style="bold") if title else None, "left"
    table.caption, table.caption_justify = Text(caption, style="dim") if caption else None, "left"
    table.add_column(first, overflow="fold", max_width=28, vertical="bottom")
    for name in others:
        table.add_column(name, justify="right", vertical="bottom")
    return table
