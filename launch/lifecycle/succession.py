"""A change of teacher: when it is decided, how it is recorded, and what is said of it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import Any

from tutelage.launch import locks as locking
from tutelage.launch.experiment import plain
from tutelage.launch.session import Session
from tutelage.trainers import succession, takeovers
from tutelage.trainers.takeovers import TakeOver


def take_over(session: Session) -> TakeOver | None:
    """Let the successor take the teacher's place, if it is as good; returns what was recorded."""
    successor, judged = session.successor, judge(session)
    assert successor
    if judged is None or not judged.verdict.blessed:
        return None
    with ExitStack() as locks:
        # No student may learn from the old labels while it is decided from which day on it reads the new.
        for student in session.students:
            locks.enter_context(locking.on_model(session.run, student))
        judged, before = judge(session), session.run.takeovers
        if judged is None or not judged.verdict.blessed or takeovers.read(session.run.root) != before:
            return None  # One has learnt, or another process has decided it, meanwhile.
        day = judged.days[-1] + timedelta(days=session.run.schema.slice_days)
        found = TakeOver(
            before=session.run.labeller(day),
            name=successor.teacher.name,
            teacher=plain(successor.teacher),
            first_day=successor.first_day,
            judged=judged.days,
            checks=[asdict(check) for check in judged.verdict.checks],
            from_day=day,
            decided_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}",
        )
        takeovers.write(session.run.root, [*before, found])
    return found


def judge(session: Session) -> succession.Judged | None:
    """What the successor is worth beside the teacher by now; see `trainers.succession.judge`.

    A day that a student has learnt was learnt with the teacher's labels: what is decided is of later ones. So it is
    of days after those that made the teacher what it is.
    """
    assert session.successor
    trained = [
        state.day
        for student in session.experiment.students
        if student.distillation
        for state in session.run.checkpoints(student.name).states()[-1:]
    ]
    trained += [change.from_day for change in session.run.takeovers[-1:]]
    return succession.judge(session.run, session.successor, since=max(trained, default=None))


def describe(session: Session) -> list[str]:
    """A line for each change of teacher, and one for a successor that has not taken over."""
    lines = [
        f"{change.name} took over from {change.before.name}: students read its labels from {change.from_day} on "
        f"({_compared(change.checks)}; {_days(change.judged)}; decided {change.decided_at} UTC)"
        for change in session.run.takeovers
    ]
    if session.successor:
        lines.append(_refused(session, judge(session)))
    return lines


def _refused(session: Session, judged: succession.Judged | None) -> str:
    assert session.successor
    name, teacher = session.successor.teacher.name, session.run.teacher.name
    if judged is None:
        why = f"not judged yet: that takes {session.successor.judged_days} days that both have learnt"
    elif judged.verdict.blessed:
        why = "it is as good, and takes over in the next tutelage-run"
    else:
        worse = [check for check in judged.verdict.checks if not check.passed]
        why = f"not as good: {_compared(map(asdict, worse))}; {_days(judged.days)}"
    return f"{name} learns beside {teacher}, which labels ({why})"


def started(session: Session, model: str) -> str | None:
    """What a successor started from; None: from nothing."""
    path = session.run.warm_start(model)
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    anew = [
        f"{each['name']} {each['shape']}" + (f" (there {each['teacher']})" if each["teacher"] else "")
        for each in found["anew"]
    ]
    return (
        f"{model}: starts with {len(found['taken'])} variables of {found['teacher']}'s after {found['day']}; "
        f"anew: {', '.join(anew) or 'none'}"
    )


def _compared(checks: Iterable[Mapping[str, Any]]) -> str:
    return ", ".join(
        f"{each['name']} {each['value']:.4f} against {each['reference']:.4f}, up to {each['bound']:.4f} passes"
        for each in checks
    )


def _days(days: Sequence[date]) -> str:
    return f"mean of {len(days)} days to {days[-1]}" if len(days) > 1 else f"on {days[-1]}"
