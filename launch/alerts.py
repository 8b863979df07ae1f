"""Alerts: one JSON event for each cause, sent to the config's hook at most once.

What there is to say follows from the workdir alone, so a command that was killed before it could say it leaves it to
the next one. `WORKDIR/alerts` has a file for each cause that was sent. It is written before the event is sent: of two
commands at a time one sends it, and an event whose command was killed is not sent again. Where the hook refuses an
event, the file is removed, and the next command sends it. It is also removed once the cause is over, so that it may
come again.
"""

import json
import logging
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tutelage.launch.alert_config import AlertConfig
from tutelage.launch.last_run import utc
from tutelage.launch.lifecycle import stale
from tutelage.launch.report.state import failed_days, rejected_versions
from tutelage.pipeline.io.json import json_bytes
from tutelage.pipeline.io.printable import printable
from tutelage.pipeline.io.store import FILES

if TYPE_CHECKING:
    from tutelage.launch.session import Session

_log = logging.getLogger(__name__)
_SECONDS = 10.0
"""A hook that takes longer has failed. Whether it got the event is not known, so it is not sent again."""
_SERVED_SLICES = 2
"""A served version is stale once it is further behind the newest day asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why somebody is to be told."""

    event: str
    """quarantined_day, failed_gate, rejected_version, stale_model or take_over."""
    message: str
    day: date | None = None
    model: str | None = None
    version: int | None = None

    @property
    def name(self) -> str:
        """The cause's file in `WORKDIR/alerts`."""
        parts = (self.event, self.model, self.version or self.day)
        return "-".join(str(part) for part in parts if part) + ".json"


class _Refused(Exception):
    """The hook said that it did not take the event."""


def send(session: "Session") -> None:
    """Send what there is to say and was not said. Never raises: a hook that fails is warned of."""
    alerts = session.experiment.alerts
    if alerts is None:
        return
    try:
        _send(session.reopened(), alerts)
    except Exception as error:
        # The type alone: the text of an error of the network may hold the URL.
        _log.warning("an alert could not be sent (%s)", type(error).__name__)


def _send(session: "Session", alerts: AlertConfig) -> None:
    folder = session.run.root / "alerts"
    # Listed first: what another command claims from now on may have a cause that is not found below.
    claimed = FILES.list(folder, "*.json")
    found = {cause.name: cause for cause in causes(session)}
    for path in claimed:
        if path.name not in found:
            FILES.delete(path)
    for name, cause in found.items():
        event = _event(session, cause)
        if not FILES.put_if_absent(folder / name, json_bytes(event)):
            continue
        try:
            _deliver(alerts, json.dumps(event))
        except _Refused as error:
            FILES.delete(folder / name)
            _log.warning("the alert hook %s; the next command tries again", error)
            return  # It is not tried with the others: each might take seconds.


def _event(session: "Session", cause: Cause) -> dict[str, Any]:
    return {
        "event": cause.event,
        "experiment": session.experiment.name,
        "workdir": printable(str(session.run.root)),
        "day": str(cause.day) if cause.day else None,
        "model": cause.model,
        "version": cause.version,
        "message": printable(cause.message),
        "time": utc(datetime.now(UTC)),
    }


def _deliver(alerts: AlertConfig, event: str) -> None:
    """Give one event to the hook. Raises _Refused where it was not taken for sure."""
    try:
        if alerts.command:
            done = subprocess.run(
                alerts.command, input=event, text=True, capture_output=True, timeout=_SECONDS
            )
            if done.returncode:
                raise _Refused(f"ended with status {done.returncode}")
            return
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(alerts.webhook, event.encode(), headers)
        with urllib.request.urlopen(request, timeout=_SECONDS):
            pass
    except (TimeoutError, subprocess.TimeoutExpired):
        _log.warning("the alert hook took more than %g s; whether it got the event is not known", _SECONDS)
    except urllib.error.HTTPError as error:
        raise _Refused(f"answered with status {error.code}") from None
    except OSError as error:  # The program is not there, or the server cannot be reached.
        raise _Refused(f"cannot be reached ({type(error).__name__})") from None


def causes(session: "Session") -> Iterator[Cause]:
    """Yield every cause that there is in the workdir."""
    run = session.run
    for day, record in run.lake.quarantine.days().items():
        if record["outcome"] == "skipped":
            yield Cause(event="quarantined_day", day=day, message=record["attempts"][-1]["said"])
    for model in session.models:
        for day in failed_days(session, model):
            said = run.quarantine(model).days()[day]["attempts"][-1]["said"]
            yield Cause(event="failed_gate", day=day, model=model, message=said)
        for version in rejected_versions(session, model):
            message = f"{model} {version.number} is not blessed; see its card in {version.path}"
            yield Cause(
                event="rejected_version",
                day=version.day,
                model=model,
                version=version.number,
                message=message,
            )
    yield from _stale(session)
    for change in run.takeovers:
        message = (
            f"{change.name} is the teacher from {change.from_day} on, in the place of {change.before.name}"
        )
        yield Cause(event="take_over", day=change.from_day, model=change.name, message=message)


def _stale(session: "Session") -> Iterator[Cause]:
    """Yield models of changed rows that a run leaves as they are, and students whose served version is behind."""
    found = stale.find(session)
    if found and (found.unrecoverable_days or found.invalidation.held(session)):
        message = found.describe(session)
        for model, since in found.invalidation.since.items():
            yield Cause(event="stale_model", day=since, model=model, message=message)
    newest = max(session.days, default=date.min)
    allowed = timedelta(days=_SERVED_SLICES * session.experiment.schema.slice_days)
    for model in session.students:
        served = session.versions(model).published()[-1:]
        if served and newest - served[0].day > allowed:
            message = f"{model} {served[0].number} is served, and {newest} is the newest day asked for"
            yield Cause(
                event="stale_model", model=model, version=served[0].number, day=served[0].day, message=message
            )
