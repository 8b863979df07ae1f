"""Local scratch for libraries that write files by themselves, and the way of such files to and from an object store.

TensorFlow 2.21 has no file system for object stores. A checkpoint, a SavedModel or an event file is written to scratch
and uploaded as a whole: its files, then their digests, then the one file by which a reader finds it. Scratch may vanish
at any instant: what was uploaded does not need it.
"""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tutelage.pipeline.errors import TransientError, UserError
from tutelage.pipeline.io import leases
from tutelage.pipeline.io.digests import sha256_of
from tutelage.pipeline.io.paths import StorePath, remote

DIGESTS = ".digests.json"
"""Beside the files of an uploaded folder: the SHA-256 of each of them, by its path in the folder."""
_THREADS = 8


class ScratchLost(TransientError, OSError):
    """Scratch was removed while it was in use."""

    def __init__(self, folder: Path):
        super().__init__(
            f"{folder} was removed while it was in use; run again, or give another --scratch_dir"
        )
        self.errno = errno.EIO  # What is tried again after a failed read is tried again, with new scratch.


class TornUpload(UserError):
    """A folder in an object store does not hold what was uploaded."""


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a new local folder, where this process puts its temporary files (`use_scratch`), and remove it.

    Raises ScratchLost where the block fails and the folder is gone by then.
    """
    Path(tempfile.gettempdir()).mkdir(parents=True, exist_ok=True)  # It may have vanished.
    made = tempfile.TemporaryDirectory(prefix="tutelage-", ignore_cleanup_errors=True)
    with made as folder, telling_loss(Path(folder)):
        yield Path(folder)


@contextmanager
def telling_loss(folder: Path) -> Iterator[None]:
    """Raise ScratchLost where the block fails and `folder` is gone by then."""
    try:
        yield
    except Exception as error:
        if folder.exists():
            raise
        raise ScratchLost(folder) from error


def use_scratch(folder: str) -> None:
    """Put all temporary files of this process, and of those that it starts, into `folder`; empty: where they are put.

    Raises UserError where it cannot be written to.
    """
    if not folder:
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"--scratch_dir={folder}: cannot be written to ({error.strerror}); give a local folder that can"
        ) from None
    os.environ["TMPDIR"] = os.path.abspath(folder)
    tempfile.tempdir = None


def upload(source: Path, target: StorePath, *, last: str = "") -> dict[str, str]:
    """Upload a local file or folder and return the SHA-256 of each file, by its path in the folder.

    The files named `last` are uploaded after all others and the digests, so a reader that finds one finds all.
    """
    if not source.is_dir():
        target.upload(source)
        return {"": sha256_of(source)}
    names = sorted(str(path.relative_to(source)) for path in source.rglob("*") if path.is_file())
    digests = {name: sha256_of(source / name) for name in names}
    late = [name for name in names if last and Path(name).name == last]

    def send(name: str) -> None:
        (target / name).upload(source / name)

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(send, [name for name in names if name not in late]))
    (target / DIGESTS).write_bytes(json.dumps(digests, indent=1).encode())
    leases.check()
    for name in late:
        send(name)
    return digests


def download(source: StorePath, target: Path) -> None:
    """Download a folder that `upload` wrote into the local folder `target`, which is created.

    A file without a digest, in a folder that another program has copied there, is taken as it is.

    Raises FileNotFoundError where nothing was uploaded, and TornUpload where a file is missing or is not what was
    uploaded.
    """
    digests = _digests(source)
    names = {*digests, *source.sizes()} - {DIGESTS}
    if not names:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))

    def fetch(name: str) -> None:
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            (source / name).download(path)
        except FileNotFoundError:
            raise TornUpload(
                f"{source / name} is missing; restore it from a backup, or remove {source}"
            ) from None
        if (expected := digests.get(name)) and expected != sha256_of(path):
            raise TornUpload(
                f"{source / name} is not what was uploaded; restore it from a backup, or remove {source}"
            )

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(fetch, names))


def forget_digests(folder: StorePath, names: Iterable[str]) -> None:
    """Take the digests of these files away, before the files are replaced: they are then copied as they are."""
    left = {name: digest for name, digest in _digests(folder).items() if name not in set(names)}
    (folder / DIGESTS).write_bytes(json.dumps(left, indent=1).encode())


def record_digests(folder: StorePath, files: Mapping[str, bytes]) -> None:
    """Record the digests of files that were replaced."""
    new = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    (folder / DIGESTS).write_bytes(json.dumps({**_digests(folder), **new}, indent=1).encode())


def _digests(folder: StorePath) -> dict[str, str]:
    content, _ = (folder / DIGESTS).read_versioned_if_any()
    digests: dict[str, str] = json.loads(content or b"{}")
    return digests


@contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """Yield a folder or file as local files: itself where it is local, else a checked copy in scratch."""
    if not (stored := remote(path)):
        yield path
        return
    with scratch() as folder:
        copy = folder / stored.name
        if stored.is_file():
            stored.download(copy)
        else:
            download(stored, copy)
        yield copy
