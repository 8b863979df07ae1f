"""Raw events of two generations, an experiment that reads them, and `tutelage-materialize` in its own process.

This file is a config: `--config=tests/faults/events.py`.
"""

import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from datetime import date, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tutelage.export.config import ServingConfig
from tutelage.launch.experiment import Experiment
from tutelage.models.backbones.mlp import MLP
from tutelage.models.config import ModelConfig
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.schema import Feature, History, Schema, Task
from tutelage.pipeline.sources.files import Files
from tutelage.pipeline.table import Table
from tutelage.trainers.config import TeacherConfig, TrainingConfig

DAYS = [date(2026, 1, 1) + timedelta(days=i) for i in range(3)]
COMMITS = 2 * len(DAYS)
"""The commits of a run: one for each day, then one for the histories of each day."""
_FILES, _FILE_ROWS, _DAY_US = 4, 1_500, 86_400_000_000
_START = 1_767_225_600_000_000  # 2026-01-01 in UTC

SCHEMA = Schema(
    features=(
        Feature(name="user", dtype="int64", capacity=100),
        Feature(name="item", dtype="int64", capacity=100),
        Feature(name="generation", dtype="int64", capacity=4),
    ),
    tasks=(Task(name="click", label="click"),),
    key=("user", "item", "event_time_us"),
    user="user",
    histories=(
        History(of="item", length=5, days=2, where="click"),
        History(name="met", of="generation", length=3),
    ),
)


def experiment(*, smoke: bool) -> Experiment:
    return Experiment(
        name="events",
        source=Files(pattern="*.parquet", schema=SCHEMA, event_time="ts", time_unit="us"),
        schema=SCHEMA,
        training=TrainingConfig(batch_size=16),
        teacher=TeacherConfig(model=ModelConfig(embedding_dim=2, backbone=MLP(hidden=(4,)))),
        students=(),
        serving=ServingConfig(score=(("click", 1.0),)),
        rows_per_shard=900,  # Three shards a day.
        start_day=str(DAYS[0]),
        end_day=str(DAYS[-1]),
    )


def write_raw(folder: Path, generation: int) -> None:
    """Write files with rows of all days; each file repeats rows of the one before, and has some bad rows."""
    folder.mkdir()
    rng, before = np.random.default_rng(generation), None
    n = _FILE_ROWS + 100 * generation
    for number in range(_FILES):
        frame = pl.DataFrame(
            {
                "ts": _START + rng.integers(0, len(DAYS) * _DAY_US, n),
                "user": rng.integers(0, 50, n),
                "item": rng.integers(0, 90, n),
                "generation": generation,
                "click": rng.integers(0, 2, n) + 2 * (rng.random(n) < 0.02),
            }
        )
        if before is not None:
            frame = pl.concat([frame, before.sample(100, seed=number)])
        frame.write_parquet(folder / f"{number}.parquet")
        before = frame


def rows(workdir: Path) -> dict[str, dict[date, pl.DataFrame]]:
    """Return the rows of each day in each table, in order; histories only if they are not stale."""
    lake = Lake(workdir / "lake", SCHEMA)
    assert lake.histories
    days = lake.interactions.partitions()["day"].to_list()
    fresh = set(days) - set(lake.stale_histories(days))
    return {
        table.path.name: {day: pl.concat(map(pl.read_parquet, table.files(day=day))) for day in which}
        for table, which in ((lake.interactions, days), (lake.histories, sorted(fresh)))
    }


def counts(workdir: Path) -> dict[str, Any]:
    """Return the numbers of kept and dropped rows in each day's commit."""
    found = Lake(workdir / "lake", SCHEMA).interactions.counts()
    return {day: {k: v for k, v in count.items() if k != "job"} for day, count in found.items()}


# Children are forked from a process that has imported everything and run nothing, so they start at once.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        "tutelage.launch.actions.materialize",
        "tutelage.pipeline.materialize",
        "tutelage.pipeline.sources.files",
    ]
)


class Job:
    """`tutelage-materialize` in its own process group, which waits until it is started.

    With a barrier in `meet`, jobs wait for one another after they have read the state of the tables.
    """

    def __init__(self, workdir: Path, raw_dir: Path, *, beam_flags: tuple[str, ...] = (), meet: Any = None):
        self.log = workdir.with_suffix(f".{raw_dir.name}.log")
        self.marks, theirs = _FORKS.Pipe()
        self._process = _FORKS.Process(
            target=_materialize, args=(theirs, str(workdir), str(raw_dir), str(self.log), beam_flags, meet)
        )
        self._process.start()
        theirs.close()
        assert self.marks.recv() == "ready"

    def start(self) -> None:
        self.marks.send("go")

    def wait_for_commit(self, nth: int) -> None:
        """Wait until the job is about to make its nth commit, or has ended."""
        try:
            for _ in range(nth):
                self.marks.recv()
        except EOFError:
            pass

    def kill(self) -> bool:
        """Kill all processes of the job; return whether that was before its end."""
        assert self._process.pid
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        return self.end() == -9

    def end(self) -> int:
        """Wait for the exit code: 0, or 1 for a mistake of the user, which is the last line of `log`."""
        self._process.join()
        code = self._process.exitcode
        assert code in (0, 1, -9), self.log.read_text()
        return int(code)

    def says(self) -> str:
        return self.log.read_text().splitlines()[-1]

    @property
    def running(self) -> bool:
        return self._process.is_alive()


def barrier(parties: int) -> Any:
    return _FORKS.Barrier(parties)


def run(workdir: Path, raw_dir: Path, **kwargs: Any) -> float:
    """Run a job to its end; return the seconds that it took."""
    job = Job(workdir, raw_dir, **kwargs)
    started = time.monotonic()
    job.start()
    assert job.end() == 0, job.log.read_text()
    return time.monotonic() - started


def _materialize(
    marks: Connection, workdir: str, raw_dir: str, log: str, beam_flags: tuple[str, ...], meet: Any
) -> None:
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    from tutelage.launch.actions.materialize import materialize
    from tutelage.launch.session import Session
    from tutelage.pipeline import beam_job
    from tutelage.pipeline.errors import UserError

    def told(commit: Callable[..., None]) -> Callable[..., None]:
        def wrapper(*args: Any, **kwargs: Any) -> None:
            marks.send("commit")
            commit(*args, **kwargs)

        return wrapper

    Table.commit = told(Table.commit)  # type: ignore[method-assign]
    if meet:
        run_now = beam_job.run

        def run_together(*args: Any, **kwargs: Any) -> None:
            beam_job.run = run_now  # Only the first Beam job waits; either process may make the histories.
            meet.wait()
            run_now(*args, **kwargs)

        beam_job.run = run_together
    marks.send("ready")
    marks.recv()
    try:
        materialize(Session.open(config=__file__, workdir=workdir, raw_dir=raw_dir, beam_flags=beam_flags))
    except UserError as error:
        sys.stdout.flush()
        os.write(1, f"\n{error}\n".encode())
        os._exit(1)
