"""What the workers of a materialise say that they read and made, and whether the runner lost rows in between."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.pieces import shards
from tutelage.pipeline.read_unit import NO_DAY

_NAMED = 3
"""Days, and units, that a message names."""


@dataclass(slots=True, kw_only=True)
class DayArrivals:
    """What was read of a day, and what came of it."""

    read: Counter[int] = field(default_factory=Counter)
    """Rows of each unit that were staged."""
    sampled: Counter[int] = field(default_factory=Counter)
    """Negatives that were drawn, by the index of who drew them."""
    pairs: int = 0
    """Pairs of a user and an item that these were drawn from."""
    arrived: Counter[int] = field(default_factory=Counter)
    """Rows of each unit that the shards got, and of those who drew."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Dropped rows by reason."""
    repeated: Counter[str] = field(default_factory=Counter)
    """Those of them that repeat a key, which only a shard finds."""
    differences: dict[str, None] = field(default_factory=dict)
    """How the columns differ from what the source offers."""
    shards: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    """What each shard became, by its number."""

    @property
    def expected(self) -> Counter[int]:
        """Rows that the shards should have got."""
        return self.read + self.sampled


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """All reports of a job, which come to the driver as staged files.

    The pieces of a day come to its shards through the runner. So these are two ways, and where they disagree, the
    runner lost or doubled something.
    """

    days: Mapping[str, DayArrivals]
    """By day, and `NO_DAY`."""
    where: Mapping[int, str]
    """What people call each unit that was read, and who drew negatives."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Arrivals":
        """Return what the workers gave (`beam_job.Staging.given`)."""
        days: dict[str, DayArrivals] = {}
        where: dict[int, str] = {}
        for name, report in sorted(given.items(), key=lambda item: item[1].get("unit", 0)):
            if name.startswith("made-"):
                day = days.setdefault(report["day"], DayArrivals())
                day.shards[report["number"]] = report
                day.arrived.update({int(unit): rows for unit, rows in report["arrived"].items()})
                day.dropped.update(report["dropped"])
                day.repeated.update(report["dropped"])
                continue
            where[report["unit"]] = report["where"]
            for text, found in report["days"].items():
                day = days.setdefault(text, DayArrivals())
                if "pairs" in report:
                    day.sampled[report["unit"]] = found["rows"]
                    day.pairs += report["pairs"]
                    continue
                day.read[report["unit"]] = found["rows"]
                day.dropped.update(found["dropped"])
                day.differences |= dict.fromkeys(found.get("differences", ()))
        return cls(days=days, where=where)

    @property
    def made(self) -> dict[str, DayArrivals]:
        """The days of which rows were kept, in order."""
        return {text: day for text, day in sorted(self.days.items()) if day.shards}

    @property
    def elsewhere(self) -> Counter[str]:
        """Rows that belong to none of the requested days, by reason."""
        return self.days[NO_DAY].dropped if NO_DAY in self.days else Counter()

    @property
    def dropped_whole(self) -> Counter[str]:
        """Dropped rows that may belong to a day of which no row was kept, by reason."""
        dropped = sum((day.dropped for day in self.days.values() if not day.shards), Counter[str]())
        del dropped["outside_days"]
        return dropped

    def check(self, units: Mapping[int, str], *, rows_per_shard: int | None) -> None:
        """Raise UserError where the runner lost or doubled rows.

        `units`: what people call each unit of the job. `rows_per_shard`: where negatives are drawn, of so many rows
        at a time.
        """
        missing = [where for unit, where in units.items() if unit not in self.where]
        if rows_per_shard:
            for text, day in self.days.items():
                draws = shards(day.read.total(), rows_per_shard) if day.read.total() else 0
                missing += [f"the negatives of {text}"] * (draws - len(day.sampled))
        found = [f"lost {len(missing):,} of {len(units):,} units: {_some(missing)}"] if missing else []
        read = sum(day.expected.total() for day in self.days.values())
        lost = {text: day.expected - day.arrived for text, day in sorted(self.days.items())}
        doubled = {text: day.arrived - day.expected for text, day in sorted(self.days.items())}
        for verb, of_day in (("lost", lost), ("gave twice", doubled)):
            if rows := sum(each.total() for each in of_day.values()):
                days = [text for text, each in of_day.items() if each]
                of = sorted({unit for each in of_day.values() for unit in each})
                wheres = [self.where.get(unit, "no unit") for unit in of]
                found.append(
                    f"{verb} {rows:,} of {read:,} rows, of {_some(days)} (read from {_some(wheres)})"
                )
        _refuse(found)


def check_units(units: Mapping[str, str], made: Collection[str]) -> None:
    """Raise UserError where the runner lost a unit: where it is not among the names of what was made.

    `units`: what people call each unit, by its name.
    """
    missing = [where for name, where in units.items() if name not in made]
    _refuse([f"lost {len(missing):,} of {len(units):,} units: {_some(missing)}"] if missing else [])


def _refuse(found: Sequence[str]) -> None:
    if found:
        raise UserError(
            f"the Beam runner {' and '.join(found)}; nothing was committed; "
            "run again with another runner, or without --beam_flag"
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
