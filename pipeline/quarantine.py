"""Days that failed a gate, of data or of a model: one file per day, for people and for the next run."""

import math
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from tutelage.pipeline.errors import GateError
from tutelage.pipeline.io.json import TornFile, read_json, warn_once, write_json
from tutelage.pipeline.io.printable import masked
from tutelage.pipeline.io.store import FILES

Outcome = Literal["stopped", "skipped", "retried", "accepted", "passed"]
"""What became of a day.

For a model: `stopped`: it is still to be trained on; `skipped`: the model was not trained on it; `retried`: it was kept
after a second training with the fallback; `accepted`: a person kept it as it was; `passed`: it was kept after it was
trained on again. For data: `skipped`, `accepted` or `passed`.
"""
_OPEN = ("stopped", "skipped", "accepted")


class DayStopped(GateError):
    """A model's gate did not let `day` pass, and the config says to stop there. The days before it are kept."""

    def __init__(self, message: str, day: date):
        super().__init__(message)
        self.day = day

    def __reduce__(self) -> tuple[type["DayStopped"], tuple[str, date]]:
        return type(self), (str(self), self.day)  # It is sent from a model's process to the run's.


class Quarantine:
    """The records of one model, or of the data, under `folder`/YYYY-MM-DD.json.

    Example:
        >>> import tempfile
        >>> quarantine = Quarantine(Path(tempfile.mkdtemp()))
        >>> quarantine.write(date(2026, 1, 2), "skipped", [{"said": "fail; rows is 3"}])
        >>> quarantine.describe()
        ['2026-01-02 skipped (fail; rows is 3)']
    """

    def __init__(
        self, folder: Path, *, torn: Callable[[date], Outcome] = lambda day: "skipped", mend: str = ""
    ):
        """`torn` tells the outcome of a day whose record is torn, and `mend` how the record is made again."""
        self.folder = folder
        self._torn = torn
        self._mend = mend or "restore it from a backup, or remove it"

    def days(self) -> dict[date, dict[str, Any]]:
        """Return the record of each day, in order.

        A record that is torn is warned of, and stands in with an outcome and without what was found.
        """
        paths = FILES.list(self.folder, "[0-9]*.json")
        return {(day := date.fromisoformat(path.stem)): self._read(path, day) for path in paths}

    def _read(self, path: Path, day: date) -> dict[str, Any]:
        try:
            record: dict[str, Any] = read_json(path, _checked, mend="")
        except TornFile as error:
            outcome = self._torn(day)
            mend = self._mend.format(day=day)
            warn_once(f"{error}until it is mended, {day} counts as {outcome}: {mend}")
            return {
                "outcome": outcome,
                "reason": "",
                "made_of": {},
                "attempts": [{"said": "its record is torn"}],
            }
        return record

    def torn(self) -> dict[date, str]:
        """Return the days whose record is not what was written, and how it differs."""
        found = {}
        for path in FILES.list(self.folder, "[0-9]*.json"):
            try:
                read_json(path, _checked, mend="")
            except TornFile as error:
                found[date.fromisoformat(path.stem)] = str(error).removesuffix("; ")
        return found

    def skipped(self) -> list[date]:
        """Return the days that were skipped, in order."""
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
        """Write the record of a day.

        `attempts` holds what was found each time that the day was materialised or trained on: the message `said`, and
        whatever else is known. `input_versions` are the versions of what the model was trained on.
        """
        record = {
            "day": day,
            "outcome": outcome,
            "reason": reason,
            "made_of": input_versions,
            "attempts": attempts,
        }
        write_json(self.folder / f"{day}.json", _plain(record))

    def remove(self, day: date) -> None:
        """Remove the record of a day, if there is one."""
        FILES.delete(self.folder / f"{day}.json")

    def describe(self) -> list[str]:
        """Return one line for each day that was not kept, or was kept against its verdict."""
        return [
            f"{day} {record['outcome']} ({record['attempts'][-1]['said']})"
            for day, record in self.days().items()
            if record["outcome"] in _OPEN
        ]


def _checked(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record as it is. Raises KeyError or TypeError where it lacks what every record has."""
    for attempt in (*record["attempts"], record["outcome"]):
        if not isinstance(attempt, str):
            attempt["said"]
    return record


def _plain(value: Any) -> Any:
    """Return `value` with NaN and infinity as text, because JSON has neither, and URLs without their passwords."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
