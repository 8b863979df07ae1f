"""A torn small file: every command says in one line which one it is and what mends it, or goes on without it."""

import json
import logging
import re
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from tests.launch import small
from tests.launch.small import DAYS
from tutelage.launch import run
from tutelage.launch.actions.report import report
from tutelage.launch.actions.status import status
from tutelage.launch.session import Session
from tutelage.launch.workspace import claim_student
from tutelage.pipeline import commit_day
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.json import TornFile, read_json, warn_once
from tutelage.trainers.handover import Labeller, TakeOver, write_takeovers

TORN = ("zero", "half", "another shape")
"""What a power loss or a hand leaves of a file."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir with two days, whose teacher and student were trained on both."""
    workdir = tmp_path_factory.mktemp("torn") / "workdir"
    session = small.materialize(workdir, end_day=str(DAYS[1]))
    for model in ("teacher", "control"):
        claim_student(session.run, session.experiment.student("control"))
        small.train(session, model, DAYS[:2])
    return workdir


@pytest.fixture
def workdir(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "workdir")
    (tmp_path / "raw").symlink_to(made.parent / "raw")
    warn_once.cache_clear()
    return tmp_path / "workdir"


def _tear(path: Path, how: str) -> None:
    content = path.read_bytes()
    assert content
    if how == "missing":
        path.unlink()
        return
    torn = {
        "zero": b"",
        "half": content[: len(content) // 2],
        "another shape": b"[7]\n",
    }
    path.write_bytes(torn[how])


def _open(workdir: Path, *, read_only: bool = False) -> Session:
    return small.open_session(workdir, end_day=str(DAYS[1]), read_only=read_only)


def _status(workdir: Path) -> None:
    status(_open(workdir, read_only=True))


def _report(workdir: Path) -> None:
    report(_open(workdir, read_only=True))


def _run(workdir: Path) -> None:
    run.run(_open(workdir))


COMMANDS = pytest.mark.parametrize("command", [_status, _report, _run])


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[date]]]:
    """Let `tutelage-run` train nothing, because the checkpoints are forged; return what it would have trained."""
    asked: list[tuple[str, list[date]]] = []

    def train_and_export(session: Session, models: list[str]) -> list[Any]:
        asked.extend((model, session.days_to_train(model)) for model in models)
        return []

    monkeypatch.setattr(run, "train_and_export", train_and_export)
    return asked


def _refusal(command: Callable[[Path], None], workdir: Path) -> str:
    with pytest.raises(UserError) as error:
        command(workdir)
    assert "\n" not in str(error.value)
    return str(error.value)


@COMMANDS
@pytest.mark.parametrize("how", TORN)
def test_a_torn_config_is_named_with_what_mends_it(
    workdir: Path, how: str, command: Callable[[Path], None]
) -> None:
    path = workdir / "config.json"
    _tear(path, how)
    said = _refusal(command, workdir)
    assert said.startswith(f"{path} ")
    assert said.endswith(
        "; restore it from a backup, or remove it if --config is unchanged: tutelage-run writes it again"
    )


def test_a_config_that_is_gone_is_told_and_written_anew_by_the_next_run(
    workdir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = workdir / "config.json"
    before = path.read_bytes()
    _tear(path, "missing")
    for command in (_status, _report):
        assert _refusal(command, workdir).startswith(f"{path} is missing; restore it from a backup, or run ")
    _open(workdir)
    assert caplog.messages == [f"{path} is missing, and is written again as --config is now"]
    assert path.read_bytes() == before


@COMMANDS
@pytest.mark.parametrize("how", TORN)
def test_a_torn_record_of_the_changes_of_teacher_is_named_with_what_mends_it(
    workdir: Path, how: str, command: Callable[[Path], None]
) -> None:
    change = TakeOver(
        before=Labeller(model="teacher", name="teacher", min_examples=0),
        name="wide", teacher={}, first_day=None, judged=DAYS[:1], checks=[], from_day=DAYS[1], decided_at="",
    )  # fmt: skip
    write_takeovers(workdir, [change])
    _tear(workdir / "takeovers.json", how)
    said = _refusal(command, workdir)
    assert said.startswith(f"{workdir / 'takeovers.json'} ")
    assert "; restore it from a backup, or remove it with the former teacher as the config's teacher" in said


@pytest.mark.parametrize("how", TORN)
def test_a_torn_config_of_a_trained_student_is_named_and_only_the_run_needs_it(
    workdir: Path, how: str
) -> None:
    path = workdir / "students/control/config.json"
    _tear(path, how)
    _status(workdir)
    _report(workdir)
    said = _refusal(_run, workdir)
    assert said.startswith(f"{path} ")
    assert (
        "; restore it from a backup, remove it if student 'control' is unchanged, or pass --reset to train"
        in said
    )


@pytest.mark.parametrize("how", TORN)
def test_a_torn_config_of_an_untrained_student_is_set_aside_and_written_anew(
    workdir: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    session = _open(workdir)
    student = session.experiment.student("auxiliary")
    claim_student(session.run, student)
    path = workdir / "students/auxiliary/config.json"
    before = path.read_bytes()
    _tear(path, how)
    claim_student(session.run, student)
    (said,) = caplog.messages
    assert said.startswith(f"{path} ")
    assert said.endswith(
        "; it is set aside and written again, because student 'auxiliary' is not trained yet"
    )
    assert path.read_bytes() == before
    assert path.with_name(".torn-config.json").exists()


@COMMANDS
@pytest.mark.parametrize("how", [*TORN, "missing"])
def test_a_torn_state_of_a_checkpoint_is_told_and_its_day_is_trained_on_again(
    workdir: Path,
    how: str,
    command: Callable[[Path], None],
    trained: list[tuple[str, list[date]]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = workdir / "teacher/checkpoints/2026-01-02/state.json"
    _tear(path, how)
    command(workdir)
    (said,) = caplog.messages
    assert said.startswith(f"{path} ")
    assert said.endswith(
        "; restore it from a backup, or tutelage-run sets it aside and trains on that day and those after it again"
    )
    assert command is not _run or ("teacher", DAYS[1:2]) in trained


def test_the_days_after_a_torn_state_go_with_it_unless_the_day_before_was_pruned(workdir: Path) -> None:
    checkpoints = _open(workdir).run.checkpoints("teacher")
    first = checkpoints.folder / "2026-01-01/state.json"
    _tear(first, "half")
    assert checkpoints.states() == []
    # The first day is what the config of a workdir is kept for, also while its checkpoint is damaged.
    assert checkpoints.any_day()
    assert checkpoints.set_damaged_aside() == {DAYS[0]: "is damaged", DAYS[1]: "follows a damaged one"}
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == [
        ".damaged-2026-01-01",
        ".damaged-2026-01-02",
    ]


@COMMANDS
@pytest.mark.parametrize("torn", DAYS[:2])
def test_a_torn_state_next_to_pruned_variables_is_named_and_nothing_is_set_aside(
    workdir: Path, torn: date, command: Callable[[Path], None]
) -> None:
    checkpoints = _open(workdir).run.checkpoints("teacher")
    checkpoints.prune(DAYS[0])
    path = checkpoints.folder / str(torn) / "state.json"
    _tear(path, "half")
    said = _refusal(command, workdir)
    assert said.startswith(f"{path} is not JSON ")
    assert "; restore it from a backup, or train the model from scratch (a student with --reset, " in said
    with pytest.raises(TornFile):
        checkpoints.set_damaged_aside()
    assert [path.name for path in sorted(checkpoints.folder.iterdir())] == ["2026-01-01", "2026-01-02"]


def test_a_torn_record_of_a_day_that_the_model_went_past_counts_as_skipped(workdir: Path) -> None:
    run = _open(workdir).run
    shutil.rmtree(run.checkpoints("teacher").folder / str(DAYS[0]))
    run.quarantine("teacher").write(DAYS[0], "skipped", [{"said": "fail"}])
    _tear(run.quarantine("teacher").folder / f"{DAYS[0]}.json", "half")
    assert run.quarantine("teacher").skipped() == DAYS[:1]


def test_a_state_that_a_newer_version_wrote_is_not_torn(workdir: Path) -> None:
    path = workdir / "teacher/checkpoints/2026-01-02/state.json"
    path.write_text(json.dumps({**read_json(path), "colour": 1}))
    said = f"{path} holds 'colour', which this version of tutelage does not know; install a newer one"
    assert _refusal(_status, workdir) == said


@COMMANDS
@pytest.mark.parametrize("how", TORN)
@pytest.mark.parametrize(("day", "outcome"), [(DAYS[1], "passed"), (DAYS[2], "stopped")])
def test_a_torn_record_of_a_models_quarantine_is_told_and_its_day_is_known_by_the_checkpoints(
    workdir: Path,
    day: date,
    outcome: str,
    how: str,
    command: Callable[[Path], None],
    trained: list[tuple[str, list[date]]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    quarantine = _open(workdir).run.quarantine("teacher")
    quarantine.write(day, "retried", [{"said": "fail; click auc is 0.5"}])
    path = quarantine.folder / f"{day}.json"
    _tear(path, how)
    command(workdir)
    (said,) = caplog.messages
    assert said.startswith(f"{path} ")
    assert (
        f"; until it is mended, {day} counts as {outcome}: restore it from a backup, or remove it where"
        in said
    )
    assert quarantine.days()[day]["outcome"] == outcome


@COMMANDS
@pytest.mark.parametrize("how", TORN)
def test_a_torn_record_of_a_quarantined_day_of_data_keeps_the_day_out_and_says_how_to_make_it_anew(
    workdir: Path,
    how: str,
    command: Callable[[Path], None],
    trained: list[tuple[str, list[date]]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    lake = _open(workdir).run.lake
    lake.quarantine.write(DAYS[4], "skipped", [{"said": "fail; rows is 1", "files": []}])
    path = lake.quarantine.folder / f"{DAYS[4]}.json"
    _tear(path, how)
    command(workdir)
    (said,) = caplog.messages
    assert said.startswith(f"{path} ")
    assert said.endswith(
        "; until it is mended, 2026-01-05 counts as skipped: restore it from a backup, or run tutelage-materialize "
        "with --start_day=2026-01-05 --end_day=2026-01-05"
    )
    assert lake.quarantined_days() == [DAYS[4]]
    with pytest.raises(
        UserError, match=r"^--accept_day=2026-01-05: its record is torn; run tutelage-materialize"
    ):
        commit_day.accept(lake, DAYS[4], "a holiday")


@pytest.fixture
def decided(workdir: Path) -> Path:
    """The log of a workdir in which a student's version was pinned and unpinned."""
    session = _open(workdir)
    (state, _) = session.run.checkpoints("control").states()
    number = int(small.publish(session, "control", state).name)
    versions = session.versions("control")
    versions.pin(number, "a holiday")
    versions.unpin(number)
    return versions.log


@COMMANDS
@pytest.mark.parametrize("how", TORN)
def test_a_torn_log_of_decisions_stops_no_command_that_takes_none(
    decided: Path, how: str, command: Callable[[Path], None], trained: list[tuple[str, list[date]]]
) -> None:
    _tear(decided, how)
    command(decided.parents[2])


@pytest.mark.parametrize(
    ("torn", "says"),
    [
        (lambda lines: lines[0] + b"\n" + lines[1][:20], ", line 2 is not JSON"),
        (lambda lines: lines[0] + b"\n\0\0\0\n", ", line 2 is empty"),
        (lambda lines: b"", " is empty, so the decisions before are not known; restore it from a backup"),
    ],
)
def test_what_an_interrupted_append_left_is_told_and_the_next_decision_follows_the_whole_lines(
    decided: Path, torn: Callable[[list[bytes]], bytes], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    lines = decided.read_bytes().splitlines()
    decided.write_bytes(torn(lines))
    versions = _open(decided.parents[2]).versions("control")
    (version,) = versions.published()
    versions.pin(version.number, "again")
    assert caplog.messages[0].startswith(f"{decided}{says}")
    kept = [json.loads(line)["action"] for line in decided.read_text().splitlines()]
    assert kept == (["pin", "pin"] if "line" in says else ["pin"])


def test_a_torn_line_before_the_last_is_named_and_the_log_stays(decided: Path) -> None:
    lines = decided.read_bytes().splitlines()
    decided.write_bytes(lines[0][:20] + b"\n" + lines[1] + b"\n")
    before = decided.read_bytes()
    versions = _open(decided.parents[2]).versions("control")
    (version,) = versions.published()
    with pytest.raises(
        UserError, match=rf"^{re.escape(str(decided))}, line 1 is not JSON .*; restore it from a"
    ):
        versions.pin(version.number, "again")
    assert decided.read_bytes() == before


def test_a_torn_ledger_of_numbers_is_told_and_the_folders_count(
    decided: Path, caplog: pytest.LogCaptureFixture
) -> None:
    versions = _open(decided.parents[2]).versions("control")
    (version,) = versions.published()
    for torn in (b"", str(version.number).encode()[:8], b"\xff\0"):
        warn_once.cache_clear()
        caplog.clear()
        versions.ledger.write_bytes(torn)
        assert versions.used() == {str(version.number)}
        assert [said.split(" is torn")[0] for said in caplog.messages] == [str(versions.ledger)]


def test_a_version_with_a_torn_card_is_told_and_its_day_is_exported_again(
    decided: Path, caplog: pytest.LogCaptureFixture
) -> None:
    session = _open(decided.parents[2])
    versions = session.versions("control")
    (version,) = versions.published()
    (version.path / "assets.extra/tutelage.json").write_bytes(b"")
    assert [state.day for state in session.to_export("control")] == DAYS[1:2]  # the newest day's
    (said,) = caplog.messages
    assert said.startswith(
        f"{version.path}/assets.extra/tutelage.json is empty; restore it from a backup, or remove "
    )
    assert caplog.records[0].levelno == logging.WARNING
