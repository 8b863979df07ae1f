"""How Beam jobs run: options, what workers report to the driver, and what a failing job raises."""

import pickle
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import apache_beam as beam
import pytest

from tutelage.pipeline.beam_engines import DEFAULT_RUNNER, Engine
from tutelage.pipeline.beam_job import (
    Staging,
    ThreadedDoFn,
    group_size,
    run,
    staging_folder,
    sweep,
)
from tutelage.pipeline.errors import UserError


def test_a_worker_gives_values_to_the_driver(tmp_path: Path) -> None:
    with staging_folder(tmp_path) as staging:
        worker = Staging(str(staging.path))
        assert worker.attempt == staging.attempt > 0
        assert staging.given() == {}
        staging.raise_failure()  # There is none.
        worker.give("2026-01-01", {"rows": 3})
        worker.give("2026-01-02", [1, 2])
        worker.give("2026-01-01", {"rows": 4})  # A bundle that is retried.
        worker.done(0)
        (staging.path / ".17-2026-01-03.json").touch()  # Of a worker that was killed.
        assert staging.given() == {"2026-01-01": {"rows": 4}, "2026-01-02": [1, 2]}
        staging.remove("*.done")
        assert not (staging.path / "0.done").exists()


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_pickle_planted_in_the_staging_folder_is_not_executed(tmp_path: Path) -> None:
    executed = tmp_path / "executed"
    with staging_folder(tmp_path) as staging:
        planted = pickle.dumps(Payload(executed))
        for name in ("2026-01-01.json", "2026-01-01.given", "2026-01-01.pickle"):
            (staging.path / name).write_bytes(planted)
        with pytest.raises(ValueError, match="codec can't decode"):
            staging.given()
        assert not executed.exists()
        pickle.loads(planted)
        assert executed.exists()  # It would have been.


def test_the_staging_folder_is_closed_to_others_and_its_name_cannot_be_guessed(tmp_path: Path) -> None:
    with staging_folder(tmp_path) as staging:
        assert staging.path.stat().st_mode & 0o777 == 0o700
        assert re.fullmatch(rf"{staging.attempt}-[a-z0-9_]{{8}}", staging.path.name)


def test_a_workers_error_is_raised_with_its_text(tmp_path: Path) -> None:
    with staging_folder(tmp_path) as staging:
        Staging(str(staging.path)).failed(3, UserError("users.csv: é is no id; fetch it again"))
        with pytest.raises(UserError, match=r"^users\.csv: é is no id; fetch it again$"):
            staging.raise_failure()


def test_each_job_has_its_own_folder_and_removes_it(tmp_path: Path) -> None:
    with staging_folder(tmp_path) as one, staging_folder(tmp_path) as two:
        assert one.attempt < two.attempt
        one.give("2026-01-01", 1)
        assert two.given() == {}
    with pytest.raises(IndexError), staging_folder(tmp_path) as three:
        _bug(0, three)
    assert list((tmp_path / ".staging").iterdir()) == []


def test_the_next_job_removes_the_folder_of_a_killed_one_but_not_of_a_running_one(
    tmp_path: Path,
) -> None:
    killed = tmp_path / ".staging/17"
    killed.mkdir(parents=True)
    (killed / "1970-01-01-part.content").touch()
    with staging_folder(tmp_path) as one, staging_folder(tmp_path) as two:
        assert set((tmp_path / ".staging").iterdir()) == {one.path, two.path}


class Squares(ThreadedDoFn):
    """Waits until three units are worked on."""

    def __init__(self) -> None:
        self.three = threading.Barrier(3)

    def work(self, unit: int) -> list[int]:
        self.three.wait(timeout=30)
        return [unit, unit * unit]


def test_a_group_of_units_is_worked_on_by_three_threads_and_its_results_come_from_process() -> None:
    assert list(Squares().process(("group", range(6)))) == [0, 0, 1, 1, 2, 4, 3, 9, 4, 16, 5, 25]
    assert ThreadedDoFn.finish_bundle is beam.DoFn.finish_bundle


def test_one_worker_takes_all_units_and_several_a_few_at_a_time() -> None:
    def size(*flags: str) -> int:
        return group_size(beam.Pipeline(runner=DEFAULT_RUNNER, options=Engine(flags).options))

    assert size() == sys.maxsize
    assert size("--direct_running_mode=multi_processing") == 3


class Work(beam.DoFn):
    """Calls `act` with each unit and the staging folder."""

    def __init__(self, staging: Staging, act: Callable[[int, Staging], None]):
        self.staging = staging
        self.act = act

    def process(self, unit: int) -> Iterator[int]:
        self.act(unit, self.staging)
        self.staging.done(unit)
        yield unit


def _run(tmp_path: Path, act: Callable[[int, Staging], None]) -> None:
    with staging_folder(tmp_path) as staging:
        run(
            lambda pipeline: (
                pipeline | beam.Create([0, 1], reshuffle=False) | "Work" >> beam.ParDo(Work(staging, act))
            ),
            flags=[],
            staging=staging,
            units=2,
        )


def _mistake(unit: int, staging: Staging) -> None:
    error = UserError(f"unit {unit}: events.csv is truncated; fetch it again")
    staging.failed(unit, error)
    raise error


def _bug(unit: int, staging: Staging) -> None:
    raise IndexError(f"no place {unit}")


def test_the_user_error_that_stopped_a_worker_is_raised_with_its_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^unit 0: events\.csv is truncated; fetch it again$"):
        _run(tmp_path, _mistake)


def test_a_bug_in_a_worker_keeps_its_type_and_traceback(tmp_path: Path) -> None:
    with pytest.raises(IndexError, match=r"^no place 0 \[while running 'Work'\]$") as caught:
        _run(tmp_path, _bug)
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "_bug"


def test_a_bug_in_building_the_pipeline_keeps_its_type(tmp_path: Path) -> None:
    with staging_folder(tmp_path) as staging, pytest.raises(ZeroDivisionError):
        run(lambda pipeline: 1 // 0, flags=[], staging=staging, units=1)


def test_flags_are_checked_before_anything_is_built(tmp_path: Path) -> None:
    def build(pipeline: beam.Pipeline) -> None:
        raise AssertionError

    with staging_folder(tmp_path) as staging, pytest.raises(UserError, match="Beam has no option 'runer'"):
        run(build, flags=["--runer=x"], staging=staging, units=1)


def test_progress_is_called_for_every_finished_unit(tmp_path: Path) -> None:
    def until_it_was_reported(unit: int, staging: Staging) -> None:
        staging.done(unit)
        end = time.monotonic() + 30
        while not (staging.path / f"{unit + 1} reported").exists() and time.monotonic() < end:
            time.sleep(0.01)

    with staging_folder(tmp_path) as staging:
        calls = []

        def progress(done: int, units: int) -> None:
            calls.append((done, units))
            (staging.path / f"{done} reported").touch()

        run(
            lambda p: (
                p | beam.Create([0, 1], reshuffle=False) | beam.ParDo(Work(staging, until_it_was_reported))
            ),
            flags=[],
            staging=staging,
            units=2,
            progress=progress,
        )
    assert [call for call in dict.fromkeys(calls) if call[0]] == [(1, 2), (2, 2)]


def test_a_staging_folder_that_is_a_link_is_refused_and_nothing_behind_it_is_removed(tmp_path: Path) -> None:
    (tmp_path / "kept/2024 photos").mkdir(parents=True)
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake/.staging").symlink_to(tmp_path / "kept")
    says = r"\.staging is a link, and nothing is deleted through a link"
    with pytest.raises(UserError, match=says), staging_folder(tmp_path / "lake"):
        pass
    with pytest.raises(UserError, match=r"\.staging is a link"):
        sweep(tmp_path / "lake")
    assert (tmp_path / "kept/2024 photos").is_dir()
