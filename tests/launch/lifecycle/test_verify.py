"""What a check of a workdir finds beyond torn files (test_torn_table.py has those), and what a repair leaves."""

import shutil
from pathlib import Path

import pytest

from tests.launch import small
from tests.launch.small import DAYS
from tutelage.launch.actions.verify import verify
from tutelage.launch.exit_codes import ExitCode, Found, exit_code
from tutelage.launch.lifecycle.verify import find
from tutelage.launch.session import Session
from tutelage.pipeline import commits
from tutelage.pipeline.errors import TransientError
from tutelage.pipeline.io.locks import locked


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir of two materialised days in which nothing is trained."""
    workdir = tmp_path_factory.mktemp("verify") / "workdir"
    small.materialize(workdir, end_day=str(DAYS[1]))
    return workdir


@pytest.fixture
def session(made: Path, tmp_path: Path) -> Session:
    shutil.copytree(made, tmp_path / "workdir")
    (tmp_path / "raw").symlink_to(made.parent / "raw")
    return small.open_session(tmp_path / "workdir", end_day=str(DAYS[1]))


def _found(session: Session) -> list[str]:
    return [str(finding) for finding in find(session)]


def test_a_sound_workdir_is_said_to_be_sound(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    verify(session)
    assert capsys.readouterr().out == f"{session.run.root} is sound.\n"
    assert list(find(session, fast=True)) == []


def test_what_is_found_is_a_status_of_its_own(session: Session) -> None:
    (session.run.root / ".999999999-config.json").touch()
    with pytest.raises(Found, match=r"^1 found in .*; --repair mends what can be$") as error:
        verify(session)
    assert exit_code(error.value) == ExitCode.FOUND


def test_what_killed_processes_have_left_is_named_and_removed(session: Session) -> None:
    root = session.run.root
    checkpoints = session.run.checkpoints("teacher").folder
    left = [
        root / "lake/interactions/day=2026-01-02/part-of-a-killed-job.parquet",
        root / "lake/.staging/7-killed/unit.arrow",
        checkpoints / ".partial-abc/variables.index",
        root / "publication/control/staging/abc/saved_model.pb",
        root / ".999999999-config.json",
    ]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"left")
    found = _found(session)
    assert len(found) == 5
    assert all(text.startswith("orphaned: ") for text in found)
    verify(session, repair=True)
    assert [path for path in left if path.exists()] == []
    assert _found(session) == []


def test_the_staging_folder_of_a_job_at_work_is_left_alone(session: Session) -> None:
    staging = session.run.root / "lake/.staging/7-running"
    staging.mkdir(parents=True)
    with locked(staging, "in use"):
        assert _found(session) == []


def test_a_trained_day_whose_metrics_or_labels_are_gone_is_missing(session: Session) -> None:
    small.train(session, "teacher", DAYS[:2])
    session.run.lake.soft_labels.table.clear(
        {"teacher": "teacher", "producer": "pre_update", "day": str(DAYS[1])}
    )
    (text,) = _found(session)
    assert text.startswith(
        "missing: metrics of teacher, 2026-01-01, which it was trained on; --repair takes "
    )
    verify(session, repair=True)
    assert session.run.checkpoints("teacher").states() == []
    assert _found(session) == []


def test_what_an_older_release_made_gets_its_digests_by_a_repair(session: Session) -> None:
    for path in session.run.root.glob(f"lake/*/{commits.FILE}"):
        path.unlink()
    assert list(find(session, fast=True)) == []
    found = _found(session)
    assert len(found) == 5
    assert all(text.startswith("missing: lake/") for text in found)
    verify(session, repair=True)
    assert _found(session) == []
    (file,) = session.run.lake.interactions.files(day=DAYS[0])
    content = bytearray(Path(file).read_bytes())
    content[len(content) // 2] ^= 1
    Path(file).write_bytes(content)
    (text,) = _found(session)
    assert text.endswith(" is not what was written; 2026-01-01 is made again from the raw data")


def test_nothing_is_mended_while_a_run_is_at_work(session: Session) -> None:
    with (
        locked(session.run.root / ".lock", "busy"),
        pytest.raises(TransientError, match="another tutelage-run is at work"),
    ):
        verify(session, repair=True)


def test_a_day_whose_raw_data_is_gone_is_said_not_to_be_mended(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    (file,) = session.run.lake.interactions.files(day=DAYS[0])
    Path(file).write_bytes(b"")
    (session.run.root.parent / "raw").unlink()
    (session.run.root.parent / "raw").mkdir()
    with pytest.raises(Found, match=r"^1 found in "):
        verify(session, repair=True)
    assert "\nnot mended: " in capsys.readouterr().out
