"""The console scripts: flags in, one function called, an exit status out."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from absl import app, flags

from tutelage.launch.logging_setup import silence
from tutelage.pipeline.errors import UserError, disk_full_as_user_error
from tutelage.trainers.preemption import STOPPED, Preempted

FLAGS = flags.FLAGS


def run() -> None:
    """tutelage-run: everything that the days asked for still need, from raw data to the report."""
    _days_flags()
    flags.DEFINE_multi_string("reset", [], "Train this student anew from its first day (may be repeated).")
    _start(run, lambda actions: actions.run(_settings(), reset=FLAGS.reset))


def materialize() -> None:
    """tutelage-materialize: make the days asked for anew from the raw data."""
    _days_flags()
    _accept_flags()
    _start(
        materialize,
        lambda actions: actions.materialize(_settings(), accept_day=FLAGS.accept_day, reason=FLAGS.reason),
    )


def teach() -> None:
    """tutelage-teach: let the teacher learn the days asked for that it has not."""
    _days_flags()
    _accept_flags()
    flags.DEFINE_bool(
        "successor", False, "The config's successor instead; it takes over when it is as good as the teacher."
    )
    _start(
        teach,
        lambda actions: actions.train(
            _settings(),
            "teacher",
            successor=FLAGS.successor,
            accept_day=FLAGS.accept_day,
            reason=FLAGS.reason,
        ),
    )


def label() -> None:
    """tutelage-label: score the days asked for with the teacher's snapshot of an earlier day."""
    _days_flags()
    flags.DEFINE_string(
        "snapshot_day", None, "Score with the snapshot of this day; else the newest earlier one."
    )
    _start(label, lambda actions: actions.label(_settings(), snapshot_day=FLAGS.snapshot_day))


def student() -> None:
    """tutelage-student: let a student learn the days asked for that it has not."""
    _days_flags()
    flags.DEFINE_string("student", None, "The student's name in the config.", required=True)
    flags.DEFINE_bool("reset", False, "Train it anew from its first day.")
    _accept_flags()
    _start(
        student,
        lambda actions: actions.train(
            _settings(),
            FLAGS.student,
            reset=FLAGS.reset,
            accept_day=FLAGS.accept_day,
            reason=FLAGS.reason,
        ),
    )


def export() -> None:
    """tutelage-export: publish what a model has learnt as SavedModels, or decide which version is served."""
    _days_flags()
    flags.DEFINE_string("model", None, "'teacher', or a student's name.", required=True)
    flags.DEFINE_integer(
        "promote", None, "Serve this version and none that is newer; a rejected one wants a --reason."
    )
    flags.DEFINE_bool(
        "rollback", False, "Retire the version that is served; the one before it is served again."
    )
    flags.DEFINE_integer("pin", None, "Never take this version out of service.")
    flags.DEFINE_integer("unpin", None, "Let this version be taken out of service again.")
    flags.DEFINE_string("reason", "", "Why: written to WORKDIR/publication/NAME/log.jsonl.")
    flags.DEFINE_string("mirror", "", "Then make this URL, of any store fsspec knows, show what is served.")
    flags.DEFINE_bool("new_signature", False, "Bless a version whose inputs or outputs are others.")
    _start(
        export,
        lambda actions: actions.export(
            _settings(),
            FLAGS.model,
            promote=FLAGS.promote,
            rollback=FLAGS.rollback,
            pin=FLAGS.pin,
            unpin=FLAGS.unpin,
            reason=FLAGS.reason,
            mirror=FLAGS.mirror,
            new_signature=FLAGS.new_signature,
        ),
    )


def skew() -> None:
    """tutelage-skew: compare logged requests with a training day of a student, and with its scores."""
    _days_flags()
    flags.DEFINE_string("student", None, "The student's name in the config.", required=True)
    flags.DEFINE_string(
        "requests", None, "Logged requests: JSON lines (.jsonl) or tf.Examples (.tfrecord).", required=True
    )
    flags.DEFINE_string("day", None, "The training day; else the newest that the student has learnt.")
    _start(skew, lambda actions: actions.skew(_settings(), FLAGS.student, FLAGS.requests, day=FLAGS.day))


def rollback() -> None:
    """tutelage-rollback: take the teacher back to a day, with all that was built on its later days."""
    _days_flags()
    flags.DEFINE_string("to_day", None, "The last day that the teacher is to have learnt.", required=True)
    flags.DEFINE_bool("dry_run", False, "Only print what would go.")
    _start(rollback, lambda actions: actions.rollback(_settings(), FLAGS.to_day, dry_run=FLAGS.dry_run))


def forget() -> None:
    """tutelage-forget: delete a user from the workdir, and list the models that were trained with it."""
    _days_flags()
    flags.DEFINE_string("user_id", None, "The value of the schema's user.", required=True)
    flags.DEFINE_bool("dry_run", False, "Only print what would go.")
    _start(forget, lambda actions: actions.forget(_settings(), FLAGS.user_id, dry_run=FLAGS.dry_run))


def prune() -> None:
    """tutelage-prune: remove old days, checkpoints and versions that no live model needs any more."""
    _days_flags()
    flags.DEFINE_integer("keep_days", None, "How many days, the newest, stay.", required=True, lower_bound=1)
    flags.DEFINE_bool("dry_run", False, "Only print what would go.")
    _start(prune, lambda actions: actions.prune(_settings(), FLAGS.keep_days, dry_run=FLAGS.dry_run))


def study() -> None:
    """tutelage-study: train arms against their baselines with several seeds; tables, pictures, sentences."""
    _days_flags()
    flags.DEFINE_multi_integer("studies", [], "Numbers of the studies to do (repeatable); else all.")
    flags.DEFINE_integer("seeds", 5, "How many seeds each arm is trained with.", lower_bound=1)
    _start(study, lambda actions: actions.study(_settings(), FLAGS.studies, FLAGS.seeds))


def report() -> None:
    """tutelage-report: write WORKDIR/report/index.html from the tables, and print the results."""
    _days_flags()
    _start(report, lambda actions: actions.report(_settings()))


def status() -> None:
    """tutelage-status: what is there of each day and model, and what is still to be done."""
    _days_flags()
    _start(status, lambda actions: actions.status(_settings()))


def _accept_flags() -> None:
    flags.DEFINE_string(
        "accept_day", None, "Keep this day, which did not pass its gate, as it is; wants a --reason."
    )
    flags.DEFINE_string("reason", "", "Why: written to its quarantine/DAY.json.")


def _days_flags() -> None:
    """The flags that every command takes."""
    flags.DEFINE_string(
        "config", None, "A config's name (see launch/configs), or a path to a .py file.", required=True
    )
    flags.DEFINE_string("workdir", None, "The folder of all that is made.", required=True)
    flags.DEFINE_string("raw_dir", "", "The folder of the raw data; of logs of one's own, also a URL of it.")
    flags.DEFINE_string("start_day", "", "YYYY-MM-DD, today, yesterday or today-N; else the config's.")
    flags.DEFINE_string("end_day", "", "The same; the last day is included.")
    flags.DEFINE_bool("smoke", False, "The config's smallest size.")
    flags.DEFINE_multi_string(
        "set",
        [],
        "field=value of the config, as in students.auxiliary.distillation.click.alpha=3 (repeatable).",
    )
    flags.DEFINE_multi_string("beam_flag", [], "A flag for Beam, as in --runner=FlinkRunner (repeatable).")
    flags.DEFINE_bool("verbose", False, "Show what TensorFlow and Beam print.")


def _settings() -> Any:
    from tutelage.launch.session import Settings

    return Settings(
        config=FLAGS.config,
        workdir=FLAGS.workdir,
        raw_dir=FLAGS.raw_dir,
        start_day=FLAGS.start_day,
        end_day=FLAGS.end_day,
        smoke=FLAGS.smoke,
        overrides=tuple(FLAGS.set),
        beam_flags=tuple(FLAGS.beam_flag),
        verbose=FLAGS.verbose,
    )


def _start(command: Callable[[], None], action: Callable[[Any], None]) -> None:
    """Parse the flags, act, and exit: 0, or 1 with one line for a mistake that the user can mend."""
    # --help begins with the text of the main module, and that is the console script.
    sys.modules["__main__"].__doc__ = f"{command.__doc__}\n"
    # --help shows the key flags of the main module, and that is the console script.
    for flag in FLAGS.flags_by_module_dict().get(__name__, []):
        FLAGS.register_key_flag_for_module(sys.argv[0], flag)

    def main(argv: list[str]) -> None:
        if len(argv) > 1:
            raise UserError(f"{argv[1]!r} is no flag; flags are written --name=value")
        silence(verbose=FLAGS.verbose)
        signal.signal(signal.SIGTERM, _stop)
        from tutelage.launch import actions

        with disk_full_as_user_error(FLAGS.workdir):
            action(actions)

    try:
        app.run(main, flags_parser=_parse)
    except Preempted as error:
        # A thread that still reads a day must not be waited for.
        _end(str(error))
    except UserError as error:
        print(f"{_program()}: {error}", file=sys.stderr)
        sys.exit(1)


def _stop(number: int, frame: object) -> None:
    """SIGTERM where nothing is being learnt: a step that is cut off is done again whole."""
    _end(STOPPED)


def _end(text: str) -> NoReturn:
    sys.stdout.flush()
    os.write(2, f"{_program()}: {text}\n".encode())
    os._exit(128 + signal.SIGTERM)


def _program() -> str:
    return sys.argv[0].rsplit("/", 1)[-1]


def _parse(argv: list[str]) -> list[str]:
    try:
        return list(FLAGS(argv))
    except flags.Error as error:
        raise UserError(f"{' '.join(str(error).split())}; --help lists the flags") from None
