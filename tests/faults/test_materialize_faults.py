"""`tutelage-materialize` is killed with SIGKILL, or runs beside another one; readers always see whole days."""

import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from tests.faults.events import COMMITS, DAYS, SCHEMA, Job, barrier, counts, rows, run, write_raw
from tutelage.pipeline.lake import Lake

OVERTAKEN = (
    ": another job replaced it meanwhile, and its rows stay; run this one again if they are to be replaced"
)
Tables = dict[str, dict[date, pl.DataFrame]]


@dataclass(frozen=True, kw_only=True)
class World:
    """Raw events of two generations, and a workdir with the first one."""

    folder: Path
    seconds: float

    def raw(self, generation: int) -> Path:
        return self.folder / f"raw{generation}"

    @property
    def first(self) -> Path:
        return self.folder / "first"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    for generation in range(2):
        write_raw(folder / f"raw{generation}", generation)
    return World(folder=folder, seconds=run(folder / "first", folder / "raw0"))


def _generation(frame: pl.DataFrame) -> int:
    """Return the generation of all rows of a day. Raises ValueError if there are two."""
    return int(frame["generation"].unique().item())


def test_one_of_two_processes_on_the_same_days_is_refused_and_no_reader_sees_a_mixed_day(
    world: World, tmp_path: Path
) -> None:
    workdir = tmp_path / "work"
    shutil.copytree(world.first, workdir)
    whole = {0: rows(world.first)["interactions"]}
    run(tmp_path / "second", world.raw(1))
    whole[1] = rows(tmp_path / "second")["interactions"]
    meet = barrier(2)
    jobs = [Job(workdir, world.raw(generation), meet=meet) for generation in range(2)]
    seen = _read_beside(jobs, workdir, whole)
    assert set(seen) == set(DAYS)
    ended = [job.end() for job in jobs]
    assert sorted(ended) == [0, 1]
    for job, code in zip(jobs, ended, strict=True):
        assert job.says().endswith(OVERTAKEN) == (code == 1), job.log.read_text()
    for day, frame in rows(workdir)["interactions"].items():
        assert frame.equals(whole[_generation(frame)][day])


def _read_beside(
    jobs: list[Job], workdir: Path, whole: dict[int, dict[date, pl.DataFrame]]
) -> dict[date, Counter[int]]:
    """Start the jobs and read until they end; return how often each generation of each day was seen, always whole."""
    lake = Lake(workdir / "lake", SCHEMA)
    seen = {day: Counter[int]() for day in DAYS}
    for job in jobs:
        job.start()
    while any(job.running for job in jobs):
        for day in DAYS:
            frame = lake.interactions.scan(day=day).drop("day").collect()
            generation = _generation(frame)
            assert frame.sort("example_id").equals(whole[generation][day].sort("example_id"))
            seen[day][generation] += 1
    return seen


def test_a_second_process_that_starts_after_the_end_of_the_first_replaces_its_days(
    world: World, tmp_path: Path
) -> None:
    workdir = tmp_path / "work"
    shutil.copytree(world.first, workdir)
    run(workdir, world.raw(1))
    assert {_generation(frame) for frame in rows(workdir)["interactions"].values()} == {1}


@pytest.mark.slow
def test_twenty_rounds_of_two_processes_at_once(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "second", world.raw(1))
    whole = {g: rows(path)["interactions"] for g, path in enumerate((world.first, tmp_path / "second"))}
    workdir, chance, told, reads = tmp_path / "work", random.Random(3), Counter[int](), 0
    shutil.copytree(world.first, workdir)
    for _ in range(20):
        jobs = [Job(workdir, world.raw(generation)) for generation in chance.sample(range(2), 2)]
        seen = _read_beside(jobs, workdir, whole)
        reads += sum(each.total() for each in seen.values())
        ended = [job.end() for job in jobs]
        told.update(ended)
        for job, code in zip(jobs, ended, strict=True):
            assert job.says().endswith(OVERTAKEN) == (code == 1)
    assert told[1] > 0
    # The process that was refused runs again alone.
    run(workdir, world.raw(1))
    _assert_same(rows(workdir), rows(tmp_path / "second"))
    with capsys.disabled():
        print(f"\n20 rounds: {told[1]} of 40 processes were refused; {reads:,} reads, no day mixed")


def _assert_same(found: Tables, expected: Tables) -> None:
    assert found.keys() == expected.keys()
    for table, days in expected.items():
        assert found[table].keys() == days.keys()
        for day, frame in days.items():
            assert found[table][day].equals(frame), f"{table}, {day}"


def _lost_and_doubled(found: pl.DataFrame, expected: pl.DataFrame) -> tuple[int, int]:
    lost = expected.join(found, on="example_id", how="anti").height
    return lost, found.height - found["example_id"].n_unique()


def _instants(seconds: float) -> Iterator[tuple[int, float]]:
    """Yield a commit (0: the start) and the seconds since it began; every other instant is near a commit."""
    chance = random.Random(11)
    while True:
        yield 0, chance.uniform(0, seconds)
        yield chance.randint(1, COMMITS), chance.uniform(0, 0.06)


class Toll:
    """What the kills did."""

    def __init__(self) -> None:
        self.kills = self.around = self.lost = self.doubled = 0
        self.found: Counter[str] = Counter()

    def __str__(self) -> str:
        days = ", ".join(f"{n} {what}" for what, n in sorted(self.found.items()))
        return (
            f"{self.kills} kills before the end, {self.around} of them around a commit: lost = {self.lost}, "
            f"doubled = {self.doubled}; days after the kill: {days}"
        )


def _kill_and_run_again(
    world: World,
    workdir: Path,
    before: Tables,
    after: Tables,
    toll: Toll,
    nth: int,
    seconds: float,
    flags: tuple[str, ...],
) -> None:
    """Kill a job that writes generation 1 into `workdir`, check what it left, and run it again."""
    job = Job(workdir, world.raw(1), beam_flags=flags)
    job.start()
    job.wait_for_commit(nth)
    time.sleep(seconds)
    if not job.kill():
        return
    toll.kills += 1
    toll.around += nth > 0
    if (workdir / "lake/interactions/_delta_log").is_dir() and (
        workdir / "lake/histories/_delta_log"
    ).is_dir():
        for day, frame in rows(workdir)["interactions"].items():
            old = before["interactions"].get(day)
            is_old = old is not None and frame.equals(old)
            assert is_old or frame.equals(after["interactions"][day])
            toll.found["as before" if is_old else "replaced"] += 1
        for day, frame in rows(workdir)["histories"].items():
            # Built from old and new days it equals neither generation, but it is complete all the same.
            assert frame.height == rows(workdir)["interactions"][day]["user"].n_unique()
    run(workdir, world.raw(1), beam_flags=flags)
    found = rows(workdir)
    for day, expected in after["interactions"].items():
        lost, doubled = _lost_and_doubled(found["interactions"][day], expected)
        toll.lost += lost
        toll.doubled += doubled
    _assert_same(found, after)
    # Nobody reads what the killed run left: everything that no table names is removed.
    assert not list((workdir / "lake/.staging").glob("[0-9]*"))
    for table in ("interactions", "histories"):
        DeltaTable(workdir / "lake" / table).vacuum(0, dry_run=False, enforce_retention_duration=False)
    _assert_same(rows(workdir), after)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kills", "flags"),
    [(100, ()), (4, ("--direct_running_mode=multi_processing", "--direct_num_workers=2"))],
    ids=["one process", "two workers"],
)
def test_killed_at_random_instants_and_run_again_it_makes_the_same_days(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], kills: int, flags: tuple[str, ...]
) -> None:
    seconds = run(tmp_path / "new", world.raw(1), beam_flags=flags)
    after, message = rows(tmp_path / "new"), counts(tmp_path / "new")
    starts: list[Path | None] = [None, world.first]  # An empty workdir, and one whose days are replaced.
    toll, instants, started = Toll(), _instants(seconds), time.monotonic()
    for number in range(2 * kills):
        nth, delay = next(instants)
        workdir, start = tmp_path / str(number), starts[number // 2 % 2]
        if start:
            shutil.copytree(start, workdir)
        before: Tables = rows(start) if start else {"interactions": {}, "histories": {}}
        _kill_and_run_again(world, workdir, before, after, toll, nth, delay, flags)
        assert counts(workdir) == message
        shutil.rmtree(workdir)
        if toll.kills == kills:
            break
    with capsys.disabled():
        print(f"\n{toll}; {time.monotonic() - started:.0f} s")
    assert (toll.kills, toll.lost, toll.doubled) == (kills, 0, 0)
