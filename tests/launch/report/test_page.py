"""The HTML report: its numbers, its first lines, its charts, and that names and failures do no harm."""

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

from tutelage.launch.report import charts
from tutelage.launch.report.data import ReportData, compared, counts_by_day, id_maps
from tutelage.launch.report.page import write_report
from tutelage.launch.report.summary import Results
from tutelage.pipeline.schema import METRICS
from tutelage.trainers.checkpoints import State


def _metrics(rows: Iterable[tuple[str, str, str, dict[int, float]]]) -> pl.DataFrame:
    """Return metrics from (model, task, metric, value by day of May 2024)."""
    long = [
        ("r", date(2024, 5, day), task, metric, "", "day_ahead" if task else "pre_update", value, 1000, model)
        for model, task, metric, values in rows
        for day, value in values.items()
    ]
    return pl.DataFrame(long, schema={**pl.Schema(METRICS), "model": pl.String}, orient="row")


def _counts(*rows: tuple[int, int, int, str | None, int]) -> pl.DataFrame:
    schema = {"day": pl.Date, "rows_in": pl.Int64, "kept": pl.Int64, "reason": pl.String, "dropped": pl.Int64}
    frame = pl.DataFrame([(date(2024, 5, d), *row) for d, *row in rows], schema=schema, orient="row")
    return frame.with_columns(late=0, masked=0, sampled=0)


def _page(path: Path, **changes: Any) -> str:
    given = {
        "metrics": METRICS_OF_TWO,
        "baselines": {"b": "a"},
        "counts": COUNTS,
        "capacities": {},
        **changes,
    }
    metrics, counts, capacities = (given.pop(name) for name in ("metrics", "counts", "capacities"))
    order = {name: given.pop(name) for name in ("baselines", "students", "tasks", "units") if name in given}
    data = ReportData(
        results=Results.of(metrics, **order),
        counts=counts_by_day(counts),
        id_maps=id_maps(metrics, capacities, "teacher"),
        **{"experiment": "x", **given},
    )
    write_report(path / "index.html", data)
    return (path / "index.html").read_text("utf-8")


def _rows(page: str) -> list[list[str]]:
    """Return the cells of each row of each table, as text."""
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
        ("b", "", "label_coverage", {2: 0.9, 3: 0.5}),
        ("b", "", "labels_missing", {2: 500.0, 3: 1100.0}),
    ]
)
COUNTS = _counts((1, 110, 100, "duplicate", 7), (1, 110, 100, "no_user", 3), (2, 50, 50, None, 0))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _page(tmp_path_factory.mktemp("report"))


def test_the_chart_of_a_value_names_its_unit(tmp_path, page):
    assert "Mean squared error of log1p of the value." in page
    assert "Mean squared error of log1p of the seconds." in _page(tmp_path, units={"watch": "seconds"})


def test_tables_hold_the_hand_computed_numbers(tmp_path):
    seconds = 5000 / 1234.5
    state = State(day=date(2024, 5, 3), step=1, examples=1, rows=5000, seconds=seconds, waited=seconds / 3)
    rows = _rows(_page(tmp_path, states={"b": [state]}, versions={"b": "2024050301"}))
    # days, click: AUC, log loss, difference, calibration, watch: loss, difference, label coverage
    assert ["teacher", "3", "0.6800", "0.5000", "–", "1.050", "2.0000", "–", "–"] in rows
    assert ["b", "2", "–", "0.3850", "-15.00", "–", "1.7000", "+15.00", "70.0%"] in rows
    # Each day: of click, of watch, of the soft labels.
    assert ["2024-05-03", "teacher", "0.7400", "0.4000", "–", "0.950"] in rows
    assert ["b", "–", "0.3200", "-20.00", "–"] in rows
    assert ["b", "1.2000", "+20.00"] in rows
    assert ["2024-05-03", "b", "50.0%", "1,100"] in rows
    # in, kept, dropped, by reason
    assert ["2024-05-01", "110", "100", "10", "7", "3", "yes"] in rows
    assert ["2024-05-02", "50", "50", "0", "0", "0", "yes"] in rows
    assert ["total", "160", "150", "10", "7", "3", "yes"] in rows
    # baseline, days trained, last day, newest version, examples, examples/s, feed wait
    assert ["b", "a", "2", "2024-05-03", "2024050301", "5,000", "1,234", "25.0%"] in rows
    assert ["a", "–", "3", "2024-05-03", "–", "–", "–", "–"] in rows


def _headlines(page: str) -> list[tuple[str, str]]:
    return re.findall(r'<li class="(\w+)">(.*?)</li>', html.unescape(page))


def test_what_the_person_on_call_reads_first(tmp_path):
    exported = dict.fromkeys(["teacher", "a", "b"], "2024050301")
    days = [(day, 110, 100, "duplicate", 10) for day in (1, 2, 3)]
    assert _headlines(_page(tmp_path, counts=_counts(*days), versions=exported)) == [
        # Calibration: 0.95 is nearer to 1 than 1.2 was, if not than 1.0.
        ("warning", "Check 2024-05-03: b label coverage (worst of 2 days)."),
        ("ok", "All 3 models reached 2024-05-03."),
        ("ok", "The last trained day of every model is published."),
        ("ok", "Rows add up on every day (3): 330 in = 300 kept + 30 dropped."),
    ]


def test_late_rows_and_labels_that_are_not_mature_are_shown_only_if_there_are_any(tmp_path):
    counts = _counts((1, 110, 100, "duplicate", 7), (1, 110, 100, "no_user", 3), (2, 1050, 1050, None, 0))
    assert "labels not mature" not in _page(tmp_path, counts=counts)
    late = counts.with_columns(late=pl.when(pl.col("day").dt.day() == 1).then(12).otherwise(1005))
    page = _page(tmp_path, counts=late)
    assert ["day", "in", "kept", "late", "dropped", "duplicate", "no user", "adds up"] in _rows(page)
    assert ["2024-05-01", "110", "100", "12", "10", "7", "3", "yes"] in _rows(page)
    assert ["total", "1,160", "1,150", "1,017", "10", "7", "3", "yes"] in _rows(page)
    line = "Rows add up on every day (2): 1,160 in = 1,150 kept (1,017 late) + 10 dropped."
    assert ("ok", line) in _headlines(page)
    page = _page(tmp_path, counts=late.with_columns(masked=pl.lit(40)))
    assert ["2024-05-02", "1,050", "1,050", "1,005", "40", "0", "0", "0", "yes"] in _rows(page)
    assert "1,150 kept (1,017 late, 80 labels not mature) + 10 dropped" in page


def test_sampled_negatives_are_shown_as_what_was_added(tmp_path):
    counts = _counts((1, 110, 300, "duplicate", 10))
    assert "negatives sampled" not in _page(tmp_path, counts=counts)
    page = _page(tmp_path, counts=counts.with_columns(sampled=pl.lit(200)))
    assert ["day", "in", "kept", "negatives sampled", "dropped", "duplicate", "adds up"] in _rows(page)
    assert ["2024-05-01", "110", "300", "200", "10", "10", "yes"] in _rows(page)
    line = "Rows add up on every day (1): 110 in + 200 negatives sampled = 300 kept + 10 dropped."
    assert ("ok", line) in _headlines(page)
    assert "Rows in + negatives sampled = kept + dropped" in page


def test_a_last_day_that_is_not_the_worst_gives_no_warning(tmp_path):
    metrics = _metrics([("teacher", "click", "auc", {1: 0.6, 2: 0.8, 3: 0.7})])
    text = "On 2024-05-03 no score of the teacher, label coverage or row count is the worst of the last days."
    assert ("ok", text) in _headlines(_page(tmp_path, metrics=metrics, baselines={}, counts=_counts()))


def test_errors_come_first(tmp_path):
    metrics = pl.concat([METRICS_OF_TWO, _metrics([("a", "click", "auc", {2: math.nan})])])
    versions = {"teacher": "2024050301", "a": "2024050209"}
    counts = _counts((3, 90, 90, None, 0), (4, 110, 100, "duplicate", 9))
    page = _page(tmp_path, metrics=metrics, counts=counts, students=["c"], versions=versions)
    assert _headlines(page) == [
        (
            "error",
            "Not all models reached 2024-05-04: teacher ended on 2024-05-03; c has not been trained yet; "
            "a ended on 2024-05-03; b ended on 2024-05-03.",
        ),
        (
            "error",
            "Not published: the last trained day of a, b. The gate rejected it (see rejected/), or it was not "
            "exported.",
        ),
        ("error", "Rows do not add up on 2024-05-04: rows in are not kept + dropped."),
        ("error", "Metric values that are not finite (shown as –): 1, of a, the last on 2024-05-02."),
        (
            "warning",
            "Check 2024-05-04: click AUC (missing), click log loss (missing), click calibration (missing), "
            "watch E(LTV) loss (missing), b label coverage (missing).",
        ),
    ]
    assert ["2024-05-04", "110", "100", "9", "9", "no"] in _rows(page)


def test_the_last_day_is_compared_with_at_most_seven_days_before_it(tmp_path):
    auc = {1: 0.1, **dict.fromkeys(range(2, 8), 0.7), 8: 0.77, 9: 0.8}
    counts = _counts(*((day, 90, 90, None, 0) for day in range(1, 9)), (9, 80, 80, None, 0))
    rows = _rows(
        _page(
            tmp_path,
            metrics=_metrics(
                [
                    ("teacher", "click", "auc", auc),
                    ("teacher", "click", "log_loss", {7: 0.5, 8: math.nan, 9: 0.6}),
                    ("teacher", "click", "calibration", {7: 0.8, 8: 1.4, 9: 0.7}),
                    ("teacher", "like", "calibration", {7: 0.8, 8: 1.1, 9: 1.15}),
                    ("teacher", "share", "calibration", {7: 0.8, 8: 1.1, 9: 1.3}),
                    ("a", "click", "auc", {9: 0.5}),
                    ("a", "", "label_coverage", {9: 0.0}),
                ]
            ),
            baselines={},
            counts=counts,
        )
    )
    # that day; mean, lowest and highest of the days before: (6 · 0.7 + 0.77) / 7 = 0.71
    assert ["click AUC", "0.8000", "0.7100", "0.7000", "0.7700", ""] in rows
    assert ["click log loss", "0.6000", "0.5000", "0.5000", "0.5000", "worst of 2 days"] in rows
    # What is farther from 1 is worse: 1.4 than 0.7, and 0.8 than 1.15.
    assert ["click calibration", "0.700", "1.100", "0.800", "1.400", ""] in rows
    assert ["like calibration", "1.150", "0.950", "0.800", "1.100", ""] in rows
    assert ["share calibration", "1.300", "0.950", "0.800", "1.100", "worst of 3 days"] in rows
    assert ["a label coverage", "0.0%", "–", "–", "–", ""] in rows
    assert ["rows kept", "80", "90", "90", "90", "worst of 8 days"] in rows


def test_every_chart_has_a_label_and_a_caption(page):
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


def test_the_loss_of_a_user_s_own_task_has_a_chart_a_difference_and_a_place_in_the_tables(tmp_path):
    metrics = _metrics(
        [(model, "stars", "ordinal_loss", {1: 2.0, 2: loss}) for model, loss in (("a", 2.0), ("b", 1.5))]
        + [("teacher", "stars", "ordinal_loss", {1: 1.0, 2: 3.0})]
    )
    page = _page(tmp_path, metrics=metrics, counts=_counts())
    # Of b: the mean of 2 and 1.5, and of 0 and -25 %.
    assert ["b", "2", "1.7500", "-12.50"] in _rows(page)
    assert ["stars ordinal loss", "3.0000", "1.0000", "1.0000", "1.0000", "worst of 2 days"] in _rows(page)
    charts = re.findall(r'aria-label="([^"]*) by day', page)
    assert charts == ["stars ordinal loss", "stars ordinal loss against the baseline"]
    assert "The task's loss. Lower is better." in html.unescape(page)


def test_a_difference_names_the_baselines(tmp_path):
    page = html.unescape(_page(tmp_path, baselines={"b": "a", "late": "late_control", "c": "a"}))
    against = "b, c against a; late against late_control"
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert captions.count(f"{against}. Below the line at 0 the student is better.") == 2
    assert f"on the days both have ({against}); negative is better." in page


def _ticks(page: str, label: str) -> list[str]:
    chart = page[re.search(f'aria-label="{label},? by day', page).start() :]
    return re.findall(r">(\d[\d.%km-]*)</text>", chart[: chart.index("</svg>")])


def test_label_coverage_is_drawn_from_0_to_100_percent(page):
    ticks = _ticks(page, "Soft label coverage")
    assert [tick for tick in ticks if "%" in tick] == ["0%", "20%", "40%", "60%", "80%", "100%"]


def test_rows_are_drawn_in_whole_numbers_and_dropped_rows_only_if_there_are_any(tmp_path):
    page = _page(tmp_path, counts=_counts((1, 2000, 1999, "duplicate", 1), (2, 900, 900, None, 0)))
    ticks = _ticks(page, "rows kept and rows dropped by reason")
    # Of the kept, then the days, then of the dropped.
    assert ticks == ["0", "1k", "2k", "05-01", "05-02", "0", "1"]
    page = _page(tmp_path, counts=_counts((1, 2000, 2000, None, 0)))
    assert _ticks(page, "rows kept") == ["05-01", "0", "500", "1k", "1.5k", "2k"]
    assert "Every row that came in is kept, and none was dropped." in page
    assert "rows dropped" not in page


def test_a_new_year_is_named(page, tmp_path):
    days = pl.date_range(date(2024, 12, 30), date(2025, 1, 3), eager=True)
    metrics = _metrics([("teacher", "click", "auc", dict.fromkeys(range(1, 6), 0.7))])
    turn = _page(tmp_path, metrics=metrics.with_columns(day=days), baselines={}, counts=_counts())
    assert _ticks(turn, "click AUC")[:7] == ["12-30", "2024", "12-31", "01-01", "2025", "01-02", "01-03"]
    assert _ticks(page, "click AUC")[:3] == ["05-01", "05-02", "05-03"]


def test_a_missing_value_is_a_gap_in_the_line_and_a_dash_in_the_table(tmp_path):
    values = {1: 0.72, 2: 0.73, 3: math.nan, 4: 0.72, 5: 0.73}
    page = _page(tmp_path, metrics=_metrics([("a", "click", "auc", values)]), baselines={})
    line = re.findall(r'<path d="([^"]*)"[^>]*stroke: #0072b2; stroke-width: 1.6', page)[0]
    assert line.count("M") == 2
    assert ["2024-05-03", "a", "–"] in _rows(page)
    assert "Metric values that are not finite (shown as –): 1, of a, the last on 2024-05-03." in page


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [("teacher", "click", "auc", {1: 0.7})],
        [("teacher", "click", "auc", {1: math.nan})],
        [("a", "watch", "ltv_loss", {1: 0.0, 3: 0.0})],
        [(f"student{i}", "click", "log_loss", {1: 0.5, 9: 0.4}) for i in range(40)],
    ],
    ids=["nothing trained", "one day of the teacher", "only NaN", "zero and no teacher", "many students"],
)
def test_a_page_is_drawn_with_little_data_and_with_many_models(tmp_path, rows):
    page = _page(tmp_path, metrics=_metrics(rows), baselines={}, counts=_counts(), created="today")
    assert page.count("<figure") == page.count("</svg>") == (1 if rows else 0)
    assert "No day has been materialised." in page
    assert "made today" in page


def _states(**memory: int) -> dict[str, list[State]]:
    """Return states by model, from its memory in megabytes on the days of `METRICS_OF_TWO`; 0: not recorded."""
    return {
        model: [
            State(day=date(2024, 5, day), step=day, examples=day, rows=1, memory=value * 10**6)
            for day, value in enumerate(values, 1)
        ]
        for model, values in memory.items()
    }


def _chart(page: str, label: str) -> str:
    return page[page.index(f'aria-label="{label}') :].partition("</svg>")[0]


def _heights(chart: str, colour: str) -> list[float]:
    """Return the height of each point of a line, from the top of the chart."""
    paths = re.findall(rf'<path d="([^"]*)"[^>]*stroke: {colour}; stroke-width: 1.6', chart)
    line = next(path for path in paths if "L" in path)  # Not a marker; a legend comes later.
    return [float(y) for y in re.findall(r"[ML] \S+ (\S+)", line)]


def test_memory_is_drawn_on_an_axis_that_begins_at_0(tmp_path):
    states = _states(teacher=[0, 0, 0], a=[400, 400, 200], b=[0, 600, 800])
    page = _page(tmp_path, states=states)
    chart = _chart(page, "Memory by day, one line per model")
    a, b = _heights(chart, "#0072b2"), _heights(chart, "#d55e00")
    assert a[0] == a[1]
    assert len(b) == 2
    # 200 above the axis as 200 between two lines.
    hundred = (a[2] - a[0]) / 2
    assert (a[0] - b[0], a[0] - b[1]) == pytest.approx((2 * hundred, 4 * hundred))
    assert ">0\N{NO-BREAK SPACE}B</text>" in chart
    assert ">800\N{NO-BREAK SPACE}MB</text>" in chart
    assert ">teacher</text>" not in chart
    assert "Checkpoint" not in page  # No size was recorded.


def test_memory_of_days_and_models_without_metrics_is_not_drawn(tmp_path):
    assert 'aria-label="Memory' not in _page(tmp_path, states=_states(b=[600], gone=[700]))


def _grown(**counts: dict[int, float]) -> pl.DataFrame:
    rows = _metrics([("teacher", "", metric, values) for metric, values in counts.items()])
    return rows.with_columns(slice=pl.lit("video"))


def test_ids_of_a_growing_feature_are_drawn_from_the_teacher_s_map(tmp_path):
    counts = _grown(
        ids_with_rows={1: 40.0, 2: 60.0, 3: 60.0},
        ids_given={1: 21.0, 2: 20.0, 3: 20.0},
        ids_evicted={1: 0.0, 2: 10.0, 3: 20.0},
        ids_full={1: 0.0, 2: 0.0, 3: 5.0},
    )
    students = counts.with_columns(model=pl.lit("a"), value=pl.lit(77.0))
    metrics = pl.concat([METRICS_OF_TWO, counts, students])
    page = _page(tmp_path, metrics=metrics, capacities={"video": 80, "user": 9})
    chart = _chart(page, "video: ids in the map by day")
    assert "user: ids in the map" not in page  # The teacher is without.
    assert "ids in the map, of at most 80<" in chart
    # On a scale from 0 to the 80 rows and 8 % more.
    in_use = _heights(chart, "#0072b2")
    (high,) = re.findall(r'<path d="M \S+ (\S+) \nL \S+ \1 \n"[^>]*stroke-opacity: 0.6', chart)
    assert in_use[1] == in_use[2]
    assert (in_use[0] - float(high)) / (in_use[0] - in_use[1]) == pytest.approx(2)
    given, evicted, full = (_heights(chart, c) for c in ("#d55e00", "#009e73", "#cc79a7"))
    assert given[1] == given[2] == evicted[2]
    assert evicted[0] == full[0] == full[1]
    ten = (evicted[0] - evicted[2]) / 2
    assert (evicted[0] - given[0]) / ten == pytest.approx(2.1)
    assert (evicted[0] - evicted[1], full[0] - full[2]) == pytest.approx((ten, ten / 2))


def test_values_of_the_first_days_may_lie_outside_the_chart_and_are_counted(tmp_path):
    zero = dict.fromkeys(range(1, 7), 0.0)
    given = {1: 900.0, 2: 100.0, 3: 20.0, 4: 10.0, 5: 10.0, 6: 9.0}
    counts = _grown(ids_with_rows=given, ids_given=given, ids_evicted=zero, ids_full=zero)
    page = _page(tmp_path, metrics=counts, baselines={}, capacities={"video": 1000})
    # Of the fourth day on 10 is the most; 10.8 is the top.
    assert "loses it. Values outside the chart, from the first days: 3." in page


def test_a_failure_leaves_the_old_report_and_nothing_else(tmp_path):
    nothing = {"metrics": _metrics([]), "counts": _counts()}
    old = _page(tmp_path, **nothing)
    with pytest.raises(pl.exceptions.ColumnNotFoundError):
        _page(tmp_path, **nothing, statistics=pl.DataFrame({"day": [date(2024, 5, 1)]}))
    assert [(file.name, file.read_text("utf-8")) for file in tmp_path.iterdir()] == [("index.html", old)]
    (tmp_path / "folder" / "index.html").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        _page(tmp_path / "folder", **nothing)
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["index.html"]


def test_names_are_escaped_everywhere(tmp_path):
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


def test_the_page_opens_offline(page):
    assert set(re.findall(r'(?:src|href)="(.)', page)) == {"#"}
    assert not re.search(r"url\((?!#)|@import|<link|<script", page)


def test_the_same_input_gives_the_same_bytes(page, tmp_path):
    assert _page(tmp_path) == page
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_the_report_links_to_a_study_that_exists(tmp_path):
    page = tmp_path / "study" / "results.html"
    assert "study of the effect of distillation" not in _page(tmp_path / "report", study=page)
    page.parent.mkdir()
    page.touch()
    assert '<a href="../study/results.html">study of the effect of distillation</a>' in _page(
        tmp_path / "report", study=page
    )


def test_names_and_notes_show_no_control_characters_and_no_passwords(tmp_path):
    metrics = METRICS_OF_TWO.with_columns(model=pl.col("model").replace("a", "a\u202e"))
    quarantined = ["2024-05-02 skipped (x\x1b[2J of ftp://me:hunter2@host/a.csv is missing)"]
    page = _page(tmp_path, metrics=metrics, baselines={}, quarantined=quarantined)
    assert any(r"a\u202e" in chart.partition("</svg>")[0] for chart in page.split("<svg ")[1:])
    assert r"a\u202e</th>" in page
    assert r"x\x1b[2J of ftp://***@host/a.csv is missing" in page
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]|hunter2", page)


def test_a_long_line_has_about_sixty_markers_and_one_for_each_day_between_two_gaps() -> None:
    nan = math.nan
    assert charts._marked([1.0] * 60) == list(range(60))
    assert charts._marked([1.0] * 120) == list(range(0, 120, 2))
    assert charts._marked([1.0] * 100 + [nan, 2.0, nan] + [1.0] * 17) == sorted({*range(0, 120, 2), 101})


def test_a_student_s_versions_are_drawn_beside_those_served_then_on_the_same_rows(tmp_path: Path) -> None:
    gate = [
        {"model": "a", "day": date(2024, 5, day), "metric": metric, "basis": basis, "value": value}
        for day, metric, basis, value in (
            (1, "click normalized_entropy", "gate", 0.9),  # the first version: nothing was served
            (2, "click normalized_entropy", "gate", 0.8),
            (2, "click normalized_entropy", "gate_reference", 0.82),
            (2, "click normalized_entropy, tab=1", "gate", 0.7),
            (2, "click normalized_entropy, tab=1", "gate_reference", 0.7),
            (2, "bytes", "gate", 1000.0),
        )
    ]
    found = compared(pl.DataFrame(gate), ["click"])
    assert found == {"a": {"click normalized_entropy": {date(2024, 5, 2): (0.8, 0.82)}}}
    page = _page(tmp_path, metrics=METRICS_OF_TWO, compared=found)
    assert "<h2>Versions before they were served</h2>" in page
    assert 'aria-label="a: loss of each day&#x27;s version and of the one served then"' in page.replace(
        "&#39;", "&#x27;"
    )
    assert "Versions before they were served" not in _page(tmp_path, metrics=METRICS_OF_TWO)


def test_a_version_that_waits_is_a_warning_and_not_a_failure(tmp_path: Path) -> None:
    waits = "the version of 2024-05-03 waits for the day after it, as training.holdout was 0"
    page = _page(
        tmp_path,
        metrics=METRICS_OF_TWO,
        version_waits={"a": waits},
        versions={"teacher": "2024050301", "b": "2024050301"},
    )
    assert f'<li class="warning">a: {waits}.</li>' in page
    assert "Not published" not in page
