"""The nightly graph: everything that the days asked for still need, in the order in which one step needs another.

    materialize ─▶ train the teacher ─▶ take over ─▶ label ─▶ train the students ─▶ report ─▶ remove what is old
                   (export)             (export)              (export)

Each step looks at what is there and does the rest. A run that was killed, or that has nothing to do, is run again.
"""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

from tutelage.launch import last_run, locks, pool, steps
from tutelage.launch.actions.console import echo, print_waits, quarantine_error, rejected_version
from tutelage.launch.actions.label import label_days
from tutelage.launch.actions.materialize import materialize_days
from tutelage.launch.actions.prune import remove_old
from tutelage.launch.actions.report import is_outdated, report
from tutelage.launch.actions.train import train_and_export, train_successor
from tutelage.launch.exit_codes import Failures
from tutelage.launch.lifecycle import stale, verify
from tutelage.launch.session import Session
from tutelage.launch.workspace import claim_student, claim_successor, reset_student
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.json import TornFile
from tutelage.pipeline.quarantine import DayStopped
from tutelage.pipeline.soft_labels import SNAPSHOT

if TYPE_CHECKING:
    from tutelage.pipeline.label import Snapshot


def run(session: Session, *, reset: Sequence[str] = (), export: str = "newest") -> None:
    """Bring the days asked for from raw data to served models and a report.

    `reset` names students to train from scratch, from their first day. `export` is "newest" or "all": which of a
    model's finished days become versions. A model that stops does not stop the others. What went wrong is raised
    after all steps are done: GateError for a day of data in quarantine, a model that its gate stopped, or a newest
    version that was not blessed; the failure of a model; Failures where there are several.
    """
    with locks.alone(session.run), last_run.recorded(session.run):
        started = time.monotonic()
        torn = _mend(session)
        session = session.asking(every_version=export == "all")
        print_waits(session)
        _claim_models(session, reset)

        # Raw events become days of `interactions`, and histories beside them.
        missing = steps.to_materialize(session)
        quarantined = materialize_days(session, missing) if missing else []
        steps.build_histories(session)

        # What was made from rows or labels that have changed since is removed here, and made again below.
        removed = _remove_stale(session)
        if removed:
            session = session.reopened()  # A change of teacher may have been removed as well.

        # The teacher trains on its days. Its pre-update logits are soft labels, its exports are snapshots.
        outcomes = train_and_export(session, [session.run.teacher_model])

        # A model does not go past a teacher that it needs and that has stopped: it waits, served as it is.
        session = session.asking(awaits_teacher=True)

        # A successor trains beside it, and takes over once it is as good. Where either was killed, students wait
        # for the successor, because it might have taken over. A teacher that was killed first exports what it lacks.
        taken_over = False
        if session.successor:
            if not _killed(outcomes):
                more, taken_over = train_successor(session)
                outcomes += more
            session = session.reopened().asking(awaits_successor=_killed(outcomes))

        # Snapshots of earlier days score the days of the students that read such labels.
        unlabelled = steps.to_label(session)
        unlabelled_because = _label(session, unlabelled) if unlabelled else None

        # The students train on hard and soft labels. Each version is served once its gate has blessed it.
        held = _readers_of_snapshots(session) if unlabelled_because else []
        outcomes += train_and_export(session, [name for name in session.students if name not in held])

        done = missing or removed or outcomes or unlabelled or taken_over or is_outdated(session)
        if done:
            torn += _report(session, outcomes)
        remove_old(session)
        if done:
            _print_done(session, outcomes, held, seconds=time.monotonic() - started)
        else:
            _print_nothing_to_do(session)
        _raise_failures(session, outcomes, quarantined, unlabelled_because, torn)


def _mend(session: Session) -> list[TornFile]:
    """Mend what the run is to read and can be made again; return the errors about what cannot be."""
    torn = []
    for finding in verify.find(session, fast=True):
        if finding.by == "run":
            echo(str(finding))
            try:
                if finding.mend:
                    finding.mend()
            except UserError as error:
                torn.append(TornFile(f"{finding.what}, and is not mended: {error}"))
        else:
            torn.append(
                TornFile(f"{finding.what}; {finding.remedy.replace('--repair', 'tutelage-verify --repair')}")
            )
            echo(str(torn[-1]))
    return torn


def _report(session: Session, outcomes: Sequence[pool.Outcome]) -> list[TornFile]:
    """Write the report; return the error about a file that it cannot read."""
    try:
        report(session, trained={outcome.model: outcome.trained for outcome in outcomes if outcome.trained})
    except TornFile as error:
        return [error]
    return []


def _print_done(
    session: Session, outcomes: Sequence[pool.Outcome], held: Sequence[str], *, seconds: float
) -> None:
    echo(f"Done in {seconds:.0f} s.", step="run", seconds=round(seconds, 3))
    for line in _states(session, outcomes, held):
        echo(line, step="run", model=line.partition(":")[0])


def _killed(outcomes: Sequence[pool.Outcome]) -> bool:
    return any(isinstance(outcome.failure, pool.Killed) for outcome in outcomes)


def _label(session: Session, unlabelled: Mapping[date, "Snapshot"]) -> UserError | None:
    """Score the days, and return what went wrong."""
    try:
        label_days(session, unlabelled)
    except UserError as error:
        return error
    return None


def _readers_of_snapshots(session: Session) -> list[str]:
    return [s.name for s in session.experiment.students if s.distillation and s.producer == SNAPSHOT]


def _states(session: Session, outcomes: Sequence[pool.Outcome], held: Collection[str]) -> Iterator[str]:
    """Yield a line for each model: how far it has come, and why it went no further. `held` ones wait for labels."""
    failures = {outcome.model: outcome.failure for outcome in outcomes}
    for model in session.models:
        states, failure = session.run.checkpoints(model).states(), failures.get(model)
        trained = f"trained until {states[-1].day}" if states else "not trained yet"
        if isinstance(failure, DayStopped):
            yield f"{model}: stopped at {failure.day} by its gate; {trained}"
        elif isinstance(failure, pool.Killed):
            yield f"{model}: its process was killed; {trained}"
        elif failure:
            yield f"{model}: failed: {str(failure) or type(failure).__name__}; {trained}"
        elif model in held:
            yield f"{model}: waits for the teacher's labels; {trained}"
        elif awaited := session.awaited(model):
            yield f"{model}: waits for {_waited_for(session, model, awaited[min(awaited)])}; {trained}"
        else:
            waits = session.version_waits(model)
            yield f"{model}: {trained}" + (f"; {waits}" if waits else "")


def _waited_for(session: Session, model: str, teacher: str) -> str:
    if model in session.teachers:
        return "the teacher"
    if teacher == session.run.teacher_model:
        return "the teacher's labels"
    return f"{teacher}, which may take over"


def _raise_failures(
    session: Session,
    outcomes: Sequence[pool.Outcome],
    quarantined: Sequence[date],
    labelling: UserError | None,
    torn: Sequence[TornFile],
) -> None:
    """Raise what went wrong; an error in the code first, with its traceback."""
    failures: list[Exception] = [outcome.failure for outcome in outcomes if outcome.failure]
    for failure in failures:
        if not isinstance(failure, UserError):
            raise failure
    failures += [labelling] if labelling else []
    failures += torn
    failures += [rejected_version(session, o.rejected[-1]) for o in outcomes if o.newest_rejected]
    failures += [quarantine_error(session, quarantined)] if quarantined else []
    if failures:
        raise failures[0] if len(failures) == 1 else Failures(failures)


def _claim_models(session: Session, reset: Sequence[str]) -> None:
    """Record what the models are made with. Raises UserError where one was trained with another config."""
    for name in reset:
        reset_student(session.run, session.experiment.student(name))
    for student in session.experiment.students:
        claim_student(session.run, student)
    if session.successor:
        claim_successor(session.run, session.successor)


def _remove_stale(session: Session) -> bool:
    """Remove what was made from rows or labels that have changed since; return whether anything was removed."""
    found = stale.find(session)
    if not found:
        return False
    what = f"stale: {found.describe(session)}"
    if held := found.invalidation.held(session):
        echo(f"{what}; left as it is: {held}")
        return False
    if found.unrecoverable_days:
        days = ", ".join(map(str, found.unrecoverable_days))
        echo(f"{what}; left as it is, because {days} would have to be trained on again and is not asked for")
        return False
    echo(f"{what}; it is made again")
    for action in found.actions(session):
        action.apply()
    return True


def _print_nothing_to_do(session: Session) -> None:
    days = f"{session.days[0]} to {session.days[-1]} are" if session.days else "the released days are"
    echo(f"Nothing to do: {days} trained on by all models, labelled and exported.")
    for day in session.run.lake.quarantined_days():
        if day in session.days:
            echo(f"Without {day}: its data is in quarantine; see tutelage-status.")
