"""`tutelage-run` with a change of teacher. Its models are trained in this process, and no student is exported."""

from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.launch import small
from tests.same import assert_same
from tutelage.launch import pool, steps
from tutelage.launch.actions.materialize import materialize as materialize_days
from tutelage.launch.run import run as run_nightly
from tutelage.launch.session import Session
from tutelage.pipeline.io.json import read_json
from tutelage.trainers.run import is_teacher

CONFIG = Path(__file__).with_name("successors_config.py")
AS_GOOD, NEVER = "successor.margin=99", "successor.margin=-0.9"


def open_session(workdir: Path, day: date, *overrides: str, config: Path = CONFIG) -> Session:
    """Return the session that asks for the days up to `day`."""
    return small.open_session(workdir, config=config, end_day=str(day), overrides=overrides)


def run(workdir: Path, day: date, *overrides: str, config: Path = CONFIG) -> Session:
    """Return the session as it is afterwards."""
    session = open_session(workdir, day, *overrides, config=config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "train", _train)
        run_nightly(session)
    return session.reopened()


def _train(
    session: Session, models: Sequence[str], *, progress: Callable[[str, int], None]
) -> Iterator[pool.Outcome]:
    for model in models:
        session = session.reopened()
        trained = steps.train(session, model)
        exported = steps.export(session, model) if is_teacher(model) else []
        yield pool.Outcome(model=model, trained=trained, exported=len(exported), rejected=[])


def mend_events(workdir: Path, day: date) -> None:
    """Remove the first rows of a raw day."""
    path = workdir.parent / "raw" / f"{day}.parquet"
    pl.read_parquet(path)[5:].write_parquet(path)


def materialize(workdir: Path, day: date) -> None:
    """Materialise one day again."""
    materialize_days(small.open_session(workdir, config=CONFIG, start_day=str(day), end_day=str(day)))


def _started(workdir: Path) -> list[str]:
    return [path.read_text() for path in sorted(workdir.glob("teacher-*/warm_start.json"))]


def changes(workdir: Path) -> list[dict[str, Any]]:
    """Return the recorded changes of teacher without the time of the decision."""
    path = workdir / "takeovers.json"
    found = read_json(path) if path.exists() else []
    return [{**change, "decided_at": ""} for change in found]


def assert_as_if(expected: Path, found: Path) -> None:
    assert_same(expected, found)
    assert changes(expected) == changes(found)
    assert _started(expected) == _started(found)
