"""The pages of a study: their tables, sentences and charts."""

import html
import re
from collections.abc import Mapping
from datetime import date
from html.parser import HTMLParser
from typing import Any

import polars as pl
import pytest

from tutelage.launch.studies.pages import results_html, results_markdown
from tutelage.launch.studies.results import StudyResults
from tutelage.launch.studies.sentences import sentences
from tutelage.launch.studies.statistics import COMPARISONS
from tutelage.pipeline.schema import Task

TASKS = (Task(name="click", label="click"), Task(name="watch", label="seconds", kind="ziln"))
_Interval = tuple[float, float, float]
LOSSES, SIZES = "1 none, direct and auxiliary", "2 size of the teacher"


def _row(
    arm: str,
    task: str,
    baseline: str | None = None,
    *,
    study: str = LOSSES,
    loss: float | None = 0.6,
    x: float | None = None,
    group: str = "",
    **figures: _Interval | None,
) -> dict[str, Any]:
    """Return a row of `compare`; each figure is its value and the two ends of its interval."""
    row = {**dict.fromkeys(COMPARISONS), "study": study, "arm": arm, "baseline": baseline, "task": task}
    row |= {"loss": loss, "x": x, "group": group, "rows": 12345, "seeds": 5}
    for name, interval in figures.items():
        if interval:
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), interval, strict=True))
    return row


def _curve(**deltas: _Interval) -> list[dict[str, Any]]:
    """Return the comparisons of the students of teachers `x1`, `x2`, …"""
    return [
        _row(f"late@{name}", "click", "none", study=SIZES, x=int(name[1:]), group="late", delta=delta)
        for name, delta in deltas.items()
    ]


CALIBRATED, NEARER, LEAKED = (0.986, 0.98, 0.99), (-0.01, -0.015, -0.005), (0.236, 0.223, 0.247)
ROWS = [
    _row("none", "click", loss=0.6172, calibration=(0.982, 0.975, 0.989)),
    _row("none", "watch", loss=1.4964),
    _row(
        "aux",
        "click",
        "none",
        loss=0.6073,
        delta=(-1.604, -2.008, -1.194),
        calibration=CALIBRATED,
        farther=NEARER,
        transfer_ratio=(0.524, 0.4, 0.61),
    ),
    _row("aux", "watch", "none", loss=1.4919, delta=(-0.3, -0.9, 0.3), transfer_ratio=(0.1, -0.1, 0.3)),
    _row("direct", "click", "none", delta=(1.94, 1.59, 2.23), calibration=(1.25, 1.24, 1.26), farther=LEAKED),
    _row("direct", "watch", "none", loss=None),
    *_curve(x1=(0.2, -0.1, 0.5), x2=(-0.4, -0.6, -0.2), x8=(-1.1, -1.5, -0.7)),
]


FACTS = pl.DataFrame(
    [
        ("none", "click", "auc", 0.7254),
        ("aux", "click", "auc", 0.7269),
        ("aux", "click", "leakage", 0.125),
        ("aux", "click", "leakage_low", 0.1),
        ("aux", "click", "leakage_high", 0.15),
        ("aux", "click", "gini", float("nan")),
        ("aux", "watch", "auc", 0.9),
        ("none", "", "seconds", 2.04),
        ("aux", "", "seconds", 3.06),
    ],
    schema=["arm", "task", "metric", "value"],
    orient="row",
)


def _results(rows: list[dict[str, Any]] = ROWS, **changes: Any) -> StudyResults:
    given: Mapping[str, Any] = {
        "experiment": "kuairand",
        "comparisons": pl.DataFrame(rows, schema=COMPARISONS),
        "facts": FACTS,
        "tasks": TASKS,
        "command": "tutelage-study --config=kuairand --workdir=W",
        "created": "2024-06-01",
        "days": [date(2024, 5, 8), date(2024, 5, 9), date(2024, 5, 10)],
    }
    return StudyResults(**{**given, **changes})


def _sentences(rows: list[dict[str, Any]], study: str = LOSSES) -> list[str]:
    return sentences(_results(rows), study)


def test_a_sentence_says_better_and_no_clear_difference():
    assert _sentences([_row("none", "click"), ROWS[2], ROWS[3]]) == [
        "aux against none: click log loss −1.60 % (−2.01 to −1.19), better; "
        "watch E(LTV) loss −0.30 % (−0.90 to +0.30), no clear difference. "
        "Calibration: click 0.986, −1.0 points (−1.5 to −0.5), closer to 1."
    ]


def test_a_sentence_says_worse_and_what_is_unknown():
    assert _sentences([ROWS[4], ROWS[5]]) == [
        "direct against none: click log loss +1.94 % (+1.59 to +2.23), worse; watch E(LTV) loss is unknown. "
        "Calibration: click 1.250, +23.6 points (+22.3 to +24.7), farther from 1."
    ]


def test_a_sentence_on_a_curve_says_where_it_is_better_and_where_most():
    rows = _curve(x8=(-1.1, -1.5, -0.7), x1=(0.2, -0.1, 0.5), x2=(-0.4, -0.6, -0.2), x4=(-1.2, -1.4, -1.0))
    assert _sentences(rows, SIZES) == [
        "late by size of the teacher, against none: click log loss is better at 2, 4 and 8, "
        "most at 4: −1.20 % (−1.40 to −1.00), shows no clear difference at 1."
    ]
    rows = _curve(x1=(0.4, 0.2, 0.6), x2=(-0.4, -0.6, -0.2))
    rows += [_row("late@x3", "click", "other", study=SIZES, x=3.0, group="late")]
    assert _sentences(rows, SIZES) == [
        "late by size of the teacher, against their baselines: click log loss is better at 2, "
        "−0.40 % (−0.60 to −0.20), is worse at 1, +0.40 % (+0.20 to +0.60), is unknown at 3."
    ]


def test_curves_and_arms_without_an_x_have_separate_sentences():
    frozen = _row("frozen", "click", "none", study=SIZES, group="late", delta=(0.0, -0.1, 0.1))
    full = _row("full@x1", "click", "base", study=SIZES, group="full", x=1.0, delta=(0.0, -0.1, 0.1))
    message = _sentences([*_curve(x1=(0.4, 0.2, 0.6)), frozen, full], SIZES)
    assert [sentence.partition(":")[0] for sentence in message] == [
        "late by size of the teacher, against none",
        "frozen against none",
        "full by size of the teacher, against base",
    ]


def test_two_comparisons_of_an_arm_are_two_sentences():
    message = _sentences(
        [_row("aux", "click", other, delta=(0.1, 0.05, 0.2)) for other in ("none", "direct")]
    )
    assert [sentence.partition(":")[0] for sentence in message] == ["aux against none", "aux against direct"]


def test_an_interval_that_ends_at_0_as_written_does_not_exclude_it():
    for interval in ((-0.2, -0.4, -0.004), (0.2, 0.004, 0.4), (0.0, 0.0, 0.0)):
        (message,) = _sentences([_row("aux", "click", "none", delta=interval)])
        assert message.endswith(", no clear difference.")
    (message,) = _sentences([_row("aux", "click", "none", delta=(-0.2, -0.4, -0.006))])
    assert message == "aux against none: click log loss −0.20 % (−0.40 to −0.01), better."


def test_a_study_without_a_comparison_says_so():
    assert _sentences([_row("teacher", "click")]) == ["This study compares nothing."]


def test_markdown_is_a_table_and_sentences_for_each_study():
    text = results_markdown(_results())
    lines = text.splitlines()
    assert lines[0] == "# kuairand: the effect of distillation"
    assert "    tutelage-study --config=kuairand --workdir=W" in lines
    assert "Judged on 2024-05-08 to 2024-05-10 (12,345 rows), 5 seeds. Made 2024-06-01." in lines
    start, end = lines.index(f"## {LOSSES}"), lines.index(f"## {SIZES}")
    assert lines[start + 2 : start + 10] == [
        "| loss of | arm | against | loss | Δ % | calibration | farther from 1, points | transfer ratio |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
        "| click log loss | `none` | – | 0.6172 | – | 0.982 (0.975 to 0.989) | – | – |",
        "| click log loss | `aux` | `none` | 0.6073 | −1.60 (−2.01 to −1.19) | 0.986 (0.980 to 0.990) "
        "| −1.0 (−1.5 to −0.5) | 0.52 (0.40 to 0.61) |",
        "| click log loss | `direct` | `none` | 0.6000 | +1.94 (+1.59 to +2.23) | 1.250 (1.240 to 1.260) "
        "| +23.6 (+22.3 to +24.7) | – |",
        "| watch E(LTV) loss | `none` | – | 1.4964 | – | – | – | – |",
        "| watch E(LTV) loss | `aux` | `none` | 1.4919 | −0.30 (−0.90 to +0.30) | – | – | 0.10 (−0.10 to 0.30) |",
        "| watch E(LTV) loss | `direct` | `none` | – | – | – | – | – |",
    ]
    assert [line for line in lines[start:end] if line.startswith("- ")] == [
        f"- {sentence}" for sentence in _sentences(ROWS[:6])
    ]
    # A column of which nothing is known is left out.
    assert lines[end + 2] == "| loss of | arm | against | loss | Δ % |"
    assert text.endswith(".\n")


def test_a_value_without_an_interval_is_written_alone() -> None:
    (row,) = [_row("aux", "click", "none", delta=(-1.6, -2.0, -1.2)) | {"transfer_ratio": 0.27}]
    table = _results([row]).table([row])
    assert table.blocks == [("click log loss", [(row, ["0.6000", "−1.60 (−2.00 to −1.20)", "0.27"])])]


def test_a_single_judged_day_is_named_once() -> None:
    assert _results(days=[date(2024, 5, 8)]).made.startswith("Judged on 2024-05-08 (12,345 rows)")


def test_the_page_says_what_one_seed_leaves_out():
    one = [{**row, "seeds": 1} for row in ROWS]
    assert "(12,345 rows), one seed. Made" in _results(one).made
    assert (
        "; they do not include how much another seed would differ. One interval in twenty"
        in _results(one).how_to_read
    )
    assert (
        "; Student's t allows for the small number of seeds. One interval in twenty" in _results().how_to_read
    )


@pytest.fixture(scope="module")
def page() -> str:
    return results_html(_results())


def test_the_page_has_the_same_figures_and_sentences(page):
    cells = [
        [html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)]
        for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    ]
    assert ["click log loss", "none", "–", "0.6172", "–", "0.982 (0.975 to 0.989)", "–", "–"] in cells
    assert ["aux", "none", "1.4919", "−0.30 (−0.90 to +0.30)", "–", "–", "0.10 (−0.10 to 0.30)"] in cells
    message = [html.unescape(sentence) for sentence in re.findall(r"<li>(.*?)</li>", page)]
    assert message == [*_sentences(ROWS[:6]), *_sentences(ROWS[6:], SIZES)]


def test_only_intervals_that_exclude_0_are_coloured(page):
    assert re.findall(r'<td class="good">([^<]*)</td>', page) == [
        "−1.60 (−2.01 to −1.19)",
        "−1.0 (−1.5 to −0.5)",
        "−0.40 (−0.60 to −0.20)",
        "−1.10 (−1.50 to −0.70)",
    ]
    assert re.findall(r'<td class="bad">([^<]*)</td>', page) == [
        "+1.94 (+1.59 to +2.23)",
        "+23.6 (+22.3 to +24.7)",
    ]


def test_each_loss_has_a_chart_of_the_arms_and_one_over_x(page):
    assert re.findall(r'<svg role="img" aria-label="([^"]*)"', page) == [
        "1 none, direct and auxiliary: click log loss against the baseline, by arm",
        "1 none, direct and auxiliary: watch E(LTV) loss against the baseline, by arm",
        "2 size of the teacher: click log loss against the baseline, by arm",
        "2 size of the teacher: click log loss against the baseline, by size of the teacher",
    ]
    arms, watch, _, curve = re.findall(r"<svg .*?</svg>", page, re.DOTALL)
    assert re.findall(r">([a-z]+)</text>", arms) == ["aux", "direct"]
    assert re.findall(r">([a-z]+)</text>", watch) == ["aux"]  # the other's loss is not known
    assert re.findall(r">([\w ]+)</text>", curve) == ["1", "2", "8", "size of the teacher"]


def test_two_comparisons_of_one_arm_have_different_names():
    rows = [_row("aux", "click", other, delta=(0.1, 0.05, 0.2)) for other in ("none", "direct")]
    page = results_html(_results(rows))
    assert re.findall(r">(aux[^<]*)</text>", page) == ["aux − none", "aux − direct"]


def test_all_text_of_the_charts_has_the_page_s_colour(page):
    texts = re.findall(r"<text [^>]*>", page)
    assert len(texts) > 20
    assert [text for text in texts if "currentColor" not in text] == []


def test_a_study_of_teachers_alone_has_no_chart():
    page = results_html(_results([_row("teacher", "click")]))
    assert "<svg" not in page
    assert "<li>This study compares nothing.</li>" in page


def test_names_are_escaped_everywhere():
    evil = "<script>\"'&$x$</script>"
    rows = [
        _row(evil, "click", evil, study=f"1 {evil}", group=evil, x=x, delta=(0.1, 0.0, 0.2))
        for x in (1.0, 2.0)
    ]
    page = results_html(_results(rows, experiment=evil, command=evil, created=evil))
    tags: set[str] = set()
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.add(tag)  # type: ignore[method-assign]
    parser.feed(page)
    assert "script" not in tags
    assert "svg" in tags


def test_the_page_opens_offline_and_the_same_results_give_the_same_bytes(page):
    assert set(re.findall(r'(?:src|href)="(.)', page)) == {"#"}
    assert not re.search(r"url\((?!#)|@import|<link|<script", page)
    assert results_html(_results()) == page
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_it_has_the_style_of_the_report(page):
    head = page[: page.index("</head>")]
    assert all(rule in head for rule in ("prefers-color-scheme: dark", ".charts {", ".scroll {", ".good {"))


def test_the_second_table_is_of_the_first_binary_task_and_leaves_out_what_no_arm_has() -> None:
    heads, rows = _results(ROWS).facts_of([row for row in ROWS if row["arm"] in ("none", "aux")])
    assert heads == ["click of", "AUC", "leakage", "seconds"]
    assert rows == [["none", "0.7254", "–", "2.0"], ["aux", "0.7269", "0.1250 (0.1000 to 0.1500)", "3.1"]]
    assert "| `aux` | 0.7269 | 0.1250 (0.1000 to 0.1500) | 3.1 |" in results_markdown(_results(ROWS))
    assert (
        '<th scope="row">aux</th><td>0.7269</td><td>0.1250 (0.1000 to 0.1500)</td><td>3.1</td>'
        in results_html(_results(ROWS))
    )


def test_the_training_time_is_given_for_a_shared_teacher_and_for_one_each() -> None:
    students = [_row(f"s{n}", "click", f"c{n}", x=n, group="students", delta=(-1, -2, -0.5)) for n in (1, 2)]
    facts = pl.DataFrame(
        [("teacher", "", "seconds", 20.0), ("s1", "", "seconds", 3.0), ("s2", "", "seconds", 4.0)],
        schema=["arm", "task", "metric", "value"],
        orient="row",
    )
    results = _results(students, facts=facts)
    rows = [*students, _row("teacher", "click", None, group="teacher")]
    # 20 + 3 both ways; 20 + 3 + 4 against 2 * 20 + 3 + 4.
    assert results.costs(rows) == [
        "Training time by number of students: 1: 23 s with a shared teacher, 23 s with one each; "
        "2: 27 s with a shared teacher, 47 s with one each."
    ]
    assert results.costs(ROWS) == []
