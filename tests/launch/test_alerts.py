"""Alerts: one event for each cause, at most once, and a hook that fails leaves the night as it is."""

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.launch import small
from tutelage.launch import alerts
from tutelage.launch.alert_config import AlertConfig
from tutelage.launch.session import Session
from tutelage.pipeline.errors import UserError
from tutelage.trainers.handover import Labeller, TakeOver, write_takeovers
from tutelage.trainers.run import NO_DATA

NOW = datetime(2026, 1, 7, 3, tzinfo=UTC)
TOKEN = "T0KEN"


class Server(ThreadingHTTPServer):
    """Answers with `status` to every event, which it keeps in `events`."""

    status = 200
    events: list[dict[str, Any]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{TOKEN}"

    @property
    def names(self) -> list[str]:
        return [event["event"] for event in self.events]


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        assert self.headers["Content-Type"] == "application/json"
        self.server.events.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), _Handler) as server:
        server.events = []
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


CONFIG = """
import dataclasses
from tests.launch import small_config
from tutelage.launch import AlertConfig

def experiment(*, smoke):
    return dataclasses.replace(small_config.experiment(smoke=smoke), alerts=AlertConfig({hook}))
"""


def _session(tmp_path: Path, hook: str) -> Session:
    """A workdir with three days that has nothing to tell."""
    (tmp_path / "alerting.py").write_text(CONFIG.format(hook=hook))
    return small.materialize(tmp_path / "w", config=tmp_path / "alerting.py", now=NOW, end_day="2026-01-05")


def _stop(session: Session, model: str = "control") -> None:
    session.run.quarantine(model).write(small.DAYS[3], "stopped", [{"said": "fail; auc is 0.4"}])


def test_each_cause_has_one_event_and_is_told_again_only_after_it_was_over(
    tmp_path: Path, server: Server
) -> None:
    session = _session(tmp_path, f"webhook={server.url!r}")
    alerts.send(session)
    assert server.events == []
    session.run.lake.quarantine.write(small.DAYS[4], "skipped", [{"said": "fail; rows is 3"}])
    _stop(session)
    # No gate of its own has stopped this model.
    session.run.quarantine("late").write(small.DAYS[1], "skipped", [{"said": NO_DATA}])
    states = small.train(session, "auxiliary", small.DAYS[:2])
    small.publish(session, "auxiliary", states[0])
    small.publish(session, "auxiliary", states[1], rejected=True)
    for _ in range(2):
        alerts.send(session)
    assert server.names == ["quarantined_day", "failed_gate", "rejected_version", "stale_model"]
    day, gate, version, stale = server.events
    assert {name: value for name, value in day.items() if name != "time"} == {
        "event": "quarantined_day",
        "experiment": "small",
        "workdir": str(session.run.root),
        "day": "2026-01-05",
        "model": None,
        "version": None,
        "message": "fail; rows is 3",
    }
    assert (gate["model"], gate["day"], gate["message"]) == ("control", "2026-01-04", "fail; auc is 0.4")
    assert (version["model"], version["version"]) == ("auxiliary", 2026010201)
    assert (stale["model"], stale["version"]) == ("auxiliary", 2026010101)
    # The day passes, and fails another time.
    session.run.quarantine("control").write(small.DAYS[3], "passed", [{"said": "pass"}])
    alerts.send(session)
    assert len(server.events) == 4
    _stop(session)
    alerts.send(session)
    assert server.names[4:] == ["failed_gate"]


def test_a_change_of_teacher_is_told(tmp_path: Path) -> None:
    session = _session(tmp_path, "command=('true',)")
    before = Labeller(model="teacher", name="teacher", min_examples=0)
    change = TakeOver(
        before=before,
        name="wide",
        teacher={},
        first_day=None,
        judged=[],
        checks=[],
        from_day=small.DAYS[2],
        decided_at="",
    )
    write_takeovers(session.run.root, [change])
    run = dataclasses.replace(session.run, takeovers=(change,))
    (cause,) = alerts.causes(dataclasses.replace(session, run=run))
    assert cause == alerts.Cause(
        event="take_over",
        day=small.DAYS[2],
        model="wide",
        message="wide is the teacher from 2026-01-03 on, in the place of teacher",
    )
    assert cause.name == "take_over-wide-2026-01-03.json"


def test_a_server_that_fails_gets_the_event_again_until_it_takes_it_and_no_log_shows_its_url(
    tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    session = _session(tmp_path, f"webhook={server.url!r}")
    _stop(session)
    server.status = 500
    for _ in range(2):
        alerts.send(session)
    assert server.names == ["failed_gate"] * 2
    server.status = 200
    for _ in range(2):
        alerts.send(session)
    assert server.names == ["failed_gate"] * 3
    server.shutdown()
    server.server_close()
    _stop(session, "late")
    alerts.send(session)  # There is no server any more.
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warned == [
        *["the alert hook answered with status 500; the next command tries again"] * 2,
        "the alert hook cannot be reached (URLError); the next command tries again",
    ]
    assert sorted(path.name for path in (session.run.root / "alerts").iterdir()) == [
        "failed_gate-control-2026-01-04.json"
    ]
    assert not any(TOKEN in path.read_text() for path in session.run.root.rglob("*.json"))


def test_of_many_commands_at_a_time_one_tells_a_cause(tmp_path: Path, server: Server) -> None:
    session = _session(tmp_path, f"webhook={server.url!r}")
    _stop(session)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(alerts.send, [session] * 8))
    assert server.names == ["failed_gate"]


def test_a_command_that_is_killed_while_it_tells_a_cause_does_not_have_it_told_twice(tmp_path: Path) -> None:
    told = tmp_path / "told"
    session = _session(tmp_path, f"command=('sh', '-c', 'cat >> {told}; kill -9 $PPID')")
    _stop(session)
    code = (
        "from tests.launch import small\n"
        "from tutelage.launch import alerts\n"
        "from pathlib import Path\n"
        f"root = Path({str(tmp_path)!r})\n"
        "alerts.send(small.open_session(root / 'w', config=root / 'alerting.py'))\n"
    )
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    done = [
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, timeout=120
        ).returncode
        for _ in range(2)
    ]
    assert done == [-signal.SIGKILL, 0]
    assert json.loads(told.read_text())["event"] == "failed_gate"


def test_a_command_ends_as_it_does_without_a_hook_where_the_hook_fails(tmp_path: Path) -> None:
    session = _session(tmp_path, "command=('sh', '-c', 'echo hidden; exit 3')")
    _stop(session)
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    code = (
        f"import sys; sys.argv = ['tutelage-prune', '--config={tmp_path}/alerting.py', "
        f"'--workdir={session.run.root}', '--keep_days=30']\n"
        "from tutelage.launch.commands import prune\nprune()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "hidden" not in done.stdout + done.stderr
    assert "the alert hook ended with status 3; the next command tries again" in done.stderr


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "expected a command or a webhook"),
        ({"command": ("true",), "webhook": "http://host"}, "and not both"),
        ({"webhook": "ftp://me:T0KEN@host"}, "no http or https URL"),
    ],
)
def test_a_hook_is_a_command_or_a_webhook(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as raised:
        AlertConfig(**fields)
    assert TOKEN not in str(raised.value)
