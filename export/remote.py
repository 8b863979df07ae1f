"""A copy of the served versions on another file system, which holds its promise even where nothing can be renamed."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tutelage.export.versions import CARD, GRAPH, Version, Versions, damage
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.paths import url_to_fs
from tutelage.pipeline.io.scratch import local_copy
from tutelage.pipeline.io.store import FILES


def mirror(folder: Path, target: str) -> None:
    """Make `target` hold the same versions as `folder` (export/NAME). `target` is any URL that fsspec knows.

    A version in `target` is whole if it has a saved_model.pb: that file is written last and deleted first. The
    newest version is copied first; old ones are removed once all are there. Files that a killed call has copied
    are not copied again.

    Raises UserError if the URL is not valid, holds another model's versions or cannot be written to, and if a
    version is retired while it is copied.
    """
    versions = Versions(folder)
    published = versions.published()
    if not published:
        raise UserError(f"{folder} has no version to copy to {target}; export one first")
    # Each store raises what its own library raises, for an odd URL and for a refusal too.
    try:
        fs, root = url_to_fs(target)
    except Exception as error:
        raise UserError(
            f"{target}: {_one_line(error)}; give a URL like s3://bucket/models/{folder.name}"
        ) from None
    try:
        _mirror(versions, published, fs, root.rstrip("/"), target)
    except UserError:
        raise
    except Exception as error:
        gone = next((version.path for version in published if not version.path.exists()), None)
        why = f"{gone} was retired in the meantime" if gone else _one_line(error)
        raise UserError(
            f"{folder} is not fully copied to {target} ({why}); fix that and copy again"
        ) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _mirror(versions: Versions, published: Sequence[Version], fs: Any, root: str, target: str) -> None:
    fs.invalidate_cache()
    fs.makedirs(root, exist_ok=True)
    # A store that has no folders does not know an empty one.
    paths = fs.ls(root, detail=False) if fs.exists(root) else []
    names = (path.rstrip("/").rsplit("/", 1)[-1] for path in paths)
    there = {name for name in names if re.fullmatch(r"[0-9]+", name)}
    if strange := sorted(there - versions.used()):
        raise UserError(
            f"{target} holds {strange[0]}, which was never a version of {versions.name}; give an empty folder"
        )
    for version in reversed(published):
        _copy(version, fs, f"{root}/{version.number}", target)
    for name in sorted(there - {str(version.number) for version in published}):
        if fs.exists(f"{root}/{name}/{GRAPH}"):
            fs.rm_file(f"{root}/{name}/{GRAPH}")
        fs.rm(f"{root}/{name}", recursive=True)


def _copy(version: Version, fs: Any, to: str, target: str) -> None:
    card = FILES.read(version.path / CARD)
    same = fs.exists(f"{to}/{CARD}") and fs.cat_file(f"{to}/{CARD}") == card
    if fs.exists(f"{to}/{GRAPH}"):
        if not same:
            raise UserError(
                f"{target} holds a {version.number} that is not {version.path}; give an empty folder"
            )
        return
    if why := damage(version.path):
        raise UserError(f"{version.path} is damaged: {why}; run tutelage-verify, which says what mends it")
    if not same and fs.exists(to):
        fs.rm(to, recursive=True)
    with local_copy(version.path) as folder:
        _put(folder, fs, to)


def _put(folder: Path, fs: Any, to: str) -> None:
    """Copy the files of a local folder that are not there yet, the card first and the graph last."""
    # The card is the same, so a file of the right size is complete.
    sizes = {path[len(to) + 1 :]: info["size"] for path, info in fs.find(to, detail=True).items()}
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    for name in [CARD, *sorted({*found} - {CARD, GRAPH}), GRAPH]:
        path = folder / name
        if sizes.get(name) != path.stat().st_size:
            fs.makedirs(f"{to}/{name}".rpartition("/")[0], exist_ok=True)
            # Some stores show a file while it is written, so the files that readers look for get their name at the end.
            partial = ".partial" if name in (CARD, GRAPH) else ""
            fs.put_file(str(path), f"{to}/{name}{partial}")
            if partial:
                fs.mv(f"{to}/{name}{partial}", f"{to}/{name}")
