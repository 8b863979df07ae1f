"""What a command prints: without the start-up messages of TensorFlow and Beam, as text or as JSON lines."""

import contextlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import absl.logging

import tutelage.models  # noqa: F401  It selects Keras 2, which has to happen before TensorFlow is imported.
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.printable import printable, printable_lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """How a command prints what it does."""

    json: bool = False
    """Print JSON lines, one event each."""
    quiet: bool = False
    """Print warnings and errors only."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Fields of every event: the command, its run (`Experiment.name`), and in a process of its own the model."""


_output = [Output()]
"""That of this process."""


def output() -> Output:
    """Return how this process prints."""
    return _output[0]


def tag(**fields: Any) -> None:
    """Add `fields` to every event of this process from now on."""
    _output[0] = replace(output(), fields={**output().fields, **fields})


def silence(*, verbose: bool, how: Output | None = None) -> None:
    """Show only what this package prints, unless `verbose`, and print it as `how` says.

    Call it before anything heavy is imported. From then on every message that is logged is printable.
    """
    how = how or output()
    _output[0] = how
    logging.setLogRecordFactory(PrintableRecord)
    if how.json:
        # What is logged goes to one of these, or to a handler of `quiet_stderr`.
        for handler in (logging.lastResort, *logging.getLogger().handlers):
            if handler:
                handler.setFormatter(JsonFormatter())
    if verbose:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # A level set through Python's logging would be reset with every flag that a library defines.
    absl.logging.set_verbosity(absl.logging.ERROR)
    # Beam logs a worker's traceback before it raises it: a user's mistake would be shown twice.
    for name in ("apache_beam", "tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger().setLevel(logging.ERROR)
    logging.getLogger("tutelage").setLevel(logging.WARNING)


def event(message: str, *, level: str = "info", **fields: Any) -> str:
    """Return a line of JSON: time, level, message, the fields of every event (`tag`), then `fields` that are not None.

    Example:
        >>> line = event("trained", model="auxiliary", day="2026-01-02", seconds=1.5)
        >>> {name: value for name, value in json.loads(line).items() if name != "time"}
        {'level': 'info', 'message': 'trained', 'model': 'auxiliary', 'day': '2026-01-02', 'seconds': 1.5}
    """
    known = {name: value for name, value in fields.items() if value is not None}
    common = {
        "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}",
        "level": level,
        "message": message,
    }
    return json.dumps({name: _plain(value) for name, value in {**common, **output().fields, **known}.items()})


def error_line(program: str, text: str, *, status: int) -> str:
    """Return the line with which a command says why it ends with `status`."""
    if output().json:
        return event(text, level="error", status=status)
    return printable(f"{program}: {text}")


def _plain(value: Any) -> Any:
    """Return a field as JSON takes it: numbers as they are, anything else as text that is safe to print."""
    if isinstance(value, bool | int | float):
        return value
    return "\n".join(printable(line) for line in str(value).split("\n"))


class JsonFormatter(logging.Formatter):
    """A line of JSON for what is logged, with the logger's name and any traceback."""

    def format(self, record: logging.LogRecord) -> str:
        trace = self.formatException(record.exc_info) if record.exc_info else None
        return event(record.getMessage(), level=record.levelname.lower(), logger=record.name, traceback=trace)


class PrintableRecord(logging.LogRecord):
    """A message that may hold what was read from a file, or a URL with a password."""

    def getMessage(self) -> str:
        return printable_lines(super().getMessage())


_shown = [2]
"""The one descriptor that reaches the user: 2, or where `quiet_stderr` has kept it."""


def write_stderr(text: str) -> None:
    """Write to what the user sees, also in a signal handler while `quiet_stderr` holds back what libraries write."""
    os.write(_shown[0], text.encode())


@contextlib.contextmanager
def quiet_stderr(*, verbose: bool) -> Iterator[None]:
    """Hold back what is written to file descriptor 2, by C++ too; write it out where the code inside fails."""
    if verbose:
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    outer = _shown[0]
    if outer == 2:
        _shown[0] = kept
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        # This package's own warnings are shown at once.
        shown = logging.StreamHandler(os.fdopen(os.dup(kept), "w"))
        if output().json:
            shown.setFormatter(JsonFormatter())
        log = logging.getLogger("tutelage")
        log.addHandler(shown)
        try:
            yield
        except UserError:
            raise  # Its one line says everything.
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            log.removeHandler(shown)
            shown.stream.close()
            sys.stderr.flush()
            os.dup2(kept, 2)
            _shown[0] = outer
            os.close(kept)


def import_tensorflow(*, verbose: bool, threads: int | None = None) -> None:
    """Import TensorFlow and run an operation, which logs a few lines at whatever log level, without these lines.

    `threads` bounds the threads of one operation; None: all cores.
    """
    with quiet_stderr(verbose=verbose):
        import tensorflow as tf

        if threads:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
        tf.zeros([])
