"""The one exception that stands for a mistake a user can mend, and what the system said behind any other."""

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
"""Causes that may be gone in a while, as a disk or the network behind a folder has them."""


class UserError(Exception):
    """What was passed, what was expected and how to mend it, in one line.

    Commands print the text and exit with status 1; every other exception keeps its traceback.
    """


def system_error(error: BaseException | None) -> int | None:
    """The operating system's number for what is behind `error`; None: nothing of the system's.

    Polars, Delta Lake and TensorFlow raise errors of their own, and Beam what its workers raised inside
    another: then one of `NO_ROOM` or `PASSING` is found by its text.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error.errno
        if found := re.search(r"\(os error (\d+)\)", str(error)):
            return int(found[1])
        for number in (*NO_ROOM, *PASSING):
            if os.strerror(number) in str(error):
                return number
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def disk_full_as_user_error(folder: str | Path) -> Iterator[None]:
    """Inside, what fails as there is no room left in `folder`, or for temporary files, is a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if system_error(error) not in NO_ROOM:
            raise
        folders = [os.path.abspath(folder), tempfile.gettempdir()]
        full = min(folders, key=lambda path: shutil.disk_usage(path).free)
        raise UserError(
            f"{full}: no room is left on its disk; make some, then run again: what was finished stays"
        ) from error
