"""The table of commands: what is installed, what each one takes, and what they all do with flags."""

import inspect
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

from tutelage.launch.commands import COMMANDS, SESSION_FLAGS

ROOT = Path(__file__).parents[2]
HEAVY = {"tensorflow", "apache_beam", "polars", "pyarrow", "numpy"}


def _run(name: str, *flags: str, after: str = "") -> subprocess.CompletedProcess[str]:
    code = (
        f"import sys; sys.argv = ['tutelage-{name}', *{list(flags)!r}]\n"
        f"from tutelage.launch.commands import {name}\n{name}()\n{after}"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_every_command_of_the_table_is_installed_under_its_name() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {f"tutelage-{name}": f"tutelage.launch.commands:{name}" for name in COMMANDS}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_function_of_a_command_takes_its_flags_by_their_names(name: str) -> None:
    module, _, function = COMMANDS[name].function.partition(":")
    own = inspect.signature(getattr(import_module(f"tutelage.launch.{module}"), function)).parameters
    taken = set(own)
    assert ("session" in taken) == COMMANDS[name].in_workdir
    given = {flag.args[0] for flag in COMMANDS[name].flags}
    assert given <= taken
    assert all(p.default is not p.empty for p in own.values() if p.name not in {*given, "session"})


def test_no_flag_of_a_command_has_the_name_of_a_common_one() -> None:
    common = {flag.args[0] for flag in SESSION_FLAGS}
    in_workdir = [command for command in COMMANDS.values() if command.in_workdir]
    assert not any(common & {flag.args[0] for flag in command.flags} for command in in_workdir)
    assert [name for name, command in COMMANDS.items() if not command.in_workdir] == ["init"]


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_says_what_a_command_does_and_takes_and_imports_nothing_heavy(flag: str) -> None:
    done = _run("skew", flag, after=f"print(*sys.modules.keys() & {HEAVY})")
    assert (done.returncode, done.stderr) == (0, "")
    first, *lines, last = done.stdout.splitlines()
    assert first == f"tutelage-skew: {COMMANDS['skew'].does}"
    assert last == ""
    named = {
        line.split(":")[0].removeprefix("  --").removeprefix("[no]") for line in lines if line[:4] == "  --"
    }
    assert named == {flag.args[0] for flag in (*SESSION_FLAGS, *COMMANDS["skew"].flags)}


def test_the_version_is_the_package_s() -> None:
    done = _run("run", "--version")
    assert (done.returncode, done.stdout) == (0, f"tutelage-run {version('tutelage')}\n")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--colour=red"], "Unknown command line flag 'colour'; --help lists the flags"),
        (
            ["--smoke"],
            "--config and --workdir must be given; --help lists the flags",
        ),
        (["--config=x", "--workdir=w", "red"], "'red' is no flag; flags are written --name=value"),
    ],
)
def test_flags_that_cannot_be_used_are_refused_in_one_line(flags: list[str], says: str) -> None:
    done = _run("status", *flags)
    assert done.returncode == 1
    assert done.stderr.startswith(f"tutelage-status: {says}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["status", "report"])
def test_a_command_that_reads_a_new_folder_says_so_and_writes_nothing(tmp_path: Path, name: str) -> None:
    done = _run(name, "--config=synthetic", f"--workdir={tmp_path}/w")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path}/w: nothing here yet; tutelage-run begins an experiment there\n"
    assert list(tmp_path.iterdir()) == []


def test_a_comparison_with_nothing_is_a_mistake(tmp_path: Path) -> None:
    flags = ["--config=synthetic", f"--workdir={tmp_path}/w", "--student=direct", "--requests=log.jsonl"]
    done = _run("skew", *flags)
    assert done.returncode == 1
    assert done.stderr == (
        f"tutelage-skew: {tmp_path}/w: nothing here yet; tutelage-run begins an experiment there\n"
    )


def test_an_error_shows_neither_escape_sequences_nor_passwords(tmp_path: Path) -> None:
    done = _run("status", "--config=no\x1b[2J\u202e\nsuch", f"--workdir={tmp_path}")
    assert done.returncode == 1
    assert done.stderr.startswith("tutelage-status: ")
    assert r"no\x1b[2J\u202e\nsuch" in done.stderr
    assert (done.stderr.count("\n"), "\x1b" in done.stderr, "\u202e" in done.stderr) == (1, False, False)
    done = _run("status", "--config=ftp://me:hunter2@host/a.py", f"--workdir={tmp_path}")
    assert done.returncode == 1
    assert "ftp://***@host/a.py" in done.stderr
    assert "hunter2" not in done.stderr


def test_a_traceback_shows_neither_escape_sequences_nor_passwords() -> None:
    code = (
        "import sys\n"
        "from tutelage.launch import commands\n"
        "def fail(command, argv): raise ValueError('\\x1b[2J of ftp://me:hunter2@host')\n"
        "commands._act = fail\n"
        "sys.argv = ['tutelage-status', '--config=synthetic', '--workdir=w']\n"
        "commands.status()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.endswith("\nValueError: \\x1b[2J of ftp://***@host\n")
    assert done.stderr.startswith("Traceback (most recent call last):\n")


def test_each_failure_of_a_run_has_its_line_and_the_worst_gives_the_status(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(
        "from tutelage.launch.exit_codes import Failures\n"
        "from tutelage.pipeline.errors import GateError, TransientError\n"
        "def experiment(*, smoke):\n"
        "    raise Failures([GateError('control stopped'), TransientError('wide was killed')])\n"
    )
    done = _run("run", f"--config={tmp_path}/my.py", f"--workdir={tmp_path}/w")
    assert (done.returncode, done.stdout) == (75, "")
    assert done.stderr == "tutelage-run: wide was killed\ntutelage-run: control stopped\n"
