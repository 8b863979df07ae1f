"""Keep the start-up messages of TensorFlow and Beam out of what a command prints."""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator

import absl.logging

import tutelage.models  # noqa: F401  It selects Keras 2, which has to happen before TensorFlow is imported.
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.printable import printable_lines


def silence(*, verbose: bool) -> None:
    """Show only what this package prints, unless `verbose`. Call it before anything heavy is imported.

    From then on every message that is logged is printable.
    """
    logging.setLogRecordFactory(PrintableRecord)
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
