"""tutelage-materialize --dry_run: what a sample of the raw data would give."""

from collections.abc import Iterator

import polars as pl

from tutelage.launch.actions.console import echo, print_waits
from tutelage.launch.logging_setup import quiet_stderr
from tutelage.launch.session import Session
from tutelage.pipeline.errors import Found
from tutelage.pipeline.preview import Preview, preview

_DAYS = 12
"""Days that are printed: the first and the last ones."""
_LINES = 10
"""Reasons, and findings, that are printed."""


def print_preview(session: Session) -> None:
    """Print what becomes of a sample of the rows. Nothing is written.

    Raises Found where there is something to correct before a run.
    """
    print_waits(session, needed=True)
    schema = session.experiment.schema
    with quiet_stderr(verbose=session.verbose):
        found = preview(
            session.experiment.source, schema, raw_dir=session.raw_dir, days=session.days, now=session.now
        )
    for line in (*_rows(found), *_days(found.days)):
        echo(line)
    if schema.negatives:
        echo(f"a run adds {schema.negatives.per_positive} sampled negatives for each positive")
    for finding in found.findings[:_LINES]:
        echo(f"correct: {finding}")
    if found.findings:
        more = f", of which {_LINES} are printed" if len(found.findings) > _LINES else ""
        raise Found(
            f"things to correct: {len(found.findings)}{more}; change the config or the data, and look again"
        )
    echo("Nothing to correct was found. Nothing was written.")


def _rows(found: Preview) -> Iterator[str]:
    """Yield what was read, and what was dropped for each reason."""
    what = (
        "everything"
        if found.whole
        else f"a sample: pieces of {found.units} of {found.all_units} files or parts"
    )
    yield f"read {what}: {found.rows_in:,} rows in = {found.kept:,} kept + {sum(found.dropped.values()):,} dropped"
    for reason, rows in list(found.dropped.items())[:_LINES]:
        example = f"  as in {found.examples[reason]}" if reason in found.examples else ""
        if reason == "outside_days" and found.outside:
            example = f"  {found.outside[0]} to {found.outside[1]}"
        yield f"  {reason:24} {rows:>12,}{example}"
    if (more := len(found.dropped) - _LINES) > 0:
        yield f"  and {more} more reasons"


def _days(days: pl.DataFrame) -> Iterator[str]:
    """Yield a line for each day: its rows, and the means of the labels."""
    labels = days.columns[2:]
    widths = [max(len(label), 8) for label in labels]
    heads = "".join(f"  {label:>{width}}" for label, width in zip(labels, widths, strict=True))
    yield f"  {'day':10} {'rows':>12}{heads}  (means)"
    for number, (day, rows, *means) in enumerate(days.iter_rows()):
        if len(days) > _DAYS and number == _DAYS // 2:
            yield f"  … {len(days) - _DAYS} more"
        if len(days) <= _DAYS or not _DAYS // 2 <= number < len(days) - _DAYS // 2:
            shown = ["-" if mean is None else f"{mean:.4g}" for mean in means]
            cells = "".join(f"  {text:>{width}}" for text, width in zip(shown, widths, strict=True))
            yield f"  {day} {rows:>12,}{cells}"
