"""A day whose training was interrupted: the partial checkpoint within it, and how training goes on from there."""

import logging
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tutelage.pipeline.io.atomic import move_new, remove
from tutelage.pipeline.io.folders import made_beside
from tutelage.pipeline.io.json import TornFile, read_json, write_json
from tutelage.pipeline.io.scratch import TornUpload, local_copy
from tutelage.trainers import networks
from tutelage.trainers.checkpoints import STATE, Checkpoints, sha256_of
from tutelage.trainers.day_pass import Attempt, TrainResult

if TYPE_CHECKING:  # a partial checkpoint is listed and discarded without TensorFlow
    from tutelage.trainers.day import Day
    from tutelage.trainers.trainer import Trainer

_log = logging.getLogger(__name__)
_KINDS = ("outputs", "ahead")
_READ = 2**20
"""Numbers that are read at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialDay:
    """What a partial checkpoint says of itself, in its `state.json`."""

    day: date
    after: str
    """`State.id` of the state that the day was begun from, which may be another model's (`Trainer.begun_from`)."""
    digest: str
    """`Day.digest`. A partial checkpoint with another digest is discarded."""
    rows: int
    """Examples of the day that are trained on."""
    rates: float
    """The factor of the config's learning rates that they were trained with."""
    seconds: float
    """Time that the updates took."""
    sha256: str = ""
    """Hash of its files."""


def save_partial(trainer: "Trainer", checkpoints: Checkpoints, day: "Day", so_far: Attempt) -> None:
    """Write a partial checkpoint in the place of the one before it.

    It holds the variables, and in `arrays.npz` the losses, the outputs before the updates and the scores ahead.
    """
    networks.record(checkpoints, trainer.ranker.network)
    with made_beside(checkpoints.folder, ".partial-within") as saved:
        trainer.checkpoint.write(str(saved / "variables"))
        _write_progress(saved, trainer, day, so_far)
        # The numbers rise: if the process is killed before the older folder is removed, the newer one is read.
        number = 1 + max(
            (int(path.name.removeprefix("within-")) for path in checkpoints.partials()), default=0
        )
        move_new(saved, checkpoints.folder / f"within-{number:06}", last=STATE)
    for path in checkpoints.partials()[:-1]:
        remove(path, first=STATE)


def _write_progress(saved: Path, trainer: "Trainer", day: "Day", so_far: Attempt) -> None:
    """Write how far the day was trained on beside its variables."""
    arrays = {"losses": so_far.trained.losses}
    for kind, values in zip(_KINDS, (so_far.trained.outputs, so_far.ahead), strict=True):
        arrays |= {f"{kind} {name}": array for name, array in values.items()}
    np.savez(saved / "arrays.npz", allow_pickle=False, **arrays)
    day.unmap(arrays)
    partial_day = PartialDay(
        day=day.day,
        after=trainer.begun_from,
        digest=day.digest,
        rows=so_far.trained.examples,
        rates=so_far.rates,
        seconds=so_far.trained.seconds,
        sha256=sha256_of(saved),
    )
    write_json(saved / STATE, asdict(partial_day))


def find_partial(checkpoints: Checkpoints) -> PartialDay | None:
    """Return what the newest sound partial checkpoint is of; warn of damaged ones and remove them."""
    with _newest_sound(checkpoints) as found:
        return found[0] if found else None


@contextmanager
def _newest_sound(checkpoints: Checkpoints) -> Iterator[tuple[PartialDay, Path] | None]:
    """Yield the newest sound partial checkpoint and its files in a local folder, as `find_partial` finds it."""
    with ExitStack() as copies:
        yield _find(checkpoints, copies)


def _find(checkpoints: Checkpoints, copies: ExitStack) -> tuple[PartialDay, Path] | None:
    for path in reversed(checkpoints.partials()):
        try:
            partial_day, local = _read(path), copies.enter_context(local_copy(path))
        except (TornFile, TornUpload) as error:
            _log.warning(str(error))
        else:
            if partial_day.sha256 == sha256_of(local):
                return partial_day, local
            _log.warning(
                "%s: the partial checkpoint within %s is damaged", checkpoints.folder, partial_day.day
            )
        remove(path, first=STATE)
    return None


def is_damaged(checkpoints: Checkpoints) -> bool:
    """Return whether a partial checkpoint is not what was written."""
    for path in checkpoints.partials():
        try:
            with local_copy(path) as local:
                if _read(path).sha256 != sha256_of(local):
                    return True
        except (TornFile, TornUpload):
            return True
    return False


def _read(folder: Path) -> PartialDay:
    path, mend = folder / STATE, "the day is trained on from its start"
    try:
        partial_day: PartialDay = read_json(
            path, lambda value: PartialDay(**{**value, "day": date.fromisoformat(value["day"])}), mend=mend
        )
    except FileNotFoundError:
        raise TornFile(f"{path} is missing; {mend}") from None
    return partial_day


def resume_partial(trainer: "Trainer", checkpoints: Checkpoints, day: "Day") -> Attempt | None:
    """Restore the partial checkpoint of `day`; return how far it was trained on, None if it was not interrupted.

    A partial checkpoint of another day, of a day whose data has changed since, or begun from another state is
    discarded: the day is then trained on from its start.
    """
    with _newest_sound(checkpoints) as found:
        if found is None:
            return None
        partial_day, path = found
        if (partial_day.day, partial_day.after, partial_day.digest) != (
            day.day,
            trainer.begun_from,
            day.digest,
        ):
            checkpoints.discard_partial()
            return None
        networks.check(checkpoints, trainer.ranker.network)
        status = trainer.checkpoint.read(str(path / "variables"))
        status.assert_existing_objects_matched().expect_partial()
        with np.load(path / "arrays.npz") as file:
            losses = file["losses"]
        outputs, ahead = (_columns(path / "arrays.npz", f"{kind} ", day) for kind in _KINDS)
    trained = TrainResult(
        outputs=outputs,
        losses=losses,
        examples=partial_day.rows,
        first_step=trainer.state.step if trainer.state else 0,
        batch_size=trainer.batch_size,
        seconds=partial_day.seconds,
        waited=day.waited,
    )
    return Attempt(ahead=ahead, trained=trained, rates=partial_day.rates)


def _columns(path: Path, prefix: str, day: "Day") -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file whose names begin with `prefix`, by the rest of their names.

    They are copied a part at a time to where the columns of the day lie.
    """
    found = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.namelist():
            name = entry.removesuffix(".npy")
            if not name.startswith(prefix):
                continue
            with archive.open(entry) as file:
                np.lib.format.read_magic(file)
                (rows,), _, dtype = np.lib.format.read_array_header_1_0(file)
                column = day.new_column()
                for start in range(0, rows, _READ):
                    stop = min(start + _READ, rows)
                    column[start:stop] = np.frombuffer(file.read((stop - start) * dtype.itemsize), dtype)
            found[name.removeprefix(prefix)] = column[:rows]
    day.unmap(found)
    return found
