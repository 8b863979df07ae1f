"""What each command does and prints."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from tutelage.launch import pool, steps, succession
from tutelage.launch.quiet import import_tensorflow, quiet_stderr
from tutelage.launch.session import Session, Settings
from tutelage.launch.summary import DASH, print_table, simple_table
from tutelage.launch.workspace import claim_student, claim_successor, reset_student
from tutelage.pipeline.days import parse_day
from tutelage.pipeline.errors import UserError
from tutelage.trainers.checkpoints import State
from tutelage.trainers.run import TEACHER

if TYPE_CHECKING:
    from tutelage.export.skew import FeatureSkew, OutputSkew

# Soft wrap: a log has no width, and a line that is cut in two cannot be searched for.
_console = Console(soft_wrap=True, highlight=False)


def run(settings: Settings, *, reset: Sequence[str] = ()) -> None:
    """Do what the days asked for still need. Run again, it goes on from where it was, or does nothing."""
    session = Session.open(settings)
    with _alone(session):
        for name in reset:
            reset_student(session.run, session.experiment.student(name))
        for student in session.experiment.students:
            claim_student(session.run, student)
        if session.successor:
            claim_successor(session.run, session.successor)
        started = time.monotonic()
        missing = steps.to_materialize(session)
        if missing:
            _materialize(session, missing)
        steps.build_histories(session)
        outcomes = list(_train(session, [session.run.teacher_model]))
        amiss: UserError | None = None
        changed = False
        if session.successor:
            try:
                outcomes += _train(session, session.teachers[1:])
            except pool.Stopped:
                raise
            except UserError as error:
                # No student needs it yet: they are not held up.
                amiss = error
                _console.print(f"{error}", markup=False)
            changed = _succeed(session, [o.learnt for o in outcomes if o.model == session.teachers[-1]])
            session = Session.open(settings)
        unlabelled = steps.to_label(session)
        if unlabelled:
            _label(session, unlabelled)
        outcomes += _train(session, session.students)
        if not (missing or outcomes or unlabelled or changed or amiss):
            days = f"{session.days[0]} to {session.days[-1]}"
            _console.print(f"Nothing to do: {days} are learnt by all models, labelled and exported.")
            return
        _report(session, {outcome.model: outcome.learnt for outcome in outcomes if outcome.learnt})
        _console.print(f"Done in {time.monotonic() - started:.0f} s.")
        _raise_rejected(session, [line for outcome in outcomes for line in outcome.rejected])
        if amiss:
            raise amiss


def materialize(settings: Settings) -> None:
    session = Session.open(settings)
    _materialize(session, session.days)


def train(
    settings: Settings,
    model: str,
    *,
    successor: bool = False,
    reset: bool = False,
    accept_day: str | None = None,
    reason: str = "",
) -> None:
    """`successor`: the teacher's, in its place."""
    if bool(accept_day) != bool(reason):
        raise UserError("--accept_day and --reason go together; give both")
    session = Session.open(settings)
    day = parse_day(accept_day, time_zone=session.experiment.schema.time_zone) if accept_day else None
    model = _model(session, model)
    if successor:
        if session.successor is None:
            raise UserError("--successor: the config has none that has not taken over; leave the flag out")
        model = session.teachers[-1]
    if model not in session.teachers:
        student = session.experiment.student(model)
        if reset:
            reset_student(session.run, student)
        claim_student(session.run, student)
    todo = session.to_learn(model, accept=day)
    states: list[State] = []
    if todo or day:
        import_tensorflow(verbose=settings.verbose)
        with _bar(model, _rows(session, todo)) as advance:
            from tutelage.trainers.day_loop import Accept

            accept = Accept(day=day, reason=reason) if day else None
            states = steps.learn(session, model, accept=accept, progress=advance)
        _print_learnt(model, states)
    changed = model in session.teachers[1:] and _succeed(session, [states])
    if not (todo or day or changed):
        _console.print(f"Nothing to do: {model} has learnt all of the days asked for that are its own.")


def _model(session: Session, name: str) -> str:
    """As it is called in folders: `teacher` is whoever labels now."""
    return session.run.teacher_model if name == TEACHER else name


def _succeed(session: Session, learnt: Sequence[Sequence[State]]) -> bool:
    """Let the successor take over if it is as good; `learnt`: what it learnt now. Returns whether it did."""
    model = session.teachers[-1]
    states = [state for each in learnt for state in each]
    began = states and states[0].day == session.run.checkpoints(model).states()[0].day
    if began and (start := succession.started(session, model)):
        _console.print(start, markup=False)
    changed = succession.take_over(session)
    if changed:
        session = Session.open(session.settings)
    if changed or states:
        _console.print(succession.say(session)[-1], markup=False)
    return changed is not None


def export(
    settings: Settings,
    model: str,
    *,
    promote: int | None = None,
    rollback: bool = False,
    pin: int | None = None,
    unpin: int | None = None,
    reason: str = "",
    mirror: str = "",
    new_signature: bool = False,
) -> None:
    """Publish what is not published yet, or do the one thing that is asked for with the versions."""
    asked = [promote is not None, rollback, pin is not None, unpin is not None]
    if sum(asked) > 1:
        raise UserError("--promote, --rollback, --pin and --unpin exclude one another; give one of them")
    if reason and not any(asked):
        raise UserError("--reason is of --promote, --rollback, --pin or --unpin; give one of them with it")
    session = Session.open(settings)
    model = _model(session, model)
    session.model(model)
    versions = session.versions(model)
    retired: list[int] = []
    if promote is not None:
        overruled = (versions.rejected / str(promote)).exists()
        retired = versions.promote(promote, reason)
        if overruled:
            steps.overrule(session, model, promote, reason)
    elif rollback:
        retired = versions.rollback(reason)
    elif pin is not None:
        versions.pin(pin, reason)
    elif unpin is not None:
        versions.unpin(unpin, reason)
    else:
        _export(session, model, new_signature=new_signature)
    for number in retired:
        _console.print(f"retired: {versions.retired / str(number)}", markup=False)
    for number, why in versions.pinned().items():
        _console.print(f"pinned: {number}{f' ({why})' if why else ''}", markup=False)
    served = versions.published()
    _console.print(f"{model} serves {served[-1].path if served else 'nothing'}", markup=False)
    if mirror:
        from tutelage.export.remote import mirror as copy

        copy(versions.folder, mirror)
        _console.print(f"{mirror} shows {', '.join(str(version.number) for version in served)}", markup=False)


def _export(session: Session, model: str, *, new_signature: bool) -> None:
    if not session.run.checkpoints(model).states():
        raise UserError(f"{model} has learnt no day in {session.settings.workdir}; train it first")
    todo = session.to_export(model)
    if not todo:
        _console.print(f"Nothing to do: every day that {model} has learnt is published.")
        return
    import_tensorflow(verbose=session.settings.verbose)
    with _bar(f"export {model}", len(todo)) as advance:
        exported = steps.export(session, model, new_signature=new_signature, progress=advance)
    for one in exported:
        size = f"{one.contents.bytes:,} bytes, {sum(one.contents.ops.values())} ops"
        _console.print(f"{one.version.path}: {one.verdict or 'published'}; {size}", markup=False)
    _raise_rejected(session, steps.rejected(model, exported))


def label(settings: Settings, *, snapshot_day: str | None = None) -> None:
    from tutelage.pipeline.label import choose

    session = Session.open(settings)
    of = {day: session.run.labeller(day).model for day in session.days}
    published = {model: steps.snapshots(session, model) for model in set(of.values())}
    if snapshot_day:
        day = parse_day(snapshot_day, time_zone=session.experiment.schema.time_zone)
        published = {model: [s for s in found if s.day == day] for model, found in published.items()}
    labelled = [day for day in session.days if any(s.day < day for s in published[of[day]])]
    for day in session.days:
        if day not in labelled and labelled:
            _console.print(f"{day}: left out, there is no snapshot of an earlier day")
    _label(session, {day: choose(published[of[day]], day) for day in labelled or session.days[-1:]})


def skew(settings: Settings, student: str, requests: str, *, day: str | None = None) -> None:
    """Print a line for each feature and output. Raises UserError where any is past its thresholds."""
    session = Session.open(settings)
    session.experiment.student(student)
    learnt = session.run.checkpoints(student).states()
    if not learnt:
        raise UserError(f"{student} has learnt no day in {settings.workdir}; train it first")
    served = session.versions(student).published()
    if not served:
        raise UserError(
            f"{student} has no version in {settings.workdir}; publish one with tutelage-export --model={student}"
        )
    on = parse_day(day, time_zone=session.experiment.schema.time_zone) if day else learnt[-1].day
    table = session.run.lake.interactions
    have = table.partitions()["day"].to_list()
    if on not in have:
        raise UserError(f"--day={on}: not in {table.path}; run tutelage-materialize for it, or give another")
    before = max((other for other in have if other < on), default=None)
    import_tensorflow(verbose=settings.verbose)
    from tutelage.export.skew import SkewConfig, compare, read_requests

    log = read_requests(Path(requests), session.run.schema)
    features, outputs = compare(
        log,
        session.run.lake.with_histories(table.scan(day=on), on).collect(),
        None if before is None else session.run.lake.with_histories(table.scan(day=before), before).collect(),
        model=served[-1].path,
        schema=session.run.schema,
        config=SkewConfig(),
    )
    _console.print(
        f"{log.features.height:,} requests against {on} of {table.path.name} and the scores of "
        f"{student} {served[-1].number}"
    )
    _print_skew(features, outputs, on)
    lines = [(line.name, line.past) for line in features] + [(line.name, line.past) for line in outputs]
    past = [f"{name} ({', '.join(what)})" for name, what in lines if what]
    if past:
        raise UserError(
            f"{requests} is past the thresholds in {'; '.join(past)}; compare how the server makes these "
            "with how the training day was made"
        )


def rollback(settings: Settings, to_day: str, *, dry_run: bool = False) -> None:
    """Print what goes, then let it go. `run` makes the days anew."""
    from tutelage.launch.rollback import plan

    session = Session.open(settings)
    with _alone(session):
        day = parse_day(to_day, time_zone=session.experiment.schema.time_zone)
        steps_ = plan(session, day)
        for step in steps_:
            _console.print(f"{'would go' if dry_run else 'goes'}: {step.what}", markup=False)
            if not dry_run:
                step.take()
        if not steps_:
            _console.print(f"Nothing to do: the teacher has learnt no day after {day}.")


def study(settings: Settings, studies: Sequence[int], seeds: int) -> None:
    """Train what the studies compare and is not there yet, then write what they show."""
    from tutelage.launch import study as job
    from tutelage.launch.study_pages import sentences

    session = Session.open(settings)
    design = job.design(session.experiment, session.days, studies or job.STUDIES)
    with _alone(session):
        started = time.monotonic()
        missing = steps.to_materialize(session)
        if missing:
            _materialize(session, missing)
        todo = job.undone(session, design, seeds)
        if todo:
            units = {f"{setting.name}, seed {seed}": (setting, seed) for setting, seed in todo}
            _console.print(f"{len(units)} units to train, a teacher and its students each")
            with _units("units") as update:
                for done, name in enumerate(
                    pool.each(
                        partial(job.run_unit, settings), units, settings, progress=lambda name, rows: None
                    ),
                    1,
                ):
                    update(done, len(units))
                    _console.print(f"{done} of {len(units)}: {name}, {time.monotonic() - started:.0f} s")
        found = job.results(session, design, studies, seeds)
        page = job.write(session, found)
    for name, rows in found.studies.items():
        _console.print(f"\n{name}", style="bold", markup=False)
        for sentence in sentences(name, rows, found.tasks) + found.costs(rows):
            _console.print(f"- {sentence}", markup=False)
    _console.print()
    _console.print(f"Results: {page.with_suffix('.md')} and {page}", markup=False)


def report(settings: Settings) -> None:
    _report(Session.open(settings), {})


def status(settings: Settings) -> None:
    from tutelage.launch.status import print_status

    print_status(Session.open(settings), _console)


def _materialize(session: Session, days: Sequence[date]) -> None:
    # TensorFlow Datasets, a source's, brings TensorFlow along.
    with quiet_stderr(verbose=session.settings.verbose), _units("materialize") as progress:
        done = steps.materialize(session, days, progress=progress)
    counts = done.days.values()
    kept = sum(c.kept for c in counts)
    dropped: dict[str, int] = dict(done.elsewhere)
    for c in counts:
        for reason, rows in c.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + rows
    reasons = ", ".join(f"{rows:,} {reason}" for reason, rows in sorted(dropped.items())) or "none"
    _console.print(
        f"materialize: {len(done.days)} days, {done.rows_in:,} rows in = {kept:,} kept + "
        f"{sum(dropped.values()):,} dropped ({reasons}); {done.seconds:.1f} s, "
        f"{done.rows_in / done.seconds:,.0f} rows/s"
    )


def _label(session: Session, days: Mapping[date, object]) -> None:
    import_tensorflow(verbose=session.settings.verbose)
    started = time.monotonic()
    with _units("label") as progress:
        rows = steps.label(session, days, progress=progress)  # type: ignore[arg-type]
    seconds = time.monotonic() - started
    total = sum(rows.values())
    _console.print(
        f"label: {len(rows)} days, {total:,} rows scored by snapshots of earlier days; "
        f"{seconds:.1f} s, {total / seconds:,.0f} rows/s"
    )


def _train(session: Session, models: Sequence[str]) -> Iterator[pool.Outcome]:
    """Train and export those of `models` that have something to do, each in a process of its own."""
    todo = {model: session.to_learn(model) for model in models}
    busy = [model for model in models if todo[model] or session.to_export(model)]
    if not busy:
        return
    with _progress() as bars:
        tasks = {model: bars.add_task(model, total=_rows(session, todo[model])) for model in busy}
        for outcome in pool.train(
            session.settings, busy, progress=lambda model, rows: bars.advance(tasks[model], rows)
        ):
            # Hidden, not removed: its last rows may be told after its outcome.
            bars.update(tasks[outcome.model], visible=False)
            served = outcome.exported - len(outcome.rejected)
            _print_learnt(outcome.model, outcome.learnt, published=f"; {served} versions exported")
            yield outcome


def _raise_rejected(session: Session, lines: Sequence[str]) -> None:
    """The night's job must not look sound when a model that it made is not fit to be served."""
    if lines:
        raise UserError(
            f"not blessed, so the version before stays served: {' | '.join(lines)}; look into "
            f"{session.run.root / 'rejected'}, or serve one all the same with tutelage-export --promote"
        )


def _print_learnt(model: str, states: Sequence[State], *, published: str = "") -> None:
    if not states:
        _console.print(f"{model}: no new day{published}")
        return
    speed = steps.throughput({model: states})[0]
    span = f"{states[0].day} to {states[-1].day}" if len(states) > 1 else f"{states[0].day}"
    _console.print(
        f"{model}: learnt {span}, {speed['examples']:,} examples, {speed['examples_per_second']:,.0f} examples/s, "
        f"{speed['feed_wait_share']:.1%} waiting for the feed{published}"
    )


def _report(session: Session, learnt: Mapping[str, Sequence[State]]) -> None:
    from tutelage.launch.report import write_report
    from tutelage.launch.summary import print_summary

    experiment = session.experiment
    # A teacher whose place was taken stays behind for good.
    former = [change.before.model for change in session.run.takeovers]
    metrics = (
        session.run.lake.metrics.scan()
        .filter(pl.col("run") == session.run.name, ~pl.col("model").is_in(former))
        .collect()
    )
    baselines = {student.name: student.baseline for student in experiment.students if student.baseline}
    students = [student.name for student in experiment.students]
    tasks = [task.name for task in experiment.schema.tasks]
    print_summary(
        metrics,
        baselines,
        throughput=steps.throughput(learnt),
        students=students,
        tasks=tasks,
        teacher=session.run.teacher_model,
        file=sys.stdout,
    )
    path = session.run.report / "index.html"
    states = {model: session.run.checkpoints(model).states() for model in session.models}
    published = {model: session.versions(model).published() for model in session.models}
    write_report(
        path,
        experiment=experiment.name,
        metrics=metrics,
        baselines=baselines,
        counts=steps.day_counts(session),
        throughput=steps.throughput(states),
        versions={model: str(versions[-1].number) for model, versions in published.items() if versions},
        students=students,
        tasks=tasks,
        quarantined=steps.quarantined(session),
        teacher=session.run.teacher_model,
        teachers=succession.say(session),
        created=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )
    _console.print(f"Report: {path}")


def _print_skew(features: "Sequence[FeatureSkew]", outputs: "Sequence[OutputSkew]", day: date) -> None:
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
    print_table(_console, lines)
    lines = simple_table("output", "drift", "logged differ by", "past")
    for o in outputs:
        row = (cell(o.drift, ".3f"), cell(o.difference, ".1e"), Text(", ".join(o.past)))
        lines.add_row(Text(o.name), *row, style="red" if o.past else "")
    print_table(_console, lines)


def _rows(session: Session, days: Sequence[date]) -> int:
    return int(session.run.lake.interactions.partitions().filter(pl.col("day").is_in(days))["rows"].sum())


@contextmanager
def _alone(session: Session) -> Iterator[None]:
    """One run at a time in a workdir: the night's job must not meet the one that still goes on."""
    try:
        with FileLock(session.run.root / ".lock", blocking=False):
            yield
    except Timeout:
        raise UserError(
            f"another tutelage-run is at work in {session.run.root}; wait for it, or stop it"
        ) from None


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # In a log every redraw would be a line.
    return Progress(*columns, console=_console, transient=True, disable=not _console.is_terminal)


@contextmanager
def _bar(name: str, total: int) -> Iterator[Callable[..., None]]:
    with _progress() as bars:
        task = bars.add_task(name, total=total)
        yield lambda more: bars.advance(task, more)


@contextmanager
def _units(name: str) -> Iterator[Callable[..., None]]:
    with _progress() as bars:
        task = bars.add_task(name, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
