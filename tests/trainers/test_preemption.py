"""A trainer that is asked to stop within a day saves a partial checkpoint, and resumes to the same end."""

import dataclasses
import os
import shutil
import signal
from collections.abc import Callable
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from tests.same import assert_same
from tests.tiny import AUXILIARY, BATCH, DAYS, ROWS, commit, interactions, make_run
from tutelage.trainers.checkpoints import Checkpoints
from tutelage.trainers.config import TrainingConfig
from tutelage.trainers.day_loop import train_student, train_teacher
from tutelage.trainers.partial import find_partial
from tutelage.trainers.preemption import Preempted
from tutelage.trainers.run import TEACHER, Run


def _at(rows: int, act: Callable[[], object]) -> Callable[[int], None]:
    """Return a progress callback that acts once the model was trained on so many examples."""
    trained = 0

    def progress(more: int) -> None:
        nonlocal trained
        before, trained = trained, trained + more
        if before < rows <= trained:
            act()

    return progress


def _sigterm() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _partial(run: Run, model: str = TEACHER) -> list[str]:
    return [path.name for path in run.checkpoints(model).folder.glob("within-*")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A teacher of the three days."""
    run = make_run(tmp_path_factory.mktemp("undisturbed"))
    train_teacher(run, DAYS)
    return run


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A teacher that was stopped within the second day."""
    run = make_run(tmp_path_factory.mktemp("stopped"))
    with pytest.raises(Preempted):
        train_teacher(run, DAYS, progress=_at(60 + 17, _sigterm))
    return run


def _copy(run: Run, to: Path) -> Run:
    return dataclasses.replace(run, root=shutil.copytree(run.root, to / "w"))


# The second day is 57 rows, after 60: within its second batch, its third, and after its last.
@pytest.mark.parametrize(("rows", "trained"), [(60 + 17, 32), (60 + 48, 48), (60 + 57, 57)])
def test_a_run_that_gets_sigterm_within_a_day_ends_as_the_undisturbed_one(
    undisturbed: Run, tmp_path: Path, rows: int, trained: int
) -> None:
    run = make_run(tmp_path)
    says = f"^teacher: stopped by SIGTERM after {trained} of the 57 rows of 2026-01-02; run again to go on from there$"
    with pytest.raises(Preempted, match=says):
        train_teacher(run, DAYS, progress=_at(rows, _sigterm))
    assert _partial(run) == ["within-000001"]
    again: list[int] = []
    assert [state.day for state in train_teacher(run, DAYS, progress=again.append)] == DAYS[1:]
    # The examples trained on before are reported at once, for the progress bar.
    assert again[0] == trained
    assert sum(again) == 57 + 64
    assert _partial(run) == []
    assert_same(undisturbed.root, tmp_path)


def test_a_student_that_gets_sigterm_within_a_day_ends_as_the_undisturbed_one(
    undisturbed: Run, tmp_path: Path
) -> None:
    runs = [_copy(undisturbed, tmp_path / name) for name in ("undisturbed", "stopped")]
    train_student(runs[0], AUXILIARY, DAYS)
    with pytest.raises(
        Preempted, match=r"^auxiliary: stopped by SIGTERM after 16 of the 57 rows of 2026-01-02"
    ):
        train_student(runs[1], AUXILIARY, DAYS, progress=_at(61, _sigterm))
    train_student(runs[1], AUXILIARY, DAYS)
    assert _partial(runs[1], "auxiliary") == []
    assert_same(runs[0].root, runs[1].root)


class Killed(Exception):
    pass


def _kill() -> None:
    raise Killed


def test_a_partial_checkpoint_is_saved_every_so_often_and_a_killed_trainer_resumes_from_it(
    undisturbed: Run, tmp_path: Path
) -> None:
    # After every update.
    run = dataclasses.replace(
        make_run(tmp_path), training=TrainingConfig(batch_size=BATCH, checkpoint_minutes=1e-9)
    )
    with pytest.raises(Killed):
        train_teacher(run, DAYS, progress=_at(60 + 48, _kill))
    # Killed in the third batch, of which nothing is left; of the two before the newer is.
    assert _partial(run) == ["within-000002"]
    again: list[int] = []
    train_teacher(run, DAYS, progress=again.append)
    assert again[:3] == [32, 16, 9]
    assert_same(undisturbed.root, tmp_path)


@pytest.mark.parametrize("file", ["variables.index", "arrays.npz"])
def test_a_damaged_one_is_warned_of_and_the_day_trained_on_from_its_start_with_the_same_result(
    undisturbed: Run, stopped: Run, tmp_path: Path, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = _copy(stopped, tmp_path)
    path = run.checkpoints(TEACHER).folder / "within-000001" / file
    path.write_bytes(path.read_bytes()[:-1])
    again: list[int] = []
    train_teacher(run, DAYS, progress=again.append)
    assert again[:4] == [16, 16, 16, 9]
    assert caplog.messages == [
        f"{run.checkpoints(TEACHER).folder}: the partial checkpoint within 2026-01-02 is damaged"
    ]
    assert_same(undisturbed.root, run.root)


@pytest.mark.parametrize("torn", ["zero", "half", "missing"])
def test_one_with_a_torn_state_is_told_and_the_day_trained_on_from_its_start(
    undisturbed: Run, stopped: Run, tmp_path: Path, torn: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = _copy(stopped, tmp_path)
    path = run.checkpoints(TEACHER).folder / "within-000001/state.json"
    content = path.read_bytes()
    path.unlink()
    if torn != "missing":
        path.write_bytes(content[: len(content) // 2] if torn == "half" else b"")
    again: list[int] = []
    train_teacher(run, DAYS, progress=again.append)
    assert again[:4] == [16, 16, 16, 9]
    (said,) = caplog.messages
    assert said.startswith(f"{path} ")
    assert said.endswith("; the day is trained on from its start")
    assert_same(undisturbed.root, run.root)


def test_a_day_whose_data_has_changed_is_trained_on_from_its_start(stopped: Run, tmp_path: Path) -> None:
    run = _copy(stopped, tmp_path)
    # The same rows in another file are the same day.
    found = find_partial(run.checkpoints(TEACHER))
    assert found is not None
    commit(run.lake, DAYS[1], interactions(DAYS[1]).with_columns(age=pl.lit(0.5, pl.Float32)), attempt=2)
    again: list[int] = []
    train_teacher(run, DAYS[:2], progress=again.append)
    assert again == [16, 16, 16, 9]
    assert _partial(run) == []


def test_a_half_written_one_is_not_read(stopped: Run, tmp_path: Path) -> None:
    run = _copy(stopped, tmp_path)
    folder = run.checkpoints(TEACHER).folder
    (folder / "within-000001").rename(folder / ".partial-within")
    assert find_partial(Checkpoints(folder)) is None
    assert [state.day for state in train_teacher(run, DAYS)] == DAYS[1:]


def test_another_day_than_the_interrupted_one_is_trained_on_from_its_start(
    stopped: Run, tmp_path: Path
) -> None:
    run = _copy(stopped, tmp_path)
    # As after a rollback to before the first day.
    for path in run.checkpoints(TEACHER).folder.glob("2026-*"):
        path.rename(tmp_path / path.name)
    again: list[int] = []
    train_teacher(run, DAYS[:1], progress=again.append)
    assert sum(again) == ROWS[date(2026, 1, 1)]
    assert len(again) == 4
