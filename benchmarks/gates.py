"""Measure the gates of data, of training and of serving with the defaults: false alarms, and what they catch.

`false_alarms`: sound days of simulated worlds with a weekly rhythm, of several sizes and base rates; with --kuairand
and --movielens also the days of these. A day that a gate stops all the same is counted, accepted, and the models go on.
Printed are the stops of each gate, and by how many versions serving was behind at most.
`caught`: after sound days, a copy of the workdir gets one bad day. Printed is which gates spoke on that day, for days
of several sizes; a day that the data's gate holds back is accepted, to see what the gates behind it say.
`poisoning`: labels are flipped, by a larger share each day. Printed is the day on which a gate first spoke.

The worlds' seeds are not those that the gates were tuned on. A workdir of --workdir that is finished is not made again.
"""

import dataclasses
import functools
import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from absl import app, flags

from tutelage.export.config import ServingConfig
from tutelage.launch import steps
from tutelage.launch.configs.synthetic import SCHEMA, STUDENT, TASKS, TEACHER
from tutelage.launch.experiment import Experiment
from tutelage.launch.logging_setup import import_tensorflow, silence
from tutelage.launch.session import Session
from tutelage.models.config import distil
from tutelage.pipeline.quarantine import DayStopped
from tutelage.pipeline.soft_labels import PRE_UPDATE, LabelPartition
from tutelage.pipeline.sources import world
from tutelage.pipeline.sources.base import Unit
from tutelage.pipeline.sources.synthetic import Synthetic
from tutelage.trainers.config import StudentConfig, TeacherConfig, TrainingConfig
from tutelage.trainers.run import TEACHER as TEACHER_MODEL

FIRST = date(2026, 1, 5)
"""A Monday."""
PARTS = ["false_alarms", "caught", "poisoning"]
SOUND = 28
"""Sound days before a bad one."""
POISONED = 10
"""Days of `poisoning`."""
_ROWS = (1.0, 0.95, 0.95, 1.0, 1.1, 1.35, 1.25)
"""Rows of each weekday, from Monday on, as a share of the world's."""
_LOGIT = (0.0, -0.03, -0.03, 0.0, 0.05, 0.15, 0.12)
"""What each weekday adds to the logit of a click."""
_LUCK = 6
"""The stream of random numbers that clicks are drawn with."""
STUDENT_NAME = "student"
BAD = "bad.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weekly:
    """Days of `world` with a weekly rhythm in rows and in clicks, and another base rate of clicks.

    A file `bad.json` in `raw_dir` says from which day on which fault the days have.
    """

    world: Synthetic
    shift: float
    """What is added to the logit of a click: 0 leaves the world's two of five."""

    def columns(self) -> Mapping[str, pl.DataType]:
        return self.world.columns()

    def units(self, raw_dir: str, *, workdir: str, days: Sequence[date]) -> list[Unit]:
        path = Path(raw_dir) / BAD
        bad = json.loads(path.read_text()) if raw_dir and path.exists() else {}
        return [
            Unit(index=i, where=str(day), args={"day": day, "bad": bad}) for i, day in enumerate(sorted(days))
        ]

    def read(self, unit: Unit) -> Iterator[pl.DataFrame]:
        day, bad = unit.args["day"], unit.args["bad"]
        rows = round(self.world.rows_per_day * _ROWS[day.weekday()])
        of_day = replace(self.world, rows_per_day=rows)
        drawn = world.rng(self.world.seed, _LUCK, day.toordinal())
        frame = pl.concat(
            frame for part in of_day.units("", workdir="", days=[day]) for frame in of_day.read(part)
        )
        chance = of_day.truth(frame)
        click, long_view = chance["click"].to_numpy(), chance["long_view"].to_numpy()
        luck = drawn.random((2, rows))
        odds = click / (1 - click) * np.exp(self.shift + _LOGIT[day.weekday()])
        clicked = luck[0] < odds / (1 + odds)
        frame = frame.with_columns(
            pl.Series("click", clicked.astype(np.int8)),
            pl.Series("long_view", (clicked & (luck[1] < long_view / click)).astype(np.int8)),
        )
        if bad and day >= date.fromisoformat(bad["from"]):
            number = 1 + (day - date.fromisoformat(bad["from"])).days
            frame = FAULTS[bad["fault"]](frame, drawn, bad["size"] * number)
        yield frame.with_columns(content=frame.drop("content", "dropped").hash_rows())


def _flip(frame: pl.DataFrame, drawn: np.random.Generator, share: float) -> pl.DataFrame:
    chosen = pl.Series(drawn.random(frame.height) < share)
    labels = pl.col("click", "long_view")
    return frame.with_columns(pl.when(chosen).then(1 - labels).otherwise(labels).name.keep())


def _shift(frame: pl.DataFrame, drawn: np.random.Generator, size: float) -> pl.DataFrame:
    return frame.with_columns((pl.col("video_seconds") * size).cast(pl.Float32))


def _swap(one: str, other: str) -> Callable[..., pl.DataFrame]:
    def swapped(frame: pl.DataFrame, drawn: np.random.Generator, size: float) -> pl.DataFrame:
        return frame.with_columns(pl.col(other).alias(one), pl.col(one).alias(other))

    return swapped


def _double(frame: pl.DataFrame, drawn: np.random.Generator, size: float) -> pl.DataFrame:
    # A microsecond is part of the key, so that the same events have new ids.
    return pl.concat([frame, frame.with_columns(pl.col("event_time_us") + 1)])


def _rate(frame: pl.DataFrame, drawn: np.random.Generator, size: float) -> pl.DataFrame:
    wanted = min(1.0, size * float(frame["click"].cast(pl.Float64).mean()))  # type: ignore[arg-type]
    return frame.with_columns(click=pl.Series((drawn.random(frame.height) < wanted).astype(np.int8)))


FAULTS: Mapping[str, Callable[[pl.DataFrame, np.random.Generator, float], pl.DataFrame]] = {
    "flip": _flip,
    "shift": _shift,
    "swap_numbers": _swap("video_age_days", "user_age_days"),
    "swap_ids": _swap("user_id", "video_id"),
    "double": _double,
    "rate": _rate,
}
GARBAGE = "garbage"
CAUGHT = {
    "labels flipped, 30 %": ("flip", 0.3),
    "labels flipped, 100 %": ("flip", 1.0),
    "a feature times 3": ("shift", 3.0),
    "two numbers swapped": ("swap_numbers", 1.0),
    "two ids swapped": ("swap_ids", 1.0),
    "the day doubled": ("double", 1.0),
    "rate times 100": ("rate", 100.0),
    "soft labels shuffled": (GARBAGE, 1.0),
}
FEW_POSITIVES = ("rate times 100",)
"""Faults that need a world of few positives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A simulated world, by its seed, rows per day and shift of the clicks' logit."""

    seed: int
    rows: int
    shift: float

    @property
    def name(self) -> str:
        return f"{self.rows}_{'half' if self.shift > 0 else 'rare'}"


HALF, RARE = 0.5, -5.0
WORLDS = [
    World(seed=11, rows=500, shift=HALF),
    World(seed=12, rows=500, shift=RARE),
    World(seed=13, rows=5_000, shift=HALF),
    World(seed=14, rows=5_000, shift=RARE),
    World(seed=15, rows=100_000, shift=RARE),
]


def config(*, smoke: bool, seed: int, rows: int, shift: float) -> Experiment:
    """Return a world with one teacher and one student, and all gates as they are by default."""
    return Experiment(
        name="gates",
        source=Weekly(
            world=Synthetic(
                seed=seed,
                first_day=FIRST,
                rows_per_day=rows,
                users=2_000 if rows > 50_000 else 500,
                videos=1_000 if rows > 50_000 else 250,
                new_users_per_day=40 if rows > 50_000 else 10,
                new_videos_per_day=60 if rows > 50_000 else 10,
            ),
            shift=shift,
        ),
        schema=SCHEMA,
        training=TrainingConfig(batch_size=min(512, max(64, rows // 10))),
        teacher=TeacherConfig(model=TEACHER),
        students=(StudentConfig(name=STUDENT_NAME, model=STUDENT, distillation=distil(*TASKS)),),
        # Latency on a machine that does other work says nothing of the gates.
        serving=ServingConfig(score=(("click", 1.0),), max_latency_ms=1e6),
        start_day=str(FIRST),
        end_day=str(FIRST),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """A gate that spoke."""

    gate: str
    """"data", "day" or "serving"."""
    model: str
    day: str
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lived:
    """What the gates said of the days of a workdir."""

    days: int
    rate: float
    """Share of positives of the first task."""
    stops: list[Stop] = field(default_factory=list)
    behind: int = 0
    """Days since the day of the version that was served, at most, of all students."""


def live(session: Session, *, export: str, garbage: bool = False) -> Lived:
    """Bring the session's days from raw data to served versions, whatever the gates say, and return what they said.

    `export` is "all", "newest" or "none": of which days a version is made and judged. `garbage`: whether the
    teacher's labels of the last day are shuffled before a student reads them.
    """
    for day in steps.to_materialize(session):  # one each night, so that a day is compared with accepted ones
        steps.materialize(session, [day])
        if day in session.run.lake.quarantined_days():
            steps.accept(session, day, "it is sound")
    for model in session.models:
        if garbage and model not in session.teachers:
            _shuffle_labels(session, session.days[-1])
        _train(session, model)
    for student in session.students if export != "none" else ():
        steps.export(session.asking(every_version=export == "all"), student)
    return _verdicts(session)


def _verdicts(session: Session) -> Lived:
    """Return what the gates have recorded: days in quarantine, whatever became of them, and versions not blessed."""
    held = {"": session.run.lake.quarantine} | {
        model: session.run.quarantine(model) for model in session.models
    }
    stops = [
        Stop(gate="day" if model else "data", model=model, day=str(day), said=record["attempts"][0]["said"])
        for model, quarantine in held.items()
        for day, record in quarantine.days().items()
    ]
    behind = 0
    for student in session.students:
        judged = session.run.lake.metrics.scan(model=student, basis="gate", metric="blessed").collect()
        said = _said(session, student)
        served = 0
        for day, blessed in judged.sort("day").select("day", "value").iter_rows():
            served = 0 if blessed else served + 1
            behind = max(behind, served)
            if not blessed:
                stops.append(Stop(gate="serving", model=student, day=str(day), said=said.get(day, "")))
    task = session.experiment.schema.tasks[0]
    label = pl.col(task.label).cast(pl.Float64)
    rate = session.run.lake.interactions.scan().select((label > 0).mean()).collect().item()
    return Lived(days=len(session.days), rate=float(rate), stops=stops, behind=behind)


def _train(session: Session, model: str) -> None:
    """Train a model on all its days; one that its gate stops is accepted."""
    from tutelage.trainers.day_loop import Accept

    stopped: DayStopped | None = None
    while True:
        accept = Accept(day=stopped.day, reason="it is sound") if stopped else None
        try:
            steps.train(session, model, accept=accept)
        except DayStopped as error:
            if stopped and stopped.day == error.day:
                raise  # one that is not finite cannot be accepted
            stopped = error
        else:
            return


def _shuffle_labels(session: Session, day: date) -> None:
    labels = session.run.lake.soft_labels
    frame = labels.scan(producer=PRE_UPDATE, day=day).drop("teacher", "producer", "day").collect()
    outputs = session.experiment.schema.outputs
    order = world.rng(1, _LUCK).permutation(frame.height)
    shuffled = frame.with_columns(frame.select(outputs)[order])
    labels.write(LabelPartition(TEACHER_MODEL, PRE_UPDATE, day), shuffled)


def _said(session: Session, student: str) -> dict[date, str]:
    """Return why the version of a day was not blessed, by its card."""
    found = {}
    for version in session.versions(student).rejected.glob("2*"):
        record = json.loads((version / "assets.extra/model_card.json").read_text())
        found[date.fromisoformat(record["day"])] = record["verdict"]
    return found


def opened(root: Path, this: World, days: int, *, raw_dir: str = "") -> Session:
    """Return the session of a world's first days, in the workdir `root`."""
    path = root.with_name(f"{root.name}_config.py")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "from functools import partial\n\nfrom benchmarks.gates import config\n\n"
        f"experiment = partial(config, seed={this.seed}, rows={this.rows}, shift={this.shift})\n"
    )
    end = FIRST + timedelta(days=days - 1)
    return Session.open(config=str(path), workdir=str(root), end_day=str(end), raw_dir=raw_dir)


def one_world(root: Path, this: World, days: int, export: bool) -> Lived:
    """Return what the gates said of sound days."""
    return live(opened(root, this, days), export="all" if export else "none")


def one_dataset(root: Path, name: str, raw_dir: str, export: bool) -> Lived:
    """Return what the gates said of the days of a bundled config."""
    session = Session.open(config=name, workdir=str(root), raw_dir=raw_dir)
    return live(session, export="all" if export else "none")


def sound(root: Path, this: World) -> None:
    """Make a workdir of `SOUND` days, and serve the last of them."""
    live(opened(root, this, SOUND), export="newest")


def one_fault(root: Path, base: Path, this: World, fault: str, size: float, days: int) -> list[Lived]:
    """Return what the gates said of each of `days` days that follow the sound ones, in a copy of their workdir."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(base, root)
    raw_dir = root.with_name(f"{root.name}_raw")
    raw_dir.mkdir(exist_ok=True)
    first = FIRST + timedelta(days=SOUND)
    if fault != GARBAGE:
        (raw_dir / BAD).write_text(json.dumps({"from": str(first), "fault": fault, "size": size}))
    found: list[Lived] = []
    for day in range(1, days + 1):
        session = opened(root, this, SOUND + day, raw_dir=str(raw_dir))
        lived = live(session, export="newest" if days == 1 else "none", garbage=fault == GARBAGE)
        now = str(session.days[-1])
        found.append(replace(lived, stops=[stop for stop in lived.stops if stop.day == now]))
        if days > 1 and found[-1].stops:
            break
    shutil.rmtree(root)
    return found


def _recorded(path: Path, make: Callable[[], Any]) -> Any:
    """Return what `make` returned when it was called first, from a file that holds it as JSON."""
    if not path.exists():
        made = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(made, indent=1))
    return json.loads(path.read_text())


def _quietly() -> None:
    silence(verbose=False)
    import_tensorflow(verbose=False)


def _apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process of its own, and return what it returns, as JSON takes it."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, _quietly) as pool:
        found = pool.submit(function, *arguments).result()
    return [dataclasses.asdict(one) for one in (found if isinstance(found, list) else [found]) if one]


def false_alarms(
    folder: Path, worlds: Sequence[World], days: int, datasets: Mapping[str, str], export: bool
) -> None:
    """Print the stops of each gate over sound days."""
    print(f"{'false alarms':24}{'days':>6}{'positives':>11}{'data':>6}{'day':>6}{'serving':>9}{'behind':>8}")
    runs: dict[str, Callable[[], Any]] = {}
    for this in worlds:
        name = f"{this.name}_{days}_days{'' if export else '_unserved'}"
        runs[name] = functools.partial(_apart, one_world, folder / name, this, days, export)
    for name, raw_dir in datasets.items():
        runs[name] = functools.partial(_apart, one_dataset, folder / name, name, raw_dir, export)
    whole = 0
    for name, run in runs.items():
        (found,) = _recorded(folder / "found" / f"{name}.json", run)
        counts = [sum(stop["gate"] == gate for stop in found["stops"]) for gate in ("data", "day", "serving")]
        whole += sum(counts)
        cells = "".join(f"{count:>{width}}" for count, width in zip(counts, (6, 6, 9), strict=True))
        print(f"{name:24}{found['days']:>6}{found['rate']:>11.2%}{cells}{found['behind']:>8}", flush=True)
        for stop in found["stops"]:
            print(f"    {stop['gate']} {stop['model']} {stop['day']}: {stop['said'][:400]}")
    print(f"{whole} false alarms in all")


def caught(folder: Path, rows: Sequence[int]) -> None:
    """Print which gates spoke on a bad day."""
    print(f"{'which gates spoke':28}" + "".join(f"{f'{number:,} rows':>24}" for number in rows))
    for name, (fault, size) in CAUGHT.items():
        cells = []
        for number in rows:
            this = World(seed=31, rows=number, shift=RARE if name in FEW_POSITIVES else HALF)
            (found,) = _faulty(folder, this, fault, size, 1)
            spoke = list(
                dict.fromkeys(
                    f"{s['model'] or 'data'}{'/serving' * (s['gate'] == 'serving')}" for s in found["stops"]
                )
            )
            cells.append(", ".join(spoke) or "none")
        print(f"{name:28}" + "".join(f"{cell:>24}" for cell in cells), flush=True)


def poisoning(folder: Path, rows: Sequence[int]) -> None:
    """Print on which day of a slow poisoning a gate first spoke."""
    print(f"{'labels flipped':28}" + "".join(f"{f'{number:,} rows':>24}" for number in rows))
    for size in (0.03, 0.05, 0.10):
        cells = []
        for number in rows:
            found = _faulty(folder, World(seed=31, rows=number, shift=HALF), "flip", size, POISONED)
            spoke = [f"day {day}" for day, lived in enumerate(found, 1) if lived["stops"]]
            cells.append(spoke[0] if spoke else f"not in {POISONED} days")
        print(f"{size:.0%}{' more each day':25}" + "".join(f"{cell:>24}" for cell in cells), flush=True)


def _faulty(folder: Path, this: World, fault: str, size: float, days: int) -> Any:
    base = folder / f"sound_{this.name}"
    _recorded(folder / "found" / f"sound_{this.name}.json", functools.partial(_apart, sound, base, this))
    name = f"{this.name}_{fault}_{size:g}_{days}"
    run = functools.partial(_apart, one_fault, folder / name, base, this, fault, size, days)
    return _recorded(folder / "found" / f"{name}.json", run)


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    given = flags.FLAGS
    for name, known in (("parts", PARTS), ("worlds", [this.name for this in WORLDS])):
        if unknown := {*given[name].value} - {*known}:
            raise app.UsageError(f"--{name}={', '.join(unknown)}: give of {', '.join(known)}")
    folder = Path(given.workdir).resolve()
    if "false_alarms" in given.parts:
        worlds = [this for this in WORLDS if this.name in given.worlds]
        datasets = {n: d for n, d in (("kuairand", given.kuairand), ("movielens", given.movielens)) if d}
        false_alarms(folder, worlds, given.days, datasets, given.export)
    rows = [int(number) for number in given.rows]
    if "caught" in given.parts:
        caught(folder, rows)
    if "poisoning" in given.parts:
        poisoning(folder, rows)


if __name__ == "__main__":
    # Here, because the processes import this module under two names.
    flags.DEFINE_list("parts", PARTS, "What is measured.")
    flags.DEFINE_list("worlds", [this.name for this in WORLDS], "Worlds of false_alarms.")
    flags.DEFINE_list("rows", ["500", "5000", "100000"], "Rows per day of caught and poisoning.")
    flags.DEFINE_integer("days", 60, "Days of each world of false_alarms.")
    flags.DEFINE_bool("export", True, "Make and judge the version of every day in false_alarms.")
    flags.DEFINE_string("kuairand", "", "Folder of KuaiRand-Pure; empty: it is left out.")
    flags.DEFINE_string("movielens", "", "Folder of the MovieLens archive; empty: it is left out.")
    flags.DEFINE_string("workdir", "build/gates", "Folder of what is made; a later call goes on from there.")
    app.run(main)
