"""tutelage-export: publish a model's finished days, or decide which version is served."""

from tutelage.launch import steps
from tutelage.launch.actions.console import bar, echo, model_of, rejected_version
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
    export: str = "newest",
) -> None:
    """Publish what is not published yet, or do the one thing that is asked for with the versions.

    `export` is "newest" or "all": which of a student's finished days. Raises UserError for a version that is not
    there, and GateError where that of the newest day is not blessed.
    """
    session = session.asking(every_version=export == "all")
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
    if not session.run.checkpoints(model).states():
        raise UserError(f"{model} is trained on no day in {session.run.root}; train it first")
    todo = session.to_export(model)
    if waits := session.version_waits(model):
        echo(f"{model}: {waits}")
    if not todo:
        if not waits:
            echo(f"Nothing to do: {_published(session, model)}.")
        return
    import_tensorflow(verbose=session.verbose)
    with bar(f"export {model}", len(todo)) as advance:
        exported = steps.export(session, model, new_signature=new_signature, progress=advance)
    for one in exported:
        size = f"{one.contents.bytes:,} bytes, {sum(one.contents.ops.values())} ops"
        verdict = one.verdict.describe(where="the card") if one.verdict else "published"
        line = f"{one.version.path}: {verdict}; {size}"
        echo(line, step="export", model=model, day=one.version.day, version=one.version.number)
    if steps.newest_rejected(session, model, exported):
        raise rejected_version(session, steps.rejected(session, model, exported)[-1])


def _published(session: Session, model: str) -> str:
    if session.exports_every(model):
        return f"every day that {model} is trained on is published"
    return f"the newest day that {model} is trained on is published (--export=all publishes the others too)"
