"""tutelage-export decides from the command line which version is served."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from tutelage.export.versions import Versions
from tutelage.launch.actions.export import export as export_command
from tutelage.launch.session import Session
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.json import unsealed
from tutelage.trainers.checkpoints import State

DAYS = [date(2026, 1, day) for day in (1, 2, 3)]
NOTHING = (
    "Nothing to do: the newest day that control is trained on is published "
    "(--export=all publishes the others too)."
)
FIRST, SECOND, THIRD = 2026010101, 2026010201, 2026010301
Export = Callable[..., list[str]]


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    """Return the versions of a student that was trained on three days, each published."""
    versions = Versions(tmp_path / "export" / "control")
    for step, day in enumerate(DAYS, 1):
        state = State(day=day, step=step, examples=step, rows=1)
        folder = tmp_path / "students/control/checkpoints" / str(day)
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(json.dumps(state.recorded()))
        versions.publish(versions.stage(state, _write))
    return versions


def _write(path: str) -> None:
    Path(path).mkdir()
    (Path(path) / "saved_model.pb").write_bytes(b"graph")


@pytest.fixture
def export(versions: Versions, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Export:
    """Run the command; return the lines that it prints."""

    def run(model: str = "control", **asked: Any) -> list[str]:
        export_command(Session.open(config="synthetic", workdir=str(tmp_path)), model=model, **asked)
        return capsys.readouterr().out.splitlines()

    return run


def test_with_nothing_to_do_it_prints_what_is_served(export: Export, versions: Versions) -> None:
    assert export() == [
        NOTHING,
        f"control serves {versions.folder / str(THIRD)}",
    ]


def test_a_rollback_prints_what_was_retired_and_what_is_served_and_is_not_undone_by_an_export(
    export: Export, versions: Versions
) -> None:
    serves = f"control serves {versions.folder / str(SECOND)}"
    assert export(rollback=True) == [f"retired: {versions.retired / str(THIRD)}", serves]
    assert export() == [NOTHING, serves]


def test_a_promotion_tells_all_that_was_retired(export: Export, versions: Versions) -> None:
    assert export(promote=FIRST) == [
        f"retired: {versions.retired / str(SECOND)}",
        f"retired: {versions.retired / str(THIRD)}",
        f"control serves {versions.folder / str(FIRST)}",
    ]
    assert export(promote=THIRD) == [f"control serves {versions.folder / str(THIRD)}"]


def test_a_pin_is_shown_with_its_reason_until_it_is_taken_out(export: Export, versions: Versions) -> None:
    serves = f"control serves {versions.folder / str(THIRD)}"
    assert export(pin=SECOND, reason="the [bold] audit") == [f"pinned: {SECOND} (the [bold] audit)", serves]
    assert export(pin=FIRST) == [f"pinned: {FIRST}", f"pinned: {SECOND} (the [bold] audit)", serves]
    assert export(unpin=SECOND) == [f"pinned: {FIRST}", serves]


def test_a_mirror_shows_what_is_served_after_the_decision(
    export: Export, versions: Versions, tmp_path: Path
) -> None:
    url = f"file://{tmp_path}/copy"
    assert export(mirror=url)[-1] == f"{url} shows {FIRST}, {SECOND}, {THIRD}"
    assert export(rollback=True, mirror=url)[-1] == f"{url} shows {FIRST}, {SECOND}"
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == [str(FIRST), str(SECOND)]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (
            {"promote": FIRST, "rollback": True},
            "--promote, --rollback, --pin and --unpin exclude one another; give one of them",
        ),
        (
            {"pin": FIRST, "unpin": 0},
            "--promote, --rollback, --pin and --unpin exclude one another; give one of them",
        ),
        (
            {"reason": "why not"},
            "--reason belongs to --promote, --rollback, --pin or --unpin; give one of them with it",
        ),
        ({"unpin": FIRST}, "control 2026010101 is not pinned; pinned versions: none"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_done(
    export: Export, versions: Versions, asked: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(says)}$"):
        export(**asked)
    assert [version.number for version in versions.published()] == [FIRST, SECOND, THIRD]
    assert not versions.log.exists()


def test_an_unknown_model_is_refused(export: Export) -> None:
    with pytest.raises(UserError, match=r"^unknown student 'nobody'; "):
        export("nobody", rollback=True)
    with pytest.raises(UserError, match=r"^teacher is trained on no day in .*; train it first$"):
        export("teacher")


@pytest.mark.end_to_end
@pytest.mark.parametrize("trick", ["2026010101/../../x", "../2026010101", "latest", ""])
@pytest.mark.parametrize("flag", ["promote", "pin", "unpin"])
def test_a_version_that_is_no_number_is_one_line_and_a_non_zero_exit(
    tmp_path: Path, flag: str, trick: str
) -> None:
    done = _command(tmp_path, f"--{flag}={trick}")
    assert done.returncode == 1
    assert re.match(
        rf"tutelage-export: flag --{flag}={re.escape(trick)}: invalid literal for int", done.stderr
    )
    assert done.stderr.count("\n") == 1


@pytest.mark.end_to_end
def test_the_flags_reach_the_versions(versions: Versions, tmp_path: Path) -> None:
    assert _command(tmp_path, f"--pin={FIRST}", "--reason=audit").stdout.startswith(
        f"pinned: {FIRST} (audit)\n"
    )
    assert _command(tmp_path, f"--unpin={FIRST}").stdout == f"control serves {versions.folder / str(THIRD)}\n"
    done = _command(tmp_path, "--rollback", "--reason=spoiled", f"--mirror={tmp_path}/copy")
    assert done.stdout.splitlines()[1:] == [
        f"control serves {versions.folder / str(SECOND)}",
        f"{tmp_path}/copy shows {FIRST}, {SECOND}",
    ]
    done = _command(tmp_path, f"--promote={THIRD}", "--reason=it was the labels")
    assert done.stdout == f"control serves {versions.folder / str(THIRD)}\n"
    decisions = [unsealed(json.loads(line)) for line in versions.log.read_text().splitlines()]
    assert [(d["action"], d["version"], d["reason"]) for d in decisions] == [
        ("pin", FIRST, "audit"),
        ("unpin", FIRST, ""),
        ("rollback", SECOND, "spoiled"),
        ("promote", THIRD, "it was the labels"),
    ]


def _command(workdir: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).parent / "tutelage-export", "--config=synthetic", "--model=control"]
    return subprocess.run(
        [*command, f"--workdir={workdir}", *flags], capture_output=True, text=True, timeout=60
    )
