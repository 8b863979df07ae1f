"""A version on disk: its number, and the checkpoint that it was made from."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.digests import differs, sha256_of
from tutelage.pipeline.io.folders import read_several, whole_folders
from tutelage.pipeline.io.json import TornFile, json_object, parse_json, read_json, warn_once, write_json
from tutelage.pipeline.io.paths import StoreError, remote
from tutelage.pipeline.io.scratch import TornUpload, local_copy
from tutelage.pipeline.io.store import FILES
from tutelage.trainers.checkpoints import State

CARD = "assets.extra/tutelage.json"
"""The file in a version's folder that names the checkpoint it was made from."""
MODEL_CARD = "assets.extra/model_card"
"""Where the card for people is stored in a version's folder, without its suffixes `.json` and `.md`."""
GRAPH = "saved_model.pb"
"""The file by which a server finds a version. In an object store a version is there once this file is."""
DIGESTS = f"{MODEL_CARD}.digests"
"""The file in a version's folder that holds the SHA-256 of each file but the cards, which hold their own."""
_CARDS = (CARD, f"{MODEL_CARD}.json")
_NUMBER = re.compile(r"[0-9]{10}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A SavedModel that an export made. `number` is YYYYMMDDNN; NN rises each time the day is exported again."""

    path: Path
    number: int
    day: date
    """The last day that the model was trained on."""
    step: int
    checkpoint: str
    """The id of the checkpoint that the version was made from."""


def is_number(text: str) -> bool:
    """Return whether `text` is the number of a version."""
    return bool(_NUMBER.fullmatch(text))


def numbered(folder: Path) -> list[Path]:
    """Return what `folder` holds under a version's number, in the order of the numbers, whoever made it.

    In an object store that is what has a `saved_model.pb`.
    """
    found = whole_folders(folder, "[0-9]*", GRAPH) if remote(folder) else sorted(folder.glob("[0-9]*"))
    return [path for path in found if is_number(path.name)]


def versions_in(folder: Path) -> list[Version]:
    """Return the versions in `folder` in the order of their numbers.

    Folders that no export made are skipped, and so are those with a torn card, with a warning.
    """
    found = []
    for path, recorded in _with_cards(folder):
        try:
            found.append(read_version(path, recorded))
        except TornFile as error:
            warn_once(str(error))
        except UserError:
            pass
    return found


def _with_cards(folder: Path) -> list[tuple[Path, bytes | None]]:
    """Return what is numbered in a folder, with what each card holds; None: it is still to be read.

    From an object store they are read several at a time.
    """
    if not (stored := remote(folder)):
        return [(path, None) for path in numbered(folder)]
    listed = stored.stats()
    names = sorted(name for name in {PurePath(each).parts[0] for each in listed} if is_number(name))
    names = [name for name in names if f"{name}/{GRAPH}" in listed]
    cards = [f"{name}/{CARD}" for name in names if f"{name}/{CARD}" in listed]
    found = read_several(stored, cards, listed)
    return [(folder / name, found.get(f"{name}/{CARD}")) for name in names]


def read_version(path: Path, recorded: bytes | None = None) -> Version:
    """Read the version in the folder `path`; `recorded` is what its card holds.

    Raises UserError if no export made it.
    """
    card = read_card(path, recorded)
    if not is_number(path.name) or path.name[:8] != f"{card['day']:%Y%m%d}":
        raise UserError(f"{path} is of {card['day']} by its {CARD}, but not by its name; remove it")
    return Version(path=path, number=int(path.name), **card)


def write_card(path: Path, state: State) -> None:
    """Write the card of a version that is made from the checkpoint `state` into its folder `path`."""
    card = {"day": str(state.day), "step": state.step, "checkpoint": state.id}
    write_json(path / CARD, card)


def read_card(path: Path, recorded: bytes | None = None) -> dict[str, Any]:
    """Read `day`, `step` and `checkpoint` from the card in the folder `path`; `recorded` is what the card holds.

    Raises UserError if the card is missing or damaged, or if the folder holds a symbolic link: a link could
    change what is served without a new number.
    """
    if link := str(path) if path.is_symlink() else None if remote(path) else _link_below(str(path)):
        raise UserError(f"{link} is a link, but a version is made of plain files; remove {path}")
    mend = f"restore it from a backup, or remove {path}: its day is exported again"
    try:
        content = recorded or FILES.read(path / CARD)
        card: dict[str, Any] = parse_json(content, str(path / CARD), _facts, mend=mend)
    except StoreError:
        raise
    except OSError:
        if (path / DIGESTS).exists():
            raise TornFile(f"{path / CARD} is missing; {mend}") from None
        raise UserError(f"{path} was not made by an export: its {CARD} is missing; remove it") from None
    return card


def read_verdict(path: Path) -> str:
    """Return the verdict of the gate on the version in the folder `path`; empty where its model card is not whole."""
    try:
        return str(read_json(path / f"{MODEL_CARD}.json", json_object)["verdict"])
    except (OSError, TornFile, KeyError):
        return ""


def write_digests(path: Path, replacements: Mapping[Path, Path] = MappingProxyType({})) -> None:
    """Write the digests of a version's files, as if each file of `replacements` were replaced already."""
    files = sorted(
        file for file in path.rglob("*") if file.is_file() and not file.name.startswith((".", "model_card."))
    )
    found = {str(file.relative_to(path)): sha256_of(replacements.get(file, file)) for file in files}
    found |= {name: "" for name in _CARDS if (path / name).exists()}
    write_json(path / DIGESTS, found)


def damage(path: Path, *, contents: bool = False) -> str:
    """Return how a version's files differ from what was written; empty where they do not, as far as is known.

    Of a version of an older release, which has no digests, it is only known that its graph is not empty. In an object
    store, which checks what it stores, the files' contents are only read where `contents` is set.
    """
    stored = remote(path)
    if not stored:
        return _damage(path)
    if not contents:
        return _missing(path, stored.sizes())
    try:
        with local_copy(path) as copy:
            return _damage(copy).replace(str(copy), str(path))
    except (TornUpload, FileNotFoundError) as error:
        return str(error).partition(";")[0]


def _missing(path: Path, sizes: Mapping[str, int]) -> str:
    """Return which files of a version are not there, or are empty."""
    try:
        digests = read_json(path / DIGESTS, json_object, mend="") if DIGESTS in sizes else {GRAPH: ""}
    except TornFile as error:
        return str(error).partition(";")[0]
    lost = ((name, "is empty" if name in sizes else "is missing") for name in digests if not sizes.get(name))
    return ", ".join(f"{path / name} {why}" for name, why in lost)


def _damage(path: Path) -> str:
    digests: dict[str, str] = {GRAPH: ""}
    try:
        if (path / DIGESTS).exists():
            digests = read_json(path / DIGESTS, json_object, mend="")
        read_card(path)
        for card in _CARDS[1:]:
            if (path / card).exists():
                read_json(path / card, json_object, mend="")
    except UserError as error:
        return str(error).partition(";")[0]
    found = ((name, differs(path / name, None, sha256)) for name, sha256 in digests.items())
    return ", ".join(f"{path / name} {why}" for name, why in found if why)


def _facts(card: dict[str, Any]) -> dict[str, Any]:
    day = date.fromisoformat(card["day"])
    return {"day": day, "step": int(card["step"]), "checkpoint": str(card["checkpoint"])}


def _link_below(folder: str) -> str | None:
    """Return a symbolic link anywhere in a folder, if there is one. A folder that cannot be read has none."""
    try:
        # The types of entries come with the list of their names, so that old versions are checked quickly.
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError:
        return None
    for entry in found:
        if entry.is_symlink():
            return entry.path
        if entry.is_dir() and (link := _link_below(entry.path)):
            return link
    return None
