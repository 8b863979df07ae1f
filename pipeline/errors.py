"""The exception that a command prints in one line, by cause, and the operating system's error behind any other."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
PASSING = (
    errno.EIO,
    errno.ESTALE,
    errno.EAGAIN,
    errno.ETIMEDOUT,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.EHOSTDOWN,
)
"""Causes that may pass after a while, as they come from a disk or from the network behind a folder."""


_OF_A_STORE = re.compile(r"Generic (S3|GCS|MicrosoftAzure) error")
"""How Delta Lake and Polars begin what an object store did not do after all attempts of their clients."""


class UserError(Exception):
    """One line that says what was passed, what was expected, and how to correct it.

    Commands print the text. `launch/exit_codes.py` says with which status they end. Every other exception keeps its
    traceback.
    """


class GateError(UserError):
    """A gate spoke: on a day of data, on a model's day, or on a version that was to be served."""


class Found(UserError):
    """A command that only looks found something to do or to correct."""


class TransientError(UserError):
    """A cause that may pass without a change of the request: the same command, run again later, may succeed."""


class DryRun(Exception):
    """A Beam job was only translated, as its flags ask. The text says what was made; commands print it and succeed."""


def system_error(error: BaseException | None) -> int | None:
    """Return the number of the operating system's error behind `error`; None: there is none.

    Polars, Delta Lake and TensorFlow raise errors of their own, and Beam wraps what its workers raised. There, a
    number of `NO_ROOM` or `PASSING` is found by its text. An object store that did not answer counts as EIO.

    Example:
        >>> system_error(ValueError("Generic LocalFileSystem error (os error 28)")) == errno.ENOSPC
        True
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error.errno
        if found := re.search(r"\(os error (\d+)\)", str(error)):
            return int(found[1])
        if _OF_A_STORE.search(str(error)):
            return errno.EIO
        for number in (*NO_ROOM, *PASSING):
            if os.strerror(number) in str(error):
                return number
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def disk_full_as_user_error(folder: str | Path) -> Iterator[None]:
    """Raise a TransientError where the block fails because the disk of `folder`, or of temporary files, is full.

    An object store that does not answer is told in one line too.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if found := _OF_A_STORE.search(str(error)):
            line = " ".join(str(error)[found.start() :].split())[:300]
            raise TransientError(
                f"{folder}: {line}; look after the network and the store, then run again"
            ) from error
        if system_error(error) not in NO_ROOM:
            raise
        # An object store has no disk that is full.
        folders = [path for path in (os.path.abspath(folder), tempfile.gettempdir()) if os.path.exists(path)]
        full = min(folders, key=lambda path: shutil.disk_usage(path).free)
        raise TransientError(
            f"{full}: its disk is full; free some space, then run again: what was finished stays"
        ) from error
