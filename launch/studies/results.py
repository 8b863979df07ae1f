"""What a study found: its comparisons and facts, and how their numbers are written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import groupby
from typing import Any, NamedTuple

import polars as pl

from tutelage.launch.report.summary import DASH, label_of
from tutelage.launch.studies.facts import TITLES
from tutelage.models.task_kinds import kind_of
from tutelage.pipeline.schema import Task

Row = Mapping[str, Any]
"""A row of `statistics.COMPARISONS`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A column of the comparisons that has an interval, and how it is written."""

    name: str
    title: str
    form: str
    unit: str = ""
    factor: float = 1.0
    words: Mapping[str, str] = field(default_factory=dict)
    """What it means that the whole interval lies below 0 (`better`) or above it (`worse`); empty if 0 means nothing."""

    def text(self, row: Row, unit: str = "") -> str:
        """Return the value and its interval, as in `−1.60 (−2.01 to −1.19)`; a dash if the value is unknown."""
        values = [row[self.name + end] for end in ("", "_low", "_high")]
        value, low, high = (number(v and self.factor * v, self.form) for v in values)
        if values[0] is None:
            return DASH
        return f"{value}{unit}" if values[1:] == [None, None] else f"{value}{unit} ({low} to {high})"

    def verdict(self, row: Row) -> str:
        """Return `better` or `worse` if the interval as written excludes 0, else `none`; '' if it is unknown."""
        bounds = [row[f"{self.name}{end}"] for end in ("_low", "_high")]
        if None in bounds or not self.words:
            return ""
        low, high = (round(self.factor * bound, int(self.form[-2])) for bound in bounds)
        return "better" if high < 0 else "worse" if low > 0 else "none"


DELTA = Quantity(
    name="delta",
    title="Δ %",
    form="+z.2f",
    unit=" %",
    words={"better": "better", "worse": "worse"},
)
FARTHER = Quantity(
    name="farther",
    title="farther from 1, points",
    form="+z.1f",
    unit=" points",
    factor=100.0,
    words={"better": "closer to 1", "worse": "farther from 1"},
)
QUANTITIES = (
    DELTA,
    Quantity(name="calibration", title="calibration", form=".3f"),
    FARTHER,
    Quantity(name="transfer_ratio", title="transfer ratio", form="z.2f"),
)


class Table(NamedTuple):
    """The comparisons of a study as text."""

    titles: list[str]
    """The columns of an arm's cells."""
    blocks: list[tuple[str, list[tuple[Row, list[str]]]]]
    """For each loss its arms, each with its cells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResults:
    """What was compared, and how it was made."""

    experiment: str
    comparisons: pl.DataFrame
    """As `statistics.compare` returns them."""
    facts: pl.DataFrame
    """arm, task, metric, value: means over seeds (`facts.TITLES`)."""
    tasks: Sequence[Task]
    command: str
    created: str
    """Shown as it is."""
    days: Sequence[date]
    """The judged days."""

    @property
    def title(self) -> str:
        return f"{self.experiment}: the effect of distillation"

    @property
    def studies(self) -> dict[str, list[dict[str, Any]]]:
        """The comparisons of each study: by task in the schema's order, then by arm in the study's order."""
        order = [task.name for task in self.tasks]
        rows = sorted(self.comparisons.iter_rows(named=True), key=lambda row: order.index(row["task"]))
        names = self.comparisons["study"].unique(maintain_order=True)
        return {study: [row for row in rows if row["study"] == study] for study in names}

    @property
    def made(self) -> str:
        """The judged days, their rows, and the seeds."""
        seeds, rows = self.comparisons["seeds"][0], self.comparisons["rows"][0]
        counted = f"{seeds} seeds" if seeds > 1 else "one seed"
        days = " to ".join(dict.fromkeys([str(self.days[0]), str(self.days[-1])]))
        return f"Judged on {days} ({rows:,} rows), {counted}. Made {self.created}."

    @property
    def how_to_read(self) -> str:
        """What the columns and the intervals mean."""
        scatter = "Student's t allows for the small number of seeds"
        if self.comparisons["seeds"][0] == 1:
            scatter = "they do not include how much another seed would differ"
        return (
            "Loss: plain mean over seeds and days of a day's mean. Every day is scored before the model is trained on "
            "it. Δ %: difference from the baseline's loss, paired by seed, user and row; negative is better. "
            "Calibration: sum of predictions over sum of labels, over all judged days. Farther from 1: how much "
            "farther from 1 the calibration is than the baseline's, in hundredths; negative is closer. Transfer ratio: "
            "the share of the teacher's lead over the baseline that the arm gains. In brackets: 95 % intervals. They "
            f"resample the users of each day with replacement; {scatter}. One interval in twenty misses by chance, and "
            "this page has many. A ratio has no interval if it is not certain that the teacher is ahead."
        )

    def table(self, rows: Sequence[Row]) -> Table:
        """Return the comparisons `rows` of a study as text, without the columns of which nothing is known."""
        shown = [q for q in QUANTITIES if any(row[q.name] is not None for row in rows)]
        blocks = []
        for loss, block in groupby(rows, self.loss):
            arms = [(row, [number(row["loss"], ".4f"), *(q.text(row) for q in shown)]) for row in block]
            blocks.append((loss, arms))
        return Table(["loss", *(q.title for q in shown)], blocks)

    def loss(self, row: Row) -> str:
        """Return what the loss of a comparison is called, as in `click log loss`."""
        (task,) = (task for task in self.tasks if task.name == row["task"])
        return f"{task.name} {label_of(kind_of(task).loss_name)}"

    def facts_of(self, rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
        """Return heads and rows of the second table: facts of the first binary task, and seconds."""
        task = next((task.name for task in self.tasks if task.is_binary), "")
        chosen = self.facts.filter(pl.col("task").is_in([task, ""]), pl.col("value").is_not_nan())
        values = {
            (arm, metric): value for arm, metric, value in chosen.select("arm", "metric", "value").iter_rows()
        }
        arms = list(dict.fromkeys(row["arm"] for row in rows))
        metrics = [metric for metric in TITLES if any((arm, metric) in values for arm in arms)]

        def cell(arm: str, metric: str) -> str:
            form = ".1f" if metric == "seconds" else ".4f"
            text = number(values.get((arm, metric)), form)
            bounds = [values.get((arm, f"{metric}{end}")) for end in ("_low", "_high")]
            if None in bounds:
                return text
            return f"{text} ({' to '.join(number(bound, form) for bound in bounds)})"

        heads = [f"{task} of", *(TITLES[metric] for metric in metrics)]
        return heads, [[arm, *(cell(arm, metric) for metric in metrics)] for arm in arms]

    def costs(self, rows: Sequence[Row]) -> list[str]:
        """Return a sentence on the training time of the first n students of one teacher, in the order of x."""
        seconds = dict(self.facts.filter(metric="seconds").select("arm", "value").iter_rows())
        students = {row["x"]: row["arm"] for row in rows if row["group"] == "students" and row["baseline"]}
        teacher = next((seconds[row["arm"]] for row in rows if row["group"] == "teacher"), None)
        if not students or teacher is None:
            return []
        spent, text = 0.0, []
        for n, (_, arm) in enumerate(sorted(students.items()), 1):
            spent += seconds[arm]
            text.append(
                f"{n}: {teacher + spent:.0f} s with a shared teacher, {n * teacher + spent:.0f} s with one each"
            )
        return [f"Training time by number of students: {'; '.join(text)}."]


def number(value: float | None, form: str) -> str:
    """Return a number with a true minus sign; a dash if it is unknown."""
    return DASH if value is None else format(value, form).replace("-", "−")


def axis(study: str) -> str:
    """Return what a study varies: its name without its number."""
    return study.partition(" ")[2] or study
