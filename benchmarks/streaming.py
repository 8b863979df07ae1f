"""Measure the memory and the feed wait of a teacher and a student over one large day, which they read chunk by chunk.

The day lies in several files, each of a range of example ids and in event order, as a large day is materialised. Each
model trains in a process of its own.
"""

import multiprocessing
import resource
import tempfile
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import polars as pl
import psutil
from absl import app, flags

from tutelage.models.backbones.mlp import MLP
from tutelage.models.config import ModelConfig, distil
from tutelage.pipeline.schema import Feature, Schema, Task
from tutelage.trainers.checkpoints import State
from tutelage.trainers.config import CHUNK_ROWS, StudentConfig, TeacherConfig, TrainingConfig
from tutelage.trainers.run import Run

_ROWS = flags.DEFINE_integer("rows", 50_000_000, "Rows of the day.")
_FILE_ROWS = flags.DEFINE_integer("file_rows", 4_000_000, "Rows of a data file.")
_CHUNK_ROWS = flags.DEFINE_integer("chunk_rows", CHUNK_ROWS, "Rows that a trainer reads at once.")
_IDS = flags.DEFINE_integer("ids", 100_000, "Embeddings of each feature.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the day is made; a temporary folder by default.")

_DAY = date(2026, 1, 1)
_FIELDS, _DIM = 10, 16
_GB = 1e9


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    with tempfile.TemporaryDirectory(dir=_WORKDIR.value) as workdir:
        run = _run(Path(workdir), ids=_IDS.value, chunk_rows=_CHUNK_ROWS.value)
        _write_day(run, rows=_ROWS.value, file_rows=_FILE_ROWS.value)
        table = 2 * _FIELDS * _IDS.value * _DIM * 4 / _GB
        print(
            f"a day of {_ROWS.value:,} rows in chunks of {run.training.whole_batches:,}; the embeddings and Adagrad's "
            f"accumulators take {table:.2f} GB"
        )
        for model in ("teacher", "student"):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                before, peak, state = pool.apply(_train, (run, model))
            waited = state.waited / state.seconds
            print(
                f"{model}: {state.rows / state.seconds:,.0f} examples/s, {waited:.1%} of its time waiting for the "
                f"feed; peak memory {peak:.2f} GB, {peak - table:.2f} more than the table; {before:.2f} before the day"
            )


def _run(root: Path, *, ids: int, chunk_rows: int) -> Run:
    features = [Feature(name=f"id_{n}", dtype="int64", capacity=ids) for n in range(_FIELDS - 1)]
    schema = Schema(
        features=(
            Feature(name="user", dtype="int64", capacity=ids),
            *features,
            Feature(name="age", dtype="float32"),
        ),
        tasks=(Task(name="click", label="click"), Task(name="watch", label="seconds", kind="log1p")),
        key=("user", "event_time_us"),
        user="user",
    )
    model = ModelConfig(embedding_dim=_DIM, backbone=MLP(hidden=(256, 128)))
    return Run(
        name="streaming",
        schema=schema,
        training=TrainingConfig(batch_size=4096, chunk_rows=chunk_rows),
        teacher=TeacherConfig(model=model),
        root=root,
        slice_by=("id_0",),
    )


def _write_day(run: Run, *, rows: int, file_rows: int) -> None:
    """Commit a day in as many files as it takes, each with the rows of a range of ids in event order."""
    lake, partition = run.lake, {"day": _DAY}
    lake.create()
    files = [
        lake.interactions.write_file(part, partition, name=f"part-{n:05}")
        for n, part in enumerate(_parts(rows, -(-rows // file_rows), _IDS.value))
    ]
    lake.interactions.commit(
        files, partition, attempt=1, metadata={"rows_in": rows, "kept": rows, "dropped": {}}
    )


def _parts(rows: int, count: int, ids: int) -> Iterator[pl.DataFrame]:
    midnight = int(datetime(_DAY.year, _DAY.month, _DAY.day, tzinfo=UTC).timestamp()) * 1_000_000
    borders = np.linspace(-(2**63), 2**63 - 1024, count + 1).astype(np.int64)
    for n in range(count):
        rng = np.random.default_rng(n)
        size = rows // count + (n < rows % count)
        # A few ids have many rows.
        values = {f"id_{i}": (ids * rng.random(size) ** 3).astype(np.int64) for i in range(_FIELDS - 1)}
        click = rng.random(size) < 0.05 + 0.3 * values["id_1"] / ids
        yield pl.DataFrame(
            {
                "example_id": rng.integers(borders[n], borders[n + 1], size),
                "event_time_us": midnight + np.sort(rng.integers(0, 86_400_000_000, size)),
                "user": (ids * rng.random(size)).astype(np.int64),
                **values,
                "age": rng.normal(size=size).astype(np.float32),
                "click": click.astype(np.int8),
                "seconds": (click * rng.exponential(20, size)).astype(np.float32),
            }
        )


def _train(run: Run, model: str) -> tuple[float, float, State]:
    """Return the memory before the day and at its peak, in GB, and the state of the model after it."""
    from tutelage.launch.logging_setup import import_tensorflow, silence

    silence(verbose=False)
    import_tensorflow(verbose=False)
    from tutelage.trainers.day_loop import train
    from tutelage.trainers.student import Student
    from tutelage.trainers.teacher import Teacher

    config = StudentConfig(name="student", model=run.teacher.model, distillation=distil("click", "watch"))
    role = Teacher(run, [_DAY]) if model == "teacher" else Student(run, config, [_DAY])
    build, before = role.build, 0.0

    def built() -> object:
        nonlocal before
        trainer = build()
        before = psutil.Process().memory_info().rss / _GB
        return trainer

    role.build = built  # type: ignore[method-assign, assignment]
    (state,) = train(role)
    return before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _GB, state


if __name__ == "__main__":
    app.run(main)
