"""The operating system's error behind another error, and a full disk in one line."""

import errno
import tempfile
from pathlib import Path

import pytest

from tutelage.pipeline.errors import UserError, disk_full_as_user_error, system_error


def _from(cause: Exception) -> Exception:
    error = RuntimeError("a worker failed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.EACCES, "no"), errno.EACCES),
        (_from(OSError(errno.ENOSPC, "No space left on device")), errno.ENOSPC),
        (ValueError("Generic LocalFileSystem error: ... (os error 28)"), errno.ENOSPC),
        (ValueError("variables.data; No space left on device"), errno.ENOSPC),
        (ValueError("a bug"), None),
        (OSError("without a number"), None),
    ],
)
def test_the_number_of_the_system_s_error_is_found_behind_another_error(
    error: Exception, number: int | None
) -> None:
    assert system_error(error) == number


def test_a_full_disk_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Both folders are on the same disk: the workdir is named.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(UserError) as told, disk_full_as_user_error(tmp_path / "."):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(told.value) == (
        f"{tmp_path}: its disk is full; free some space, then run again: what was finished stays"
    )


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "no"), UserError("os error 28 is no number"), KeyError(1)]
)
def test_another_error_is_raised_as_it_is(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as raised, disk_full_as_user_error(tmp_path):
        raise error
    assert raised.value is error
