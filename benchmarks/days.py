"""Measure what the commands cost in a workdir that holds many days, on which all models were trained.

One small day is materialised and trained on. What it left in the tables, checkpoints and versions is then copied under
the other dates, as the commands would have written it. A column is printed for each number of days: the seconds of CPU,
and in brackets those that went by, of status, report, run with nothing to do, verify, what of it a run does first,
prune --dry_run, of materialising one more day, and of a prune of all but 30 days, which a workdir meets once; each in a
process of its own, without its imports. The last line is of a job that materialises all the days, per day.
"""

import contextlib
import dataclasses
import functools
import io
import json
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl
from absl import app, flags
from deltalake import DeltaTable

from tutelage.export.config import ServingConfig
from tutelage.export.versions import CARD
from tutelage.launch.configs.synthetic import SCHEMA, STUDENT, TASKS
from tutelage.launch.experiment import Experiment, KeepConfig
from tutelage.launch.logging_setup import silence
from tutelage.launch.session import Session
from tutelage.models.config import distil
from tutelage.pipeline.io.json import read_json, write_json
from tutelage.pipeline.quality import QualityConfig
from tutelage.pipeline.soft_labels import PRE_UPDATE, SNAPSHOT, LabelPartition
from tutelage.pipeline.sources.synthetic import Synthetic
from tutelage.pipeline.table import DataFile, Table
from tutelage.trainers.config import GateConfig, StudentConfig, TeacherConfig, TrainingConfig
from tutelage.trainers.run import is_teacher

_FIRST = date(2020, 1, 1)
_KINDS = 3
"""Students 1 to 3 are trained; each of the others is a copy of one of them."""
_CHECKPOINT = 100
"""Commits from one checkpoint of a table's log to the next, which is Delta Lake's default."""
_UNGATED = GateConfig(min_days=7)


def config(*, smoke: bool, models: int, days: int) -> Experiment:
    """Return `days` days of 300 exposures, for a teacher and students without, with own and with snapshot labels."""

    def student(number: int) -> StudentConfig:
        kind: dict[str, Any] = {"distillation": distil(*TASKS)} if number % _KINDS else {}
        if number % _KINDS == 2:
            kind["producer"] = SNAPSHOT
        return StudentConfig(name=f"student_{number:02}", model=STUDENT, gate=_UNGATED, **kind)

    return Experiment(
        name="days",
        source=Synthetic(
            seed=1,
            first_day=_FIRST,
            rows_per_day=300,
            users=100,
            videos=50,
            new_users_per_day=1,
            new_videos_per_day=1,
        ),
        schema=SCHEMA,
        training=TrainingConfig(batch_size=100),
        teacher=TeacherConfig(model=STUDENT, gate=_UNGATED),
        students=tuple(student(number) for number in range(models - 1)),
        # A few rows show nothing of a model, or of a day.
        serving=ServingConfig(
            score=(("click", 1.0),),
            max_latency_ms=1e6,
            auc_drop=1,
            entropy_rise=1e6,
            squared_error_rise=1e6,
            calibration_drift=1e6,
        ),
        # A run that removes what years of nights would have removed has something to do.
        keep=KeepConfig(newest=None),
        quality=QualityConfig(rate_ratio=1e6, new_ids_rise=1, id_drift=1, number_drift=1e6),
        start_day=str(_FIRST),
        end_day=str(_FIRST + timedelta(days=days - 1)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Commit:
    """What one commit of a table's log says."""

    add: Mapping[str, Any]
    """The `add` action of its file."""
    info: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What `Table.commit` records: `partition` and `counts`."""
    numbers: Mapping[str, int] = dataclasses.field(default_factory=dict)


def build(root: Path, trained: Path, *, models: int, days: int) -> None:
    """Make the workdir `root` of `days` days from `trained`, a workdir with the first of them and four models."""
    source, session = _open(trained, models=1 + _KINDS, days=1), _open(root, models=models, days=days)
    lake = session.run.lake
    interactions = _interactions(source, session)
    statistics = source.run.lake.statistics.scan().collect()
    _write_log(lake.statistics, [_by_day(lake.statistics, statistics, day) for day in session.days])
    labels = (
        source.run.lake.soft_labels.scan(producer=PRE_UPDATE).drop("teacher", "producer", "day").collect()
    )
    sources = lake.label_sources(session.days)
    soft = {PRE_UPDATE: list[_Commit](), SNAPSHOT: list[_Commit]()}
    for number, day in enumerate(session.days):
        rows = labels.with_columns(pl.col("example_id") + number)
        soft[PRE_UPDATE].append(_labels(session, LabelPartition("teacher", PRE_UPDATE, day), rows))
        if number:
            rows = rows.with_columns(
                snapshot_day=day - timedelta(days=1), trained_step=pl.lit(None, pl.Int64)
            )
            commit = _labels(session, LabelPartition("teacher", SNAPSHOT, day), rows, source=sources[day])
            soft[SNAPSHOT].append(commit)
    _write_log(lake.soft_labels.table, [*soft[PRE_UPDATE], *soft[SNAPSHOT]])
    metrics = []
    for model in session.models:
        kind = _kind(model)
        frame = source.run.lake.metrics.scan(model=kind).drop("model").collect()
        metrics.append([_metrics(session, model, frame, day) for day in session.days])
        _copy_model(source, session, model, kind)
    # As in life: the models one after the other each day.
    _write_log(lake.metrics, [commit for of_day in zip(*metrics, strict=True) for commit in of_day])
    assert len(interactions) == days


def _kind(model: str) -> str:
    """Return the trained model that `model` is a copy of."""
    return model if is_teacher(model) else f"student_{int(model[-2:]) % _KINDS:02}"


def _interactions(source: Session, session: Session) -> list[_Commit]:
    rows = source.run.lake.interactions.scan().drop("day").collect()
    table, commits = session.run.lake.interactions, []
    for number, day in enumerate(session.days):
        moved = rows.with_columns(
            pl.col("example_id") + number, pl.col("event_time_us") + number * 86_400_000_000
        )
        commits.append(_by_day(table, moved, day))
    _write_log(table, commits)
    return commits


def _by_day(table: Table, frame: pl.DataFrame, day: date) -> _Commit:
    file = table.write_file(frame.drop("day", strict=False), {"day": day}, name="part")
    counts = {"rows_in": file.rows, "kept": file.rows, "dropped": {}, "late": 0, "masked": {}}
    return _commit(table, file, {"day": str(day)}, {str(day): 1}, counts)


def _labels(
    session: Session, partition: LabelPartition, rows: pl.DataFrame, *, source: int | None = None
) -> _Commit:
    store = session.run.lake.soft_labels
    file = store.write_file(partition, rows, name="part")
    numbers = {} if source is None else {partition.key: 1, f"{partition.key}#source": source}
    return _commit(store.table, file, {**partition.values, "day": str(partition.day)}, numbers)


def _metrics(session: Session, model: str, frame: pl.DataFrame, day: date) -> _Commit:
    table = session.run.lake.metrics
    file = table.write_file(frame.with_columns(day=pl.lit(day)), {"model": model}, name="part")
    bounds = {"day": str(day), "run": session.run.name}
    commit = _commit(table, file, {"model": model}, {})
    stats = {
        "numRecords": file.rows,
        "minValues": bounds,
        "maxValues": bounds,
        "nullCount": dict.fromkeys(bounds, 0),
    }
    return replace(commit, add={**commit.add, "stats": json.dumps(stats)}, numbers={})


def _commit(
    table: Table,
    file: DataFile,
    partition: Mapping[str, str],
    numbers: Mapping[str, int],
    counts: Mapping[str, Any] | None = None,
) -> _Commit:
    key = table.key(partition)
    add = {
        "path": file.path,
        "partitionValues": partition,
        "size": (table.path / file.path).stat().st_size,
        "modificationTime": int(time.time() * 1000),
        "dataChange": True,
        "stats": json.dumps({"numRecords": file.rows}),
    }
    info = {} if counts is None else {"partition": key, "counts": json.dumps(counts)}
    return _Commit(add=add, info=info, numbers={**numbers, f"{key}#content": file.digest % 2**63})


def _write_log(table: Table, commits: Sequence[_Commit]) -> None:
    """Write a version of an empty table's log for each commit: 20,000 real ones would take an hour."""
    now = int(time.time() * 1000)
    for version, commit in enumerate(commits, 1):
        info = {"timestamp": now, "operation": "WRITE", "operationParameters": {"mode": "Overwrite"}}
        actions: list[dict[str, Any]] = [{"commitInfo": {**info, **commit.info}}, {"add": commit.add}]
        actions += [{"txn": {"appId": name, "version": n}} for name, n in commit.numbers.items()]
        path = table.path / "_delta_log" / f"{version:020}.json"
        path.write_text("".join(json.dumps(action) + "\n" for action in actions))
        if version % _CHECKPOINT == _CHECKPOINT - 1 and len(commits) - version < _CHECKPOINT:
            DeltaTable(table.path).create_checkpoint()
    table.commits.rewrite()


def _copy_model(source: Session, session: Session, model: str, kind: str) -> None:
    """Copy the checkpoint and the version of `kind` to all days of `model`; all but the newest versions are retired."""
    trained, copied = source.run.checkpoints(kind), session.run.checkpoints(model)
    (state,) = trained.states()
    student = None if is_teacher(model) else session.experiment.student(model)
    versions_now = session.run.lake.input_versions(
        session.days,
        histories=True,
        labels=("teacher", student.producer) if student and student.distillation else None,
    )
    if student:
        recorded = read_json(source.run.folder(kind) / "config.json")
        copied.folder.mkdir(parents=True)
        write_json(session.run.folder(model) / "config.json", {**recorded, "name": model})
    versions = session.versions(model)
    (version,) = source.versions(kind).published()
    newest = session.days[-session.experiment.serving.keep :]
    for number, day in enumerate(session.days, 1):
        after = replace(
            state,
            day=day,
            step=number * state.step,
            examples=number * state.rows,
            id=f"{model}-{day}",
            input_versions=versions_now[day],
        )
        shutil.copytree(trained.folder / str(state.day), copied.folder / str(day), copy_function=_link)
        (copied.folder / str(day) / "state.json").write_text(json.dumps(after.recorded()))
        folder = versions.folder if is_teacher(model) or day in newest else versions.retired
        path = folder / f"{day:%Y%m%d}01"
        shutil.copytree(version.path, path, copy_function=_link)
        card = {"day": str(day), "step": after.step, "checkpoint": after.id}
        (path / CARD).write_text(json.dumps(card))
    versions.ledger.write_text("".join(f"{day:%Y%m%d}01\n" for day in session.days))


def _link(source: str, target: str) -> None:
    """Copy a small record, which is rewritten; link anything else, which is not."""
    if os.path.basename(source) in ("state.json", os.path.basename(CARD)):
        Path(target).touch()
    else:
        os.link(source, target)


def _config(folder: Path, *, models: int, days: int) -> str:
    path = folder.with_name(f"config_{models}_{days}.py")
    path.write_text(
        "from functools import partial\n\nfrom benchmarks.days import config\n\n"
        f"experiment = partial(config, models={models}, days={days})\n"
    )
    return str(path)


def _open(workdir: Path, *, models: int, days: int, **kept: Any) -> Session:
    return Session.open(config=_config(workdir, models=models, days=days), workdir=str(workdir), **kept)


def train(workdir: Path) -> None:
    """Run the first day."""
    from tutelage.launch.run import run

    run(_open(workdir, models=1 + _KINDS, days=1))


def status(workdir: Path, models: int, days: int) -> None:
    from tutelage.launch.actions.status import status

    status(_open(workdir, models=models, days=days, read_only=True))


def report(workdir: Path, models: int, days: int) -> None:
    from tutelage.launch.actions.report import report

    report(_open(workdir, models=models, days=days, read_only=True))


def run(workdir: Path, models: int, days: int) -> None:
    from tutelage.launch.run import run

    run(_open(workdir, models=models, days=days))


def verify(workdir: Path, models: int, days: int) -> None:
    from tutelage.launch.actions.verify import verify

    verify(_open(workdir, models=models, days=days, read_only=True))


def fast_verify(workdir: Path, models: int, days: int) -> None:
    """Do what a run does before anything else."""
    from tutelage.launch.lifecycle.verify import find

    found = list(find(_open(workdir, models=models, days=days), fast=True))
    assert not found, found


def prune(workdir: Path, models: int, days: int, *, dry_run: bool = False) -> None:
    from tutelage.launch.actions.prune import prune

    prune(_open(workdir, models=models, days=days, read_only=dry_run), keep_days=30, dry_run=dry_run)


def one_more(workdir: Path, models: int, days: int) -> None:
    """Materialise one more day."""
    from tutelage.launch import steps

    session = _open(workdir, models=models, days=days + 1)
    steps.materialize(session, session.days[-1:])


def all_days(workdir: Path, models: int, days: int) -> None:
    """Materialise all days in one job, in an empty workdir."""
    from tutelage.launch import steps

    session = _open(workdir, models=models, days=days)
    steps.materialize(session, session.days)


COMMANDS: dict[str, Callable[[Path, int, int], None]] = {
    "status": status,
    "report": report,
    "run with nothing to do": run,
    "verify": verify,
    "verify, as a run begins": fast_verify,
    "prune --dry_run": functools.partial(prune, dry_run=True),
    "materialise one more day": one_more,
    "prune to 30 days": prune,
}


def _cpu() -> float:
    """Return the seconds of CPU that this process and those that it has waited for have used."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def seconds(
    command: Callable[[Path, int, int], None], workdir: Path, models: int, days: int
) -> tuple[float, float]:
    """Return what a command takes in this process, without imports: seconds of CPU, and those that went by.

    Raises RuntimeError where it found work to do.
    """
    import tutelage.launch.report.page
    import tutelage.launch.run
    import tutelage.pipeline.materialize  # noqa: F401

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        started = _cpu(), time.monotonic()
        command(workdir, models, days)
        taken = _cpu() - started[0], time.monotonic() - started[1]
    wrong = "Stale:" in printed.getvalue() or "To materialise: 2" in printed.getvalue()
    if wrong or (command is run and "Nothing to do" not in printed.getvalue()):
        raise RuntimeError(f"the copied workdir is not complete: {printed.getvalue()[:2000]}")
    return taken


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    counts, models = flags.FLAGS.days, flags.FLAGS.models
    if models < 1 + _KINDS:
        raise app.UsageError(f"--models={models}: give at least {1 + _KINDS}")
    with tempfile.TemporaryDirectory() as folder, _fresh() as apart:
        apart(train, Path(folder) / "trained")
        found: dict[str, list[tuple[float, float]]] = {
            name: [] for name in [*COMMANDS, "materialise all, per day"]
        }
        for days in counts:
            workdir = Path(folder) / f"days_{days}"
            apart(functools.partial(build, models=models, days=days), workdir, Path(folder) / "trained")
            for name, command in COMMANDS.items():
                found[name].append(apart(seconds, command, workdir, models, days))
            empty = Path(folder) / f"empty_{days}"
            cpu, wall = apart(seconds, all_days, empty, models, days)
            found["materialise all, per day"].append((cpu / days, wall / days))
            shutil.rmtree(workdir)
            shutil.rmtree(empty)
    print(f"seconds of CPU, {models} models{'':8}" + "".join(f"{f'{days:,} days':>20}" for days in counts))
    for name, values in found.items():
        print(f"{name:32}" + "".join(f"{f'{cpu:.2f} ({wall:.2f})':>20}" for cpu, wall in values))


@contextlib.contextmanager
def _fresh() -> Iterator[Callable[..., Any]]:
    """Yield a function that calls another one in a new process, and returns what it returns."""
    context = multiprocessing.get_context("spawn")

    def apart(function: Callable[..., Any], *arguments: Any) -> Any:
        with ProcessPoolExecutor(1, context, functools.partial(silence, verbose=False)) as pool:
            return pool.submit(function, *arguments).result()

    yield apart


if __name__ == "__main__":
    # Here, because the processes import this module under two names.
    flags.DEFINE_multi_integer("days", [10, 100, 1000], "Numbers of days.")
    flags.DEFINE_integer("models", 20, "Number of models, the teacher among them; at least 4.")
    app.run(main)
