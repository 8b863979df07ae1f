"""Three small days in a lake, and models that train on them in a moment."""

from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import polars as pl

from tutelage.models.backbones.mlp import MLP
from tutelage.models.config import ModelConfig, distil
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.schema import Feature, Schema, Task
from tutelage.trainers.config import StudentConfig, TeacherConfig, TrainingConfig
from tutelage.trainers.day import Day, JudgedRows
from tutelage.trainers.run import Run

SCHEMA = Schema(
    features=(
        Feature(name="user", dtype="int64", capacity=40),
        Feature(name="topic", dtype="string", capacity=10),
        Feature(name="seconds", dtype="float32", log1p=True),
        Feature(name="age", dtype="float32"),
    ),
    tasks=(Task(name="click", label="click"), Task(name="watch", label="watch_seconds", kind="log1p")),
    key=("user", "event_time_us"),
)
DAYS = [date(2026, 1, 1), date(2026, 1, 2), date(2026, 1, 3)]
BATCH = 16
# In batches of 16 these are 3 and one of 12, 3 and one of 9, and 4.
ROWS = dict(zip(DAYS, (60, 57, 64), strict=True))

MODEL = ModelConfig(embedding_dim=4, backbone=MLP(hidden=(8, 4)))
AUXILIARY = StudentConfig(name="auxiliary", model=MODEL, distillation=distil("click", "watch"))


def frame(day: date, rows: list[tuple[object, ...]] | dict[str, object]) -> pl.DataFrame:
    """Return rows of `interactions`. `event_time_us` is given in microseconds since midnight."""
    schema = {
        "example_id": pl.Int64,
        "event_time_us": pl.Int64,
        "user": pl.Int64,
        "topic": pl.String,
        "seconds": pl.Float32,
        "age": pl.Float32,
        "click": pl.Int8,
        "watch_seconds": pl.Float32,
    }
    midnight = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000
    return pl.DataFrame(rows, schema=schema, orient="row" if isinstance(rows, list) else None).with_columns(
        pl.col("event_time_us") + midnight
    )


def interactions(day: date) -> pl.DataFrame:
    """Return a shuffled day, with two rows at most instants and every feature missing now and then."""
    n = ROWS[day]
    rng = np.random.default_rng(day.toordinal())
    click = rng.random(n) < 0.4
    columns = {
        "example_id": rng.permutation(n) + 1000 * day.day,
        "event_time_us": rng.permutation(n) // 2,
        "user": rng.integers(-5, 25, n),
        "topic": rng.choice(["", "news", "sport", "日本"], n),
        "seconds": rng.exponential(30, n),
        "age": rng.normal(size=n),
        "click": click,
        "watch_seconds": click * rng.exponential(20, n),
    }
    missing = {
        name: pl.when(pl.int_range(pl.len()) % every > 0).then(pl.col(name))
        for every, name in ((7, "user"), (8, "topic"), (9, "seconds"), (10, "age"))
    }
    return frame(day, columns).with_columns(**missing)


def commit(lake: Lake, day: date, rows: pl.DataFrame, *, attempt: int = 1) -> None:
    """Replace the day by `rows`. Replacing it again needs another `attempt`."""
    file = lake.interactions.write_file(rows, {"day": day}, name="part")
    counts = {"rows_in": rows.height, "kept": rows.height, "dropped": {}}
    lake.interactions.commit([file], {"day": day}, attempt=attempt, metadata=counts)


def make_run(root: Path, *, min_examples: int = 0) -> Run:
    """Return the run of a workdir whose lake holds the three days and in which nothing is trained."""
    run = Run(
        name="tiny",
        schema=SCHEMA,
        training=TrainingConfig(batch_size=BATCH),
        teacher=TeacherConfig(model=MODEL, min_examples=min_examples),
        root=root,
    )
    run.lake.create()
    for day in DAYS:
        commit(run.lake, day, interactions(day))
    return run


def judged(day: Day) -> JudgedRows:
    """Return what a day of one chunk is judged by."""
    return day.judged_rows(day.whole.judged)
