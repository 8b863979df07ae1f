"""What the commands ask of the tables does not grow with the days: each log is read a fixed number of times."""

import io
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from rich.console import Console

from tests.launch import small
from tutelage.launch import steps
from tutelage.launch.lifecycle import prune, stale
from tutelage.launch.report.data import gather
from tutelage.launch.report.status import print_status
from tutelage.launch.session import Session

MODELS = ("teacher", "control", "auxiliary")


def _ask(session: Session) -> None:
    """Ask what a run asks before it finds that there is nothing to do."""
    steps.to_materialize(session)
    steps.build_histories(session)
    assert stale.find(session) is None
    steps.to_label(session)
    for model in MODELS:
        assert session.days_to_train(model) == []
        session.to_export(model)


QUESTIONS: dict[str, Callable[[Session], object]] = {
    "status": lambda session: print_status(session, Console(file=io.StringIO(), width=200)),
    "report": gather,
    "run": _ask,
    "prune": lambda session: prune.plan(session, 1),
}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the calls that read the log of a table: `DeltaTable.transaction_version` reads it each time."""
    counter: Counter[str] = Counter()

    def counted(name: str) -> Callable[..., Any]:
        original = getattr(DeltaTable, name)

        def count(*arguments: Any, **named: Any) -> Any:
            counter[name] += 1
            return original(*arguments, **named)

        return count

    for name in ("__init__", "transaction_version", "history", "get_add_actions"):
        monkeypatch.setattr(DeltaTable, name, counted(name))
    return counter


def _reads(root: Path, days: Sequence[date], reads: Counter[str]) -> dict[str, dict[str, int]]:
    """Return the reads of each question in a workdir where all models were trained on `days`."""
    session = small.materialize(root / "workdir", end_day=str(days[-1]))
    for model in MODELS:
        small.train(session, model, days)
    found = {}
    for name, ask in QUESTIONS.items():
        session = small.open_session(root / "workdir", end_day=str(days[-1]))
        reads.clear()
        ask(session)
        found[name] = dict(reads)
    return found


def test_five_days_take_as_many_reads_of_a_log_as_two(tmp_path: Path, reads: Counter[str]) -> None:
    for name in ("two", "five"):
        (tmp_path / name).mkdir()
    two, five = (_reads(tmp_path / name, small.DAYS[:n], reads) for name, n in (("two", 2), ("five", 5)))
    assert all(counts["__init__"] for counts in two.values())
    assert five == two
