"""A study as the command runs it: what to train, in units, then what the arms show, compared and written.

Arms are paired by seed, and judged on the last days of a workdir.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from tutelage.launch.session import Session
from tutelage.launch.studies.design import STUDIES, Design, design
from tutelage.launch.studies.leakage import leakage
from tutelage.launch.studies.pages import results_html, results_markdown
from tutelage.launch.studies.results import StudyResults
from tutelage.launch.studies.statistics import compare
from tutelage.launch.studies.units import judged_days, run_unit, undone, units_of
from tutelage.pipeline.io.atomic import atomic_write

__all__ = ["STUDIES", "Design", "design", "judged_days", "results", "run_unit", "undone", "write"]


def results(session: Session, design: Design, studies: Sequence[int], seeds: int) -> StudyResults:
    """Return what the units of a design show. All must be done."""
    folders = [unit.folder for unit in units_of(session, design, seeds)]
    sums = pl.scan_parquet([str(folder / "sums.parquet") for folder in folders])
    facts, buckets = (
        pl.concat([pl.read_parquet(str(folder / f"{name}.parquet")) for folder in folders])
        for name in ("facts", "buckets")
    )
    judged = judged_days(session)
    comparisons = [compare(sums, arms, days=judged, seed=1) for arms in design.by_study.values()]
    means = facts.group_by("arm", "task", "metric", maintain_order=True).agg(pl.col("value").mean())
    return StudyResults(
        experiment=session.experiment.name,
        comparisons=pl.concat(comparisons),
        facts=pl.concat([means, leakage(buckets, design.arms, seed=1)]),
        tasks=session.experiment.schema.tasks,
        command=_command(session, studies, seeds),
        created=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        days=judged,
    )


def _command(session: Session, studies: Sequence[int], seeds: int) -> str:
    """Return the command that gives the same results again."""
    request = session.request
    flags = [f"--config={request['config']}", f"--workdir={request['workdir']}", f"--seeds={seeds}"]
    flags += [f"--raw_dir={request['raw_dir']}"] if request["raw_dir"] else []
    flags += ["--smoke"] if request["smoke"] else []
    flags += [f"--studies={number}" for number in studies] + [
        f"--set={text}" for text in request["overrides"]
    ]
    return " ".join(["tutelage-study", *flags])


def write(session: Session, found: StudyResults) -> Path:
    """Write the tables as Delta tables, and everything as Markdown and as an HTML page; return the page's path."""
    root = session.run.root / "study"
    for name, frame in (("comparisons", found.comparisons), ("facts", found.facts)):
        frame.write_delta(
            str(root / name), mode="overwrite", delta_write_options={"schema_mode": "overwrite"}
        )
    for name, text in (("results.md", results_markdown(found)), ("results.html", results_html(found))):
        with atomic_write(root / name) as partial:
            partial.write_text(text, "utf-8")
    return root / "results.html"
