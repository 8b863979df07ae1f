"""Links in folders whose files are deleted: what a link leads to is not the workdir's."""

import os
from pathlib import Path

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.paths import remote


def refuse_link(path: Path) -> None:
    """Raise UserError where `path` is a link."""
    if path.is_symlink():
        raise UserError(
            f"{path} is a link, and nothing is deleted through a link; remove it, or put what it leads to in its place"
        )


def refuse_links(folder: Path) -> None:
    """Raise UserError where `folder` is a link, or holds one at any depth. Nothing behind a link is looked at.

    An object store has no links.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> refuse_links(folder)
    """
    refuse_link(folder)
    if remote(folder):
        return
    for at, folders, files in os.walk(folder):
        for name in (*folders, *files):
            refuse_link(Path(at, name))


def refuse_path_outside(path: Path, folder: Path, what: str) -> None:
    """Raise UserError, naming `what`, where `path` does not lie below `folder` once all links are followed.

    Example:
        >>> refuse_path_outside(Path("/data/../etc/passwd"), Path("/data"), "the record")
        Traceback (most recent call last):
        tutelage.pipeline.errors.UserError: the record names /data/../etc/passwd, expected a path below /data; restore \
it from a copy
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{what} names {path}, expected a path below {folder}; restore it from a copy")
