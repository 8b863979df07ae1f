"""The state of a workdir, for the person on call: first what needs attention, then the days and the models."""

from collections.abc import Iterator

import polars as pl
from rich.console import Console
from rich.table import Table

from tutelage.launch import steps
from tutelage.launch.lifecycle import stale
from tutelage.launch.lifecycle.keep import reach
from tutelage.launch.report.data import day_counts, quarantined
from tutelage.launch.report.summary import DASH, NOTES, print_table, simple_table
from tutelage.launch.session import Session
from tutelage.pipeline.days import spans
from tutelage.pipeline.io.folders import size
from tutelage.trainers.expected import UNSETTLED
from tutelage.trainers.gate import BASIS, SETTLING


def print_status(session: Session, console: Console) -> None:
    """Print what needs attention or is still to be done, then what there is of each day and each model."""
    where = f"{session.experiment.name} in {session.run.root}"
    console.print(f"{where}; days asked for: {session.asked}", markup=False)
    for line in _attention(session):
        console.print(line, markup=False)
    for table in (_days(session), _models(session)):
        print_table(console, table)
    console.print()
    for line in _disk(session):
        console.print(line, markup=False)
    if lines := list(_vocabularies(session)):
        console.print()
    for line in lines:
        console.print(f"Ids: {line}", markup=False)


def _attention(session: Session) -> Iterator[str]:
    if session.moved:
        yield f"Moved: {session.moved}"
    yield from (f"Quarantine: {line}" for line in quarantined(session))
    if found := stale.find(session):
        yield f"Stale: {found.describe(session)}"
    if waits := session.waits():
        yield f"Waits: {waits}"
    yield f"To materialise: {', '.join(map(str, steps.to_materialize(session))) or 'nothing'}"
    for model in session.students:
        if version_waits := session.version_waits(model):
            yield f"Waits: {model}, {version_waits}"
    if session.pruned:
        yield f"Pruned: {spans(sorted(session.pruned), slice_days=session.run.schema.slice_days)}"
    yield from (f"Teacher: {line}" for line in steps.describe_teachers(session))
    yield from (f"Settling: {line}" for line in _settling(session))


def _settling(session: Session) -> Iterator[str]:
    """Yield a line for each young model whose gate does not judge all values of a day yet."""
    for model in session.models:
        states = session.run.checkpoints(model).states()
        if 0 < len(states) <= UNSETTLED:  # an old model is judged, and is not looked up
            day = states[-1].day
            of_day = session.run.lake.metrics.scan(model=model, run=session.run.name, day=day)
            found = of_day.filter(basis=BASIS, metric=SETTLING).select("value").collect()["value"].to_list()
            if found and found[0]:
                yield f"the gate of {model} had no bound yet for {found[0]:.0f} values of {day}"


def _disk(session: Session) -> Iterator[str]:
    """Yield the bytes of each part of the workdir, and how far back its checkpoints reach."""
    root, run = session.run.root, session.run
    states = [state for model in session.all_models for state in run.checkpoints(model).states()]
    parts = {"checkpoints": sum(state.size for state in states if not state.pruned)}
    parts["versions"] = sum(size(root / name) for name in ("export", "retired", "rejected"))
    tables = sorted(path for path in (root / "lake").glob("*") if path.is_dir())
    parts |= {path.name: size(path) for path in tables}
    each = ", ".join(f"{name} {n / 1e6:,.1f}" for name, n in parts.items() if n)
    yield f"Disk: {sum(parts.values()) / 1e6:,.1f} MB: {each}"
    yield from (f"Reach: {line}" for line in reach(session))


def _days(session: Session) -> Table:
    """Return a row for each materialised day: its rows, its labels, and what was dropped."""
    counts = day_counts(session)
    labelled = {
        (producer, day): rows
        for teacher, producer, day, rows in session.run.lake.soft_labels.partitions().iter_rows()
        if teacher == session.run.labeller(day).name
    }
    producers = sorted({producer for producer, _ in labelled})
    heads = [f"{producer} labels" for producer in producers]
    notes = {name: head for name, head in NOTES.items() if (counts[name] > 0).any()}
    heads += notes.values()
    days = simple_table("day", "rows in", "kept", *heads, "dropped", title="Days")
    for (day,), rows in counts.partition_by("day", as_dict=True, maintain_order=True).items():
        reasons = rows.filter(pl.col("dropped") > 0).select("reason", "dropped").iter_rows()
        dropped = ", ".join(f"{number:,} {reason}" for reason, number in reasons) or "none"
        numbers = [rows["rows_in"][0], rows["kept"][0], *(labelled.get((p, day)) for p in producers)]
        numbers += [rows[name][0] for name in notes]
        days.add_row(str(day), *(DASH if n is None else f"{n:,}" for n in numbers), dropped)
    return days


def _models(session: Session) -> Table:
    """Return a row for each model: how far it has been trained and published."""
    heads = [
        "days trained",
        "last day",
        "updates",
        "examples",
        "newest version",
        "days skipped",
        "days to train",
    ]
    models = simple_table("model", *heads, title="Models")
    for model in session.models:
        states = session.run.checkpoints(model).states()
        published = session.versions(model).published()
        skipped = set(session.run.skipped(model))
        done = {*(state.day for state in states), *skipped}
        left = [day for day in session.days_of(model) if day not in done]
        models.add_row(
            model,
            str(len(states)),
            str(states[-1].day) if states else DASH,
            f"{states[-1].step:,}" if states else DASH,
            f"{states[-1].examples:,}" if states else DASH,
            str(published[-1].number) if published else DASH,
            str(len(skipped & set(session.days_of(model)))),
            str(len(left)),
        )
    return models


def _vocabularies(session: Session) -> Iterator[str]:
    """Yield a line for each model and growing feature: what became of its ids on the model's last day."""
    growing = [feature for feature in session.experiment.schema.ids if feature.grows]
    for model in session.models if growing else ():
        states = session.run.checkpoints(model).states()
        if not states:
            continue
        day = states[-1].day
        metrics = session.run.lake.metrics.scan(model=model, run=session.run.name, day=day)
        counted = metrics.filter(basis="pre_update", task="").collect()
        for feature in growing:
            n = dict(counted.filter(slice=feature.name).select("metric", "value").iter_rows())
            if n:
                yield (
                    f"{model}, {feature.name} on {day}: {n['ids_known']:,.0f} ids known; {n['ids_with_rows']:,.0f}, "
                    f"of at most {feature.capacity - 1:,}, have an embedding; {n['ids_given']:,.0f} added, "
                    f"{n['ids_evicted']:,.0f} evicted, no place for {n['ids_full']:,.0f}; "
                    f"{n['default_row_share']:.1%} of the examples use the default embedding"
                )
