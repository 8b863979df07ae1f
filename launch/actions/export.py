"""tutelage-export: publish a model's finished days, or decide which version is served."""

from tutelage.launch import steps
from tutelage.launch.actions.console import bar, echo, model_of, raise_unfit
from tutelage.launch.logging_setup import import_tensorflow
from tutelage.launch.session import Session
from tutelage.pipeline.errors import UserError


def export(
    session: Session,
    *,
    model: str,
    promote: int | None = None,
    rollback: bool = False,
    pin: int | None = None,
    unpin: int | None = None,
    reason: str = "",
    mirror: str = "",
    new_signature: bool = False,
) -> None:
    """Publish what is not published yet, or do the one thing that is asked for with the versions.

    Raises UserError for a version that is not there, and where a new one is not blessed.
    """
    asked = [promote is not None, rollback, pin is not None, unpin is not None]
    if sum(asked) > 1:
        raise UserError("--promote, --rollback, --pin and --unpin exclude one another; give one of them")
    if reason and not any(asked):
        raise UserError(
            "--reason belongs to --promote, --rollback, --pin or --unpin; give one of them with it"
        )
    model = model_of(session, model)
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
        _publish(session, model, new_signature=new_signature)
    for number in retired:
        echo(f"retired: {versions.retired / str(number)}")
    for number, why in versions.pinned().items():
        echo(f"pinned: {number}{f' ({why})' if why else ''}")
    served = versions.published()
    echo(f"{model} serves {served[-1].path if served else 'nothing'}")
    if mirror:
        from tutelage.export.remote import mirror as copy

        copy(versions.folder, mirror)
        echo(f"{mirror} shows {', '.join(str(version.number) for version in served)}")


def _publish(session: Session, model: str, *, new_signature: bool) -> None:
    if session.run.checkpoints(model).is_empty:
        raise UserError(f"{model} is trained on no day in {session.run.root}; train it first")
    todo = session.to_export(model)
    if not todo:
        echo(f"Nothing to do: every day that {model} is trained on is published.")
        return
    import_tensorflow(verbose=session.verbose)
    with bar(f"export {model}", len(todo)) as advance:
        exported = steps.export(session, model, new_signature=new_signature, progress=advance)
    for one in exported:
        size = f"{one.contents.bytes:,} bytes, {sum(one.contents.ops.values())} ops"
        echo(f"{one.version.path}: {one.verdict or 'published'}; {size}")
    raise_unfit(session, steps.rejected(model, exported))
