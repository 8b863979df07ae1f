"""Where a workdir stands: for the person on call."""

import polars as pl
from rich.console import Console

from tutelage.launch import steps
from tutelage.launch.session import Session
from tutelage.launch.summary import simple_table


def print_status(session: Session, console: Console) -> None:
    """Print what there is of each day and model, and what is still to be done of the days asked for."""
    counts = steps.day_counts(session)
    days = simple_table("day", "rows in", "kept", "dropped")
    for (day,), rows in counts.partition_by("day", as_dict=True, maintain_order=True).items():
        reasons = rows.filter(pl.col("dropped") > 0).select("reason", "dropped").iter_rows()
        dropped = ", ".join(f"{number:,} {reason}" for reason, number in reasons) or "none"
        days.add_row(str(day), f"{rows['rows_in'][0]:,}", f"{rows['kept'][0]:,}", dropped)
    labels = simple_table("teacher", "producer", "day", "labels")
    for teacher, producer, day, number in session.run.lake.soft_labels.partitions().iter_rows():
        labels.add_row(teacher, producer, str(day), f"{number:,}")
    models = simple_table(
        "model", "days learnt", "last day", "updates", "examples", "newest version", "to learn"
    )
    for model in session.models:
        states = session.run.checkpoints(model).states()
        published = session.versions(model).published()
        done = {state.day for state in states}
        left = [day for day in session.days_of(model) if day not in done]
        models.add_row(
            model,
            str(len(states)),
            str(states[-1].day) if states else "–",
            f"{states[-1].step:,}" if states else "–",
            f"{states[-1].examples:,}" if states else "–",
            str(published[-1].number) if published else "–",
            f"{len(left)} days" if left else "nothing",
        )
    missing = steps.to_materialize(session)
    for table in (days, labels, models):
        # A log has no width: a wrapped line is better than a name cut in two.
        console.width = max(console.width, Console(width=10_000).measure(table).maximum)
        console.print(table)
    console.print(f"To materialise: {', '.join(map(str, missing)) or 'nothing'}")
