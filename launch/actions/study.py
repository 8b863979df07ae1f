"""tutelage-study: train arms against their baselines with several seeds, and write what they show."""

import time
from collections.abc import Sequence
from functools import partial

from tutelage.launch import locks, pool, steps
from tutelage.launch.actions.console import echo, print_waits, raise_quarantined, units
from tutelage.launch.actions.materialize import materialize_days
from tutelage.launch.session import Session
from tutelage.launch.studies import study as job
from tutelage.launch.studies.sentences import sentences
from tutelage.pipeline.io.printable import counted


def study(session: Session, *, studies: Sequence[int] = (), seeds: int) -> None:
    """Train what the studies (all, if none is given) compare and lack, then write tables, charts and sentences."""
    print_waits(session, needed=True)
    design = job.design(session.experiment, session.days, studies or job.STUDIES)
    with locks.alone(session.run):
        if missing := steps.to_materialize(session):
            raise_quarantined(session, materialize_days(session, missing))
        _train_units(session, design, seeds)
        results = job.results(session, design, studies, seeds)
        page = job.write(session, results)
    for name in results.studies:
        echo()
        echo(name, style="bold")
        for sentence in sentences(results, name):
            echo(f"- {sentence}")
    echo()
    echo(f"Results: {page.with_suffix('.md')} and {page}")


def _train_units(session: Session, design: job.Design, seeds: int) -> None:
    todo = job.undone(session, design, seeds)
    if not todo:
        return
    started = time.monotonic()
    jobs = {f"{setting.name}, seed {seed}": (setting, seed) for setting, seed in todo}
    echo(f"{counted(len(jobs), 'unit')} to train, a teacher and its students each")
    work = partial(job.run_unit, session.request)
    with units("units") as update:
        names = pool.each(work, jobs, verbose=session.verbose, progress=lambda name, rows: None)
        for done, name in enumerate(names, 1):
            update(done, len(jobs))
            echo(f"{done} of {len(jobs)}: {name}, {time.monotonic() - started:.0f} s")
