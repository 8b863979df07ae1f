"""Checkpoints: one folder for each day, which is there whole or not at all."""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import uuid
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.atomic import make_folder, move, move_new, remove
from tutelage.pipeline.io.folders import made_beside, read_several, remove_whole, whole_folders
from tutelage.pipeline.io.json import TornFile, json_object, parse_json, read_json, warn_once, write_json
from tutelage.pipeline.io.paths import remote
from tutelage.pipeline.io.scratch import TornUpload, local_copy
from tutelage.pipeline.io.store import FILES

if TYPE_CHECKING:  # the states of a model are listed without TensorFlow
    import tensorflow as tf

STATE = "state.json"
"""The file that says what a checkpoint is of. In an object store a checkpoint is there once this file is."""
_DAYS = "[0-9]*-[0-9]*-[0-9]*"


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Where a model stands after a day. Steps are updates, counted from the model's first one.

    >>> State(day=date(2026, 1, 1), step=4, examples=60, rows=60).recorded()["day"]
    '2026-01-01'
    """

    day: date
    step: int
    examples: int
    """Examples that the model was trained on since its first day."""
    rows: int
    """Examples of this day."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Names this attempt at the day: a day that is trained on again has another."""
    seconds: float = 0.0
    """Time that the day's updates took."""
    waited: float = 0.0
    """Seconds before them in which the trainer waited for the day to be read."""
    memory: int = 0
    """Bytes that the process held after the day; 0 for a day from before this was recorded."""
    size: int = 0
    """Bytes of the variables' files; 0 as above."""
    sha256: str = ""
    """Hash of the variables' files."""
    input_versions: Mapping[str, int] = field(default_factory=dict)
    """The versions of the tables that the day was read from (`Lake.input_versions`); empty as above."""
    holdout: float = 0.0
    """The share of the day's users whose rows it was not trained on (`TrainingConfig.holdout`); 0 as above."""
    pruned: bool = False
    """The variables were removed; this record is all that is left."""

    def recorded(self) -> dict[str, Any]:
        """Return what `state.json` holds. There `input_versions` keeps its first name, `made_of`."""
        values = {**asdict(self), "day": str(self.day)}
        values["made_of"] = values.pop("input_versions")
        return values

    @classmethod
    def read(cls, recorded: Mapping[str, Any]) -> State:
        """Return the state that `recorded` returned; a field that is missing has its default."""
        values = {**recorded, "day": date.fromisoformat(recorded["day"])}
        return cls(**{("input_versions" if name == "made_of" else name): v for name, v in values.items()})

    def judged_on(self, days: Sequence[date]) -> date | None:
        """Return the day whose rows judge a version of this state: neither it nor the served version saw them.

        It is the state's own day where rows were withheld, otherwise the first after it of `days`, those of the table
        in order; None while that is still to come.
        """
        if self.holdout:
            return self.day
        return next(iter(days[bisect_right(days, self.day) :][:1]), None)


class Checkpoints:
    """The checkpoints of one model, under `folder`/YYYY-MM-DD.

    A partial checkpoint of the day after the last one lies beside them, as `within-NNNNNN` (see `partial.py`).
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._verified: tuple[date, Path] | None = None
        """The day whose files were found to be sound, and were not restored since, and where they lie locally."""
        self._copies = ExitStack()
        """Holds the copy in scratch of these files."""

    def states(self) -> list[State]:
        """Return the states of all finished days, in order.

        The list ends before a day whose `state.json` is torn or missing, with a warning: that day and those after it
        are trained on again (`set_damaged_aside`). Raises UserError where they cannot be, because the variables of
        that day or of the day before it were pruned.
        """
        states: list[State] = []
        for folder, recorded in self._recorded().items():
            try:
                states.append(_read_state(folder, recorded))
            except TornFile as error:
                if (states and states[-1].pruned) or not any(folder.glob("variables*")):
                    _read_state(folder, mend=_PRUNED)
                warn_once(str(error))
                break
        return states

    def _folders(self) -> list[Path]:
        return whole_folders(self.folder, _DAYS, STATE)

    def _recorded(self) -> dict[Path, bytes | None]:
        """Return the folders of all days, in order, with what their `state.json` holds; None: it is still to be read.

        From an object store they are read several at a time.
        """
        if not (stored := remote(self.folder)):
            return dict.fromkeys(self._folders())
        listed = stored.stats()
        names = sorted(name for name in listed if fnmatch.fnmatchcase(name, f"{_DAYS}/{STATE}"))
        found = read_several(stored, names, listed)
        return {(self.folder / name).parent: content for name, content in found.items()}

    def any_day(self) -> bool:
        """Return whether there is a checkpoint of any day or of a part of one, sound or damaged."""
        return bool(self._folders() or self.partials())

    def save(self, checkpoint: tf.train.Checkpoint, state: State) -> State:
        """Write a day's checkpoint, and drop the partial one; return the state with the size and hash of the files.

        The folder has a temporary name until it is complete: what a killed writer leaves is never read.
        """
        make_folder(self.folder)
        for leftover in self.folder.glob(".partial-*"):
            remove(leftover)
        with made_beside(self.folder, f".partial-{state.id}") as partial:
            checkpoint.write(str(partial / "variables"))
            size = sum(path.stat().st_size for path in partial.iterdir())
            state = replace(state, size=size, sha256=sha256_of(partial))
            self._commit(partial, state)
        return state

    def _commit(self, written: Path, state: State) -> None:
        """Put the files of a day where they belong, drop the partial checkpoint, and let the day be there."""
        folder = self.folder / str(state.day)
        if remote(folder):
            # An upload takes longer than a rename: a process that is killed in it goes on with the partial one.
            move_new(written, folder)
            self.discard_partial()
            write_json(folder / STATE, state.recorded())
        else:
            write_json(written / STATE, state.recorded())
            self.discard_partial()
            move_new(written, folder)

    def restore(self, checkpoint: tf.train.Checkpoint, day: date) -> None:
        """Read the variables of a day. Raises UserError where they are missing, pruned or damaged."""
        path = self.folder / str(day) / "variables"
        if any(state.pruned for state in self.states() if state.day == day):
            raise UserError(
                f"the checkpoint of {day} in {self.folder} was pruned; put its folder back from a copy, or "
                "train the model from scratch"
            )
        if not path.with_suffix(".index").exists():
            raise UserError(f"no checkpoint of {day} in {self.folder}; train that day first")
        if (self._verified is None or self._verified[0] != day) and not self._sound(day):
            raise UserError(
                f"the checkpoint of {day} in {self.folder} is damaged: its files are not those that were "
                "written; put them back from a copy"
            )
        assert self._verified
        _, local = self._verified
        self._verified = None
        with self._copies:
            # The file may hold more (an export reads no optimizer), never less.
            checkpoint.read(str(local / "variables")).assert_existing_objects_matched().expect_partial()

    def damaged(self, *, newest_size_only: bool = False) -> dict[date, str]:
        """Return the days whose files are not what was written, each with how they differ. See `states`.

        With `newest_size_only`, of the days whose state is sound only the newest is looked at, and only its size.
        """
        states, folders = self.states(), self._folders()
        found = {}
        kept = [state for state in states if not state.pruned][-1 if newest_size_only else 0 :]
        for state, files in zip(kept, self._files([state.day for state in kept]), strict=True):
            size = sum(files.values())
            if not files or (state.size and size != state.size):
                found[state.day] = f"its variables have {size:,} bytes, expected {state.size:,}"
            elif not newest_size_only and state.sha256 and not self._sound(state.day):
                found[state.day] = "its variables are not what was written"
        for folder in folders[len(states) :][:1]:
            found[date.fromisoformat(folder.name)] = "its state.json is damaged or missing"
        return found

    def set_damaged_aside(self) -> dict[date, str]:
        """Forget the last days while their files are damaged; return them with the reason. They are trained on again.

        A day whose `state.json` is torn takes the days after it along, because what is counted there goes on from it.
        The folders stay as .damaged-YYYY-MM-DD, for whoever looks into the disk. Raises UserError as
        `states` does.
        """
        states = self.states()
        torn = self._folders()[len(states) :]
        damaged = {}
        for n, folder in reversed(list(enumerate(torn))):
            damaged[self._set_aside(folder)] = "follows a damaged one" if n else "is damaged"
        for state in reversed(states):
            if state.pruned or self._sound(state.day):
                break
            damaged[self._set_aside(self.folder / str(state.day))] = "is damaged"
        return dict(sorted(damaged.items()))

    def _set_aside(self, folder: Path) -> date:
        aside = self.folder / f".damaged-{folder.name}"
        remove(aside)
        move(folder, aside, last=STATE)
        return date.fromisoformat(folder.name)

    def _sound(self, day: date) -> bool:
        """Return whether the files of a day are those that were written, and keep them for `restore` if they are.

        Hashing the files a second time, or copying them from an object store, would take as long as reading them.
        """
        folder = self.folder / str(day)
        self._copies.close()
        self._verified = None
        try:
            local = self._copies.enter_context(local_copy(folder))
        except TornUpload:
            return False
        if _read_state(folder).sha256 != sha256_of(local):
            return False
        self._verified = day, local
        return True

    def _files(self, days: Sequence[date]) -> list[dict[str, int]]:
        """Return for each day the sizes of the files of its variables, by their names."""
        if not (stored := remote(self.folder)):
            folders = [self.folder / str(day) for day in days]
            return [{path.name: path.stat().st_size for path in _variables(folder)} for folder in folders]
        found: dict[str, dict[str, int]] = {str(day): {} for day in days}
        for name, size in stored.sizes().items() if days else ():
            folder, _, file = name.partition("/")
            if folder in found and file != STATE and not file.startswith("."):
                found[folder][file] = size
        return list(found.values())

    def partials(self) -> list[Path]:
        """Return the folders of partial checkpoints, the oldest first. There is more than one only after a kill."""
        return whole_folders(self.folder, "within-*", STATE)

    def discard_partial(self) -> None:
        """Remove the partial checkpoints."""
        for path in self.folder.glob("within-*"):
            remove(path, first=STATE)

    def prune(self, day: date) -> None:
        """Remove the variables of a day and keep its state."""
        folder = self.folder / str(day)
        values = read_json(folder / STATE, json_object)
        write_json(folder / STATE, {**values, "pruned": True})
        for path in folder.iterdir():
            if path.name != STATE:
                remove(path)

    def to_prune(self, before: date) -> list[date]:
        """Return the days before `before` that have more files than their state; never the newest day of all."""
        old = [state for state in self.states()[:-1] if state.day < before]
        pruned = [state.day for state in old if state.pruned]
        left = {day for day, files in zip(pruned, self._files(pruned), strict=True) if files}
        return [state.day for state in old if not state.pruned or state.day in left]

    def remove_day(self, day: date) -> None:
        """Remove the checkpoint of a day. Half a checkpoint must not look like one."""
        aside = self.folder / f".partial-gone-{day}"
        remove_whole(self.folder / str(day), aside, first=STATE)

    def remove(self) -> None:
        """Remove the checkpoints of all days."""
        remove(self.folder, first=STATE)


_PRUNED = (
    "restore it from a backup, or train the model from scratch (a student with --reset, a teacher in another workdir): "
    "the days that were pruned cannot be trained on again"
)
_AGAIN = (
    "restore it from a backup, or tutelage-run sets it aside and trains on that day and those after it again"
)


def _read_state(folder: Path, recorded: bytes | None = None, *, mend: str = _AGAIN) -> State:
    """Return the state of a day's folder; `recorded` is what its file holds.

    Raises TornFile where it is torn or missing.
    """
    path = folder / STATE
    try:
        if remote(path):
            state = _parse(str(path), recorded or FILES.read(path), mend)
        else:
            stat = path.stat()
            state = _read(str(path), stat.st_ino, stat.st_mtime_ns, mend)
    except FileNotFoundError:
        raise TornFile(f"{path} is missing; {mend}") from None
    if str(state.day) != folder.name:
        raise TornFile(f"{path} is of {state.day} and not of {folder.name}; {mend}")
    return state


@functools.lru_cache(maxsize=1_000_000)
def _read(path: str, inode: int, modified: int, mend: str) -> State:
    """Read the state in a file. Commands ask for the states of many days again and again; a file is read once.

    A file that is replaced or changed has another inode or another time.
    """
    return _parse(path, FILES.read(Path(path)), mend)


@functools.lru_cache(maxsize=1_000_000)
def _parse(path: str, recorded: bytes, mend: str) -> State:
    values = parse_json(recorded, path, json_object, mend=mend)
    if newer := sorted(values.keys() - State.__dataclass_fields__.keys() - {"made_of"}):
        raise UserError(
            f"{path} holds {newer[0]!r}, which this version of tutelage does not know; install a newer one"
        )
    state: State = parse_json(recorded, path, State.read, mend=mend)
    return state


def sha256_of(folder: Path) -> str:
    """Return the hash of the names and contents of all files of a local folder but `state.json`."""
    whole = hashlib.sha256()
    for path in sorted(_variables(folder)):
        whole.update(path.name.encode())
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _variables(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name != STATE]


def pending(
    days: Sequence[date], states: Sequence[State], *, slice_days: int, who: str, skipped: Sequence[date] = ()
) -> list[date]:
    """Return those of `days` (in order) that are still to be trained on. `skipped` days never are.

    Raises UserError where they do not follow the last finished day: a model is trained on each day once, in order.

    >>> days = [date(2026, 1, day) for day in (1, 2, 3)]
    >>> states = [State(day=days[0], step=4, examples=60, rows=60)]
    >>> [day.isoformat() for day in pending(days, states, slice_days=1, who="teacher", skipped=days[1:2])]
    ['2026-01-03']
    """
    done = {*(state.day for state in states), *skipped}
    left = [day for day in days if day not in done]
    if not left or not states:
        return left
    last = states[-1].day
    while (following := last + timedelta(days=slice_days)) in skipped:
        last = following
    if left[0] != following:
        raise UserError(
            f"{who} was trained on {states[0].day} to {last}, so {following} comes next, not {left[0]}; "
            f"give a range that goes on from there, or another workdir"
        )
    return left


def step_of_example(states: Sequence[State], examples: int, *, batch_size: int) -> int:
    """Return the first step before which a model was trained on at least this many examples.

    The last batch of a day is smaller, so that the days are counted one by one. Past the last day full batches are
    counted: there are no labels of a later day yet.

    >>> states = [State(day=date(2026, 1, 1), step=3, examples=25, rows=25)]
    >>> [step_of_example(states, n, batch_size=10) for n in (20, 25, 26)]
    [2, 3, 4]
    """
    step, trained = 0, 0
    for state in states:
        if state.examples >= examples:
            break
        step, trained = state.step, state.examples
    last = next((s for s in states if s.examples >= examples), None)
    steps = -(-max(0, examples - trained) // batch_size)
    return min(step + steps, last.step) if last else step + steps
