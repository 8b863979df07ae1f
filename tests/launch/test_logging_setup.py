"""What TensorFlow and Beam print at their start is kept out of a command's output, and not lost."""

import json
import os
import subprocess
import sys
from datetime import datetime
from typing import Any

import pytest


def _python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env={**kept, **environment}, timeout=60)


def _noisy(*, verbose: bool, then: str = "pass") -> subprocess.CompletedProcess[str]:
    """Noise of this process, of Python in it, and of a child, within; then `then`; a word after it."""
    return _python(
        "import os, sys\n"
        "from tutelage.launch.logging_setup import quiet_stderr\n"
        f"with quiet_stderr(verbose={verbose}):\n"
        "    os.write(2, b'from C\\n')\n"
        "    print('from Python', file=sys.stderr)\n"
        "    os.system('echo from a child >&2')\n"
        "    print('shown')\n"
        f"    {then}\n"
        "print('after', file=sys.stderr)\n"
    )


def test_what_is_written_to_the_file_descriptor_is_hidden_on_success() -> None:
    done = _noisy(verbose=False)
    assert done.returncode == 0
    assert done.stderr == "after\n"
    assert done.stdout == "shown\n"


@pytest.mark.parametrize(
    ("then", "status", "end"),
    [("raise ValueError('broken')", 1, "ValueError: broken\n"), ("sys.exit(3)", 3, "from a child\n")],
)
def test_what_was_hidden_is_shown_before_the_failure(then: str, status: int, end: str) -> None:
    done = _noisy(verbose=False, then=then)
    assert done.returncode == status
    assert done.stderr.startswith("from C\nfrom Python\nfrom a child\n")
    assert done.stderr.endswith(end)
    assert "after" not in done.stderr


def test_a_warning_of_this_package_is_shown_at_once() -> None:
    code = "import logging; logging.getLogger('tutelage.pipeline.io.retry').warning('tried again')"
    assert _noisy(verbose=False, then=code).stderr == "tried again\nafter\n"


def test_a_users_mistake_is_shown_without_what_was_hidden() -> None:
    done = _noisy(verbose=False, then="from tutelage.pipeline.errors import UserError; raise UserError('x')")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")


def test_verbose_shows_it_all() -> None:
    done = _noisy(verbose=True)
    assert done.stderr == "from C\nfrom Python\nfrom a child\nafter\n"


@pytest.mark.parametrize(
    ("verbose", "before", "after"),
    [(False, {}, "3"), (False, {"TF_CPP_MIN_LOG_LEVEL": "0"}, "0"), (True, {}, "None")],
)
def test_silence_sets_tensorflows_log_level_where_nobody_has(
    verbose: bool, before: dict[str, str], after: str
) -> None:
    code = (
        "import os\n"
        "from tutelage.launch.logging_setup import silence\n"
        f"silence(verbose={verbose})\n"
        "print(os.environ.get('TF_CPP_MIN_LOG_LEVEL'))\n"
    )
    assert _python(code, **before).stdout == f"{after}\n"


@pytest.mark.parametrize(
    ("verbose", "heard"),
    [(False, "root: error\n"), (True, "apache_beam.runners: error\nroot: hint\nroot: error\n")],
)
def test_silence_leaves_errors_that_are_not_of_beam_or_tensorflow(verbose: bool, heard: str) -> None:
    code = (
        "import logging\n"
        "from tutelage.launch.logging_setup import silence\n"
        "logging.basicConfig(format='%(name)s: %(message)s', level=logging.INFO)\n"
        f"silence(verbose={verbose})\n"
        "logging.getLogger('apache_beam.runners').error('error')\n"
        "logging.info('hint')\n"
        "logging.error('error')\n"
    )
    assert _python(code).stderr == heard


def test_silence_stays_when_a_library_that_is_imported_later_defines_flags() -> None:
    code = (
        "import absl.app, absl.flags, absl.logging\n"
        "from tutelage.launch.logging_setup import silence\n"
        "def main(argv):\n"
        "    silence(verbose=False)\n"
        "    absl.flags.DEFINE_bool('late', False, 'Of a library.')\n"
        "    absl.logging.info('info')\n"
        "absl.app.run(main)\n"
    )
    assert _python(code).stderr == ""


def test_a_message_that_is_logged_shows_neither_escape_sequences_nor_passwords() -> None:
    code = (
        "import logging\n"
        "from tutelage.launch.logging_setup import silence\n"
        "silence(verbose=False)\n"
        "logging.getLogger('tutelage.pipeline').warning('%s: skipped %s', 'ftp://me:pw@host', '\\x1b[2J')\n"
    )
    assert _python(code).stderr == "ftp://***@host: skipped \\x1b[2J\n"


def test_what_a_signal_handler_says_is_shown_while_libraries_are_held_back() -> None:
    code = (
        "import os\n"
        "from tutelage.launch.logging_setup import quiet_stderr, write_stderr\n"
        "with quiet_stderr(verbose=False):\n"
        "    with quiet_stderr(verbose=False):\n"
        "        os.write(2, b'a library\\n')\n"
        "        write_stderr('inside\\n')\n"
        "    write_stderr('between\\n')\n"
        "write_stderr('after\\n')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "inside\nbetween\nafter\n")


def _events(code: str) -> list[dict[str, Any]]:
    """What a process prints to stdout and stderr that logs JSON, a line each."""
    done = _python(
        "import logging, os\n"
        "from tutelage.launch.logging_setup import Output, error_line, quiet_stderr, silence, tag\n"
        "silence(verbose=False, how=Output(json=True, fields={'command': 'run'}))\n"
        "from tutelage.launch.actions.console import echo, log\n"
        f"{code}"
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in (done.stdout + done.stderr).splitlines()]


def test_a_line_is_an_event_with_its_fields_where_json_is_asked_for() -> None:
    (event,) = _events(
        "from datetime import date\n"
        "tag(run='small')\n"
        "echo('auxiliary: trained', step='train', model='auxiliary', day=date(2026, 1, 2), seconds=1.5, rows=None)\n"
    )
    datetime.fromisoformat(event.pop("time"))
    assert event == {
        "level": "info",
        "message": "auxiliary: trained",
        "command": "run",
        "run": "small",
        "step": "train",
        "model": "auxiliary",
        "day": "2026-01-02",
        "seconds": 1.5,
    }


def test_warnings_and_errors_are_events_too_also_while_libraries_are_held_back() -> None:
    events = _events(
        "log = logging.getLogger('tutelage.trainers')\n"
        "log.warning('before')\n"
        "with quiet_stderr(verbose=False):\n"
        "    os.write(2, b'a library\\n')\n"
        "    log.warning('within')\n"
        "import sys; print(error_line('tutelage-run', 'busy', status=75), file=sys.stderr)\n"
    )
    told = [(e["level"], e["message"], e.get("logger"), e.get("status")) for e in events]
    assert told == [
        ("warning", "before", "tutelage.trainers", None),
        ("warning", "within", "tutelage.trainers", None),
        ("error", "busy", None, 75),
    ]


def test_no_event_shows_a_password_or_an_escape_sequence() -> None:
    secret = "ftp://me:hunter2@host/\\x1b[2J"
    events = _events(
        f"echo('{secret}', raw='{secret}')\n"
        f"logging.getLogger('tutelage').warning('{secret}')\n"
        f"try: raise ValueError('{secret}')\n"
        "except ValueError: logging.getLogger('tutelage').exception('failed')\n"
        f"import sys; print(error_line('run', '{secret}', status=1), file=sys.stderr)\n"
    )
    assert len(events) == 4
    assert "hunter2" not in str(events)
    assert not any("\x1b" in str(value) for event in events for value in event.values())
    assert all("ftp://***@host" in str(event) for event in events)


def test_quiet_leaves_warnings() -> None:
    done = _python(
        "import logging\n"
        "from tutelage.launch.logging_setup import Output, silence\n"
        "silence(verbose=False, how=Output(quiet=True))\n"
        "from tutelage.launch.actions.console import echo\n"
        "echo('said')\n"
        "logging.getLogger('tutelage').warning('warned')\n"
    )
    assert (done.stdout, done.stderr) == ("", "warned\n")
