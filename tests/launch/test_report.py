import html
import math
import re
from collections.abc import Iterable
from datetime import date
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tutelage.launch.report import write_report
from tutelage.pipeline.schema import METRICS


def _metrics(rows: Iterable[tuple[str, str, str, dict[int, float]]]) -> pl.DataFrame:
    """From (model, task, metric, value by day of May 2024)."""
    long = [
        ("r", date(2024, 5, day), task, metric, "", "day_ahead" if task else "pre_update", value, 1000, model)
        for model, task, metric, values in rows
        for day, value in values.items()
    ]
    return pl.DataFrame(long, schema={**pl.Schema(METRICS), "model": pl.String}, orient="row")


def _counts(*rows: tuple[int, int, int, str | None, int]) -> pl.DataFrame:
    schema = {"day": pl.Date, "rows_in": pl.Int64, "kept": pl.Int64, "reason": pl.String, "dropped": pl.Int64}
    return pl.DataFrame([(date(2024, 5, d), *row) for d, *row in rows], schema=schema, orient="row")


def _page(path: Path, **changes: Any) -> str:
    given = {
        "experiment": "x",
        "metrics": METRICS_OF_TWO,
        "baselines": {"b": "a"},
        "counts": COUNTS,
        **changes,
    }
    write_report(path / "index.html", **given)
    return (path / "index.html").read_text("utf-8")


def _rows(page: str) -> list[list[str]]:
    """The texts of the cells of each row of each table."""
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    cells = (re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows)
    return [[html.unescape(re.sub(r"<[^>]*>", "", cell)) for cell in row] for row in cells]


METRICS_OF_TWO = _metrics(
    [
        ("teacher", "click", "auc", {1: 0.6, 2: 0.7, 3: 0.74}),
        ("teacher", "click", "log_loss", {1: 0.6, 2: 0.5, 3: 0.4}),
        ("teacher", "click", "calibration", {1: 1.2, 2: 1.0, 3: 0.95}),
        ("teacher", "watch", "ltv_loss", {1: 3.0, 2: 2.0, 3: 1.0}),
        ("a", "click", "log_loss", {1: 0.6, 2: 0.5, 3: 0.4}),
        ("a", "watch", "ltv_loss", {1: 3.0, 2: 2.0, 3: 1.0}),
        ("b", "click", "log_loss", {2: 0.45, 3: 0.32}),
        ("b", "watch", "ltv_loss", {2: 2.2, 3: 1.2}),
        ("b", "", "label_coverage", {2: 0.5, 3: 0.9}),
        ("b", "", "labels_missing", {2: 500.0, 3: 1100.0}),
    ]
)
COUNTS = _counts((1, 110, 100, "duplicate", 7), (1, 110, 100, "no_user", 3), (2, 50, 50, None, 0))


def test_tables_hold_the_hand_computed_numbers(tmp_path):
    speed = {"model": "b", "examples": 5000, "examples_per_second": 1234.5, "feed_wait_share": 0.25}
    rows = _rows(_page(tmp_path, throughput=[speed], versions={"b": "20240503"}))
    # days, last day, click: AUC, log loss, difference, calibration, watch: loss, difference, label coverage
    assert ["teacher", "3", "2024-05-03", "0.6800", "0.5000", "–", "1.050", "2.0000", "–", "–"] in rows
    assert ["b", "2", "2024-05-03", "–", "0.3850", "-15.00", "–", "1.7000", "+15.00", "70.0%"] in rows
    # Each day: of click, of watch, of the soft labels.
    assert ["2024-05-03", "teacher", "0.7400", "0.4000", "–", "0.950"] in rows
    assert ["b", "–", "0.3200", "-20.00", "–"] in rows
    assert ["b", "1.2000", "+20.00"] in rows
    assert ["2024-05-03", "b", "90.0%", "1,100"] in rows
    # in, kept, dropped, by reason
    assert ["2024-05-01", "110", "100", "10", "7", "3", "yes"] in rows
    assert ["2024-05-02", "50", "50", "0", "0", "0", "yes"] in rows
    assert ["total", "160", "150", "10", "7", "3", "yes"] in rows
    assert ["b", "5,000", "1,234", "25.0%"] in rows
    assert ["b", "20240503"] in rows


def test_what_the_person_on_call_reads_first(tmp_path):
    page = html.unescape(_page(tmp_path))
    assert "All models reached 2024-05-03: teacher, a, b." in page
    assert "Rows reconcile on every day (2): 160 in = 150 kept + 10 dropped." in page
    assert (
        "Teacher on 2024-05-03, click: AUC 0.7400 (previous 2-day mean 0.6500), "
        "calibration 0.950 (previous 2-day mean 1.100)." in page
    )
    page = html.unescape(_page(tmp_path, counts=_counts((4, 110, 100, "duplicate", 9)), students=["c"]))
    assert "Not all models reached 2024-05-04: teacher ended on 2024-05-03; c has learnt no day;" in page
    assert "Rows do not reconcile on 2024-05-04" in page
    assert ["2024-05-04", "110", "100", "9", "9", "no"] in _rows(page)


def test_at_most_seven_days_go_into_the_mean_before(tmp_path):
    auc = {1: 0.1, **dict.fromkeys(range(2, 9), 0.7), 9: 0.8}
    page = _page(tmp_path, metrics=_metrics([("teacher", "click", "auc", auc)]), baselines={})
    assert "AUC 0.8000 (previous 7-day mean 0.7000)" in page


def test_every_picture_is_there_with_its_label_and_how_to_read_it(tmp_path):
    page = _page(tmp_path)
    labels = re.findall(r'<svg role="img" aria-label="([^"]*)"', page)
    assert labels == [
        "click AUC by day, one line per model",
        "click log loss by day, one line per model",
        "click log loss against the baseline by day, one line per model",
        "click calibration by day, one line per model",
        "watch E(LTV) loss by day, one line per model",
        "watch E(LTV) loss against the baseline by day, one line per model",
        "Soft label coverage by day, one line per model",
        "rows kept and rows dropped by reason, by day",
    ]
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert len(captions) == len(labels)
    assert all(caption.endswith(".") for caption in captions)
    log_loss = page[
        page.index('aria-label="click log loss by') : page.index('aria-label="click log loss against')
    ]
    assert [re.search(rf">{name}</text>", log_loss) is not None for name in ("teacher", "a", "b")] == [
        True
    ] * 3


def test_a_missing_value_is_a_gap_in_the_line_and_a_dash_in_the_table(tmp_path):
    values = {1: 0.72, 2: 0.73, 3: math.nan, 4: 0.72, 5: 0.73}
    page = _page(tmp_path, metrics=_metrics([("a", "click", "auc", values)]), baselines={})
    line = re.findall(r'<path d="([^"]*)"[^>]*stroke: #0072b2; stroke-width: 1.6', page)[0]
    assert line.count("M") == 2
    assert ["2024-05-03", "a", "–"] in _rows(page)
    assert "Values that are not finite, shown as –: 1 (a)." in page


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [("teacher", "click", "auc", {1: 0.7})],
        [("teacher", "click", "auc", {1: math.nan})],
        [("a", "watch", "ltv_loss", {1: 0.0, 3: 0.0})],
        [(f"student{i}", "click", "log_loss", {1: 0.5, 9: 0.4}) for i in range(40)],
    ],
    ids=["nothing learnt", "one day of the teacher", "only NaN", "zero and no teacher", "many students"],
)
def test_little_and_much_are_drawn(tmp_path, rows):
    page = _page(tmp_path, metrics=_metrics(rows), baselines={}, counts=_counts(), created="today")
    assert page.count("<figure") == page.count("</svg>") == (1 if rows else 0)
    assert "No day was materialised." in page
    assert "Nothing was trained." in page
    assert "made today" in page


def test_a_failure_leaves_the_old_report_and_nothing_else(tmp_path):
    old = _page(tmp_path)
    with pytest.raises(KeyError):
        _page(tmp_path, throughput=[{"model": "a"}])
    assert [(file.name, file.read_text("utf-8")) for file in tmp_path.iterdir()] == [("index.html", old)]
    (tmp_path / "folder" / "index.html").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        _page(tmp_path / "folder")
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["index.html"]


def test_names_are_text_wherever_they_stand(tmp_path):
    evil = "<script>\"'&$x$</script>"
    page = _page(
        tmp_path,
        experiment=evil,
        metrics=_metrics([(evil, evil, "log_loss", {1: 0.5}), ("a", evil, "log_loss", {1: 0.5})]),
        baselines={evil: "a"},
        counts=_counts((1, 2, 1, evil, 1)),
        versions={evil: evil},
        created=evil,
    )
    tags: set[str] = set()
    data: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.add(tag)  # type: ignore[method-assign]
    parser.handle_data = data.append  # type: ignore[method-assign]
    parser.feed(page)
    assert "script" not in tags
    assert "svg" in tags
    assert data.count(evil) >= 6


def test_it_opens_offline(tmp_path):
    page = _page(tmp_path)
    assert set(re.findall(r'(?:src|href)="(.)', page)) == {"#"}
    assert not re.search(r"url\((?!#)|@import|<link|<script", page)


def test_the_same_input_gives_the_same_bytes(tmp_path):
    assert _page(tmp_path / "one") == _page(tmp_path / "two")
    ids = re.findall(r' id="([^"]*)"', _page(tmp_path / "one"))
    assert len(ids) == len(set(ids))
