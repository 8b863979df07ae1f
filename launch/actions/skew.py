"""tutelage-skew: logged requests beside a training day of a student, and beside its scores."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from tutelage.launch.actions.console import day_of, echo, out
from tutelage.launch.logging_setup import import_tensorflow
from tutelage.launch.report.summary import DASH, print_table, simple_table
from tutelage.launch.session import Session
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.printable import counted

if TYPE_CHECKING:
    from tutelage.export.skew import FeatureSkew, OutputSkew


def skew(session: Session, *, student: str, requests: str, day: str | None = None) -> None:
    """Print a line for each feature and output. Raises UserError where any exceeds its thresholds."""
    session.experiment.student(student)
    trained = session.run.checkpoints(student).states()
    if not trained:
        raise UserError(f"{student} is trained on no day in {session.run.root}; train it first")
    served = session.versions(student).published()
    if not served:
        raise UserError(
            f"{student} has no version in {session.run.root}; publish one with tutelage-export --model={student}"
        )
    on = day_of(session, day) if day else trained[-1].day
    lake = session.run.lake
    days = lake.interactions.partitions()["day"].to_list()
    if on not in days:
        raise UserError(
            f"--day={on}: not in {lake.interactions.path}; run tutelage-materialize for it, or give another"
        )
    before = max((other for other in days if other < on), default=None)
    import_tensorflow(verbose=session.verbose)
    from tutelage.export.skew import SkewConfig, compare, read_requests

    log = read_requests(Path(requests), session.run.schema)
    features, outputs = compare(
        log,
        lake.with_histories(lake.interactions.scan(day=on), on).collect(),
        None if before is None else lake.with_histories(lake.interactions.scan(day=before), before).collect(),
        model=served[-1].path,
        schema=session.run.schema,
        config=SkewConfig(),
    )
    echo(
        f"{counted(log.features.height, 'request')} against {on} of {lake.interactions.path.name} and the scores of "
        f"{student} {served[-1].number}"
    )
    _print_tables(features, outputs, on)
    lines = [(line.name, line.past) for line in features] + [(line.name, line.past) for line in outputs]
    past = [f"{name} ({', '.join(what)})" for name, what in lines if what]
    if past:
        raise UserError(
            f"{requests} is past the thresholds in {'; '.join(past)}; compare how the server makes these "
            "with how the training day was made"
        )


def _print_tables(features: "Sequence[FeatureSkew]", outputs: "Sequence[OutputSkew]", day: date) -> None:
    def cell(value: float | None, form: str) -> str:
        return DASH if value is None else format(value, form)

    lines = simple_table("feature", "dtype", "missing", f"on {day}", "unknown", f"on {day}", "drift", "past")
    for f in features:
        shares = (f.missing, f.missing_day, f.unknown, f.unknown_day)
        lines.add_row(
            Text(f.name),
            Text(f.dtype),
            *(cell(share, ".1%") for share in shares),
            cell(f.drift, ".3f"),
            Text(", ".join(f.past)),
            style="red" if f.past else "",
        )
    print_table(out, lines)
    lines = simple_table("output", "drift", "logged differ by", "past")
    for o in outputs:
        row = (cell(o.drift, ".3f"), cell(o.difference, ".1e"), Text(", ".join(o.past)))
        lines.add_row(Text(o.name), *row, style="red" if o.past else "")
    print_table(out, lines)
