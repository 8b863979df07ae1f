"""One process of a run is killed with SIGKILL, as the out-of-memory killer does; run again, it ends as undisturbed."""

import random
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.faults.processes import DRIVER, NIGHT, WORKER, Instant, Night, instants
from tests.same import assert_same, lost_and_doubled
from tutelage.pipeline.io.json import read_json

TEACHER, SUCCESSOR, STUDENT = "teacher", "teacher-wide", "auxiliary"
KILLS = {TEACHER: 30, SUCCESSOR: 60, STUDENT: 60, DRIVER: 40, WORKER: 10}
"""200 in all."""
MATERIALIZE = (
    "materialize --beam_flag=--direct_running_mode=multi_processing --beam_flag=--direct_num_workers=2"
)
WORKER_SECONDS = 12.0
"""Workers are killed up to so many seconds after they started: a job of two of them takes as long."""


def _end(night: Night, expected: int) -> str:
    code, err = night.end()
    assert code == expected, err
    return err


def _change(workdir: Path) -> list[dict[str, Any]]:
    path = workdir / "takeovers.json"
    found = read_json(path) if path.exists() else []  # Without its digest, which covers the time too.
    return [{**change, "decided_at": ""} for change in found]


def _trained(workdir: Path, student: str) -> list[str]:
    return sorted(path.name for path in (workdir / "students" / student / "checkpoints").glob("2*"))


def test_students_wait_for_a_successor_that_was_killed_while_another_one_s_kill_leaves_them_alone(
    tmp_path: Path,
) -> None:
    workdir, days = tmp_path / "w", "run --end_day=2026-01-03"
    night = Night(workdir, tmp_path / "first", days)
    assert night.kill(SUCCESSOR, Instant(commit=3, seconds=0.0))
    assert night.kill(STUDENT, Instant(commit=1, seconds=0.0))
    killed = [line.split(" was killed")[0] for line in _end(night, 75).splitlines()]
    assert killed == [f"tutelage-run: a process that trained {name}" for name in (SUCCESSOR, STUDENT)]
    assert read_json(workdir / SUCCESSOR / "killed.json") == {"2026-01-02": 1}
    assert (_trained(workdir, STUDENT), _trained(workdir, "snapshot")) == ([], ["2026-01-01"])
    assert _change(workdir) == []
    # The successor takes over as of the day from which an undisturbed run would have let it.
    assert _end(Night(workdir, tmp_path / "second", days), 0) == ""
    (change,) = _change(workdir)
    assert (change["judged"], change["from_day"]) == (["2026-01-03"], "2026-01-04")
    assert len(_trained(workdir, STUDENT)) == len(_trained(workdir, "snapshot")) == 3


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    before: dict[str, Path]
    """By role, a workdir in which the steps before the role's own are done."""
    materialized: Path
    after: Path
    night: Night
    """The run that made `after` from nothing but materialised days."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    root = tmp_path_factory.mktemp("undisturbed")
    workdir, states = root / "w", list[Path]()
    for commands in (
        ["materialize"],
        ["teach", "export --model=teacher --export=all"],
        ["teach --successor", f"export --model={SUCCESSOR} --export=all", "label"],
    ):
        for command in commands:
            _end(Night(workdir, root / command.replace(" ", "_"), command), 0)
        states.append(Path(shutil.copytree(workdir, root / f"state-{len(states)}")))
    materialized, taught, labelled = states
    after = Path(shutil.copytree(materialized, root / "after"))
    night = Night(after, root / "told")
    _end(night, 0)
    (change,) = _change(after)
    assert change["from_day"] == "2026-01-04"
    before = {TEACHER: materialized, SUCCESSOR: taught, STUDENT: labelled, DRIVER: materialized}
    return Undisturbed(before=before, materialized=materialized, after=after, night=night)


def _kill(role: str, done: Undisturbed, instant: Instant, folder: Path) -> tuple[int, int, int] | None:
    """Kill a role, run again, compare; return the rows lost and doubled, and 1 where the end differs.

    Returns None where the kill came after the end of its process.
    """
    folder.mkdir()
    workdir, after, again = folder / "w", done.after, NIGHT
    if role == WORKER:
        after, again = done.materialized, "materialize"
        night = Night(workdir, folder / "first", MATERIALIZE)
        cut_short = night.kill_worker(instant.seconds)
    else:
        shutil.copytree(done.before[role], workdir)
        night = Night(workdir, folder / "first")
        cut_short = night.kill(role, instant)
    code, err = night.end()
    if not cut_short or code == 0:
        shutil.rmtree(folder)
        return None
    if role == DRIVER:
        assert (code, err) == (-9, "")
    else:
        who = "a Beam worker" if role == WORKER else f"a process that trained {role}"
        assert code == 75, err
        assert err.splitlines()[-1].partition(": ")[2].startswith(f"{who} was killed (is there memory"), err
    if role == STUDENT:
        assert len(_trained(workdir, "snapshot")) == 4
    _end(Night(workdir, folder / "second", again), 0)
    lost, doubled = lost_and_doubled(after, workdir)
    try:
        assert_same(after, workdir)
        assert _change(after) == _change(workdir)
    except AssertionError as error:
        print(f"{role}, {instant}, {folder}: {error}")
        return lost, doubled, 1
    shutil.rmtree(folder)
    return lost, doubled, 0


def _instants(role: str, done: Undisturbed) -> Iterator[Instant]:
    chance = random.Random(role)
    if role == WORKER:
        return (Instant(commit=0, seconds=chance.uniform(0, WORKER_SECONDS)) for _ in iter(int, 1))
    if role == DRIVER:
        seconds = (done.night.told / "snapshot.end").stat().st_mtime - (
            done.night.told / f"{DRIVER}.pid"
        ).stat().st_mtime
        return (Instant(commit=0, seconds=chance.uniform(0, seconds)) for _ in iter(int, 1))
    return instants(done.night, role, chance)


@pytest.mark.slow
@pytest.mark.parametrize("role", KILLS)
def test_a_role_killed_alone_and_run_again_ends_the_same(
    role: str, undisturbed: Undisturbed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started, wanted = time.monotonic(), KILLS[role]
    moments = _instants(role, undisturbed)
    found: list[tuple[int, int, int]] = []
    tried = 0
    with ThreadPoolExecutor(2) as pool:
        while (left := wanted - len(found)) > 0:
            assert tried < 3 * wanted + 20, "too many kills came after the end of the process"
            jobs = [
                pool.submit(_kill, role, undisturbed, instant, tmp_path / f"{tried + n}")
                for n, instant in enumerate(islice(moments, left))
            ]
            tried += left
            for job in jobs:
                if kill := job.result():
                    found.append(kill)
                    with capsys.disabled():
                        print(".", end="", flush=True)
    lost, doubled, different = map(sum, zip(*found, strict=True))
    with capsys.disabled():
        print(
            f"\n{len(found)} kills of the {role} alone, {time.monotonic() - started:.0f} s: lost = {lost}, "
            f"doubled = {doubled}, different = {different}"
        )
    assert (len(found), lost, doubled, different) == (wanted, 0, 0, 0)
