"""Measure rows/s and peak memory of materialising, beside the same job in plain Polars, DuckDB and row-wise Beam.

The raw data are Parquet event files of 250,000 rows × 15 columns, over 8 days and once more all of one day. Of each
1,000 rows, 10 repeat a row of the file before, 5 have a bad label, 5 lie outside the days, and of eight days 20 come
with the next day's files.

The job writes the good rows, each key once, with `example_id` (DuckDB uses its own hash), as Parquet by day with the
same compression level. It also writes the number of dropped rows by reason, and for each day a digest of its rows and
statistics of each column: nulls, moments, extremes, histogram, distinct and most frequent values. Polars computes them
like tutelage, from histograms of hashes and of numbers, DuckDB with its approximate aggregates. Only tutelage tells
repeats from conflicting rows, judges the days, and commits them to tables. "bare" are the same engines without counts,
digests and statistics.

Each engine runs in its own process, in turn, and its best run counts. CPU seconds tell more than rows/s while the
machine does other things.

More measurements: the one day with one and with two worker processes, each held to one processor with one Polars
thread, without the time that the same job takes for a few rows (the start of the workers), and with the default; the
join of a day's labels by `example_id`; and the labeler beside its own function over batches in memory. With
`--synthetic_rows`, nothing else: one day of so many rows of the synthetic world, beside a tenth of them.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from absl import app, flags

_ROWS = flags.DEFINE_integer("rows", 2_000_000, "Rows of raw events; the target is also met at 20,000,000.")
_DAY_ROWS = flags.DEFINE_integer("day_rows", 20_000_000, "Rows of raw events, all of one day.")
_SYNTHETIC_ROWS = flags.DEFINE_integer("synthetic_rows", 0, "Only measure one day of so many synthetic rows.")
_SAMPLE = flags.DEFINE_integer("sample", 100_000, "Rows that the row-wise job is timed with.")
_REPEATS = flags.DEFINE_integer(
    "repeats", 3, "Runs of each engine, of which the best counts. Row-wise Beam runs once."
)
_ENGINE = flags.DEFINE_string("engine", None, "Run this engine in this process; used by the parent process.")
_SPAN = flags.DEFINE_integer("days", 8, "Days of the raw events; used by the parent process.")
_WORKERS = flags.DEFINE_integer("workers", 0, "Worker processes of tutelage; used by the parent process.")
_FOLDER = flags.DEFINE_string("folder", None, "The folder with the raw events; used by the parent process.")
_FILE_ROWS = 250_000
_FIRST = date(2026, 1, 1)
_START = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1_000_000)
_DAY_US = 86_400_000_000
_KEY = ("user_id", "video_id", "event_time_us")
_FEATURES = ("user_id", "video_id", "author_id", "tab", "hour", "position", "country", "topic")
_NUMBERS = ("video_seconds", "user_age_days", "video_age_days")
_BINARY = ("click", "long_view")
_COLUMNS = (*_FEATURES, *_NUMBERS, *_BINARY, "watch_seconds", "event_time_us")


def _schema() -> Any:
    from tutelage.pipeline.schema import Feature, Schema, Task

    texts = ("country", "topic")
    return Schema(
        features=(
            *(
                Feature(name=n, dtype="string" if n in texts else "int64", capacity=100_000)
                for n in _FEATURES
            ),
            *(Feature(name=name, dtype="float32", log1p=True) for name in _NUMBERS),
        ),
        tasks=(
            *(Task(name=name, label=name) for name in _BINARY),
            Task(name="watch", label="watch_seconds", kind="log1p"),
        ),
        key=_KEY,
    )


def _days() -> list[date]:
    return [_FIRST + timedelta(days=i) for i in range(_SPAN.value)]


def generate(folder: Path, rows: int) -> None:
    """Write the raw event files."""
    import numpy as np
    import polars as pl

    rng, before = np.random.default_rng(1), None
    files = max(rows // _FILE_ROWS, 8)
    for number in range(files):
        n = rows // files
        span = _SPAN.value * _DAY_US // files
        late = (rng.random(n) < 0.02) & (_SPAN.value > 1)
        time_us = _START + number * span + np.sort(rng.integers(0, span, n)) - late * _DAY_US
        time_us = np.where(rng.random(n) < 0.005, time_us + 30 * _DAY_US, time_us)
        click = rng.random(n) < 0.4
        frame = pl.DataFrame(
            {
                "user_id": rng.integers(1 << 40, (1 << 40) + 1_000_000, n),
                "video_id": (rng.pareto(1.0, n) * 1_000).astype("i8") % 500_000,
                "author_id": rng.integers(0, 50_000, n),
                "tab": rng.integers(0, 12, n),
                "hour": time_us // 3_600_000_000 % 24,
                "position": rng.integers(0, 20, n),
                "country": np.array(["DE", "FR", "JP", "BR", "IN"])[rng.integers(0, 5, n)],
                "topic": np.array([f"topic {i}" for i in range(200)])[rng.integers(0, 200, n)],
                "video_seconds": rng.exponential(30, n).astype("f4"),
                "user_age_days": rng.exponential(300, n).astype("f4"),
                "video_age_days": rng.exponential(30, n).astype("f4"),
                "click": click.astype("i1") + 2 * (rng.random(n) < 0.005).astype("i1"),
                "long_view": (click & (rng.random(n) < 0.5)).astype("i1"),
                "watch_seconds": np.where(click, rng.exponential(20, n), 0).astype("f4"),
                "event_time_us": time_us,
            }
        ).with_columns(country=pl.when(pl.col("user_id") % 50 != 0).then("country"))
        if before is not None:
            frame = pl.concat([frame[: n - n // 100], before.sample(n // 100, seed=number)])
        frame.write_parquet(folder / f"events-{number:04d}.parquet")
        before = frame


def _tutelage(raw: Path, out: Path) -> int:
    from tutelage.pipeline.lake import Lake
    from tutelage.pipeline.materialize import materialize
    from tutelage.pipeline.sources.files import Files

    schema = _schema()
    lake = Lake(out, schema)
    lake.create()
    source = Files(pattern="*.parquet", schema=schema, event_time="event_time_us", time_unit="us")
    how = ["--direct_running_mode=multi_processing", f"--direct_num_workers={_WORKERS.value}"]
    with _one_processor_each(_WORKERS.value):
        done = materialize(
            source,
            schema,
            lake,
            raw_dir=str(raw),
            workdir=str(out),
            days=_days(),
            beam_flags=how if _WORKERS.value else [],
        )
    kept = sum(counts.kept for counts in done.days.values())
    dropped = sum(sum(c.dropped.values()) for c in done.days.values()) + sum(done.elsewhere.values())
    if done.rows_in != kept + dropped:
        raise RuntimeError(f"{done.rows_in} rows came in, {kept} were kept and {dropped} dropped")
    return kept


@contextmanager
def _one_processor_each(workers: int) -> Iterator[None]:
    """Hold each worker process that starts inside to a processor of its own."""
    import psutil

    free, held, over = list(range(workers)), set[int](), threading.Event()

    def hold() -> None:
        while free and not over.wait(0.01):
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    # Not the shell that starts it: there the whole command is one word.
                    if child.pid not in held and any(
                        word == "apache_beam.runners.worker.sdk_worker_main" for word in child.cmdline()
                    ):
                        held.add(child.pid)
                        processor = free.pop()
                        for thread in child.threads():
                            os.sched_setaffinity(thread.id, {processor})

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        yield
    finally:
        over.set()
        holder.join()
    if len(held) < workers:
        raise RuntimeError(f"{len(held)} worker processes were found, expected {workers}")


def _synthetic(_: Path, out: Path) -> int:
    """Materialise one day of the synthetic world."""
    from tutelage.pipeline.lake import Lake
    from tutelage.pipeline.materialize import materialize
    from tutelage.pipeline.sources.synthetic import Synthetic

    schema = _schema()
    schema = replace(schema, features=tuple(f for f in schema.features if f.name != "tab"))
    lake = Lake(out, schema)
    lake.create()
    source = Synthetic(
        seed=1,
        first_day=_FIRST,
        rows_per_day=_ROWS.value,
        users=1_000_000,
        videos=500_000,
        new_users_per_day=1,
        new_videos_per_day=1,
    )
    done = materialize(source, lake.schema, lake, raw_dir="", workdir=str(out), days=[_FIRST])
    return done.days[_FIRST].kept


def _polars(raw: Path, out: Path, *, bare: bool = False) -> int:
    import polars as pl

    from tutelage.pipeline.ids import example_id

    rows = pl.scan_parquet(raw / "*.parquet")
    end = _START + _SPAN.value * _DAY_US
    inside = pl.col("event_time_us").is_between(_START, end, closed="left")
    keyed = pl.all_horizontal(pl.col(_KEY).is_not_null())
    labelled = (
        pl.all_horizontal(pl.col(_BINARY).is_in([0, 1]))
        & pl.col("watch_seconds").is_finite()
        & (pl.col("watch_seconds") >= 0)
    )
    kept = (
        rows.filter(inside, keyed, labelled)
        .unique(_KEY, keep="first", maintain_order=True)
        .with_columns(
            day=pl.from_epoch("event_time_us", time_unit="us").dt.date(),
            example_id=example_id(_KEY, rows.collect_schema()),
        )
    )
    counts = rows.select(
        rows=pl.len(),
        outside_days=(~inside).sum(),
        bad_key=(inside & ~keyed).sum(),
        bad_label=(inside & keyed & ~labelled).sum(),
    )
    frame, *dropped = pl.collect_all([kept] if bare else [kept, counts])
    statistics = []
    for (day,), part in frame.partition_by("day", as_dict=True, include_key=False).items():
        (out / f"day={day}").mkdir(parents=True)
        part.write_parquet(out / f"day={day}" / "part.parquet", compression_level=1)
        if not bare:
            statistics.append(_measure(part).with_columns(day=pl.lit(day)))
    if not bare:
        pl.concat(statistics).write_parquet(out / "statistics.parquet")
        dropped[0].with_columns(kept=pl.lit(frame.height)).write_parquet(out / "counts.parquet")
    return frame.height


def _measure(part: Any) -> Any:
    """Return one row of statistics of a day, computed in Polars."""
    import polars as pl

    def named(expressions: Iterable[Any], what: str) -> list[Any]:
        return [each.name.suffix(f"_{what}") for each in expressions]

    ids = [pl.col(name) for name in _FEATURES]
    numbers = [pl.col(name).cast(pl.Float32) for name in (*_NUMBERS, *_BINARY, "watch_seconds")]
    some = max(1, part.height // 4096)
    return part.select(
        pl.len().alias("rows"),
        pl.lit(part.hash_rows().to_numpy().sum()).alias("digest"),
        *named([each.null_count() for each in (*ids, *numbers)], "nulls"),
        *named([each.approx_n_unique() for each in ids], "distinct"),
        *named([(each.hash() // 2**50).value_counts().implode() for each in ids], "buckets"),
        *named([each.gather_every(some).value_counts(sort=True).head(10).implode() for each in ids], "top"),
        *named([each.is_finite().sum() for each in numbers], "finite"),
        *named([each.mean() for each in numbers], "mean"),
        *named([each.std() for each in numbers], "sd"),
        *named([each.min() for each in numbers], "min"),
        *named([each.max() for each in numbers], "max"),
        *named(
            [(each.reinterpret(dtype=pl.UInt32) // 2**16).value_counts().implode() for each in numbers],
            "buckets",
        ),
    )


def _duckdb(raw: Path, out: Path, *, bare: bool = False) -> int:
    import duckdb

    end = _START + _SPAN.value * _DAY_US
    inside = f"event_time_us >= {_START} and event_time_us < {end}"
    labelled = "click in (0, 1) and long_view in (0, 1) and isfinite(watch_seconds) and watch_seconds >= 0"
    keyed = "user_id is not null and video_id is not null"
    files = f"'{out}/*/*.parquet'"
    with duckdb.connect() as db:
        db.sql(
            f"""copy (
                select *, hash({", ".join(_KEY)}) as example_id, make_timestamp(event_time_us)::date as day
                from read_parquet('{raw}/*.parquet', filename = true, file_row_number = true)
                where {inside} and {keyed} and {labelled}
                qualify row_number() over (
                    partition by {", ".join(_KEY)} order by filename, file_row_number) = 1
            ) to '{out}' (format parquet, partition_by (day), compression zstd, compression_level 1,
                overwrite_or_ignore)"""
        )
        if not bare:
            db.sql(
                f"""copy (
                    select count(*) as rows, count(*) filter (not ({inside})) as outside_days,
                        count(*) filter ({inside} and not ({keyed})) as bad_key,
                        count(*) filter ({inside} and {keyed} and not ({labelled})) as bad_label
                    from read_parquet('{raw}/*.parquet')
                ) to '{out}/counts.parquet'"""
            )
            some = "example_id % 64 = 0"
            ids = [
                f"count({name}) as {name}_rows, approx_count_distinct({name}) as {name}_distinct, "
                f"approx_top_k({name}, 10) filter ({some}) as {name}_top, "
                f"histogram(hash({name}) >> 56) as {name}_buckets"
                for name in _FEATURES
            ]
            deciles = [i / 10 for i in range(1, 10)]
            numbers = [
                f"count({name}) as {name}_rows, count(*) filter (isfinite({name}::float)) as {name}_finite, "
                f"avg({name}) as {name}_mean, stddev({name}) as {name}_sd, min({name}) as {name}_min, "
                f"max({name}) as {name}_max, reservoir_quantile({name}, {deciles}) as {name}_deciles"
                for name in (*_NUMBERS, *_BINARY, "watch_seconds")
            ]
            db.sql(
                f"""copy (
                    select day, count(*) as rows, bit_xor(hash(rows)) as digest, {", ".join((*ids, *numbers))}
                    from read_parquet({files}, hive_partitioning = true) as rows group by day
                ) to '{out}/statistics.parquet'"""
            )
        return int(db.sql(f"select count(*) from read_parquet({files})").fetchall()[0][0])


def _good(row: dict[str, Any]) -> bool:
    return (
        _START <= row["event_time_us"] < _START + _SPAN.value * _DAY_US
        and row["click"] in (0, 1)
        and row["long_view"] in (0, 1)
        and 0 <= row["watch_seconds"] < float("inf")
    )


def _beam_rows(raw: Path, out: Path) -> int:
    import apache_beam as beam
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tutelage.pipeline import beam_engines

    def write(group: tuple[int, Any]) -> int:
        rows = [row | {"example_id": hash(tuple(row[name] for name in _KEY))} for row in group[1]]
        pq.write_table(pa.Table.from_pylist(rows), out / f"{group[0]}.parquet", compression="zstd")
        return len(rows)

    with beam.Pipeline(runner=beam_engines.DEFAULT_RUNNER) as pipeline:
        _ = (
            pipeline
            | beam.Create([str(path) for path in sorted(raw.glob("*.parquet"))], reshuffle=False)
            | beam.FlatMap(lambda path: pq.read_table(path).to_pylist())
            | beam.Filter(_good)
            | beam.Map(lambda row: (tuple(row[name] for name in _KEY), row))
            | "ByKey" >> beam.GroupByKey()
            | beam.Map(lambda group: next(iter(group[1])))
            | beam.Map(lambda row: ((row["event_time_us"] - _START) // _DAY_US, row))
            | "ByDay" >> beam.GroupByKey()
            | beam.Map(write)
        )
    return sum(pq.read_metadata(path).num_rows for path in out.glob("*.parquet"))


_JOBS: dict[str, Callable[[Path, Path], int]] = {
    "tutelage": _tutelage,
    "Polars": _polars,
    "DuckDB": _duckdb,
    "bare Polars": partial(_polars, bare=True),
    "bare DuckDB": partial(_duckdb, bare=True),
    "Beam by row": _beam_rows,
    "synthetic": _synthetic,
}
_PEERS = [name for name in _JOBS if name not in ("Beam by row", "synthetic")]


def _join(table: Any, folder: Path) -> dict[str, float]:
    """Return rows/s of joining a day's labels to its examples, in the order of the examples, as the feed does."""
    import duckdb
    import polars as pl

    files = table.files(day=_days()[1])
    examples = pl.read_parquet(files)
    labels = examples.select("example_id", click_logit="watch_seconds", watch_log1p="user_age_days")
    labels.sample(fraction=1, shuffle=True, seed=1).write_parquet(folder / "labels.parquet")

    def polars() -> int:
        return (
            pl.scan_parquet(files)
            .join(pl.scan_parquet(folder / "labels.parquet"), on="example_id", maintain_order="left")
            .collect()
            .height
        )

    def duck() -> int:
        with duckdb.connect() as db:
            sql = f"from read_parquet({files}) join '{folder}/labels.parquet' using (example_id)"
            return db.sql(sql).to_arrow_table().num_rows

    return {name: examples.height / _best(job) for name, job in (("Polars", polars), ("DuckDB", duck))}


def _labeler(lake: Any, folder: Path) -> dict[str, float]:
    """Return rows/s of the Beam job over days of the table, and of its function over the same rows in memory."""
    import tensorflow as tf

    from tutelage.export.saved_model import Served
    from tutelage.models.backbones.dcn import DCNv2
    from tutelage.models.config import ModelConfig
    from tutelage.models.ranker import Ranker
    from tutelage.pipeline.label import BATCH, Snapshot, label

    schema = _schema()
    ranker = Ranker(schema, ModelConfig(embedding_dim=16, backbone=DCNv2(hidden=(256, 128), cross_layers=2)))
    Served(ranker, None).save(str(folder / "1"))
    snapshot = Snapshot(path=str(folder / "1"), day=_FIRST - timedelta(days=1), step=1)
    rows = schema.arrays(lake.interactions.scan().collect())
    function = tf.saved_model.load(snapshot.path).signatures["serving_default"]
    n = len(rows["user_id"])
    batches = [
        {name: tf.constant(values[at : at + BATCH]) for name, values in rows.items()}
        for at in range(0, n, BATCH)
    ]

    def bare() -> None:
        for batch in batches:
            function(**batch)["click_logit"].numpy()

    def job() -> None:
        label(schema, lake, teacher="teacher", days=dict.fromkeys(_days(), snapshot))

    function(**batches[0])
    return {name: n / _best(run) for name, run in (("function", bare), ("job", job))}


def _best(run: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_REPEATS.value):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _labels(folder: Path) -> dict[str, Any]:
    from tutelage.launch.logging_setup import import_tensorflow, silence
    from tutelage.pipeline.lake import Lake

    silence(verbose=False)
    import_tensorflow(verbose=False)
    schema = _schema()
    lake = Lake(folder / "lake", schema)
    lake.create()
    _tutelage(folder / "sample", folder / "lake")
    return {"join": _join(lake.interactions, folder), "labeler": _labeler(lake, folder)}


def _run(engine: str, folder: Path) -> dict[str, Any]:
    if engine == "labels":
        return _labels(folder)
    if engine == "generate":
        for name, rows in (("raw", _ROWS.value), ("sample", _SAMPLE.value)):
            (folder / name).mkdir()
            generate(folder / name, rows)
        return {}
    out = folder / "out"
    out.mkdir()
    # The time that Python takes to start and to import does not count.
    import apache_beam.runners.portability.fn_api_runner.fn_runner
    import duckdb
    import polars
    import pyarrow.compute

    from tutelage.pipeline import materialize
    from tutelage.pipeline.sources import files

    del apache_beam, duckdb, polars, pyarrow, materialize, files
    started, cpu = time.perf_counter(), time.process_time()
    kept = _JOBS[engine](folder / ("sample" if engine == "Beam by row" else "raw"), out)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    written = len(list(out.glob("interactions/day=*/*.parquet")))
    shutil.rmtree(out)
    peaks = [resource.getrusage(w).ru_maxrss for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    figures = {"seconds": seconds, "cpu": cpu, "kept": kept, "files": written}
    return {**figures, "peak_gb": sum(peaks) * 1024 / 1e9, "largest_gb": max(peaks) * 1024 / 1e9}


def _in_a_process(engine: str, folder: Path, **asked: int) -> dict[str, Any]:
    """Run an engine in a process of its own, with these flags and this process's."""
    of_this = {flag.name: flag.value for flag in (_ROWS, _SAMPLE, _REPEATS, _SPAN)}
    words = [f"--{name}={value}" for name, value in {**of_this, **asked}.items()]
    command = [sys.executable, "-m", "benchmarks.materialize", f"--engine={engine}", f"--folder={folder}"]
    # Each worker process is held to one processor.
    one = {"POLARS_MAX_THREADS": "1"} if asked.get("workers") else {}
    done = subprocess.run(
        [*command, *words], stdout=subprocess.PIPE, check=True, text=True, env={**os.environ, **one}
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _beside(folder: Path, rows: int, days: int) -> Iterator[str]:
    """Measure every engine on the same rows."""
    asked = {"rows": rows, "days": days}
    _in_a_process("generate", folder, **asked)
    engines = [*_PEERS, *(["Beam by row"] if days > 1 else [])]
    runs: dict[str, list[dict[str, Any]]] = {engine: [] for engine in engines}
    for i in range(_REPEATS.value):
        for engine in engines:
            if i == 0 or engine != "Beam by row":
                runs[engine].append(_in_a_process(engine, folder, **asked))
    kept = {engine: runs[engine][0]["kept"] for engine in _PEERS}
    if len(set(kept.values())) > 1:
        raise RuntimeError(f"the engines kept different rows: {kept}")
    of = dict.fromkeys(engines, rows) | {"Beam by row": _SAMPLE.value}
    speed = {engine: of[engine] / min(run["seconds"] for run in runs[engine]) for engine in engines}
    yield (
        f"{rows:,} rows of {days} days, {kept['Polars']:,} kept; Beam by row: {_SAMPLE.value:,}, which stand for all"
    )
    for engine, rate in speed.items():
        cpu = min(run["cpu"] for run in runs[engine])
        memory = max(run["peak_gb"] for run in runs[engine])
        ratios = ", ".join(f"{rate / speed[peer]:.2f} × {peer}" for peer in _PEERS[1:])
        yield (f"{engine:>12}: {rate:11,.0f} rows/s, {ratios}, {cpu:.1f} s of CPU, {memory:.2f} GB")


def _workers(folder: Path) -> Iterator[str]:
    """Measure one and two worker processes on the one day in `folder`, each held to one processor."""
    asked = {"rows": _DAY_ROWS.value, "days": 1}
    shutil.rmtree(folder / "sample")
    small = folder / "small"
    small.mkdir()
    _in_a_process("generate", small, rows=1_000, days=1)
    seconds = {}
    for workers in (1, 2):
        whole, start = (
            min(
                _in_a_process("tutelage", of, **asked, workers=workers)["seconds"]
                for _ in range(_REPEATS.value)
            )
            for of in (folder, small)
        )
        seconds[workers] = whole - start
        yield f"{workers} of one processor each: {whole - start:.1f} s, and {start:.1f} s for the start"
    default = min(_in_a_process("tutelage", folder, **asked)["seconds"] for _ in range(_REPEATS.value))
    yield f"two take {seconds[2] / seconds[1]:.2f} × the time of one; the default takes {default:.1f} s"


def _synthetic_day(folder: Path, rows: int) -> Iterator[str]:
    """Measure one day of so many synthetic rows, and of a tenth of them."""
    seconds = {}
    for each in (rows // 10, rows):
        run = _in_a_process("synthetic", folder, rows=each, days=1)
        seconds[each] = run["seconds"] / each
        yield (
            f"{each:,} rows of one day: {run['seconds']:.1f} s, {run['files']:,} files, "
            f"{run['largest_gb']:.2f} GB at most in one process"
        )
    yield f"a row takes {seconds[rows] / seconds[rows // 10]:.2f} × the time"


def _all(root: Path) -> Iterator[str]:
    for name in ("eight", "one"):
        (root / name).mkdir()
    if _SYNTHETIC_ROWS.value:
        yield from _synthetic_day(root / "one", _SYNTHETIC_ROWS.value)
        return
    folder = root / "eight"
    yield from _beside(folder, _ROWS.value, 8)
    shutil.rmtree(folder / "sample")
    (folder / "raw").rename(folder / "sample")
    labels = _in_a_process("labels", folder)
    join, labeler = labels["join"], labels["labeler"]
    yield f"join of labels: Polars {join['Polars']:,.0f} rows/s, DuckDB {join['DuckDB']:,.0f}"
    yield (
        f"labeler: {labeler['job']:,.0f} rows/s, {labeler['job'] / labeler['function']:.2f} × its function "
        f"over batches in memory ({labeler['function']:,.0f})"
    )
    shutil.rmtree(folder)
    yield from _beside(root / "one", _DAY_ROWS.value, 1)
    yield from _workers(root / "one")


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    if _ENGINE.value:
        print(json.dumps(_run(_ENGINE.value, Path(_FOLDER.value))))
        return
    with tempfile.TemporaryDirectory() as folder:
        for line in _all(Path(folder)):
            print(line, flush=True)


if __name__ == "__main__":
    app.run(main)
