"""Every kind of file of a workdir, torn in four ways, and every command that may meet it.

No command ends in a traceback; what a command prints is what it prints of a sound workdir, unless it says which file is
torn; `tutelage-verify` finds every one; and after a repair and a run the workdir is that of an undisturbed one.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch import small, torn
from tests.launch.torn import HOW, KINDS, copy, find, said, steady, tear
from tests.same import assert_same, variables
from tutelage.launch import pool
from tutelage.pipeline.table import Table

READING = ("status", "report", "verify")
BY_HAND = ("config.json", "a student's config")
"""What only a backup brings back, where a person does not know that the config is unchanged."""
OLDER = ("variables of an older checkpoint", "graph of an older version")
"""What a repair gives up: it is only needed to go back."""
PINNED = 2026010301
SAMPLE = [
    ("log of metrics", "zero"),
    ("metrics of a student", "one byte flipped"),
    ("golden batch of the served version", "missing"),
]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A workdir of three days, and the same one after its next day."""
    folder = tmp_path_factory.mktemp("torn")
    small.write_events(folder / "raw")
    with pytest.MonkeyPatch.context() as patch:
        # The same work, without a process for each model, which would import TensorFlow.
        patch.setattr(pool, "_run", torn.in_process)
        base = folder / "workdir"
        assert said("run", base)[1:] == ("", None)
        versions = torn.open_session(base).versions("control")
        for reason in ("a holiday", "another"):
            versions.pin(PINNED, reason)
        end = copy(base, folder / "end")
        assert said("next day", end)[1:] == ("", None)
        yield base, end


@pytest.fixture(scope="module")
def sound(worlds: tuple[Path, Path]) -> dict[str, str]:
    """What the commands print that only read."""
    return {command: steady(said(command, worlds[0])[0]) for command in READING}


def _named(path: Path, text: str) -> bool:
    """Whether a text names a file, or the version or checkpoint that it belongs to."""
    day_or_version = next((p for p in path.parts if re.fullmatch(r"[\d-]{10}|day=.*", p)), path.name)
    return path.name in text or day_or_version in text


@pytest.mark.parametrize(
    "how", [how if how == "zero" else pytest.param(how, marks=pytest.mark.slow) for how in HOW]
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_command_that_only_reads_says_which_file_is_torn_or_is_not_affected(
    kind: str, how: str, worlds: tuple[Path, Path], sound: dict[str, str], tmp_path: Path
) -> None:
    workdir = copy(worlds[0], tmp_path)
    path = find(workdir, KINDS[kind])
    tear(path, how)
    for command in READING:
        printed, warned, failure = said(command, workdir)
        assert "\n" not in str(failure or "")
        unaffected = failure is None and steady(printed) == sound[command]
        assert unaffected or _named(path, printed + warned), (command, printed, warned)
    if (kind, how) != ("log of decisions", "missing"):  # A log that was never written is as good.
        assert failure is not None


def _mended(workdir: Path, end: Path, kind: str) -> None:
    """Repair, run, and expect what the undisturbed workdir has, but for the variables of `OLDER` files.

    A day that was trained on again is judged against
    the version of the first time, which is still served, so what it was compared with may be another.
    """
    printed, _, _ = said("repair", workdir)
    if f"not mended: control {PINNED} is pinned" in printed:
        torn.open_session(workdir).versions("control").unpin(PINNED)
        said("repair", workdir)
    _, _, failure = said("next day", workdir)
    assert failure is None
    assert said("verify", workdir)[2] is None
    expected = copy(end, workdir.parent / "expected")
    for root in (workdir, expected):
        for aside in root.glob("**/checkpoints/.damaged-*"):
            shutil.rmtree(aside)
        metrics = Table.open(root / "lake/metrics")
        for model in metrics.partitions()["model"]:
            for basis in ("gate_reference", "gate_interval"):
                metrics.clear({"model": model}, basis=basis)
    found = [variables(root, ()) for root in (workdir, expected)]
    for name in found[0].keys() ^ found[1].keys():
        assert kind in OLDER, name
        for path in (each[name] for each in found if name in each):
            path.with_suffix(".index").unlink()
    assert_same(workdir, expected)


def _tear_and_run(kind: str, how: str, command: str, worlds: tuple[Path, Path], tmp_path: Path) -> None:
    workdir = copy(worlds[0], tmp_path)
    path = find(workdir, KINDS[kind])
    kept = path.read_bytes()
    tear(path, how)
    said(command, workdir)
    if kind in BY_HAND and how != "missing":
        path.write_bytes(kept)
    _mended(workdir, worlds[1], kind)


@pytest.mark.parametrize(("kind", "how"), SAMPLE)
def test_after_a_repair_and_a_run_all_is_as_if_nothing_had_been_torn(
    kind: str, how: str, worlds: tuple[Path, Path], tmp_path: Path
) -> None:
    _tear_and_run(kind, how, "next day", worlds, tmp_path)


def test_a_repair_that_a_pinned_version_prevents_drops_no_file(
    worlds: tuple[Path, Path], tmp_path: Path
) -> None:
    workdir = copy(worlds[0], tmp_path)
    tear(find(workdir, KINDS["metrics of a student"]), "one byte flipped")
    before = Table.open(workdir / "lake/metrics").version
    printed, _, failure = said("repair", workdir)
    assert (
        f"not mended: control {PINNED} is pinned (another) and would be retired; --unpin={PINNED} first"
        in printed
    )
    assert str(failure).startswith("1 found in ")
    assert Table.open(workdir / "lake/metrics").version == before


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "next day", "export", "rollback"])
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_torn_and_whatever_meets_it_the_end_is_the_same(
    kind: str, how: str, command: str, worlds: tuple[Path, Path], tmp_path: Path
) -> None:
    _tear_and_run(kind, how, command, worlds, tmp_path)
