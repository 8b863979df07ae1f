"""The nightly graph: everything that the days asked for still need, in the order in which one step needs another.

    materialize ─▶ train the teacher ─▶ take over ─▶ label ─▶ train the students ─▶ report
                   (export)             (export)              (export)

Each step looks at what is there and does the rest. A run that was killed, or that has nothing to do, is run again.
"""

import time
from collections.abc import Sequence

from tutelage.launch import locks, steps
from tutelage.launch.actions.console import echo, print_waits, raise_unfit
from tutelage.launch.actions.label import label_days
from tutelage.launch.actions.materialize import materialize_days
from tutelage.launch.actions.report import report
from tutelage.launch.actions.train import train_and_export, train_successor
from tutelage.launch.lifecycle import stale
from tutelage.launch.session import Session
from tutelage.launch.workspace import claim_student, claim_successor, reset_student


def run(session: Session, *, reset: Sequence[str] = ()) -> None:
    """Bring the days asked for from raw data to served models and a report.

    `reset` names students to train from scratch, from their first day. Raises UserError where a step fails, and, after
    all steps are done, where a day of data is in quarantine or a version was not blessed.
    """
    with locks.alone(session.run):
        started = time.monotonic()
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

        # A successor trains beside it, and takes over once it is as good.
        taken_over, failure = False, None
        if session.successor:
            more, taken_over, failure = train_successor(session)
            outcomes += more
            session = session.reopened()

        # Snapshots of earlier days score the days of the students that read such labels.
        unlabelled = steps.to_label(session)
        if unlabelled:
            label_days(session, unlabelled)

        # The students train on hard and soft labels. Each version is served once its gate has blessed it.
        outcomes += train_and_export(session, session.students)

        if not (missing or removed or outcomes or unlabelled or taken_over or failure):
            _print_nothing_to_do(session)
            return
        report(session, trained={outcome.model: outcome.trained for outcome in outcomes if outcome.trained})
        echo(f"Done in {time.monotonic() - started:.0f} s.")
        raise_unfit(session, [line for outcome in outcomes for line in outcome.rejected], quarantined)
        if failure:
            raise failure


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
