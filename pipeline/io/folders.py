"""Folders of several files that appear whole and go whole, on a local disk and in an object store.

On a disk a folder is written under another name and renamed. An object store has no renames: there a folder counts as
there once one file of it is, which is uploaded after all others and deleted before them. Libraries that know local
files only write to scratch, which is uploaded (`made_beside`, then `atomic.move_new`), and read a copy of what is there
(`scratch.local_copy`).
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from tutelage.pipeline.io.atomic import make_folder, move, remove
from tutelage.pipeline.io.paths import StorePath, StoreStat, remote
from tutelage.pipeline.io.scratch import forget_digests, record_digests, scratch
from tutelage.pipeline.io.store import FILES

_THREADS = 16
_READ: dict[tuple[str, str], bytes] = {}
"""Small files that this process has read from an object store, by path and etag."""


@contextmanager
def made_beside(folder: Path, name: str) -> Iterator[Path]:
    """Yield the path of a local folder that is not there yet, to be made and then moved into `folder` (`move_new`).

    On a disk it is `folder`/`name`, which is left behind if the process is killed, and removed by the next call.
    """
    if remote(folder):
        with scratch() as parent:
            yield parent / name
        return
    make_folder(folder)
    shutil.rmtree(folder / name, ignore_errors=True)
    yield folder / name


def whole_folders(folder: Path, pattern: str, last: str) -> list[Path]:
    """Return the folders in `folder` whose names match and that are whole, in order.

    On a disk all of them are; in an object store those that hold the file `last`.
    """
    if remote(folder):
        return [path.parent for path in folder.glob(f"{pattern}/{last}")]
    return sorted(path for path in folder.glob(pattern) if path.is_dir())


def remove_whole(folder: Path, aside: Path, *, first: str) -> None:
    """Delete a folder, of which no part must be taken for the whole.

    On a disk it gets the name `aside` before; in an object store the file `first` goes first.
    """
    if not remote(folder):
        remove(aside)
        move(folder, aside)
        folder = aside
    remove(folder, first=first)


def unfinished(folder: Path, last: str) -> list[Path]:
    """Return the folders in `folder` without the file `last`: a process that was killed has left them.

    On a disk there is none: they have other names there.
    """
    stored = remote(folder)
    files = [Path(name).parts for name in stored.sizes()] if stored else []
    whole = {parts[0] for parts in files if parts[1:] == (last,)}
    return [folder / name for name in sorted({parts[0] for parts in files if parts[1:]} - whole)]


def read_several(
    folder: StorePath, names: Iterable[str], listed: Mapping[str, StoreStat]
) -> dict[str, bytes]:
    """Return the contents of small files of a folder by their paths in it; `listed` is what `StorePath.stats` returned.

    Several are read at a time, and none twice in a process while it stays as it is. One that is gone is left out.
    """
    keys = {name: (str(folder / name), listed[name].etag) for name in names}
    missing = [name for name, key in keys.items() if key not in _READ]

    def read(name: str) -> None:
        with suppress(FileNotFoundError):
            _READ[keys[name]] = (folder / name).read_bytes()

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(read, missing))
    return {name: _READ[key] for name, key in keys.items() if key in _READ}


def replace_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace files of an uploaded folder in this order, by their paths in it.

    A process that is killed here leaves files whose digests are not known, and the same call again completes it.
    """
    stored = remote(folder)
    if stored:
        forget_digests(stored, files)
    for name, content in files.items():
        FILES.put(folder / name, content)
    if stored:
        record_digests(stored, files)


def size(folder: Path) -> int:
    """Return the bytes of all files below a folder; 0 where there is none."""
    if stored := remote(folder):
        return sum(stored.sizes().values())
    return sum(os.lstat(os.path.join(at, name)).st_size for at, _, names in os.walk(folder) for name in names)
