"""The console scripts: one table of commands, and what they have in common: flags in, a function called, a status out.

This module imports nothing heavy, so that `--help` stays quick.
"""

import contextlib
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from types import TracebackType
from typing import Any, NoReturn

from absl import app, flags

from tutelage.launch.exit_codes import Failures, exit_code
from tutelage.launch.logging_setup import Output, error_line, event, output, silence, tag, write_stderr
from tutelage.pipeline.errors import DryRun, Found, UserError, disk_full_as_user_error
from tutelage.pipeline.io.printable import printable_lines
from tutelage.pipeline.io.scratch import use_scratch
from tutelage.trainers.preemption import SIGNALS, Preempted, stopped

FLAGS = flags.FLAGS

Flag = partial[Any]
"""A call that defines a flag; its first argument is the flag's name."""
_text: Callable[..., Flag] = partial(partial, flags.DEFINE_string)
_texts: Callable[..., Flag] = partial(partial, flags.DEFINE_multi_string)
_whole: Callable[..., Flag] = partial(partial, flags.DEFINE_integer)
_wholes: Callable[..., Flag] = partial(partial, flags.DEFINE_multi_integer)
_switch: Callable[..., Flag] = partial(partial, flags.DEFINE_bool)

SESSION_FLAGS: Sequence[Flag] = (
    _text("config", None, "A config's name (see launch/configs), or a path to a .py file.", required=True),
    _text(
        "workdir",
        None,
        "The folder that holds everything the commands make, or its URL in an object store, as in s3://bucket/w.",
        required=True,
    ),
    _text(
        "scratch_dir",
        "",
        "Where temporary files lie, and copies of what an object store holds; else the system's folder for them.",
    ),
    _text("raw_dir", "", "The folder of the raw data; of your own logs also a URL."),
    _text("start_day", "", "YYYY-MM-DD, today, yesterday or today-N; else the config's."),
    _text("end_day", "", "The same; the last day is included."),
    _switch("smoke", False, "The config's smallest size."),
    _texts(
        "set",
        [],
        "field=value of the config, as in students.auxiliary.distillation.click.alpha=3 (repeatable).",
    ),
    _texts("beam_flag", [], "A flag for Beam, as in --runner=DaskRunner (repeatable); see docs/engines.md."),
    _switch("verbose", False, "Show what TensorFlow and Beam print."),
    partial(
        flags.DEFINE_enum,
        "log_format",
        "text",
        ["text", "json"],
        "json: print JSON lines, one event each, to stdout, and warnings and errors to stderr.",
    ),
    _switch("quiet", False, "Print warnings and errors only."),
)
"""The flags that every command in a workdir takes. The last three say how it prints."""
_ACCEPT = (
    _text("accept_day", None, "Keep this day, which did not pass its gate, as it is; wants a --reason."),
    _text("reason", "", "Why: written to its quarantine/DAY.json."),
)
_EXPORT: Flag = partial(
    flags.DEFINE_enum,
    "export",
    "newest",
    ["newest", "all"],
    "Export a model's newest finished day, or all days that were not exported.",
)
_STUDENT = _text("student", None, "The student's name in the config.", required=True)
_DRY_RUN = _switch("dry_run", False, "Only print what would be removed.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A console script `tutelage-NAME`. Calling it parses sys.argv and ends the process with its status."""

    name: str
    function: str
    """`module:name` below tutelage.launch. It takes a Session, and the command's own flags by their names."""
    does: str
    """What it does, in one sentence."""
    flags: Sequence[Flag] = ()
    """Its own flags."""
    read_only: bool = False
    """Whether it leaves the workdir as it is, apart from the report page. `--repair` does not; any `--dry_run` does."""
    looks: bool = False
    """Whether it looks for damaged files, so that one is no mistake but found."""
    previews: bool = False
    """Whether its --dry_run reads raw data only, and needs no workdir."""
    in_workdir: bool = True
    """Whether it works in a workdir, and takes `SESSION_FLAGS` and a Session."""

    @property
    def all_flags(self) -> Sequence[Flag]:
        """The flags that it takes."""
        return (*SESSION_FLAGS, *self.flags) if self.in_workdir else self.flags

    def __call__(self) -> None:
        _main(self)


COMMANDS = {
    command.name: command
    for command in (
        Command(
            name="init",
            function="actions.init:init",
            does="write a config for event logs of your own, from a sample of them.",
            flags=[
                _text("raw_dir", None, "The folder of the logs, or a URL.", required=True),
                _text("out", None, "The config to write, a .py file that is not there yet.", required=True),
                _text(
                    "pattern", "", "The files of the events, as in events/*.csv; else the largest table's."
                ),
            ],
            in_workdir=False,
        ),
        Command(
            name="run",
            function="run:run",
            does="do everything that the days asked for still need, from raw data to the report.",
            flags=[
                _texts("reset", [], "Train this student from scratch, from its first day (repeatable)."),
                _EXPORT,
            ],
        ),
        Command(
            name="materialize",
            function="actions.materialize:materialize",
            does="make the days asked for again from the raw data.",
            flags=[
                *_ACCEPT,
                _switch("dry_run", False, "Only print what a sample of the raw data would give."),
            ],
            previews=True,
        ),
        Command(
            name="teach",
            function="actions.train:teach",
            does="train the teacher on the days asked for that it lacks.",
            flags=[
                *_ACCEPT,
                _switch(
                    "successor", False, "Train the config's successor instead; it takes over once as good."
                ),
            ],
        ),
        Command(
            name="label",
            function="actions.label:label",
            does="score the days asked for with the teacher's snapshot of an earlier day.",
            flags=[
                _text(
                    "snapshot_day", None, "Score with the snapshot of this day; else the newest earlier one."
                )
            ],
        ),
        Command(
            name="student",
            function="actions.train:student",
            does="train a student on the days asked for that it lacks.",
            flags=[_STUDENT, _switch("reset", False, "Train it from scratch, from its first day."), *_ACCEPT],
        ),
        Command(
            name="export",
            function="actions.export:export",
            does="publish a model's newest finished day as a SavedModel, or decide which version is served.",
            flags=[
                _text("model", None, "'teacher', or a student's name.", required=True),
                _whole(
                    "promote",
                    None,
                    "Serve this version and none that is newer; a rejected one wants a --reason.",
                ),
                _switch(
                    "rollback", False, "Retire the version that is served; the one before it is served again."
                ),
                _whole("pin", None, "Never take this version out of service."),
                _whole("unpin", None, "Let this version be taken out of service again."),
                _text("reason", "", "Why: written to WORKDIR/publication/NAME/log.jsonl."),
                _text("mirror", "", "Then make this URL, of any store fsspec knows, show what is served."),
                _switch("new_signature", False, "Bless a version whose inputs or outputs have changed."),
                _EXPORT,
            ],
        ),
        Command(
            name="skew",
            function="actions.skew:skew",
            does="compare logged requests with a training day of a student, and with its scores.",
            flags=[
                _STUDENT,
                _text(
                    "requests",
                    None,
                    "Logged requests: JSON lines (.jsonl) or tf.Examples (.tfrecord).",
                    required=True,
                ),
                _text("day", None, "The training day; else the newest that the student is trained on."),
            ],
            read_only=True,
        ),
        Command(
            name="rollback",
            function="actions.rollback:rollback",
            does="take the teacher back to a day, with all that was built on its later days.",
            flags=[
                _text("to_day", None, "The last day that the teacher stays trained on.", required=True),
                _DRY_RUN,
            ],
        ),
        Command(
            name="forget",
            function="actions.forget:forget",
            does="delete a user from the workdir, and list the models that were trained with it.",
            flags=[_text("user_id", None, "The value of the schema's user.", required=True), _DRY_RUN],
        ),
        Command(
            name="prune",
            function="actions.prune:prune",
            does="remove old days, checkpoints and versions that no live model needs any more.",
            flags=[
                _whole("keep_days", None, "How many of the newest days stay.", required=True, lower_bound=1),
                _DRY_RUN,
            ],
        ),
        Command(
            name="study",
            function="actions.study:study",
            does="train arms against their baselines with several seeds: tables, charts, sentences.",
            flags=[
                _wholes("studies", [], "Numbers of the studies to do (repeatable); else all."),
                _whole("seeds", 5, "How many seeds each arm is trained with.", lower_bound=1),
            ],
        ),
        Command(
            name="report",
            function="actions.report:report",
            does="write WORKDIR/report/index.html from the tables, and print the results.",
            read_only=True,
        ),
        Command(
            name="status",
            function="actions.status:status",
            does="show what there is of each day and model, and what is still to be done.",
            flags=[
                _switch("json", False, "Print one JSON object instead, as docs/operations.md describes it."),
                _switch("monitor", False, "Print only what is wrong, and end with its exit code."),
                _text(
                    "textfile", "", "Also write metrics to this .prom file, for Prometheus' node exporter."
                ),
            ],
            read_only=True,
        ),
        Command(
            name="verify",
            function="actions.verify:verify",
            does="read everything in the workdir, and say what is damaged, missing, stale or orphaned.",
            flags=[_switch("repair", False, "Mend what can be mended.")],
            read_only=True,
            looks=True,
        ),
    )
}


def __getattr__(name: str) -> Command:
    """`tutelage-NAME` is the entry point `tutelage.launch.commands:NAME`."""
    if name in COMMANDS:
        return COMMANDS[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _main(command: Command) -> None:
    """Parse the flags, act, and exit with a status of `exit_codes`: one line for each mistake, or a traceback."""
    for number in SIGNALS:
        signal.signal(number, _stop)
    sys.excepthook = _print_traceback
    given = set(sys.argv[1:])
    if "--version" in given:
        print(f"{_program()} {version('tutelage')}")
        return
    for flag in command.all_flags:
        flag()
    if given & {"-h", "--help"}:
        # Only this module's flags, which are defined by now: libraries define flags of their own.
        text = FLAGS.module_help(__name__).partition(":\n")[2]
        with contextlib.suppress(BrokenPipeError):  # As in `--help | head`.
            os.write(1, f"{_program()}: {command.does}\n\nflags:\n{text}\n".encode())
        return
    try:
        app.run(partial(_act, command), flags_parser=_parse)
    except Preempted as error:
        # A thread that still reads a day must not be waited for.
        _end(str(error), exit_code(error))
    except UserError as error:
        for each in error.errors if isinstance(error, Failures) else [error]:
            print(error_line(_program(), str(each), status=exit_code(each)), file=sys.stderr)
        sys.exit(exit_code(error))


def _act(command: Command, argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"{argv[1]!r} is no flag; flags are written --name=value")
    module, _, name = command.function.partition(":")
    own: dict[str, Any] = {flag.args[0]: FLAGS[flag.args[0]].value for flag in command.flags}
    silence(verbose=command.in_workdir and FLAGS.verbose, how=_output(command))
    function = getattr(import_module(f"tutelage.launch.{module}"), name)
    if not command.in_workdir:
        function(**own)
        return
    request: dict[str, Any] = {flag.args[0]: FLAGS[flag.args[0]].value for flag in SESSION_FLAGS}
    request["overrides"], request["beam_flags"] = request.pop("set"), request.pop("beam_flag")
    del request["log_format"], request["quiet"]
    use_scratch(request.pop("scratch_dir"))
    dry_run = bool(own.get("dry_run"))
    from tutelage.launch.actions.console import echo
    from tutelage.launch.session import Session
    from tutelage.launch.workspace import NothingHereYet
    from tutelage.pipeline.io.json import TornFile

    with disk_full_as_user_error(FLAGS.workdir):
        try:
            session = Session.open(
                **request,
                read_only=(command.read_only and not own.get("repair")) or dry_run,
                may_be_new=command.previews and dry_run,
            )
        except TornFile as error:
            if command.looks:
                raise Found(str(error)) from None
            raise
        except NothingHereYet as error:
            # The command was asked about something that ought to be there.
            if any(own.values()) and not command.looks:
                raise
            echo(str(error))
            return
        tag(run=session.run.name)
        try:
            function(session, **own)
        except DryRun as said:
            echo(str(said))
        except UserError:
            raise
        except Exception:
            # A library may have met a damaged file that no one has checked before. Else the error is raised as it is.
            from tutelage.launch.lifecycle.verify_tables import check

            check(session)
            raise
        finally:
            if session.experiment.alerts and not command.read_only and not dry_run:
                from tutelage.launch import alerts

                alerts.send(session)


def _output(command: Command) -> Output:
    if not command.in_workdir:
        return Output()
    return Output(json=FLAGS.log_format == "json", quiet=FLAGS.quiet, fields={"command": command.name})


def _stop(number: int, frame: object) -> None:
    """End at once where no model is being trained: a step that is cut off is done again whole."""
    _end(stopped(number), 128 + number)


def _end(text: str, status: int) -> NoReturn:
    sys.stdout.flush()
    write_stderr(error_line(_program(), text, status=status) + "\n")
    os._exit(status)


def _print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of a programming error. Its text may hold what was read from a file."""
    text = "".join(traceback.format_exception(kind, error, trace))
    if output().json:
        text = (
            event(f"{kind.__name__}: {error}", level="error", status=exit_code(error), traceback=text) + "\n"
        )
    sys.stderr.write(printable_lines(text))


def _program() -> str:
    return sys.argv[0].rsplit("/", 1)[-1]


def _parse(argv: list[str]) -> list[str]:
    try:
        return list(FLAGS(argv))
    except flags.Error as error:
        message = " ".join(str(error).split())
        if missing := re.findall(r"flag --(\w+)=None", message):
            message = f"{' and '.join(f'--{name}' for name in missing)} must be given"
        raise UserError(f"{message}; --help lists the flags") from None
