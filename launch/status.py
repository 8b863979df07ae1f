"""Where a workdir stands: for the person on call."""

import polars as pl
from rich.console import Console

from tutelage.launch import steps, succession
from tutelage.launch.session import Session
from tutelage.launch.summary import DASH, print_table, simple_table


def print_status(session: Session, console: Console) -> None:
    """Print what there is of each day and model, and what is still to be done of the days asked for."""
    asked = f"{session.days[0]} to {session.days[-1]}"
    console.print(f"{session.experiment.name} in {session.run.root}; asked for: {asked}", markup=False)
    counts = steps.day_counts(session)
    labelled = {
        (producer, day): rows
        for teacher, producer, day, rows in session.run.lake.soft_labels.partitions().iter_rows()
        if teacher == session.run.labeller(day).name
    }
    producers = sorted({producer for producer, _ in labelled})
    heads = [f"{producer} labels" for producer in producers]
    days = simple_table("day", "rows in", "kept", *heads, "dropped", title="Days")
    for (day,), rows in counts.partition_by("day", as_dict=True, maintain_order=True).items():
        reasons = rows.filter(pl.col("dropped") > 0).select("reason", "dropped").iter_rows()
        dropped = ", ".join(f"{number:,} {reason}" for reason, number in reasons) or "none"
        numbers = [rows["rows_in"][0], rows["kept"][0], *(labelled.get((p, day)) for p in producers)]
        days.add_row(str(day), *(DASH if n is None else f"{n:,}" for n in numbers), dropped)
    heads = ["days learnt", "last day", "updates", "examples", "newest version", "days to learn"]
    models = simple_table("model", *heads, title="Models")
    for model in session.models:
        states = session.run.checkpoints(model).states()
        published = session.versions(model).published()
        done = {*(state.day for state in states), *session.run.quarantine(model).skipped()}
        left = [day for day in session.days_of(model) if day not in done]
        models.add_row(
            model,
            str(len(states)),
            str(states[-1].day) if states else DASH,
            f"{states[-1].step:,}" if states else DASH,
            f"{states[-1].examples:,}" if states else DASH,
            str(published[-1].number) if published else DASH,
            str(len(left)),
        )
    for table in (days, models):
        print_table(console, table)
    for line in steps.quarantined(session):
        console.print(f"Quarantine: {line}", markup=False)
    for line in succession.say(session):
        console.print(f"Teacher: {line}", markup=False)
    missing = steps.to_materialize(session)
    console.print(f"\nTo materialise: {', '.join(map(str, missing)) or 'nothing'}")
