"""Days that did not pass a gate, of data or of a model: one file a day, for people and for the next run."""

import json
import math
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from tutelage.pipeline.io.atomic import atomic_write

Outcome = Literal["stopped", "skipped", "retried", "accepted", "passed"]
"""Of a model: `stopped`: the day is still to be learnt; `skipped`: it never was; `retried`: kept, learnt with the
fallback; `accepted`: kept as it was, by a person; `passed`: kept, learnt anew later. Of data: `skipped`, `accepted`,
`passed`."""
_OPEN = ("stopped", "skipped", "accepted")


class Quarantine:
    """The records of one model, or of the data, under `folder`/YYYY-MM-DD.json."""

    def __init__(self, folder: Path):
        self.folder = folder

    def days(self) -> dict[date, dict[str, Any]]:
        return {
            date.fromisoformat(path.stem): json.loads(path.read_text())
            for path in sorted(self.folder.glob("[0-9]*.json"))
        }

    def skipped(self) -> list[date]:
        return [day for day, record in self.days().items() if record["outcome"] == "skipped"]

    def write(
        self,
        day: date,
        outcome: Outcome,
        attempts: list[Mapping[str, Any]],
        *,
        reason: str = "",
        input_versions: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """`attempts`: what was found each time that the day was made, or learnt: `said`, and what else is known.
        `input_versions`: the versions of what it was learnt from."""
        record = {
            "day": str(day),
            "outcome": outcome,
            "reason": reason,
            "made_of": input_versions,
            "attempts": attempts,
        }
        with atomic_write(self.folder / f"{day}.json") as partial:
            partial.write_text(json.dumps(_finite(record), indent=1) + "\n")

    def remove(self, day: date) -> None:
        (self.folder / f"{day}.json").unlink(missing_ok=True)

    def describe(self) -> list[str]:
        """A line for each day that was not kept, or was kept against its verdict."""
        return [
            f"{day} {record['outcome']} ({record['attempts'][-1]['said']})"
            for day, record in self.days().items()
            if record["outcome"] in _OPEN
        ]


def _finite(value: Any) -> Any:
    """NaN and infinity as text: JSON has none of them."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
