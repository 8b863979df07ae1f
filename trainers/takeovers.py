"""Changes of teacher that a workdir has seen: one small file, written when one is decided."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from tutelage.pipeline.io.atomic import atomic_write

FILE = "takeovers.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Labeller:
    """A teacher whose labels students read."""

    model: str
    """Its name in folders, in `metrics` and on command lines."""
    name: str
    """Partition of `soft_labels`."""
    min_examples: int
    """Labels made before it had learnt this many rows are masked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeOver:
    """One teacher took the place of another."""

    before: Labeller
    """Whose labels students read of the days before `from_day`."""
    name: str
    """Of the new teacher."""
    teacher: Mapping[str, Any]
    """The new teacher's config, as JSON takes it."""
    first_day: date | None
    """The new teacher learns from this day on; None: from the first."""
    judged: Sequence[date]
    """The days by which it was decided."""
    checks: Sequence[Mapping[str, Any]]
    """What was compared: name, both values, the worst that passes."""
    from_day: date
    """Students read its labels from this day on."""
    decided_at: str
    """UTC."""


def read(root: Path) -> tuple[TakeOver, ...]:
    """The changes of teacher in the workdir `root`, the oldest first."""
    path = root / FILE
    if not path.exists():
        return ()
    return tuple(
        TakeOver(
            **{
                **values,
                "before": Labeller(**values["before"]),
                "first_day": values["first_day"] and date.fromisoformat(values["first_day"]),
                "judged": [date.fromisoformat(day) for day in values["judged"]],
                "from_day": date.fromisoformat(values["from_day"]),
            }
        )
        for values in json.loads(path.read_text())
    )


def write(root: Path, takeovers: Sequence[TakeOver]) -> None:
    """Put these in the place of those that are recorded."""
    with atomic_write(root / FILE) as partial:
        partial.write_text(json.dumps([asdict(each) for each in takeovers], indent=1, default=str) + "\n")
