"""tutelage-init: a first config for logs of one's own, from a sample of them."""

from tutelage.launch.actions.console import echo
from tutelage.launch.draft.draft import draft
from tutelage.launch.draft.write import refuse_existing, summary, write
from tutelage.launch.logging_setup import quiet_stderr


def init(*, raw_dir: str, out: str, pattern: str = "") -> None:
    """Write the file `out` and print what to look at in it.

    Raises UserError if there is such a file, and if the logs have no time or no label.
    """
    refuse_existing(out)
    with quiet_stderr(verbose=False):  # TensorFlow reads TFRecord.
        found = draft(raw_dir, pattern)
    write(found, out)
    for line in summary(found):
        echo(line)
    for guess in found.guesses:
        echo(f"guessed: {guess}")
    echo(f"{out}: written; look at it, then at what it makes of the logs:")
    echo(f"  tutelage-materialize --config={out} --raw_dir={raw_dir} --workdir=W --dry_run")
    echo(f"  tutelage-run --config={out} --raw_dir={raw_dir} --workdir=W")
