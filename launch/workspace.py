"""A workdir: made with one experiment, and refused to another."""

import json
import logging
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tutelage.launch.config import Experiment, completed, plain
from tutelage.launch.lifecycle import evolve
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.json import read_json
from tutelage.pipeline.io.locks import locked
from tutelage.pipeline.lake import LOCK
from tutelage.trainers.config import StudentConfig, SuccessorConfig
from tutelage.trainers.handover import read_takeovers
from tutelage.trainers.run import TEACHER, Run, successor_model

_log = logging.getLogger(__name__)
_PATIENCE = 10
"""Seconds that a schema which grows waits for jobs to end."""
_STAY = ("schema.features.", "schema.tasks.", "schema.histories.")
_NEW_NAME = (
    "what the tables have stays as it is: keep it, and add what is renamed or changed under a new name "
    "(a model's `without` leaves the old one out)"
)
# Delta Lake encodes these in a table's path, and Polars does not decode them (polars 2.1, deltalake 1.6).
_ENCODED = re.compile(r'[^!-~]|["#%<>?^`{}]')


def open_workdir(workdir: str, experiment: Experiment) -> Run:
    """The run that lives in `workdir`, made where there is none.

    Features and histories that the experiment has and the workdir has not are added (`evolve`).
    Raises UserError where its path will not do, it cannot be written to, or was made with another experiment.
    """
    root = Path(workdir).resolve()
    if odd := _ENCODED.search(str(root)):
        raise UserError(
            f"--workdir={workdir}: the path {root} holds {odd[0]!r}, and Delta tables below it could not be read; "
            "give one of ASCII letters, digits, -, _ and ."
        )
    changes = read_takeovers(root)
    successor = experiment.successor
    # That of the config's until the config says that it is the teacher.
    in_charge = bool(changes and successor and successor.teacher.name == changes[-1].name)
    run = Run(
        name=experiment.name,
        schema=experiment.schema,
        training=experiment.training,
        teacher=successor.teacher if successor and in_charge else experiment.teacher,
        teacher_model=successor_model(changes[-1].name) if changes else TEACHER,
        takeovers=changes,
        root=root,
        slice_by=experiment.slice_by,
    )
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"--workdir={workdir}: cannot be written to ({error.strerror}); give a folder that can"
        ) from None
    how = "give another --workdir"
    if changes:
        how = f"{changes[-1].name!r} is the teacher since {changes[-1].from_day}: make it the config's, or {how}"
    path, identity = root / "config.json", experiment.identity
    before = _recorded(path, experiment.fixed)
    new = [] if before is None else evolve.added(before, identity)
    # Of the teachers of this workdir, the config has the last, or the last as the successor of the one before.
    others = changes[:-1] if in_charge else changes
    compared = before
    if before and others:
        last = evolve.without({**identity, "teacher": others[-1].teacher}, new)["teacher"]
        compared = {**before, "teacher": completed(last, experiment.teacher)}
    _check(path, compared, evolve.without(identity, new), f"--workdir={workdir}", how)
    run.lake.create()
    if new:
        # The one whose place was taken too, as long as the config has it: a rollback may give it back.
        teachers = {changes[-1].before.model if in_charge else run.teacher_model: experiment.teacher}
        if successor:
            teachers[successor_model(successor.teacher.name)] = successor.teacher
        busy = (
            f"{', '.join(new)}: new in the schema, and a job is writing tables in {root / 'lake'}; "
            "wait for it, or stop it"
        )
        # A job that writes with the schema as it was would take the columns away again.
        with locked(run.lake.interactions.path.parent / LOCK, busy, wait=_PATIENCE):
            evolve.evolve(run, new, teachers)
            # The first teacher's config stays: a rollback may give it its place back.
            if before and others:
                identity["teacher"] = evolve.without_too(before["teacher"], new)
            evolve.write(path, identity)
        run = replace(run, takeovers=read_takeovers(root))
        _log.warning("%s: added to the tables, null for the days that are there", ", ".join(new))
    if successor and in_charge:
        claim_successor(run, successor)
    return run


def claim_successor(run: Run, successor: SuccessorConfig) -> None:
    """Record what a successor is made with. Raises UserError where it was made differently before."""
    name = successor.teacher.name
    folder = run.folder(successor_model(name))
    earlier = [change.before.name for change in run.takeovers]
    if name in earlier:
        raise UserError(f"successor {name!r}: that was a teacher of {run.root} before; give it a new name")
    folder.mkdir(parents=True, exist_ok=True)
    path, how = folder / "config.json", "give the changed one a new name"
    _check(path, _recorded(path, successor), plain(successor), f"successor {name!r}", how)


def claim_student(run: Run, student: StudentConfig) -> None:
    """Record what a student is made with. Raises UserError where it was made differently before."""
    folder = run.folder(student.name)
    folder.mkdir(parents=True, exist_ok=True)
    how = f"pass --reset to train {student.name} anew, or give the changed one a new name"
    path = folder / "config.json"
    _check(path, _recorded(path, student), plain(student), f"student {student.name!r}", how)


def reset_student(run: Run, student: StudentConfig) -> None:
    """Forget what a student has learnt and reported; its exported versions stay."""
    shutil.rmtree(run.folder(student.name), ignore_errors=True)
    run.lake.metrics.replace(run.lake.metrics.scan().limit(0).collect(), {"model": student.name})


def _recorded(path: Path, now: Any) -> dict[str, Any] | None:
    """What `_check` has recorded of what is `now` such; None: nothing."""
    return completed(read_json(path), now) if path.exists() else None


def _check(path: Path, before: dict[str, Any] | None, now: dict[str, Any], what: str, how: str) -> None:
    """Compare with what is recorded at `path`, `before`; record it where nothing is."""
    if before is not None:
        changes = list(_differences(before, now, ""))
        if changes:
            if changes[0].startswith(_STAY):
                how = f"{_NEW_NAME}, or {how}"
            raise UserError(f"{what} was made with another config: {'; '.join(changes[:3])}; {how}")
        return
    evolve.write(path, now)


def _differences(before: Any, now: Any, where: str) -> Iterable[str]:
    old, new = _by_name(before), _by_name(now)
    if old and new:
        if old.keys() == new.keys() and list(old) != list(new):
            yield f"the order of {where} was {_short(list(old))} and is {_short(list(new))}"
        before, now = old, new
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from _differences(before.get(key), now.get(key), f"{where}.{key}".lstrip("."))
    elif before != now:
        yield f"{where} was {_short(before)} and is {_short(now)}"


def _by_name(value: Any) -> dict[str, Any] | None:
    """Features, tasks, distillations: a list of what has a name or a task; None for anything else."""
    for key in ("name", "task"):
        if isinstance(value, list) and all(isinstance(item, dict) and key in item for item in value):
            return {item[key]: item for item in value}
    return None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
