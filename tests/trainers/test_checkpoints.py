"""States of a model, and the days that come next."""

import dataclasses
import json
from datetime import date
from pathlib import Path

import pytest

from tests.recording import record_disk
from tutelage.pipeline.errors import UserError
from tutelage.trainers.checkpoints import Checkpoints, State, pending, step_of_example

DAYS = [date(2026, 1, n) for n in range(1, 6)]


def _states(*days: date) -> list[State]:
    # 25 rows a day in batches of 10: three updates.
    return [State(day=day, step=3 * n, examples=25 * n, rows=25) for n, day in enumerate(days, 1)]


def test_a_model_continues_after_its_last_day() -> None:
    assert pending(DAYS, [], slice_days=1, who="m") == DAYS
    assert pending(DAYS, _states(*DAYS[:2]), slice_days=1, who="m") == DAYS[2:]
    assert pending(DAYS[:2], _states(*DAYS[:2]), slice_days=1, who="m") == []


@pytest.mark.parametrize("asked", [DAYS[3:], [date(2025, 12, 31), *DAYS]])
def test_a_day_out_of_order_is_refused_with_the_day_that_comes_next(asked: list[date]) -> None:
    with pytest.raises(UserError, match="2026-01-03 comes next"):
        pending(asked, _states(*DAYS[:2]), slice_days=1, who="teacher")


def test_a_skipped_day_is_never_trained_on_and_the_day_after_it_follows() -> None:
    states = _states(*DAYS[:2])
    assert pending(DAYS, states, slice_days=1, who="m", skipped=[DAYS[2]]) == DAYS[3:]
    assert pending(DAYS, [], slice_days=1, who="m", skipped=[DAYS[0]]) == DAYS[1:]
    with pytest.raises(
        UserError, match="m was trained on 2026-01-01 to 2026-01-03, so 2026-01-04 comes next"
    ):
        pending(DAYS[4:], states, slice_days=1, who="m", skipped=[DAYS[2]])


@pytest.mark.parametrize(
    ("examples", "step"), [(0, 0), (1, 1), (10, 1), (20, 2), (21, 3), (25, 3), (26, 4), (55, 7)]
)
def test_the_first_step_of_a_model_that_was_trained_on_so_many_examples(examples: int, step: int) -> None:
    assert step_of_example(_states(*DAYS[:2]), examples, batch_size=10) == step


def test_a_state_from_before_memory_and_size_were_recorded_is_read(tmp_path: Path) -> None:
    (tmp_path / "2026-01-01").mkdir()
    (tmp_path / "2026-01-01/state.json").write_text(
        '{"day": "2026-01-01", "step": 3, "examples": 25, "rows": 25, "id": "a", "seconds": 1.0, "sha256": "b"}'
    )
    (state,) = Checkpoints(tmp_path).states()
    assert (state.step, state.memory, state.size) == (3, 0, 0)


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Variables:
        """Write files as a TensorFlow checkpoint does, which does not wait for the disk."""

        def write(self, prefix: str) -> None:
            Path(prefix).parent.mkdir()
            for suffix in (".index", ".data-00000-of-00001"):
                Path(prefix + suffix).write_bytes(b"variables")

    (state,) = _states(DAYS[0])
    done = record_disk(monkeypatch, tmp_path)
    Checkpoints(tmp_path).save(Variables(), state)  # type: ignore[arg-type]
    named = done.index(f"rename .partial-{state.id} 2026-01-01")
    files = ("variables.index", "variables.data-00000-of-00001", "state.json")
    for name in ("", *(f"/{file}" for file in files)):
        assert f"fsync .partial-{state.id}{name}" in done[:named]
    assert done[named + 1 :] == ["fsync ."]


def test_a_state_is_read_again_only_where_its_file_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path)
    assert not checkpoints.any_day()
    for day in (1, 2):
        state = State(day=date(2026, 1, day), step=day, examples=day, rows=1)
        (tmp_path / str(state.day)).mkdir()
        (tmp_path / str(state.day) / "state.json").write_text(json.dumps(state.recorded()))
    read: list[str] = []
    original = State.read
    monkeypatch.setattr(State, "read", lambda recorded: (read.append(recorded["day"]), original(recorded))[1])
    assert checkpoints.any_day()
    assert [state.pruned for state in checkpoints.states()] == [False, False]
    assert checkpoints.states() == Checkpoints(tmp_path).states()
    assert read == ["2026-01-01", "2026-01-02"]
    checkpoints.prune(date(2026, 1, 1))
    assert [state.pruned for state in checkpoints.states()] == [True, False]
    assert read[2:] == ["2026-01-01"]


def test_a_state_is_judged_on_its_own_day_or_on_the_next_that_is_there() -> None:
    days = [date(2026, 1, day) for day in (1, 2, 4)]
    withheld = State(day=days[1], step=1, examples=1, rows=1, holdout=0.02)
    assert withheld.judged_on([]) == days[1]
    whole = dataclasses.replace(withheld, holdout=0.0)
    assert whole.judged_on(days) == days[2]
    assert whole.judged_on(days[:2]) is None
    # What an older release recorded says nothing of a holdout.
    recorded = {name: value for name, value in withheld.recorded().items() if name != "holdout"}
    assert State.read(recorded).holdout == 0
