"""Take the teacher back to a day, with everything that was built on its later days."""

from datetime import date, timedelta

from tutelage.launch.lifecycle.invalidation import Action, Invalidation, check_links
from tutelage.launch.session import Session
from tutelage.pipeline.errors import UserError
from tutelage.trainers.run import Run, is_teacher


def plan(session: Session, to_day: date) -> list[Action]:
    """Return what to remove so that `to_day` is the last day that the teacher is trained on.

    Raises UserError where the teacher was not trained on `to_day`, where a checkpoint that is needed was pruned, and
    where the teacher was another one then and the config has moved on. Raises it also where a link would be followed.
    """
    check_links(session)
    teacher = teacher_at(session.run, to_day)
    checkpoints = session.run.checkpoints(teacher)
    invalidation = Invalidation.of(session, {teacher: to_day + timedelta(days=1)})
    if held := invalidation.held(session):
        raise UserError(f"--to_day={to_day}: {held}")
    trained = [state.day for state in checkpoints.states()]
    if to_day not in trained:
        have = f"{trained[0]} to {trained[-1]}" if trained else "no day"
        raise UserError(f"--to_day={to_day}: the teacher is trained on {have}; give one of its days")
    if teacher in invalidation.cut_off(session):
        left = [state.day for state in checkpoints.states() if not state.pruned]
        near = [*[day for day in left if day < to_day][-1:], *[day for day in left if day > to_day][:1]]
        raise UserError(
            f"--to_day={to_day}: the teacher's checkpoint of it was pruned; give {' or '.join(map(str, near))}"
        )
    invalidation = invalidation.from_checkpoints(session)
    for model, last in invalidation.cut_off(session).items():
        if is_teacher(model):
            left = [state.day for state in session.run.checkpoints(model).states() if not state.pruned]
            raise UserError(
                f"--to_day={to_day}: {model}'s checkpoint of it was pruned; give {left[0]} or a later day"
            )
        raise UserError(
            f"--to_day={to_day}: {model} would go back to {last}, and its checkpoint of that day was pruned; "
            f"give a later day, or train it from scratch with tutelage-student --student={model} --reset"
        )
    return invalidation.actions(session, reason=f"the teacher was taken back to {to_day}")


def teacher_at(run: Run, day: date) -> str:
    """Return the model that was the teacher by what was known when `day` was trained on."""
    return next(
        (change.before.model for change in run.takeovers if change.judged[-1] > day), run.teacher_model
    )
