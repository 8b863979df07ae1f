"""What each command does and prints."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from tutelage.launch import pool, steps
from tutelage.launch.logging_setup import import_tensorflow, quiet_stderr
from tutelage.launch.report.summary import (
    DASH,
    noted,
    print_summary,
    print_table,
    simple_table,
    throughput,
)
from tutelage.launch.session import Session, Settings
from tutelage.launch.workspace import claim_student, claim_successor, reset_student
from tutelage.pipeline.days import parse_day, spans
from tutelage.pipeline.errors import UserError, disk_full_as_user_error
from tutelage.pipeline.io.locks import locked
from tutelage.trainers import handover
from tutelage.trainers.checkpoints import State
from tutelage.trainers.run import TEACHER

if TYPE_CHECKING:
    from tutelage.export.skew import FeatureSkew, OutputSkew
    from tutelage.launch.lifecycle.rollback import Action

# Soft wrap: a log has no width, and a line that is cut in two cannot be searched for.
_console = Console(soft_wrap=True, highlight=False)


def run(settings: Settings, *, reset: Sequence[str] = ()) -> None:
    """Do what the days asked for still need. Run again, it goes on from where it was, or does nothing."""
    session = Session.open(settings)
    with _alone(session):
        _print_waits(session)
        for name in reset:
            reset_student(session.run, session.experiment.student(name))
        for student in session.experiment.students:
            claim_student(session.run, student)
        if session.successor:
            claim_successor(session.run, session.successor)
        started = time.monotonic()
        missing = steps.to_materialize(session)
        failed = _materialize(session, missing) if missing else []
        steps.build_histories(session)
        mended = _take_back_stale(session)
        if mended:
            session = Session.open(settings)  # A change of teacher may have gone along.
        outcomes = list(_train(session, [session.run.teacher_model]))
        changed, amiss = False, None
        if session.successor:
            more, changed, amiss = _train_successor(session)
            outcomes += more
            session = Session.open(settings)
        unlabelled = steps.to_label(session)
        if unlabelled:
            _label(session, unlabelled)
        outcomes += _train(session, session.students)
        if not (missing or mended or outcomes or unlabelled or changed or amiss):
            days = f"{session.days[0]} to {session.days[-1]} are" if session.days else "the released days are"
            _console.print(f"Nothing to do: {days} learnt by all models, labelled and exported.")
            for day in session.run.lake.quarantined_days():
                if day in session.days:
                    _console.print(f"Without {day}: its data is in quarantine; see tutelage-status.")
            return
        _report(session, {outcome.model: outcome.trained for outcome in outcomes if outcome.trained})
        _console.print(f"Done in {time.monotonic() - started:.0f} s.")
        _raise_rejected(session, [line for outcome in outcomes for line in outcome.rejected], failed)
        if amiss:
            raise amiss


def materialize(settings: Settings, *, accept_day: str | None = None, reason: str = "") -> None:
    session, day = _open_to_accept(settings, accept_day, reason)
    if day:
        rows, past = steps.accept(session, day, reason)
        _console.print(f"{day}: {rows:,} rows are in interactions now, accepted: {reason}", markup=False)
        if past:
            _console.print(
                f"{', '.join(past)} went past it and will not learn it, unless tutelage-rollback takes the teacher "
                "back to the day before (and tutelage-student --reset a student without distillation)"
            )
        return
    _print_waits(session, needed=True)
    days = [day for day in session.days if day not in session.pruned]
    if days and session.pruned:
        _console.print(f"{_pruned(session, session.pruned)} and are left out; {_ANEW}")
    _raise_rejected(session, [], _materialize(session, days or session.days))


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
    session, day = _open_to_accept(settings, accept_day, reason)
    model = _model(session, model)
    if successor:
        if session.experiment.successor is None:
            raise UserError("--successor: the config has none; leave the flag out")
        if session.successor is None:
            name = session.experiment.successor.teacher.name
            _console.print(f"Nothing to do: {name} is the teacher by now; without --successor it goes on.")
            return
        model = session.teachers[-1]
    if model not in session.teachers:
        student = session.experiment.student(model)
        if reset:
            reset_student(session.run, student)
        claim_student(session.run, student)
    _print_waits(session)
    _tell_left_out(session, model)
    todo = session.days_to_train(model, accept=day)
    states: list[State] = []
    if todo or day:
        import_tensorflow(verbose=settings.verbose)
        with _bar(model, _rows(session, todo)) as advance:
            from tutelage.trainers.day_loop import Accept

            accept = Accept(day=day, reason=reason) if day else None
            states = steps.train(session, model, accept=accept, progress=advance)
        _print_trained(model, states)
    changed = model in session.teachers[1:] and _succeed(session, states)
    if not (todo or day or changed):
        _console.print(f"Nothing to do: {model} has learnt all of the days asked for that are its own.")


def _model(session: Session, name: str) -> str:
    """As it is called in folders: `teacher` is whoever labels now."""
    return session.run.teacher_model if name == TEACHER else name


def _train_successor(session: Session) -> tuple[list[pool.Outcome], bool, UserError | None]:
    """As `_train`, then let it take over if it is as good; with whether it did, and with what went wrong: no student
    needs it yet, so that they are not held up."""
    outcomes: list[pool.Outcome] = []
    amiss = None
    try:
        outcomes += _train(session, session.teachers[1:])
    except pool.Stopped:
        raise
    except UserError as error:
        amiss = error
        _console.print(f"{error}", markup=False)
    changed = _succeed(session, [state for outcome in outcomes for state in outcome.trained])
    return outcomes, changed, amiss


def _succeed(session: Session, trained: Sequence[State]) -> bool:
    """Let the successor take over if it is as good; `learnt`: what it learnt now. Returns whether it did."""
    model = session.teachers[-1]
    began = trained and trained[0].day == session.run.checkpoints(model).states()[0].day
    if began and (start := handover.describe_start(session.run, model)):
        _console.print(start, markup=False)
    changed = steps.take_over(session)
    if changed:
        session = Session.open(session.settings)
    if changed or trained:
        _console.print(steps.describe_teachers(session)[-1], markup=False)
    return changed is not None


def _open_to_accept(settings: Settings, day: str | None, reason: str) -> tuple[Session, date | None]:
    """The session, and the day that is to be kept as it is."""
    if bool(day) != bool(reason):
        raise UserError("--accept_day and --reason go together; give both")
    session = Session.open(settings)
    return session, parse_day(day, time_zone=session.experiment.schema.time_zone) if day else None


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
    _print_waits(session, needed=True)
    days = [day for day in session.days if day not in session.pruned]
    of = {day: session.run.labeller(day).model for day in session.days}
    published = {model: steps.snapshots(session, model) for model in set(of.values())}
    if snapshot_day:
        day = parse_day(snapshot_day, time_zone=session.experiment.schema.time_zone)
        published = {model: [s for s in found if s.day == day] for model, found in published.items()}
    labelled = [day for day in days if any(s.day < day for s in published[of[day]])]
    for day in days:
        if day not in labelled and labelled:
            _console.print(f"{day}: left out, there is no snapshot of an earlier day")
    _label(session, {day: choose(published[of[day]], day) for day in labelled or days[-1:]})


def skew(settings: Settings, student: str, requests: str, *, day: str | None = None) -> None:
    """Print a line for each feature and output. Raises UserError where any is past its thresholds."""
    session = Session.open(settings)
    session.experiment.student(student)
    trained = session.run.checkpoints(student).states()
    if not trained:
        raise UserError(f"{student} has learnt no day in {settings.workdir}; train it first")
    served = session.versions(student).published()
    if not served:
        raise UserError(
            f"{student} has no version in {settings.workdir}; publish one with tutelage-export --model={student}"
        )
    on = parse_day(day, time_zone=session.experiment.schema.time_zone) if day else trained[-1].day
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
    from tutelage.launch.lifecycle.rollback import plan

    session = Session.open(settings)
    with _alone(session):
        day = parse_day(to_day, time_zone=session.experiment.schema.time_zone)
        steps_ = plan(session, day)
        _apply(steps_, dry_run=dry_run)
        if not steps_:
            _console.print(f"Nothing to do: the teacher has learnt no day after {day}.")


def forget(settings: Settings, user_id: str, *, dry_run: bool = False) -> None:
    """Print what goes and what learnt from it, then let it go."""
    from tutelage.launch.lifecycle import forget as job

    session = Session.open(settings)
    user = job.parse_user(session.run.schema, user_id)
    with _alone(session), steps.all_locked(session):
        found = job.plan(session, user)
        _console.print(
            f"{found.rows:,} rows of {len(found.days)} days are of {session.run.schema.user} {user_id}"
        )
        # Before anything goes: afterwards it can no longer be told.
        for line in found.trained:
            _console.print(f"trained with it: {line}", markup=False)
        _apply(found.steps, dry_run=dry_run)
        if found.trained:
            _console.print(job.unlearn(session, found.days))
        _console.print(job.ELSEWHERE)


def prune(settings: Settings, keep_days: int, *, dry_run: bool = False) -> None:
    """Print what goes, and which old days stay for whom; then let it go."""
    from tutelage.launch.lifecycle import prune as job

    session = Session.open(settings)
    with _alone(session), steps.all_locked(session):
        found = job.plan(session, keep_days)
        for line in found.kept:
            _console.print(f"kept: {line}", markup=False)
        _apply(found.steps, dry_run=dry_run)


def study(settings: Settings, studies: Sequence[int], seeds: int) -> None:
    """Train what the studies compare and is not there yet, then write what they show."""
    from tutelage.launch.studies import study as job
    from tutelage.launch.studies.sentences import sentences

    session = Session.open(settings)
    _print_waits(session, needed=True)
    design = job.design(session.experiment, session.days, studies or job.STUDIES)
    with _alone(session):
        started = time.monotonic()
        missing = steps.to_materialize(session)
        if missing:
            _raise_rejected(session, [], _materialize(session, missing))
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
    for name in found.studies:
        _console.print(f"\n{name}", style="bold", markup=False)
        for sentence in sentences(found, name):
            _console.print(f"- {sentence}", markup=False)
    _console.print()
    _console.print(f"Results: {page.with_suffix('.md')} and {page}", markup=False)


def report(settings: Settings) -> None:
    _report(Session.open(settings), {})


def status(settings: Settings) -> None:
    from tutelage.launch.report.status import print_status

    print_status(Session.open(settings), _console)


def _print_waits(session: Session, *, needed: bool = False) -> None:
    """Say which days are not released. Raises UserError where released ones are `needed` and there is none."""
    if needed and not session.days:
        raise UserError(f"no day asked for is released: {session.waits()}; ask for earlier days")
    if waits := session.waits():
        _console.print(f"waits: {waits}", markup=False)


_ANEW = "tutelage-materialize for these days alone makes them anew"


def _pruned(session: Session, days: Iterable[date]) -> str:
    return f"{spans(sorted(days), slice_days=session.run.schema.slice_days)} were pruned"


def _tell_left_out(session: Session, model: str) -> None:
    if left := session.left_out(model):
        _console.print(f"{model}: {_pruned(session, left)}, so it begins without them; {_ANEW}")


def _apply(steps_: "Sequence[Action]", *, dry_run: bool) -> None:
    for step in steps_:
        _console.print(f"{'would go' if dry_run else 'goes'}: {step.what}", markup=False)
        if not dry_run:
            step.apply()


def _materialize(session: Session, days: Sequence[date]) -> list[date]:
    """Returns the days that did not pass the quality gate."""
    # TensorFlow Datasets, a source's, brings TensorFlow along.
    with (
        quiet_stderr(verbose=session.settings.verbose),
        disk_full_as_user_error(session.run.root),
        _units("materialize") as progress,
    ):
        done = steps.materialize(session, days, progress=progress)
    counts = done.days.values()
    kept = sum(c.kept for c in counts)
    dropped: dict[str, int] = dict(done.elsewhere)
    for c in counts:
        for reason, rows in c.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + rows
    reasons = ", ".join(f"{rows:,} {reason}" for reason, rows in sorted(dropped.items())) or "none"
    notes = noted(
        {"late": sum(c.late for c in counts), "masked": sum(sum(c.masked.values()) for c in counts)}
    )
    _console.print(
        f"materialize: {len(done.days)} days, {done.rows_in:,} rows in = {kept:,} kept{notes} + "
        f"{sum(dropped.values()):,} dropped ({reasons}); {done.seconds:.1f} s, "
        f"{done.rows_in / done.seconds:,.0f} rows/s"
    )
    for day, message in done.quarantined.items():
        _console.print(f"quarantine: {day} {message}", markup=False)
    return list(done.quarantined)


def _take_back_stale(session: Session) -> bool:
    """Let go what was made from rows or labels that are others now, so that it is made again."""
    from tutelage.launch.lifecycle import stale

    found = stale.find(session)
    if not found:
        return False
    if held := found.invalidation.held(session):
        _console.print(f"stale: {found.describe(session)}; left as it is: {held}", markup=False)
        return False
    if found.unrecoverable_days:
        _console.print(
            f"stale: {found.describe(session)}; left as it is, as "
            f"{', '.join(map(str, found.unrecoverable_days))} would have to be learnt again, and is not asked for",
            markup=False,
        )
        return False
    _console.print(f"stale: {found.describe(session)}; it is made again", markup=False)
    for step in found.steps(session):
        step.apply()
    return True


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
    for model in models:
        _tell_left_out(session, model)
    todo = {model: session.days_to_train(model) for model in models}
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
            _print_trained(outcome.model, outcome.trained, published=f"; {served} versions exported")
            yield outcome


def _raise_rejected(session: Session, lines: Sequence[str], days: Sequence[date] = ()) -> None:
    """The night's job must not look sound when a model that it made is not fit to be served, or a day of data
    did not pass."""
    message = []
    if days:
        message.append(
            f"in quarantine, so all goes on without: {', '.join(map(str, days))}; look into "
            f"{session.run.lake.quarantine.folder}, then mend the day and run tutelage-materialize for it, change the "
            "config's quality, or keep it as it is with tutelage-materialize --accept_day=DAY --reason=..."
        )
    if lines:
        message.append(
            f"not blessed, so the version before stays served: {' | '.join(lines)}; look into "
            f"{session.run.root / 'rejected'}, or serve one all the same with tutelage-export --promote"
        )
    if message:
        raise UserError(". ".join(message))


def _print_trained(model: str, states: Sequence[State], *, published: str = "") -> None:
    if not states:
        _console.print(f"{model}: no new day{published}")
        return
    speed = throughput({model: states})[0]
    span = f"{states[0].day} to {states[-1].day}" if len(states) > 1 else f"{states[0].day}"
    _console.print(
        f"{model}: learnt {span}, {speed.examples:,} examples, {speed.examples_per_second:,.0f} examples/s, "
        f"{speed.feed_wait_share:.1%} waiting for the feed{published}"
    )


def _report(session: Session, trained: Mapping[str, Sequence[State]]) -> None:
    from tutelage.launch.report.data import gather
    from tutelage.launch.report.page import write_report

    data = gather(session)
    print_summary(data.results, speeds=throughput(trained), file=sys.stdout)
    path = session.run.report / "index.html"
    write_report(path, data)
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
    root = session.run.root
    with locked(root / ".lock", f"another tutelage-run is at work in {root}; wait for it, or stop it"):
        yield


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
