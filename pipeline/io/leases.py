"""Locks in an object store, which has none: leases with an owner, a heartbeat and an expiry.

A lease is an object that lists its holders, changed by compare-and-swap only. Beside it lies an object per holder, its
heartbeat, which is written anew every `BEAT_SECONDS`. The store's own clock dates it, so the clocks of hosts are not
compared. A holder whose heartbeat is older than `EXPIRY_SECONDS`, or whose process was killed on this host, is taken
off the list by the next one. If it was only paused, it reads the list at its next heartbeat, and before its next write
where the last heartbeat is old, and stops.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

import psutil

from tutelage.pipeline.errors import TransientError, UserError
from tutelage.pipeline.io.paths import StoreError, StorePath

BEAT_SECONDS = 10.0
EXPIRY_SECONDS = 60.0
"""A heartbeat of this age is that of a dead holder."""
_POLL_SECONDS = 0.5
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A process that holds a lease."""

    id: str
    """Of this hold: a process may hold a lease several times, shared."""
    host: str
    pid: int
    process_started: float
    """Tells a process from a later one with the same number."""
    kernel: str
    """Which running kernel and namespace the process number belongs to; empty where that is not known."""
    since: str
    shared: bool

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"

    @property
    def killed(self) -> bool:
        """Whether it is known to have ended, because it ran on this host."""
        if not self.kernel or self.kernel != _kernel():
            return False
        try:
            process = psutil.Process(self.pid)
            another = abs(process.create_time() - self.process_started) > 1
            return another or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


@cache
def _kernel() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _now() -> float:
    """Return seconds that go on while the host sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(slots=True, eq=False)
class _Lease:
    """One hold of this process."""

    path: StorePath
    me: Holder
    confirmed: float = field(default_factory=_now)
    """When it was last seen that the list names this holder and its heartbeat was fresh."""
    lost: bool = False
    released: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def beat(self) -> StorePath:
        return _beat(self.path, self.me)

    def renew(self) -> None:
        """Write the heartbeat, then look whether the list still names this holder."""
        with self._lock:
            if self.released or self.lost:
                return
            at = _now()
            self.beat.touch()
            content, _ = self.path.read_versioned_if_any()
            if self.me not in _holders(content):
                self.lost = True
                self.beat.unlink(missing_ok=True)
            else:
                self.confirmed = at

    def release(self) -> None:
        """Take this holder off the list."""
        with self._lock:
            self.released = True
            while True:
                content, version = self.path.read_versioned_if_any()
                before = _holders(content)
                left = [holder for holder in before if holder != self.me]
                if left == before or self.path.write_if(_content(left), version):
                    break
            self.beat.unlink(missing_ok=True)

    def check(self) -> None:
        """Raise TransientError where another process has taken the lease over."""
        if not self.lost and _now() - self.confirmed > EXPIRY_SECONDS / 2:
            self.renew()
        if self.lost:
            raise TransientError(
                f"{self.path}: this process was silent for more than {EXPIRY_SECONDS:g} s, and another one has taken "
                "its place, so it stops here; run again"
            )


_PROBED: set[str] = set()
_HELD: set[_Lease] = set()
_CHANGED = threading.Condition()
_THREADS: list[threading.Thread] = []
# The child of a fork holds nothing: it has no thread that renews.
os.register_at_fork(after_in_child=_HELD.clear)
os.register_at_fork(after_in_child=_THREADS.clear)


def check() -> None:
    """Raise TransientError where a lease of this process was taken over: what it would write now is out of date.

    Called before each write to an object store that is not a data file. It asks the store only where the last heartbeat
    is old.
    """
    for lease in tuple(_HELD):
        lease.check()


@contextlib.contextmanager
def leased(path: StorePath, message: str, *, shared: bool, wait: float | None) -> Iterator[None]:
    """Hold a lease on `path`, as `locks.locked` holds a lock. The messages of errors name the holder."""
    require_conditional_writes(path)
    lease = _acquire(path, message, shared, wait)
    with _CHANGED:
        _HELD.add(lease)
        if not _THREADS:
            _THREADS.append(threading.Thread(target=_keep, name="leases", daemon=True))
            _THREADS[0].start()
    try:
        yield
    finally:
        _HELD.discard(lease)
        with contextlib.suppress(StoreError):  # It expires by itself.
            lease.release()


def holders(path: StorePath) -> list[Holder]:
    """Return the processes that hold a lease, dead ones too."""
    return _holders(path.read_versioned_if_any()[0])


def _keep() -> None:
    """Renew the leases of this process until it ends."""
    while True:
        time.sleep(BEAT_SECONDS)
        for lease in tuple(_HELD):
            try:
                lease.renew()
            except (StoreError, UserError) as error:
                _log.warning("the heartbeat of %s failed: %s", lease.path, error)


def _acquire(path: StorePath, message: str, shared: bool, wait: float | None) -> _Lease:
    started = psutil.Process().create_time()
    since = datetime.now(UTC).isoformat(" ", "seconds")
    who = {"host": socket.gethostname(), "pid": os.getpid(), "process_started": started, "kernel": _kernel()}
    me = Holder(id=uuid.uuid4().hex, since=since, shared=shared, **who)
    lease = _Lease(path, me)
    deadline = None if wait is None else _now() + wait
    try:
        while others := _enter(lease):
            if deadline is not None and _now() >= deadline:
                raise TransientError(f"{message} ({'; '.join(map(str, others))})")
            time.sleep(_POLL_SECONDS)
    except BaseException:
        with contextlib.suppress(StoreError):
            lease.beat.unlink(missing_ok=True)
        raise
    return lease


def _enter(lease: _Lease) -> list[Holder]:
    """Put the holder of a lease on the list, or return those who are in the way."""
    while True:
        lease.confirmed = _now()
        lease.beat.touch()
        content, version = lease.path.read_versioned_if_any()
        before = _holders(content)
        dead = _dead(lease, before)
        living = [holder for holder in before if holder not in dead]
        if others := [holder for holder in living if not (lease.me.shared and holder.shared)]:
            return others
        if lease.path.write_if(_content([*living, lease.me]), version):
            for holder in dead:
                _log.warning("%s: took over from %s, which has ended", lease.path, holder)
                _beat(lease.path, holder).unlink(missing_ok=True)
            return []


def _dead(lease: _Lease, holders: list[Holder]) -> list[Holder]:
    """Return the holders that were killed on this host, or whose heartbeat is too old by the clock of the store."""
    now = lease.beat.stat().st_mtime if holders else 0.0
    found = []
    for holder in holders:
        try:
            age = now - _beat(lease.path, holder).stat().st_mtime
        except FileNotFoundError:
            age = float("inf")
        if age > EXPIRY_SECONDS or holder.killed:
            found.append(holder)
    return found


def _beat(path: StorePath, holder: Holder) -> StorePath:
    return path.with_name(f"{path.name}.{holder.id}")


def _holders(content: bytes | None) -> list[Holder]:
    return [Holder(**each) for each in json.loads(content or b'{"holders": []}')["holders"]]


def _content(holders: list[Holder]) -> bytes:
    # Two contents are never equal, so an answer that was lost is told from another process's write.
    value: dict[str, Any] = {"holders": list(map(asdict, holders)), "change": uuid.uuid4().hex}
    return json.dumps(value, indent=1).encode()


def require_conditional_writes(path: StorePath) -> None:
    """Raise UserError where the store of `path` lacks create-if-absent or compare-and-swap. Asks once in a process."""
    if path.bucket in _PROBED:
        return
    probe = path.with_name(f".probe-{uuid.uuid4().hex}")
    try:
        probe.write_if(b"one", None)
        creates = not probe.write_if(b"two", None)
        _, version = probe.read_versioned()
        swaps = probe.write_if(b"three", version) and not probe.write_if(b"four", version)
    finally:
        probe.unlink(missing_ok=True)
    tried = {"create-if-absent (S3: If-None-Match)": creates, "compare-and-swap (S3: If-Match)": swaps}
    if lacks := [name for name, has in tried.items() if not has]:
        raise UserError(
            f"{path.bucket}: the store lacks {' and '.join(lacks)}, so two processes could overwrite each other's "
            "work; use one that has both"
        )
    _PROBED.add(path.bucket)
