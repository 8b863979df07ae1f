"""Whether what a workdir holds is what was written, and what mends it where it is not."""

import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tutelage.export.versions import DIGESTS, GRAPH, Versions, damage, numbered, write_digests
from tutelage.launch import steps
from tutelage.launch.lifecycle import stale, verify_tables
from tutelage.launch.lifecycle.findings import Finding
from tutelage.launch.session import Session
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.atomic import remove
from tutelage.pipeline.io.folders import unfinished
from tutelage.pipeline.io.json import TornFile, read_json
from tutelage.pipeline.quarantine import Quarantine
from tutelage.trainers.checkpoints import STATE
from tutelage.trainers.partial import find_partial, is_damaged
from tutelage.trainers.run import TEACHER


def find(session: Session, *, fast: bool = False) -> Iterator[Finding]:
    """Yield what is damaged, missing, stale or orphaned in a workdir whose configs could be read.

    With `fast` only what the night will read and what is served is looked at: the sizes of all data files, the digests
    of those of the days to be trained on, the newest checkpoint and the served version of each model.
    """
    yield from verify_tables.find(session, fast=fast)
    if not fast:
        yield from _configs(session)
    for model in session.all_models:
        yield from _checkpoints(session, model, fast=fast)
        yield from _versions(session, model, fast=fast)
    if not fast:
        yield from _quarantines(session)
        yield from _leftovers(session)
        if found := stale.find(session):
            yield Finding(
                kind="stale", what=found.describe(session), remedy="tutelage-run makes it again", by="run"
            )


def _configs(session: Session) -> Iterator[Finding]:
    """Yield the records of models beside their checkpoints that are not what was written."""
    for model in session.all_models:
        folder = session.run.folder(model)
        trained = session.run.checkpoints(model).any_day()
        config = folder / "config.json"
        if trained and model != TEACHER and not config.exists():
            yield Finding(
                kind="missing", what=str(config), remedy="tutelage-run writes it as --config is now", by="run"
            )
        for path in (
            config,
            session.run.warm_start(model),
            session.run.checkpoints(model).folder / "network.json",
        ):
            try:
                if path.exists():
                    read_json(path, mend="")
            except TornFile as error:
                remedy = "restore it from a backup, or remove it if --config is unchanged: tutelage-run writes it again"
                yield Finding(kind="damaged", what=str(error).removesuffix("; "), remedy=remedy, by="hand")


def _checkpoints(session: Session, model: str, *, fast: bool) -> Iterator[Finding]:
    checkpoints = session.run.checkpoints(model)
    try:
        damaged = checkpoints.damaged(newest_size_only=fast)
        states = checkpoints.states()
    except UserError as error:
        what, _, remedy = str(error).partition("; ")
        yield Finding(kind="damaged", what=what, remedy=remedy, by="hand")
        return
    aside = "it is set aside, and tutelage-run trains on that day and those after it again"
    for day, why in damaged.items():
        what = f"the checkpoint of {model}, {day}: {why}"
        if not states or day >= states[-1].day:
            # A day whose state is torn counts as not trained on, so that its trainer is started, which does it.
            torn = all(state.day != day for state in states)
            mend = None if fast and torn else checkpoints.set_damaged_aside
            yield Finding(kind="damaged", what=what, remedy=aside, by="run", mend=mend)
        else:
            remedy = "it is only needed to go back to that day; --repair removes its variables"
            yield Finding(
                kind="damaged", what=what, remedy=remedy, by="repair", mend=partial(checkpoints.prune, day)
            )
    if fast:
        return
    if is_damaged(checkpoints):
        yield Finding(
            kind="damaged",
            what=f"the partial checkpoint in {checkpoints.folder}",
            remedy="the day starts over",
            by="run",
            mend=partial(find_partial, checkpoints),
        )


def _versions(session: Session, model: str, *, fast: bool) -> Iterator[Finding]:
    versions = session.versions(model)
    served = numbered(versions.folder)
    if served and (why := damage(served[-1], contents=not fast)):
        yield _served(session, versions, served[-1], why)
    if fast:
        return
    idle = [*served[:-1], *numbered(versions.retired), *numbered(versions.rejected)]
    if bare := [path for path in [*served[-1:], *idle] if not (path / DIGESTS).exists() and not damage(path)]:
        yield Finding(
            kind="missing",
            what=f"digests of {len(bare)} versions of {model}, {bare[0].name} among them",
            remedy="an older release has made them, or they were lost; --repair writes those of the files as they are",
            by="repair",
            mend=lambda: list(map(write_digests, bare)),
        )
    for path in idle:
        if why := damage(path, contents=True):
            yield Finding(
                kind="damaged",
                what=why,
                remedy=f"--repair moves the version to {versions.set_aside}",
                by="repair",
                mend=partial(versions.set_damaged_aside, int(path.name)),
            )
    for what, remedy, mend in versions.torn_records():
        yield Finding(kind="damaged", what=what, remedy=remedy, by="repair", mend=mend)
    for path in (versions.staging, versions.staging.with_name("removed")):
        if path.exists() and any(path.iterdir()):
            yield _left(session, path, partial(remove, path))


def _served(session: Session, versions: Versions, path: Path, why: str) -> Finding:
    """Return the finding about a damaged version that is served. It is not moved before there is another one."""
    can = any(
        not state.pruned and f"{state.day:%Y%m%d}" == path.name[:8]
        for state in session.run.checkpoints(versions.name).states()
    )
    if can and versions.name in session.models:
        remedy = "tutelage-run exports its day again, and sets it aside then"
        return Finding(kind="damaged", what=why, remedy=remedy, by="run")
    if sound := versions.newest_sound():
        remedy = f"--repair moves it to {versions.set_aside}, and {sound.number} is served"
        mend = partial(versions.set_damaged_aside, int(path.name))
        return Finding(kind="damaged", what=why, remedy=remedy, by="repair", mend=mend)
    return Finding(kind="damaged", what=why, remedy="put it back from a backup or a mirror", by="hand")


def _quarantines(session: Session) -> Iterator[Finding]:
    run = session.run
    for day, why in run.lake.quarantine.torn().items():
        yield Finding(
            kind="damaged",
            what=why,
            remedy=f"{day} counts as skipped; --repair makes it again from the raw data, and judges it again",
            by="repair",
            mend=partial(steps.materialize, session, [day]),
        )
    for model in session.all_models:
        quarantine: Quarantine = run.quarantine(model)
        for day, why in quarantine.torn().items():
            record = quarantine.days()[day]
            outcome = record["outcome"]
            yield Finding(
                kind="damaged",
                what=why,
                remedy=f"{day} counts as {outcome} by the checkpoints; --repair records that",
                by="repair",
                mend=partial(quarantine.write, day, outcome, record["attempts"]),
            )


def _leftovers(session: Session) -> Iterator[Finding]:
    """Yield what killed processes have left: staging folders of jobs, and files under temporary names."""
    from tutelage.pipeline import beam_job  # It takes a second to import.

    run = session.run
    for path in beam_job.abandoned(run.root / "lake"):
        yield _left(session, path, partial(beam_job.sweep, run.root / "lake"))
    for model in session.all_models:
        yield from _unfinished(session, model)
    for path in sorted(run.root.rglob(".*")):
        of_checkpoint = path.name.startswith(".partial-") and path.parent.name == "checkpoints"
        if of_checkpoint or path.name == ".scratch":
            yield _left(session, path, partial(remove, path))
        elif (number := re.match(r"\.(\d+)-", path.name)) and path.is_file() and not _alive(int(number[1])):
            yield _left(session, path, path.unlink)


def _unfinished(session: Session, model: str) -> Iterator[Finding]:
    """Yield the folders of an object store that a killed process has not uploaded or removed whole."""
    versions = session.versions(model)
    for folder, last in (
        (session.run.checkpoints(model).folder, STATE),
        *((each, GRAPH) for each in (versions.folder, versions.retired, versions.rejected)),
    ):
        for path in unfinished(folder, last):
            yield _left(session, path, partial(remove, path))


def _left(session: Session, path: Path, remove: Callable[[], object]) -> Finding:
    return Finding(
        kind="orphaned",
        what=str(path.relative_to(session.run.root)),
        remedy="a process that was killed has left it, or one is at work; --repair removes it",
        by="repair",
        mend=remove,
    )


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
