"""Measure how fast the models of the synthetic config train: examples per second, and the wait for the feed."""

import tempfile

from absl import app, flags

from tutelage.launch import steps
from tutelage.launch.logging_setup import import_tensorflow, silence
from tutelage.launch.report.summary import throughput
from tutelage.launch.session import Session

_BATCH = flags.DEFINE_integer("batch_size", 4096, "Examples per update.")
_ROWS = flags.DEFINE_integer("rows_per_day", 500_000, "Exposures per day.")
_MODELS = flags.DEFINE_list(
    "models", ["teacher", "control", "auxiliary"], "'teacher' and students, separated by commas."
)


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    silence(verbose=False)
    import_tensorflow(verbose=False)
    overrides = (f"training.batch_size={_BATCH.value}", f"source.rows_per_day={_ROWS.value}")
    with tempfile.TemporaryDirectory() as workdir:
        # The teacher's first day is its warm-up, and makes the labels of the students.
        session = Session.open(config="synthetic", workdir=workdir, end_day="2026-01-03", overrides=overrides)
        steps.materialize(session, session.days)
        steps.train(session, "teacher")
        for model in _MODELS.value:
            states = (
                steps.train(session, model) if model != "teacher" else session.run.checkpoints(model).states()
            )
            speed = throughput({model: states[1:]})[0]
            print(
                f"{model}: {speed.examples_per_second:,.0f} examples/s at batch {_BATCH.value:,}, "
                f"{speed.feed_wait_share:.1%} of its time waiting for the feed"
            )


if __name__ == "__main__":
    app.run(main)
