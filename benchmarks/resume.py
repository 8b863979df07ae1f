"""Measure what it costs to resume within a day, and to write checkpoints: the teacher of the synthetic config.

One process trains on a day and half of the next and gets SIGTERM, then another one resumes. Measured are the seconds
from the end of its import of TensorFlow to its first update, then, for that day, the seconds that its checkpoint and a
partial checkpoint take, as shares of its training time and of `checkpoint_minutes`.
"""

import multiprocessing
import os
import signal
import tempfile
import time
from typing import Any

import numpy as np
from absl import app, flags

from tutelage.launch import steps
from tutelage.launch.logging_setup import import_tensorflow, silence
from tutelage.launch.session import Session
from tutelage.pipeline.errors import UserError
from tutelage.trainers.run import TEACHER

_ROWS = flags.DEFINE_integer("rows_per_day", 1_000_000, "Exposures per day.")
_BATCH = flags.DEFINE_integer("batch_size", 512, "Examples per update.")


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    with tempfile.TemporaryDirectory() as workdir:
        request = {
            "config": "synthetic",
            "workdir": workdir,
            "end_day": "2026-01-02",
            "overrides": (f"training.batch_size={_BATCH.value}", f"source.rows_per_day={_ROWS.value}"),
        }
        before = multiprocessing.get_context("spawn").Process(target=_stop_within, args=(request,))
        before.start()
        before.join()
        silence(verbose=False)
        started = time.monotonic()
        import_tensorflow(verbose=False)
        from tutelage.trainers import day_loop, trainer  # noqa: F401  Their import counts, too.

        imported = time.monotonic()
        session = Session.open(**request)
        updates: list[float] = []
        state = steps.train(session, TEACHER, progress=lambda rows: updates.append(time.monotonic()))[-1]
        print(f"a day of {state.rows:,} rows, trained in {state.seconds:.1f} s, batch {_BATCH.value:,}")
        # The first call reports the rows that the process before had trained on.
        print(f"resume: {updates[1] - imported:.2f} s, beyond {imported - started:.2f} s of import")
        _checkpoints(session)


def _stop_within(request: dict[str, Any]) -> None:
    """Train on the first day and on half of the second."""
    silence(verbose=False)
    import_tensorflow(verbose=False)
    session = Session.open(**request)
    steps.materialize(session, session.days)
    trained, half = 0, 1.5 * _rows(session)

    def stop(rows: int) -> None:
        nonlocal trained
        trained += rows
        if trained - rows < half <= trained:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        steps.train(session, TEACHER, progress=stop)
    except UserError as stopped:
        print(stopped)


def _rows(session: Session) -> int:
    return int(session.run.lake.interactions.partitions()["rows"][0])


def _checkpoints(session: Session) -> None:
    """Write the checkpoint of the last day once more, and a partial one."""
    from tutelage.trainers.checkpoints import Checkpoints
    from tutelage.trainers.day_pass import Attempt, TrainResult
    from tutelage.trainers.feed import Feed
    from tutelage.trainers.partial import save_partial
    from tutelage.trainers.trainer import Trainer

    run = session.run
    trainer = Trainer(run.schema, run.teacher.model, batch_size=run.training.batch_size, seed=1)
    state = run.checkpoints(TEACHER).states()[-1]
    started = time.monotonic()
    trainer.restore(run.checkpoints(TEACHER), state)
    restored = time.monotonic()
    day = Feed(run.lake, trainer.transform).read(state.day)
    read = time.monotonic()
    ahead = trainer.score(day)
    print(f"of which: restore {restored - started:.2f} s, reading the day {read - restored:.2f} s")
    trained = TrainResult(
        outputs=ahead,
        losses=np.zeros(state.step, np.float32),
        examples=day.size,
        first_step=0,
        batch_size=run.training.batch_size,
        seconds=state.seconds,
        waited=0.0,
    )
    again = Checkpoints(session.run.root / "again")
    started = time.monotonic()
    save_partial(trainer, again, day, Attempt(ahead=ahead, trained=trained, rates=1.0))
    partial_day = time.monotonic() - started
    started = time.monotonic()
    trainer.finish(state.day, trained, again)
    whole = time.monotonic() - started
    minutes = run.training.checkpoint_minutes
    print(f"its checkpoint: {whole:.2f} s, {whole / state.seconds:.1%} of the day's training")
    if minutes:
        print(
            f"a partial checkpoint: {partial_day:.2f} s, {partial_day / (60 * minutes):.1%} of {minutes:g} minutes"
        )


if __name__ == "__main__":
    app.run(main)
