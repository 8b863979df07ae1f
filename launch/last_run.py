"""How the last `tutelage-run` in a workdir ended, for who watches it: `last_run.json`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from tutelage.launch.exit_codes import ExitCode, exit_code
from tutelage.pipeline.io.json import TornFile, read_json, warn_once, write_json
from tutelage.trainers.run import Run

_FILE = "last_run.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class LastRun:
    """The last run that came to its end. One that was killed leaves the record of the run before."""

    started: str
    """In UTC, as in `2026-01-02T03:00:00Z`."""
    seconds: float
    status: int
    """As in `exit_codes`."""
    succeeded: str | None
    """When the last run with status 0 ended, in UTC; None: none has."""


@contextmanager
def recorded(run: Run) -> Iterator[None]:
    """Record how the block ends."""
    before, started, clock = read(run), utc(datetime.now(UTC)), time.monotonic()

    def write(status: int) -> None:
        succeeded = before.succeeded if before else None
        if status == ExitCode.DONE:
            succeeded = utc(datetime.now(UTC))
        seconds = round(time.monotonic() - clock, 1)
        last = LastRun(started=started, seconds=seconds, status=status, succeeded=succeeded)
        write_json(run.root / _FILE, asdict(last))

    try:
        yield
    except Exception as error:
        try:
            write(exit_code(error))
        except OSError as second:  # As on a full disk: how the run failed counts.
            warn_once(f"{run.root / _FILE} is not written: {second}")
        raise
    write(ExitCode.DONE)


def read(run: Run) -> LastRun | None:
    """Return how the last run ended; None where none has, or the record is torn, of which is warned."""

    def checked(value: dict[str, Any]) -> LastRun:
        return LastRun(**value)

    try:
        last: LastRun = read_json(run.root / _FILE, checked, mend="the next tutelage-run writes it again")
    except FileNotFoundError:
        return None
    except TornFile as error:
        warn_once(str(error))
        return None
    return last


def utc(moment: datetime) -> str:
    """Return a moment as text, in UTC.

    >>> utc(datetime(2026, 1, 2, 3, tzinfo=UTC))
    '2026-01-02T03:00:00Z'
    """
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
