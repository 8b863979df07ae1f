"""Measure a growing vocabulary beside hashing into tables of the same capacity, on worlds whose ids change every day.

A student trains by itself day after day, once with each way. The log loss is that of clicks, for scores made before
any training on the day (`day_ahead`) and for each batch before its update (`pre_update`), as the mean over the days
after the first third. `hashing, more capacity` gets as much more capacity as the vocabulary takes bytes in serving. For
steps/s the models train on one day several times, in turn, so that they share the noise; the medians count.
"""

import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from absl import app, flags

from tutelage.launch.logging_setup import import_tensorflow, silence

_SEEDS = flags.DEFINE_list("seeds", ["1", "2", "3"], "Seeds of the worlds and of the initial weights.")
_DAYS = flags.DEFINE_integer("days", 15, "Days of each world.")
_ROWS = flags.DEFINE_integer("rows_per_day", 60_000, "Exposures per day.")
_NEW = flags.DEFINE_float("new_ids", 0.05, "Share of the 4,000 users and 2,000 videos that are new each day.")
_MIN_SEEN = flags.DEFINE_integer("min_seen", 2, "`Growth.min_seen`.")
_UNSEEN = flags.DEFINE_integer("unseen_days", 5, "`Growth.unseen_days`.")
_FIRST = date(2026, 1, 1)
_TABLE = {"user_id": 5_000, "video_id": 2_500}
"""The capacity: more than the ids of a day, fewer than those of all days."""
_BASES, _BATCH, _TURNS = ("day_ahead", "pre_update"), 512, 9
_GROWING, _HASHING, _MORE = "growing", "hashing", "hashing, more capacity"


def _schemas() -> dict[str, Any]:
    from tutelage.launch.configs.synthetic import SCHEMA, STUDENT
    from tutelage.pipeline.schema import Growth

    # An entry of the vocabulary is an int64 and an int32, beside an embedding of float32.
    more = 1 + 12 / (4 * STUDENT.embedding_dim)
    growth = Growth(min_seen=_MIN_SEEN.value, unseen_days=_UNSEEN.value)
    changes: dict[str, Any] = {
        _GROWING: lambda capacity: {"capacity": capacity, "grows": growth},
        _HASHING: lambda capacity: {"capacity": capacity},
        _MORE: lambda capacity: {"capacity": int(capacity * more)},
    }
    return {
        arm: replace(
            SCHEMA,
            features=tuple(
                replace(f, **change(_TABLE[f.name])) if f.name in _TABLE else f for f in SCHEMA.features
            ),
        )
        for arm, change in changes.items()
    }


def _days(seed: int) -> tuple[Any, list[date]]:
    from tutelage.pipeline.sources.synthetic import Synthetic

    source = Synthetic(
        seed=seed,
        first_day=_FIRST,
        rows_per_day=_ROWS.value,
        users=4_000,
        videos=2_000,
        new_users_per_day=1,
        new_videos_per_day=1,
        new_ids=_NEW.value,
    )
    return source, [_FIRST + timedelta(days=i) for i in range(_DAYS.value)]


def _train(schema: Any, seed: int, days: list[date], root: Path, interactions: Path) -> dict[str, float]:
    """Train the student; return its mean log loss by basis, and the counts of its vocabulary on the last day."""
    import polars as pl

    from tutelage.launch.configs.synthetic import STUDENT
    from tutelage.trainers.config import GateConfig, StudentConfig, TeacherConfig, TrainingConfig
    from tutelage.trainers.day_loop import train_student
    from tutelage.trainers.run import Run

    run = Run(
        name="vocabulary",
        schema=schema,
        training=TrainingConfig(batch_size=_BATCH, seed=seed),
        teacher=TeacherConfig(model=STUDENT, min_examples=0),
        root=root,
        interactions=interactions,
    )
    run.lake.create()
    # The gate only stops a day whose losses are not finite.
    student = StudentConfig(name="student", model=STUDENT, gate=GateConfig(trailing_days=999, min_days=999))
    train_student(run, student, days)
    judged = days[len(days) // 3 :]
    metrics = run.lake.metrics.scan(model="student").filter(pl.col("day").is_in(judged)).collect()
    losses = metrics.filter(task="click", metric="log_loss", slice="")
    found = dict(losses.group_by("basis").agg(pl.col("value").mean()).iter_rows())
    counted = metrics.filter(pl.col("slice").is_in(list(_TABLE)), pl.col("day") == days[-1])
    found |= {f"{part} {name}": v for part, name, v in counted.select("slice", "metric", "value").iter_rows()}
    return found


def _speed(schemas: Mapping[str, Any], day: date, lakes: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Return the median steps/s, and the median seconds to read the day, of each."""
    from tutelage.launch.configs.synthetic import STUDENT
    from tutelage.trainers.feed import Feed
    from tutelage.trainers.trainer import Trainer

    trainers_of = {
        arm: Trainer(schema, STUDENT, batch_size=_BATCH, seed=1) for arm, schema in schemas.items()
    }
    stepping: dict[str, list[float]] = {arm: [] for arm in trainers_of}
    reading: dict[str, list[float]] = {arm: [] for arm in trainers_of}
    for turn in range(_TURNS + 1):
        for arm, trainer in trainers_of.items():
            started = time.perf_counter()
            read = Feed(lakes[arm], trainer.transform).read(day, vocabulary=trainer.vocabulary)
            read_at = time.perf_counter()
            trainer.train_day(read)
            if turn:  # The first time is a warm-up.
                reading[arm].append(read_at - started)
                stepping[arm].append(-(-read.size // _BATCH) / (time.perf_counter() - read_at))
    return {arm: (statistics.median(stepping[arm]), statistics.median(reading[arm])) for arm in trainers_of}


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    silence(verbose=False)
    import_tensorflow(verbose=False)
    from tutelage.pipeline.lake import Lake
    from tutelage.pipeline.materialize import materialize

    found: dict[str, list[dict[str, float]]] = {}
    schemas = _schemas()
    for seed in map(int, _SEEDS.value):
        with tempfile.TemporaryDirectory() as folder:
            source, days = _days(seed)
            lake = Lake(Path(folder) / "lake", schemas[_HASHING])
            lake.create()
            materialize(source, schemas[_HASHING], lake, raw_dir="", workdir=folder, days=days)
            for n, (arm, schema) in enumerate(schemas.items()):
                root = Path(folder) / str(n)
                found.setdefault(arm, []).append(_train(schema, seed, days, root, lake.interactions.path))
            if seed == int(_SEEDS.value[-1]):
                lakes = {arm: Lake(lake.interactions.path.parent, schema) for arm, schema in schemas.items()}
                speed = _speed(schemas, days[-1], lakes)
    for arm, results in found.items():
        means = {name: statistics.fmean(result[name] for result in results) for name in results[0]}
        losses = ", ".join(f"{basis} {means[basis]:.4f}" for basis in _BASES)
        steps, seconds = speed[arm]
        print(f"{arm}: log loss {losses}; {steps:,.0f} steps/s, a day read in {seconds:.2f} s")
        for name in _TABLE if arm == _GROWING else ():
            counts = [
                f"{k.removeprefix(name)} {v:,.4g}" for k, v in means.items() if k.startswith(f"{name} ")
            ]
            print(f"  {name}, capacity {_TABLE[name]:,}, on the last day:{','.join(counts)}")
    for arm in (_HASHING, _MORE):
        for basis in _BASES:
            changes = [
                100 * (a[basis] / b[basis] - 1) for a, b in zip(found[_GROWING], found[arm], strict=True)
            ]
            each = ", ".join(f"{change:+.2f}" for change in changes)
            print(f"growing against {arm}: {basis} log loss {statistics.fmean(changes):+.2f} % ({each})")
    print(f"growing / hashing: {speed[_GROWING][0] / speed[_HASHING][0]:.3f} times the steps/s")


if __name__ == "__main__":
    app.run(main)
