"""A workdir of the small config: its days are materialised from files, and what its models leave behind is forged."""

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tutelage.export import card, golden, warmup
from tutelage.launch import steps
from tutelage.launch.session import Session
from tutelage.pipeline.soft_labels import LabelPartition
from tutelage.trainers.checkpoints import State
from tutelage.trainers.run import is_teacher

CONFIG = Path(__file__).with_name("small_config.py")
GROWN = CONFIG.with_name("grown_config.py")
BESIDE = CONFIG.with_name("beside_config.py")
DAYS = [date(2026, 1, day) for day in (1, 2, 3, 4, 5)]
ROWS = 40
"""Of each day: 8 users with 5 rows each."""


def write_events(raw: Path, days: Sequence[date] = DAYS) -> None:
    """A file a day. User 7 comes on the third day; before, its rows are user 0's."""
    raw.mkdir(exist_ok=True)
    row = np.arange(ROWS)
    for day in days:
        midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
        user = row % 8
        pl.DataFrame(
            {
                "user_id": np.where((user == 7) & (day < DAYS[2]), 0, user),
                "item": (row * 7 + day.day) % 11,
                "seconds": (row % 5).astype(np.float32),
                "click": (row % 3 == 0).astype(np.int8),
                "age": (row % 8).astype(np.float32),
                "labels": [["new"]] * ROWS,
                "heart": (row % 2 == 0).astype(np.int8),
                "at": [midnight + timedelta(minutes=int(i)) for i in row],
            }
        ).write_parquet(raw / f"{day}.parquet")


def open_session(workdir: Path, *, config: Path = CONFIG, **asked: Any) -> Session:
    """Return the session of a workdir whose events lie beside it."""
    return Session.open(
        config=str(config), workdir=str(workdir), raw_dir=str(workdir.parent / "raw"), **asked
    )


def materialize(workdir: Path, **asked: Any) -> Session:
    """The session of a workdir that has its days and their histories."""
    write_events(workdir.parent / "raw")
    session = open_session(workdir, **asked)
    steps.materialize(session, session.days)
    return session


def train(session: Session, model: str, days: Sequence[date]) -> list[State]:
    """Leave what a model that was trained on `days` leaves: checkpoints, and the teacher's labels."""
    states = []
    checkpoints = session.run.checkpoints(model)
    before = len(checkpoints.states())
    for number, day in enumerate(days, before + 1):
        state = State(
            day=day, step=3 * number, examples=ROWS * number, rows=ROWS, id=f"{model}-{day}", holdout=0.02
        )
        folder = checkpoints.folder / str(day)
        folder.mkdir(parents=True)
        (folder / "variables.index").write_bytes(b"index")
        (folder / "variables.data-00000-of-00001").write_bytes(b"data")
        (folder / "state.json").write_text(json.dumps(state.recorded()))
        states.append(state)
        if model == "teacher":
            ids = session.run.lake.interactions.scan(day=day).select("example_id").collect()
            labels = ids.with_columns(
                click_logit=pl.lit(0.5, pl.Float32),
                snapshot_day=pl.lit(None, pl.Date),
                teacher_step=pl.lit(3 * number - 3, pl.Int64),
                trained_step=pl.lit(3 * number, pl.Int64),
            )
            session.run.lake.soft_labels.write(LabelPartition("teacher", "pre_update", day), labels)
    return states


def publish(session: Session, model: str, state: State, *, rejected: bool = False) -> Path:
    """Publish a version of a model with every file but a real graph; return its folder."""
    versions = session.versions(model)
    folder = versions.stage(state, _write)
    if not is_teacher(model):
        rows = session.run.lake.interactions.scan(day=state.day)
        frame = session.run.lake.with_histories(rows, state.day).collect()
        frame = golden.choose(frame, 10**6).drop("example_id", "event_time_us", "click", "day")
        features = session.run.schema.arrays(frame)
        frame = golden.pad_lists(frame, features)
        golden.write_golden(folder / golden.PATH, frame, {"click": np.linspace(0, 1, frame.height)})
        warmup.write_warmup(folder / warmup.PATH, model, features)
        facts = card.Facts(
            model=model, day=state.day, first_day=state.day, rows=ROWS, config={}, judged_day=state.day,
            judged_rows=0, holdout=0.02, verdict="", parameters=0, ops=0,
        )  # fmt: skip
        card.write_card(folder, facts)
    return (versions.reject if rejected else versions.publish)(folder).path


def _write(path: str) -> None:
    Path(path).mkdir()
    (Path(path) / "saved_model.pb").write_bytes(b"graph")
