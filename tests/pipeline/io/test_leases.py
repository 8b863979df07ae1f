"""A lease in an object store is held alone or shared, is told by name, and passes on when its holder is dead."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tutelage.pipeline.errors import TransientError, UserError
from tutelage.pipeline.io import leases
from tutelage.pipeline.io.locks import locked
from tutelage.pipeline.io.paths import as_path
from tutelage.pipeline.io.store import FILES


@pytest.fixture
def path(s3: str) -> Path:
    return as_path(s3) / "work" / ".lock"


def _is_free(path: Path, *, shared: bool = False) -> bool:
    try:
        with locked(path, "", shared=shared):
            return True
    except UserError:
        return False


@contextmanager
def _held_by_another_process(path: Path, *, then: str = "") -> Iterator[subprocess.Popen[str]]:
    code = (
        "import sys, time\n"
        "from tutelage.pipeline.io.locks import locked\n"
        "from tutelage.pipeline.io.paths import as_path\n"
        "from tutelage.pipeline.io.store import FILES\n"
        "from tutelage.pipeline.io import leases\n"
        "leases.BEAT_SECONDS, leases.EXPIRY_SECONDS = 0.2, 2.0\n"
        f"path = as_path({str(path)!r})\n"
        "with locked(path, 'held'):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.readline()\n"
        f"    {then or 'pass'}\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_shared_lease_is_shared_and_never_held_alone(path: Path) -> None:
    with locked(path, "", shared=True), locked(path, "", shared=True):
        assert _is_free(path, shared=True)
        assert not _is_free(path)
    with locked(path, ""):
        assert not _is_free(path, shared=True)
        assert not _is_free(path)
    assert _is_free(path)
    assert [found.name for found in path.parent.iterdir()] == [".lock"]


def test_a_living_holder_is_told_by_name(path: Path) -> None:
    with _held_by_another_process(path) as process:
        with pytest.raises(TransientError) as error, locked(path, "another run is at work"):
            pass
        who = f"process {process.pid} on {socket.gethostname()}, since 20"
        assert str(error.value).startswith(f"another run is at work ({who}")


def test_the_lease_of_a_process_killed_on_this_host_is_taken_over_at_once(path: Path) -> None:
    with _held_by_another_process(path) as process:
        process.kill()  # Nobody waits for it yet.
        began = time.monotonic()
        with locked(path, "held", wait=10):
            pass
        assert time.monotonic() - began < leases.EXPIRY_SECONDS / 2


def test_a_holder_without_a_heartbeat_is_taken_over_after_the_expiry_and_cannot_write_any_more(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "EXPIRY_SECONDS", 2.0)
    then = "FILES.put(path.with_name('record'), b'stale')"
    with _held_by_another_process(path, then=then) as process:
        assert process.stdin
        assert process.stderr
        os.kill(process.pid, signal.SIGSTOP)
        assert not _is_free(path)
        with locked(path, "held", wait=20):
            FILES.put(path.with_name("record"), b"new")
            os.kill(process.pid, signal.SIGCONT)
            process.stdin.write("go on\n")
            process.stdin.flush()
            said = process.stderr.read()
            assert "another one has taken its place, so it stops here" in said
            leases.check()  # The new holder goes on.
            assert [holder.pid for holder in leases.holders(path)] == [os.getpid()]  # type: ignore[arg-type]
    assert FILES.read(path.with_name("record")) == b"new"


def test_a_lease_outlives_its_expiry_while_its_holder_lives(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "EXPIRY_SECONDS", 2.0)
    with _held_by_another_process(path):
        time.sleep(3)
        assert not _is_free(path)


def test_one_of_many_that_ask_at_once_holds_it(path: Path) -> None:
    together, most = [0], [0]

    def take() -> None:
        with locked(path, "", wait=None):
            together[0] += 1
            most[0] = max(most[0], together[0])
            time.sleep(0.01)
            together[0] -= 1

    threads = [threading.Thread(target=take) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert leases.holders(path) == []  # type: ignore[arg-type]


def test_waiting_ends_with_the_message(path: Path) -> None:
    with locked(path, ""):
        began = time.monotonic()
        with (
            pytest.raises(TransientError, match=r"^it is held \(process"),
            locked(path, "it is held", wait=1),
        ):
            pass
        assert time.monotonic() - began >= 1


def test_a_store_without_conditional_writes_is_refused_with_the_reason(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import obstore

    real = obstore.put
    monkeypatch.setattr(leases, "_PROBED", set())
    # Such a store ignores the headers; the rest of it is the real one.
    monkeypatch.setattr(obstore, "put", lambda *args, mode=None, **kwargs: real(*args, **kwargs))
    with pytest.raises(UserError) as error, locked(path, ""):
        pass
    assert str(error.value).endswith(
        ": the store lacks create-if-absent (S3: If-None-Match) and compare-and-swap (S3: If-Match), "
        "so two processes could overwrite each other's work; use one that has both"
    )
