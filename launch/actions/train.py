"""tutelage-teach and tutelage-student: train a model on the days that it still lacks; and all of them for the run."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date

import polars as pl

from tutelage.launch import kills, pool, steps
from tutelage.launch.actions.console import (
    accepted_day,
    bar,
    echo,
    log,
    print_holdout,
    print_left_out,
    print_waits,
    progress_bars,
)
from tutelage.launch.logging_setup import import_tensorflow
from tutelage.launch.report.summary import throughput
from tutelage.launch.session import Session
from tutelage.launch.workspace import claim_student, reset_student
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.printable import counted
from tutelage.trainers.checkpoints import State
from tutelage.trainers.handover import describe_start


def teach(
    session: Session, *, successor: bool = False, accept_day: str | None = None, reason: str = ""
) -> None:
    """Train the teacher, or its `successor`, which takes over once it is as good."""
    model = session.run.teacher_model
    day = accepted_day(session, accept_day, reason)
    if successor:
        if session.experiment.successor is None:
            raise UserError("--successor: the config has none; leave the flag out")
        if session.successor is None:
            name = session.experiment.successor.teacher.name
            echo(
                f"Nothing to do: {name} is the teacher by now; tutelage-teach without --successor trains it."
            )
            return
        model = session.teachers[-1]
    _train(session, model, day, reason)


def student(
    session: Session, *, student: str, reset: bool = False, accept_day: str | None = None, reason: str = ""
) -> None:
    """Train a student; `reset` trains it from scratch, from its first day."""
    day = accepted_day(session, accept_day, reason)
    config = session.experiment.student(student)
    if reset:
        reset_student(session.run, config)
    claim_student(session.run, config)
    _train(session, student, day, reason)


def _train(session: Session, model: str, accept_day: date | None, reason: str) -> None:
    print_waits(session)
    print_left_out(session, model)
    print_holdout(session, [model])
    todo = session.days_to_train(model, accept=accept_day)
    states: list[State] = []
    if todo or accept_day:
        import_tensorflow(verbose=session.verbose)
        from tutelage.trainers.day_loop import Accept

        accept = Accept(day=accept_day, reason=reason) if accept_day else None
        with bar(model, _examples(session, todo)) as advance:
            states = steps.train(session, model, accept=accept, progress=advance)
        _print_trained(model, states)
    changed = model in session.teachers[1:] and _take_over(session, states)
    if not (todo or accept_day or changed):
        echo(f"Nothing to do: {model} is trained on all of the days asked for that are its own.")


def train_and_export(session: Session, models: Sequence[str]) -> list[pool.Outcome]:
    """Train and export those of `models` that have something to do, each in a process of its own.

    A model that fails leaves the others alone: its outcome holds the failure. Raises Preempted after a signal.
    """
    for model in models:
        print_left_out(session, model)
    print_holdout(session, models)
    todo: dict[str, list[date]] = {}
    outcomes: list[pool.Outcome] = []
    for model in models:
        try:
            todo[model] = session.days_to_train(model)
        except UserError as error:
            outcomes.append(pool.Outcome(model=model, failure=error))
    busy = [model for model in todo if todo[model] or session.to_export(model)]
    if not busy:
        return outcomes
    with progress_bars() as bars:
        tasks = {model: bars.add_task(model, total=_examples(session, todo[model])) for model in busy}
        for outcome in pool.train(
            session, busy, progress=lambda model, rows: bars.advance(tasks[model], rows)
        ):
            # Hidden, not removed: the model's last progress may arrive after its outcome.
            bars.update(tasks[outcome.model], visible=False)
            served = outcome.exported - len(outcome.rejected)
            if outcome.trained or not outcome.failure:
                published = f"{counted(served, 'version')} exported in {outcome.export_seconds:.1f} s"
                _print_trained(outcome.model, outcome.trained, published=published)
            for line in outcome.rejected:
                echo(line, step="export", model=outcome.model, level="warning")
            outcomes.append(outcome)
    return outcomes


def train_successor(session: Session) -> tuple[list[pool.Outcome], bool]:
    """Train the successor and let it take over once it is as good; return the outcomes and whether it took over."""
    outcomes = [_count_kill(session, each) for each in train_and_export(session, session.teachers[1:])]
    changed = _take_over(session, [state for outcome in outcomes for state in outcome.trained])
    return outcomes, changed


def _count_kill(session: Session, outcome: pool.Outcome) -> pool.Outcome:
    """Count a kill of the successor while it was trained; return its outcome. After too many it has failed."""
    model, successor = outcome.model, session.successor
    assert successor
    folder = session.run.folder(model)
    if outcome.failure is None:
        kills.forget(folder)
    if not isinstance(outcome.failure, pool.Killed) or not (days := session.days_to_train(model)):
        return outcome
    count = kills.count(folder, days[0])
    if count < successor.max_kills:
        return outcome
    failure = UserError(
        f"{model} was killed {count} times on {days[0]} and counts as failed: students go on with the labels of "
        f"{session.run.teacher.name}; give it more memory, raise successor.max_kills, or take it out of the config"
    )
    return replace(outcome, failure=failure)


def _take_over(session: Session, trained: Sequence[State]) -> bool:
    """Let the successor take over if it is as good, and print where it stands; return whether it did.

    `trained` are the days that it was trained on just now.
    """
    model = session.teachers[-1]
    began = trained and trained[0].day == session.run.checkpoints(model).states()[0].day
    if began and (start := describe_start(session.run, model)):
        echo(start)
    changed = steps.take_over(session)
    if changed:
        session = session.reopened()
    if changed or trained:
        echo(steps.describe_teachers(session)[-1])
    return changed is not None


def _print_trained(model: str, states: Sequence[State], *, published: str = "") -> None:
    """Print what a model was trained on, and what was `published` of it, or its speed: a report has that in a table."""
    for state in states:
        seconds = round(state.seconds + state.waited, 3)
        log(
            f"{model} is trained on {state.day}",
            step="train",
            model=model,
            day=state.day,
            rows=state.rows,
            seconds=seconds,
        )
    if not states:
        line = f"{model}: no new day; {published}" if published else f"{model}: no new day"
        echo(line, step="train", model=model)
        return
    speed = throughput({model: states})[0]
    span = f"{states[0].day} to {states[-1].day}" if len(states) > 1 else f"{states[0].day}"
    pace = f"{speed.examples_per_second:,.0f} examples/s, {speed.feed_wait_share:.1%} waiting for the feed"
    line = f"{model}: trained on {span}, {speed.examples:,} examples; {published or pace}"
    echo(line, step="train", model=model, seconds=round(sum(s.seconds + s.waited for s in states), 3))


def _examples(session: Session, days: Sequence[date]) -> int:
    partitions = session.run.lake.interactions.partitions()
    return int(partitions.filter(pl.col("day").is_in(days))["rows"].sum())
