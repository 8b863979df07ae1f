"""A lock is held alone or shared, by one process or several, and released when its holder ends."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.locks import locked


@contextmanager
def _held_by_another_process(path: Path, *, how: str = "") -> Iterator[subprocess.Popen[str]]:
    code = (
        "import time\nfrom pathlib import Path\nfrom tutelage.pipeline.io.locks import locked\n"
        f"with locked(Path({str(path)!r}), 'held'{how}):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def _is_free(path: Path, *, shared: bool = False) -> bool:
    try:
        with locked(path, "", shared=shared):
            return True
    except UserError:
        return False


def test_a_lock_of_another_process_is_refused_until_that_process_is_killed(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with _held_by_another_process(path) as process:
        assert not _is_free(path)
        assert not _is_free(path, shared=True)
        process.kill()
        process.wait()
        assert _is_free(path)


def test_a_shared_lock_is_shared_and_never_held_alone(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with locked(path, "", shared=True), locked(path, "", shared=True):
        assert _is_free(path, shared=True)
        assert not _is_free(path)
    assert _is_free(path)


def test_a_folder_can_be_locked(tmp_path: Path) -> None:
    with locked(tmp_path, ""):
        assert not _is_free(tmp_path)
    assert _is_free(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_released_when_its_block_fails(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with pytest.raises(ZeroDivisionError), locked(path, ""):
        raise ZeroDivisionError
    assert _is_free(path)


@pytest.mark.parametrize("wait", [None, 20.0])
def test_a_lock_that_is_waited_for_is_taken_when_it_is_free(tmp_path: Path, wait: float | None) -> None:
    path, order = tmp_path / ".lock", []

    def take() -> None:
        with locked(path, "it is held", wait=wait):
            order.append("second")

    with locked(path, ""):
        thread = threading.Thread(target=take)
        thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_waiting_ends_with_the_message(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with locked(path, ""):
        began = time.monotonic()
        with pytest.raises(UserError, match=r"^it is held$"), locked(path, "it is held", wait=0.2):
            pass
        assert time.monotonic() - began >= 0.2
