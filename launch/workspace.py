"""A workdir: it belongs to the experiment that its data and models were made with, and refuses another."""

import json
import logging
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tutelage.launch import locks
from tutelage.launch.experiment import Experiment, plain
from tutelage.launch.lifecycle import evolve
from tutelage.launch.recorded import completed
from tutelage.pipeline.errors import TransientError, UserError
from tutelage.pipeline.io.atomic import make_folder, move, remove
from tutelage.pipeline.io.json import TornFile, json_object, read_json
from tutelage.pipeline.io.leases import require_conditional_writes
from tutelage.pipeline.io.links import refuse_links
from tutelage.pipeline.io.paths import as_path, remote
from tutelage.trainers.checkpoints import STATE
from tutelage.trainers.config import StudentConfig, SuccessorConfig
from tutelage.trainers.handover import TakeOver, read_takeovers
from tutelage.trainers.run import TEACHER, Run, successor_model

_log = logging.getLogger(__name__)
_PATIENCE = 10
"""Seconds that a growing schema waits for jobs to end."""
_STAY = ("schema.features.", "schema.tasks.", "schema.histories.")
_NEW_NAME = (
    "what the tables have stays as it is: keep it, and add what is renamed or changed under a new name "
    "(a model's `without` leaves the old one out)"
)
# Delta Lake encodes these in a table's path, and Polars does not decode them (polars 2.1, deltalake 1.6).
_ENCODED = re.compile(r'[^!-~]|["#%<>?^`{}]')


class NothingHereYet(UserError):
    """A command that only reads was given a folder in which no experiment has begun."""


def open_workdir(
    workdir: str, experiment: Experiment, *, read_only: bool = False, may_be_new: bool = False
) -> Run:
    """Return the run that lives in `workdir`; create it where there is none, unless `read_only`.

    A workdir that holds days of data keeps its source and schema; one that holds a trained model keeps its
    name, training and teacher too. Features, tasks and histories that the experiment has and the workdir does not
    are added to the tables (`evolve`); `read_only` leaves them out of the run's schema instead.
    `workdir` is a local path or the URL of an object store (`as_path`). Raises UserError where it cannot be used or
    written to, where the store lacks conditional writes, and where another experiment was at work in it, and
    NothingHereYet where it is to be read and there is nothing in it, unless it `may_be_new`.
    """
    root = as_path(workdir, flag="--workdir")
    if odd := _ENCODED.search(str(root)):
        raise UserError(
            f"--workdir={workdir}: the path {root} holds {odd[0]!r}, and Delta tables below it could not be read; "
            "give one of ASCII letters, digits, -, _ and ."
        )
    path = root / "config.json"
    run = _run(root, experiment)
    _mend_logs(run, read_only=read_only)
    made_with = _made_with(run)
    if read_only and may_be_new and not made_with:
        return run
    if not path.exists():
        _check_missing(path, made_with, workdir, read_only=read_only)
    if not read_only:
        _check_writable(root, workdir)
    mend = "restore it from a backup, or remove it if --config is unchanged: tutelage-run writes it again"
    recorded, identity = _recorded(path, experiment.fixed, "schema", mend), experiment.identity
    before = {name: value for name, value in (recorded or {}).items() if name in made_with}
    new = evolve.added(before, identity) if "schema" in before else []
    _check_experiment(run, experiment, before, new, workdir)
    if read_only:
        return replace(run, schema=evolve.schema_without(run.schema, new))
    if recorded and "schema" not in before and recorded["schema"] != identity["schema"]:
        _remove_empty_tables(run)
    run.lake.create()
    if new:
        _grow(run, experiment, identity, before, new)
        run = replace(run, takeovers=read_takeovers(root))
    elif before.keys() != identity.keys() and recorded != identity:
        evolve.write(path, identity)
    successor = experiment.successor
    if successor and _in_charge(run, successor):
        claim_successor(run, successor)
    return run


def _check_missing(path: Path, made_with: set[str], workdir: str, *, read_only: bool) -> None:
    """Raise what a command that only reads says of a workdir without `config.json`; warn where it is lost."""
    if not made_with:
        if read_only:
            raise NothingHereYet(f"{workdir}: nothing here yet; tutelage-run begins an experiment there")
        return
    if read_only:
        raise UserError(
            f"{path} is missing; restore it from a backup, or run tutelage-run if --config is unchanged: it writes the "
            "file again"
        )
    _log.warning("%s is missing, and is written again as --config is now", path)


def _mend_logs(run: Run, *, read_only: bool) -> None:
    """Restore what the logs of the tables have lost since their last checkpoint.

    Raises TornFile where it cannot be, or with `read_only` where it would have to be.
    """
    for table in (*run.lake.by_day, run.lake.metrics):
        while torn := table.commits.torn():
            for entry in torn:
                said = f"{entry.path} {entry.why}; {entry.remedy}"
                if read_only or entry.content is None or not table.path.is_relative_to(run.root):
                    how = (
                        ": run tutelage-run or tutelage-verify --repair" if entry.content is not None else ""
                    )
                    raise TornFile(said + how)
                _log.warning(said)
                entry.mend()
        if not read_only and table.path.is_relative_to(run.root):
            table.commits.complete()


def _run(root: Path, experiment: Experiment) -> Run:
    changes, successor = read_takeovers(root), experiment.successor
    # The successor's own config is in force until the config names it as the teacher.
    in_charge = bool(changes and successor and successor.teacher.name == changes[-1].name)
    return Run(
        name=experiment.name,
        schema=experiment.schema,
        training=experiment.training,
        teacher=successor.teacher if successor and in_charge else experiment.teacher,
        teacher_model=successor_model(changes[-1].name) if changes else TEACHER,
        takeovers=changes,
        root=root,
        slice_by=experiment.slice_by,
        alarms=experiment.alarms,
    )


def _in_charge(run: Run, successor: SuccessorConfig) -> bool:
    """Return whether the config's successor has taken the teacher's place."""
    return bool(run.takeovers) and successor.teacher.name == run.takeovers[-1].name


def _check_writable(root: Path, workdir: str) -> None:
    if stored := remote(root):
        require_conditional_writes(stored / ".lock")
        return
    try:
        make_folder(root)
        probe = root / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"--workdir={workdir}: cannot be written to ({error.strerror}); give a folder that can"
        ) from None


def _made_with(run: Run) -> set[str]:
    """Return the parts of an experiment's identity that the contents of the workdir depend on.

    A run that fails before it has made anything must not tie the workdir to its config.
    """
    folders = [*run.root.glob(f"{TEACHER}*"), *(run.root / "students").glob("*")]
    if run.takeovers or any(is_trained(run, folder.name) for folder in folders):
        return {"name", "source", "schema", "training", "teacher"}
    tables = (run.lake.interactions.path / "_delta_log").exists()
    if run.lake.quarantine.days() or (tables and run.lake.interactions.partitions().height):
        return {"source", "schema"}
    return set()


def is_trained(run: Run, model: str) -> bool:
    """Return whether a model has been trained on a day, or on a part of one."""
    return run.checkpoints(model).any_day()


def _check_experiment(
    run: Run, experiment: Experiment, before: dict[str, Any], new: list[str], workdir: str
) -> None:
    """Raise UserError where the experiment differs from `before`, apart from `new` names."""
    changes, successor = run.takeovers, experiment.successor
    in_charge = bool(successor and _in_charge(run, successor))
    how = "give another --workdir"
    if changes:
        how = f"{changes[-1].name!r} is the teacher since {changes[-1].from_day}: make it the config's, or {how}"
    now = evolve.without(experiment.identity, new)
    # The config's teacher is the workdir's last one, or the one before where the last is still the successor.
    others = _others(run, in_charge)
    if before and others:
        last = evolve.without({**experiment.identity, "teacher": others[-1].teacher}, new)["teacher"]
        before = {**before, "teacher": completed(last, experiment.teacher)}
    now = {name: value for name, value in now.items() if name in before}
    _refuse_changes(before, now, f"--workdir={workdir}", how)


def _others(run: Run, in_charge: bool) -> tuple[TakeOver, ...]:
    """Return the changes of teacher that made the config's teacher what it is."""
    return run.takeovers[:-1] if in_charge else run.takeovers


def _grow(
    run: Run, experiment: Experiment, identity: dict[str, Any], before: dict[str, Any], new: list[str]
) -> None:
    successor = experiment.successor
    in_charge = bool(successor and _in_charge(run, successor))
    # A teacher whose place was taken stays in force while the config has it, because a rollback may restore it.
    model = run.takeovers[-1].before.model if in_charge else run.teacher_model
    teachers = {model: experiment.teacher}
    if successor:
        teachers[successor_model(successor.teacher.name)] = successor.teacher
    # A job that writes with the old schema would drop the new columns.
    with locks.on_tables(run, patience=_PATIENCE, why=f"{', '.join(new)}: new in the schema, and "):
        evolve.evolve(run, new, teachers)
        # The first teacher's config stays recorded, because a rollback may restore that teacher.
        if "teacher" in before and _others(run, in_charge):
            identity["teacher"] = evolve.without_too(before["teacher"], new)
        evolve.write(run.root / "config.json", identity)
    _log.warning("%s: added to the tables, null for the days that are there", ", ".join(new))


def _remove_empty_tables(run: Run) -> None:
    """Remove the tables of a failed run, which hold no day and have the columns of another schema."""
    with locks.on_tables(run, patience=_PATIENCE, why="the schema has changed, and "):
        if _made_with(run):
            raise TransientError(f"another process has just made days in {run.root}; run again")
        refuse_links(run.root / "lake")
        for log in run.lake.interactions.path.parent.glob("*/_delta_log"):
            remove(log.parent)


def claim_successor(run: Run, successor: SuccessorConfig) -> None:
    """Record a successor's config. Raises UserError where it was trained with another one."""
    name = successor.teacher.name
    earlier = [change.before.name for change in run.takeovers]
    if name in earlier:
        raise UserError(f"successor {name!r}: that was a teacher of {run.root} before; give it a new name")
    how = "give the changed one a new name"
    _claim(run, successor_model(name), successor, f"successor {name!r}", how)


def claim_student(run: Run, student: StudentConfig) -> None:
    """Record a student's config. Raises UserError where it was trained with another one."""
    how = f"pass --reset to train {student.name} from scratch, or give the changed one a new name"
    _claim(run, student.name, student, f"student {student.name!r}", how)


def reset_student(run: Run, student: StudentConfig) -> None:
    """Remove a student's checkpoints and metrics; its exported versions stay."""
    remove(run.folder(student.name), first=STATE)
    run.lake.metrics.replace(run.lake.metrics.scan().limit(0).collect(), {"model": student.name})


def _claim(run: Run, model: str, config: StudentConfig | SuccessorConfig, what: str, how: str) -> None:
    path, now = run.folder(model) / "config.json", plain(config)
    trained = is_trained(run, model)
    mend = f"restore it from a backup, remove it if {what} is unchanged, or {how}"
    try:
        recorded = _recorded(path, config, "model" if isinstance(config, StudentConfig) else "teacher", mend)
    except TornFile as error:
        if trained:
            raise
        recorded = None
        move(path, path.with_name(".torn-config.json"))
        _log.warning("%s; it is set aside and written again, because %s is not trained yet", error, what)
    else:
        if recorded is None and trained:
            _log.warning("%s is missing, and is written again as --config is now", path)
    if recorded is not None and trained:
        _refuse_changes(recorded, now, what, how)
    elif recorded != now:
        evolve.write(path, now)


def _recorded(path: Path, now: Any, needed: str, mend: str) -> dict[str, Any] | None:
    """Return the config recorded at `path`, brought up to the classes of `now`; None where there is none.

    Raises TornFile, which ends with `mend`, where it is no config, as it has no `needed`.
    """

    def checked(value: Any) -> dict[str, Any]:
        json_object(json_object(value)[needed])
        return json_object(value)

    return completed(read_json(path, checked, mend=mend), now) if path.exists() else None


def _refuse_changes(before: dict[str, Any], now: dict[str, Any], what: str, how: str) -> None:
    changes = list(_differences(before, now, ""))
    if changes:
        if changes[0].startswith(_STAY):
            how = f"{_NEW_NAME}, or {how}"
        raise UserError(f"{what} was made with another config: {'; '.join(changes[:3])}; {how}")


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
    """Return a list of items with a name or a task (features, tasks, distillations) by it; None for anything else."""
    for key in ("name", "task"):
        if isinstance(value, list) and all(isinstance(item, dict) and key in item for item in value):
            return {item[key]: item for item in value}
    return None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
