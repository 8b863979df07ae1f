"""The pages of a study: Markdown, and HTML without scripts."""

from pathlib import Path

from markupsafe import Markup

from tutelage.launch.report.page import environment, style
from tutelage.launch.report.summary import DASH
from tutelage.launch.studies.charts import study_charts
from tutelage.launch.studies.facts import HOW_TO_READ
from tutelage.launch.studies.results import QUANTITIES, Row, StudyResults
from tutelage.launch.studies.sentences import sentences
from tutelage.pipeline.io.printable import printable_lines

_TEMPLATE = Path(__file__).with_name("study.html.j2")


def results_markdown(results: StudyResults) -> str:
    """Return all tables and sentences as Markdown."""
    parts = [f"# {results.title}", f"    {results.command}"]
    parts += [results.made, results.how_to_read, f"The second table of each study: {HOW_TO_READ}"]
    for study, rows in results.studies.items():
        table = results.table(rows)
        lines = [["loss of", "arm", "against", *table.titles], ["---"] * 3 + ["---:"] * len(table.titles)]
        for loss, arms in table.blocks:
            for row, cells in arms:
                baseline = f"`{row['baseline']}`" if row["baseline"] else DASH
                lines.append([loss, f"`{row['arm']}`", baseline, *cells])
        parts += [f"## {study}", _markdown_table(lines)]
        parts.append("\n".join(f"- {sentence}" for sentence in sentences(results, study)))
        heads, facts = results.facts_of(rows)
        lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *([f"`{arm}`", *rest] for arm, *rest in facts)]
        if len(heads) > 1:
            parts.append(_markdown_table(lines))
    return printable_lines("\n\n".join(parts) + "\n")


def _markdown_table(lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def results_html(results: StudyResults) -> str:
    """Return the same and the charts as a page that opens offline. The same results give the same bytes."""
    sections = [
        {
            "study": study,
            "table": results.table(rows),
            "sentences": sentences(results, study),
            "facts": results.facts_of(rows),
            "charts": study_charts(results, study),
        }
        for study, rows in results.studies.items()
    ]
    return (
        environment()
        .from_string(_TEMPLATE.read_text("utf-8"))
        .render(
            results=results,
            sections=sections,
            style=Markup(style()),
            cell_class=_cell_class,
            dash=DASH,
            about_facts=HOW_TO_READ,
        )
    )


def _cell_class(row: Row, title: str) -> str:
    """Return the CSS class of a table's cell."""
    verdicts = [quantity.verdict(row) for quantity in QUANTITIES if quantity.title == title]
    return {"better": "good", "worse": "bad"}.get("".join(verdicts), "")
