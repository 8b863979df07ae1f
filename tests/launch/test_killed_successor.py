"""A successor whose process is killed holds up the students that read labels, until it was killed too often."""

import shutil
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from tests.launch import small, successors
from tests.launch.successors import AS_GOOD, assert_as_if, changes
from tutelage.launch import kills, pool
from tutelage.launch.exit_codes import exit_code
from tutelage.launch.run import run as run_nightly
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.json import read_json

DAY = small.DAYS[3]
WIDE = "teacher-wide"


def _night(workdir: Path, expect: type[UserError] = pool.Killed) -> UserError:
    """Run a night in which the successor's process is killed; return what was raised."""

    def train(session: Any, models: Sequence[str], **kwargs: Any) -> Iterator[pool.Outcome]:
        if list(models) == [WIDE]:
            yield pool.Outcome(model=WIDE, failure=pool.Killed(f"a process that trained {WIDE} was killed"))
        else:
            yield from successors._train(session, models, **kwargs)

    session = successors.open_session(workdir, DAY, AS_GOOD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "train", train)
        with pytest.raises(expect) as raised:
            run_nightly(session)
    return raised.value


def _states(out: str) -> list[str]:
    return out.splitlines()[-4:]


def test_students_wait_for_a_successor_that_was_killed_and_after_three_kills_on_a_day_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir, undisturbed = tmp_path / "one/w", tmp_path / "other/w"
    for each in (workdir, undisturbed):
        each.parent.mkdir()
        small.write_events(each.parent / "raw")
    for count in (1, 2):
        error = _night(workdir)
        assert (exit_code(error), str(error)) == (75, f"a process that trained {WIDE} was killed")
        waits = f"waits for {WIDE}, which may take over; trained until 2026-01-02"
        assert _states(capsys.readouterr().out) == [
            "teacher: trained until 2026-01-04",
            f"{WIDE}: its process was killed; not trained yet",
            f"auxiliary: {waits}",
            f"snapshot: {waits}",
        ]
        assert read_json(workdir / WIDE / "killed.json") == {"2026-01-03": count}
    once_more = Path(shutil.copytree(workdir.parent, tmp_path / "third")) / "w"

    error = _night(once_more, UserError)
    failed = (
        f"{WIDE} was killed 3 times on 2026-01-03 and counts as failed: students go on with the labels of teacher; "
        "give it more memory, raise successor.max_kills, or take it out of the config"
    )
    assert (exit_code(error), str(error)) == (1, failed)
    assert _states(capsys.readouterr().out) == [
        "teacher: trained until 2026-01-04",
        f"{WIDE}: failed: {failed}; not trained yet",
        "auxiliary: trained until 2026-01-04",
        "snapshot: trained until 2026-01-04",
    ]

    successors.run(workdir, DAY, AS_GOOD)
    assert not (workdir / WIDE / "killed.json").exists()
    successors.run(undisturbed, DAY, AS_GOOD)
    assert_as_if(undisturbed, workdir)
    (change,) = changes(workdir)
    assert change["from_day"] == "2026-01-05"


def test_kills_are_counted_by_day_and_a_torn_count_begins_again(tmp_path: Path) -> None:
    first, second = date(2026, 1, 1), date(2026, 1, 2)
    assert [kills.count(tmp_path, day) for day in (first, first, second, second)] == [1, 2, 1, 2]
    (tmp_path / "killed.json").write_bytes(b"")
    assert kills.count(tmp_path, second) == 1
    kills.forget(tmp_path)
    kills.forget(tmp_path)
    assert kills.count(tmp_path, second) == 1
