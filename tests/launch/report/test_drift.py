"""The pictures of the data by day: what is in them, and which day is marked."""

import re
from collections.abc import Mapping
from datetime import date

import polars as pl

from tutelage.launch.report.drift import Drawn, charts

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


def _drawn(statistics: pl.DataFrame) -> Mapping[str, Drawn]:
    return {picture.title: picture for picture in charts(statistics, ["click", "seconds"])}


def _texts(picture: Drawn) -> list[str]:
    return re.findall(r">([^<>\n]+)</text>", picture.svg)


def test_each_column_has_its_drift_of_each_day() -> None:
    texts = _texts(_drawn(_statistics())["Drift of each column"])
    # A binary label is judged by its mean alone.
    assert [text for text in texts if text.isalpha()] == ["user", "age", "seconds"]
    assert [texts.count(value) for value in (".12", ".03", "1.2")] == [3, 2, 3]


def test_new_ids_and_nulls_have_the_columns_that_have_some() -> None:
    drawn = _drawn(_statistics())
    new, nulls = _texts(drawn["New ids"]), _texts(drawn["Nulls"])
    assert [text for text in new if text.isalpha()] == ["user"]
    assert new.count(".07") == 3
    assert [text for text in nulls if text.isalpha()] == ["age"]
    assert [nulls.count(value) for value in (".25", "1.0")] == [3, 1]


def test_a_day_in_quarantine_stands_between_dashed_lines() -> None:
    for statistics, lines in ((_statistics(), 2), (_statistics(bad=0), 0)):
        drawn = _drawn(statistics)
        for title, panels in (("Drift of each column", 1), ("Nulls", 1), ("Labels", 2)):
            assert drawn[title].svg.count("stroke-dasharray: 3,2") == lines * panels
            assert ("between dashed lines" in drawn[title].read) == bool(lines)


def test_every_label_has_a_panel_of_its_own() -> None:
    texts = _texts(_drawn(_statistics())["Labels"])
    assert [text for text in texts if text.isalpha()] == ["click", "seconds"]


def test_of_one_day_there_is_no_drift_and_of_none_no_picture() -> None:
    assert list(_drawn(_statistics(days=1))) == ["Nulls", "Labels"]
    assert _drawn(_statistics(days=0)) == {}


def test_of_many_days_the_values_are_left_to_the_colours() -> None:
    texts = _texts(_drawn(_statistics(days=20))["Drift of each column"])
    assert ".12" not in texts
    assert "01-20" in texts
