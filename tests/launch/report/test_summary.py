"""The printed summary: means, differences from the baseline, who reached the last day, and that nothing is cut."""

import io
import math
import re
from collections.abc import Iterable
from datetime import date

import polars as pl
import pytest
from rich.console import Console

from tutelage.launch.report.summary import (
    Results,
    Throughput,
    came_in,
    print_summary,
    print_table,
    results_table,
    show,
    simple_table,
)
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import METRICS


def _metrics(rows: Iterable[tuple[str, str, str, dict[int, float]]], *, run: str = "r") -> pl.DataFrame:
    """Return metrics from (model, task, metric, value by day of May 2024), among rows of other slices and bases."""
    long = []
    for model, task, metric, values in rows:
        right, wrong = ("day_ahead", "pre_update") if task else ("pre_update", "day_ahead")
        for day, value in values.items():
            key = {"run": run, "day": date(2024, 5, day), "model": model, "task": task, "metric": metric}
            long.append({**key, "slice": "", "basis": right, "value": value, "rows": 1000 * day})
            long.append({**key, "slice": "", "basis": wrong, "value": 77.0, "rows": 1000})
            long.append({**key, "slice": "tab=1", "basis": right, "value": 88.0, "rows": 10})
    return pl.DataFrame(long, schema={**dict.fromkeys(["model"], pl.String), **pl.Schema(METRICS)})


def _printed(metrics: pl.DataFrame, baselines: dict[str, str], **more: object) -> list[list[str]]:
    """Return the words of each line."""
    file = io.StringIO()
    print_summary(Results.of(metrics, baselines, **more), file=file)  # type: ignore[arg-type]
    return [line.split() for line in file.getvalue().splitlines()]


THREE_TASKS = [
    (model, task, metric, dict.fromkeys(range(1, 11), value))
    for model in ("teacher", "hard_only", "auxiliary_wide")
    for task, metric, value in (
        ("click", "auc", 0.7234),
        ("click", "log_loss", 0.4711),
        ("click", "calibration", 1.012),
        ("long_view", "auc", 0.7361),
        ("long_view", "log_loss", 0.2611),
        ("long_view", "calibration", 0.987),
        ("watch_time", "ltv_loss", 1.4789),
        *([("", "label_coverage", 0.984)] if model != "teacher" else []),
    )
]


def test_means_of_the_last_days_and_differences_on_common_days():
    metrics = _metrics(
        [
            ("teacher", "click", "auc", {1: 0.5, 2: 0.70, 3: 0.72, 4: 0.74}),
            ("teacher", "click", "log_loss", {1: 9.0, 2: 0.5, 3: 0.4, 4: 0.3}),
            ("teacher", "click", "calibration", {1: 3.0, 2: 1.1, 3: 0.9, 4: 1.03}),
            ("teacher", "watch", "ltv_loss", {1: 9.0, 2: 2.0, 3: 2.0, 4: 1.0}),
            ("hard", "click", "log_loss", {1: 9.0, 2: 0.6, 3: 0.4, 4: 0.25}),
            ("hard", "watch", "ltv_loss", {1: 9.0, 2: 2.0, 3: 2.0, 4: 2.0}),
            ("late", "click", "log_loss", {3: 0.38, 4: 0.24}),
            ("late", "watch", "ltv_loss", {3: 2.02, 4: 2.06}),
            ("late", "", "label_coverage", {3: 0.9, 4: 0.96}),
        ]
    )
    lines = _printed(metrics, {"late": "hard"})
    # model, days, AUC, log loss, difference, calibration, E(LTV) loss, difference, label coverage
    assert ["teacher", "4", "0.7200", "0.4000", "–", "1.010", "1.6667", "–", "–"] in lines
    assert ["hard", "4", "–", "0.4167", "–", "–", "2.0000", "–", "–"] in lines
    # Of 0.38 / 0.4 and 0.24 / 0.25: -5 and -4 %. Of 2.02 / 2 and 2.06 / 2: +1 and +3 %.
    assert ["late", "2", "–", "0.3100", "-4.50", "–", "2.0400", "+2.00", "93.0%"] in lines


def test_the_loss_of_a_user_s_own_task_kind_is_a_column_with_its_difference():
    metrics = _metrics(
        [
            ("hard", "likes", "poisson_loss", {1: 2.0, 2: 4.0}),
            ("aux", "likes", "poisson_loss", {1: 1.0, 2: 3.0}),
            ("aux", "likes", "rmse", {1: 7.0, 2: 7.0}),
        ]
    )
    assert Results.of(metrics, {"aux": "hard"}).columns() == [
        ("likes", "poisson_loss"),
        ("likes", "poisson_loss_delta"),
    ]
    lines = _printed(metrics, {"aux": "hard"})
    # 1/2 and 3/4: -50 and -25 %.
    assert ["aux", "2", "2.0000", "-37.50"] in lines
    assert ["hard", "2", "3.0000", "–"] in lines


def test_a_value_that_is_not_finite_is_missing():
    metrics = _metrics(
        [
            ("teacher", "click", "auc", {1: 0.7, 2: math.nan, 3: 0.8}),
            ("a", "click", "auc", {1: math.nan, 2: math.inf, 3: math.nan}),
        ]
    )
    lines = _printed(metrics, {})
    assert ["teacher", "3", "0.7500"] in lines
    assert ["a", "3", "–"] in lines


def test_models_keep_the_given_order_and_an_untrained_student_is_listed():
    metrics = _metrics([(m, t, "auc", {1: 0.7}) for t in ("like", "click") for m in ("b", "a", "teacher")])
    results = Results.of(metrics, {}, students=["new", "a"], tasks=["click"])
    assert results.models == ("teacher", "new", "a", "b")
    assert results.tasks == ("click", "like")
    lines = _printed(metrics, {}, students=["new", "a"], tasks=["click"])
    assert ["new", "0", "–", "–"] in lines


def test_it_says_which_models_reached_the_last_day():
    def rows(last: int) -> pl.DataFrame:
        return _metrics(
            [
                ("teacher", "t", "auc", {1: 0.7, 2: 0.7}),
                ("a", "t", "auc", dict.fromkeys(range(1, last + 1), 0.7)),
            ]
        )

    assert Results.of(rows(2), {}).reached() == "All 2 models reached 2024-05-02."
    assert Results.of(rows(1), {}, students=["b"]).reached() == (
        "Not all models reached 2024-05-02: b has not been trained yet; a ended on 2024-05-01."
    )
    behind = Results.of(rows(2), {}).reached(date(2024, 5, 3))
    assert behind.startswith("Not all models reached 2024-05-03: teacher ended on 2024-05-02; a ended")
    assert Results.of(_metrics([]), {}, students=["a"]).reached() == "No model has been trained yet."


def test_metrics_of_two_runs_are_refused():
    one = [("teacher", "click", "auc", {1: 0.7})]
    with pytest.raises(UserError, match=r"twice, in runs \['a', 'b'\]"):
        Results.of(pl.concat([_metrics(one, run="a"), _metrics(one, run="b")]), {})


def test_three_tasks_fit_in_100_columns_and_a_log_has_the_same_text_as_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    texts = []
    for file in (io.StringIO(), Terminal()):
        speed = Throughput(
            model="teacher", examples=360000, examples_per_second=21333.4, feed_wait_share=0.031
        )
        results = Results.of(_metrics(THREE_TASKS), {"auxiliary_wide": "hard_only"})
        print_summary(results, speeds=[speed], file=file)
        texts.append(file.getvalue())
    log, terminal = texts
    assert "\x1b[" in terminal
    assert re.sub(r"\x1b\[[0-9;]*m", "", terminal) == log
    assert max(map(len, log.splitlines())) <= 100
    assert ["teacher", "360,000", "21,333", "3.1%"] in [line.split() for line in log.splitlines()]


def test_a_narrow_log_cuts_no_number_short(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    lines = _printed(_metrics(THREE_TASKS), {})
    assert ["teacher", "10", "0.7234", "0.4711", "1.012", "0.7361", "0.2611", "1.4789", "–"] in lines


def test_a_name_is_not_read_as_markup():
    assert ["[red]a", "1", "0.7000"] in _printed(_metrics([("[red]a", "[b]t", "auc", {1: 0.7})]), {})


def test_the_caption_names_the_days_and_the_baselines():
    baselines = {"auxiliary_wide": "hard_only", "late": "late_control"}
    table = results_table(Results.of(_metrics(THREE_TASKS), baselines), last_days=2)
    assert "the last 2 days (2024-05-09 to 2024-05-10)" in str(table.caption)
    assert "(auxiliary_wide against hard_only; late against late_control)" in str(table.caption)
    table = results_table(Results.of(_metrics(THREE_TASKS), {}), last_days=1)
    assert "the last 1 day (2024-05-10)" in str(table.caption)
    assert "baseline" not in str(table.caption)


def test_a_table_is_printed_uncut_below_an_empty_line_and_its_title():
    file = io.StringIO()
    table = simple_table("a", "b", title="Days")
    table.add_row("1", "word " * 30 + "end")
    print_table(Console(file=file, width=20), table)
    empty, title, _, _, row = file.getvalue().splitlines()
    assert (empty, title.strip()) == ("", "Days")
    assert row.endswith("word end")


def test_numbers_are_formatted_for_people():
    assert show(1234567.0) == "1,234,567"
    assert show(-0.001, "log_loss_delta") == "+0.00"
    assert show(math.nan, "auc") == show(None) == "–"


def test_the_unit_of_a_value_is_told_where_it_is_known() -> None:
    metrics = _metrics(THREE_TASKS)
    assert (
        Results.of(metrics, {}, units={"watch_time": "seconds", "other": "stars"})
        .caption(3)
        .endswith(
            "calibration near 1. Values are in seconds for watch_time; losses of values are of their log1p."
        )
    )
    assert Results.of(metrics, {}).caption(3).endswith("calibration near 1.")


def test_sampled_negatives_stand_beside_the_rows_that_came_in() -> None:
    assert came_in(24_000, 96_000) == "24,000 rows in + 96,000 negatives sampled"
    assert came_in(24_000, 0) == "24,000 rows in"
