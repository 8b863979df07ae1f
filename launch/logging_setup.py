"""Keep the start-up noise of TensorFlow and Beam out of what a command prints."""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator

import absl.logging

import tutelage.models  # noqa: F401  It says which Keras TensorFlow takes up, before that is imported.
from tutelage.pipeline.errors import UserError


def silence(*, verbose: bool) -> None:
    """Before anything heavy is imported: only what this package prints is to be seen, unless `verbose`."""
    if verbose:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # A level of Python's absl would set back with every flag that a library defines.
    absl.logging.set_verbosity(absl.logging.ERROR)
    # Beam logs a worker's traceback before it raises it: a user's mistake would be told twice.
    for name in ("apache_beam", "tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger().setLevel(logging.ERROR)
    logging.getLogger("tutelage").setLevel(logging.WARNING)


@contextlib.contextmanager
def quiet_stderr(*, verbose: bool) -> Iterator[None]:
    """Hold back what is written to file descriptor 2 (by C++ too); shown after all where the code fails."""
    if verbose:
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        # What is worth a warning is told all the same.
        tell = logging.StreamHandler(os.fdopen(os.dup(kept), "w"))
        log = logging.getLogger("tutelage")
        log.addHandler(tell)
        try:
            yield
        except UserError:
            raise  # One line tells all of it.
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            log.removeHandler(tell)
            tell.stream.close()
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


def import_tensorflow(*, verbose: bool, threads: int | None = None) -> None:
    """TensorFlow logs a few lines at import, and at its first operation, whatever its log level.

    `threads` bounds what one operation uses; None: all cores.
    """
    with quiet_stderr(verbose=verbose):
        import tensorflow as tf

        if threads:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
        tf.zeros([])
