"""The charts of the data by day: what they show, and which day is marked."""

import re
from collections.abc import Mapping
from datetime import date

import polars as pl

from tutelage.launch.report.drawing import Chart
from tutelage.launch.report.drift import data_charts

SCHEMA = {
    "day": pl.Date,
    "column": pl.String,
    "rows": pl.Int64,
    "nulls": pl.Int64,
    "mean": pl.Float64,
    "max": pl.Float64,
    "drift": pl.Float64,
    "new_ids": pl.Float64,
    "quarantined": pl.Boolean,
}


def _statistics(days: int = 4, bad: int = 3) -> pl.DataFrame:
    rows: list[tuple[object, ...]] = []
    for n in range(1, days + 1):
        day, first, out = date(2026, 1, 1).replace(day=n), n == 1, n == bad
        rows += [
            (day, "user", 100, 0, None, None, None if first else 0.12, None if first else 0.07, out),
            (day, "age", 100, 100 if out else 25, 40.0, 90.0, None if first or out else 0.034, None, out),
            (day, "click", 100, 0, 0.5 if out else 0.05, 1.0, None if first else 0.001, None, out),
            (day, "seconds", 100, 0, 20.0, 300.0, None if first else 1.25, None, out),
        ]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _drawn(statistics: pl.DataFrame) -> Mapping[str, Chart]:
    return {chart.title: chart for chart in data_charts(statistics, ["click", "seconds"])}


def _texts(chart: Chart) -> list[str]:
    return re.findall(r">([^<>\n]+)</text>", chart.svg)


def test_drift_is_shown_for_each_column_and_day() -> None:
    texts = _texts(_drawn(_statistics())["Drift of each column"])
    # A binary label is judged by its mean alone.
    assert [text for text in texts if text.isalpha()] == ["user", "age", "seconds"]
    assert [texts.count(value) for value in (".12", ".03", "1.2")] == [3, 2, 3]


def test_columns_without_new_ids_or_nulls_are_left_out() -> None:
    drawn = _drawn(_statistics())
    new, nulls = _texts(drawn["New ids"]), _texts(drawn["Nulls"])
    assert [text for text in new if text.isalpha()] == ["user"]
    assert new.count(".07") == 3
    assert [text for text in nulls if text.isalpha()] == ["age"]
    assert [nulls.count(value) for value in (".25", "1.0")] == [3, 1]


def test_a_day_in_quarantine_is_marked_by_dashed_lines() -> None:
    for statistics, lines in ((_statistics(), 2), (_statistics(bad=0), 0)):
        drawn = _drawn(statistics)
        for title, panels in (("Drift of each column", 1), ("Nulls", 1), ("Labels", 2)):
            assert drawn[title].svg.count("stroke-dasharray: 3,2") == lines * panels
            assert ("between dashed lines" in drawn[title].caption) == bool(lines)


def test_every_label_has_its_own_panel() -> None:
    texts = _texts(_drawn(_statistics())["Labels"])
    assert [text for text in texts if text.isalpha()] == ["click", "seconds"]


def test_one_day_has_no_drift_and_no_day_has_no_chart() -> None:
    assert list(_drawn(_statistics(days=1))) == ["Nulls", "Labels"]
    assert _drawn(_statistics(days=0)) == {}


def test_cells_of_many_days_show_no_numbers() -> None:
    texts = _texts(_drawn(_statistics(days=20))["Drift of each column"])
    assert ".12" not in texts
    assert "01-20" in texts
