"""Files and folders that appear as a whole, and stay after a power loss: all of the old one or all of the new one.

A rename alone is not enough. After a power loss a file system may keep the new name and lose what the file held, so
the content is brought to the disk first (fsync), then the file is renamed, then its folder is brought to the disk.

An object store writes a file as a whole and has no folders, so there nothing needs to be brought to a disk. It has no
rename either: a folder is copied file by file, so it is whole only when the file named `last` is there.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tutelage.pipeline.io import leases
from tutelage.pipeline.io.paths import remote
from tutelage.pipeline.io.scratch import upload


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk."""
    if remote(path):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems of networks and object stores have no fsync for a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def sync_all(folder: Path) -> None:
    """Wait until a folder is on the disk with everything in it, which a library wrote that does not wait itself."""
    if remote(folder):
        return
    for at, _, names in os.walk(folder):
        for name in names:
            sync(Path(at, name))
        sync(Path(at))


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents, and bring their names to the disk."""
    if remote(path):
        return
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync(folder.parent)


def remove(path: Path, *, first: str = "") -> None:
    """Delete a file or a folder with everything in it; nothing where there is none.

    In an object store the files named `first` are deleted before all others, so that a reader which looks for them
    never takes the rest for the whole.
    """
    if stored := remote(path):
        leases.check()
        stored.remove(first)
        stored.unlink(missing_ok=True)
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def move(source: Path, target: Path, *, last: str = "") -> None:
    """Rename a file or a folder, whose content is on the disk, and bring the new name to the disk.

    In an object store it is copied, the files named `last` after all others, and then deleted, these first.
    """
    if (old := remote(source)) and (new := remote(target)):
        leases.check()
        files = sorted(old.sizes(), key=lambda name: Path(name).name == last)
        for name in files:
            (old / name).copy_to(new / name)
        if not files:
            old.copy_to(new)
        remove(source, first=last)
        return
    os.rename(source, target)
    sync(target.parent)


def move_new(source: Path, target: Path, *, last: str = "") -> None:
    """Bring a file or a folder that was just written to the disk, with everything in it, and rename it then.

    A local one is moved into an object store by uploading it, the file named `last` after all others.
    """
    if stored := remote(target):
        leases.check()
        upload(source, stored, last=last)
        remove(source)
        return
    if source.is_dir():
        sync_all(source)
    else:
        sync(source)
    os.replace(source, target)
    sync(target.parent)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path. When the block ends, what was written there replaces `path`; if it fails, nothing does.

    The folder is created if it does not exist. The temporary name keeps the suffix of `path`, so that a search for
    files of that kind, for example to delete a user's rows, also finds what a killed process left behind. For an object
    store it is a local file, which is uploaded.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "report.txt"
        >>> with atomic_write(path) as partial:
        ...     _ = partial.write_text("done")
        >>> path.read_text()
        'done'
    """
    if remote(path):
        with tempfile.TemporaryDirectory() as folder:
            partial = Path(folder, path.name)
            yield partial
            move_new(partial, path)
        return
    make_folder(path.parent)
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield partial
        move_new(partial, path)
    finally:
        partial.unlink(missing_ok=True)
