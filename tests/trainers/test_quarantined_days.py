"""A day whose data is in quarantine: models go on without it, and remember that they did."""

from pathlib import Path

import pytest

from tests.tiny import AUXILIARY, DAYS, commit, interactions, make_run
from tutelage.pipeline.errors import UserError
from tutelage.trainers.checkpoints import State, pending
from tutelage.trainers.day_loop import Accept, train_student, train_teacher
from tutelage.trainers.run import TEACHER, Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The second day is not in the table; teacher and student were trained without it."""
    run = make_run(tmp_path_factory.mktemp("quarantined"))
    table = run.lake.interactions
    table.replace(table.scan().limit(0).drop("day").collect(), {"day": DAYS[1]})
    run.lake.quarantine.write(DAYS[1], "skipped", [{"said": "fail; rows is 1, 9 is the bound"}])
    # The last day asked for is the quarantined one: no model has gone past it yet.
    train_teacher(run, DAYS[:2])
    assert not run.quarantine(TEACHER).days()
    train_teacher(run, DAYS)
    train_student(run, AUXILIARY, DAYS)
    return run


@pytest.mark.parametrize("model", [TEACHER, AUXILIARY.name])
def test_a_model_skips_the_day_and_records_it(run: Run, model: str) -> None:
    assert [state.day for state in run.checkpoints(model).states()] == [DAYS[0], DAYS[2]]
    assert run.quarantine(model).describe() == ["2026-01-02 skipped (its data is in quarantine)"]


def test_a_day_that_comes_later_is_not_trained_on_by_a_model_that_went_past_it(run: Run) -> None:
    commit(run.lake, DAYS[1], interactions(DAYS[1]), attempt=2)
    run.lake.quarantine.write(DAYS[1], "accepted", [{"said": "fail"}], reason="a sale")
    assert run.lake.quarantined_days() == []
    assert train_teacher(run, DAYS) == []
    with pytest.raises(UserError, match="was trained on 2026-01-01 to 2026-01-03, so 2026-01-04 comes next"):
        train_teacher(run, DAYS, accept=Accept(day=DAYS[1], reason="it is there now"))


def test_days_that_are_skipped_further_on_do_not_hide_the_next_one(tmp_path: Path) -> None:
    states = [State(day=DAYS[0], step=1, examples=1, rows=1)]
    assert pending(DAYS, states, slice_days=1, who="x", skipped=DAYS[2:]) == DAYS[1:2]
    assert pending(DAYS, states, slice_days=1, who="x", skipped=DAYS[1:2]) == DAYS[2:]
    with pytest.raises(
        UserError, match="x was trained on 2026-01-01 to 2026-01-01, so 2026-01-02 comes next"
    ):
        pending(DAYS[2:], states, slice_days=1, who="x")
