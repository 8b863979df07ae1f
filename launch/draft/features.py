"""Turn raw columns of the events and of side tables into features."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Literal

import polars as pl

from tutelage.launch.draft.columns import Column, is_id_name
from tutelage.launch.draft.tables import RawTable, sample
from tutelage.pipeline.schema import Feature
from tutelage.pipeline.sources.expressions import as_column
from tutelage.pipeline.sources.side import Side

_FEW = 50
"""A column of integers with more values holds numbers, unless its name is that of an id."""
_UNIQUE = 0.95
"""A column with this many different values per row tells rows apart, or is free text."""
_LARGE = 10
"""Numbers beyond this are made smaller before a model sees them."""
_LONGEST = 20
"""Items of a list that models see."""
_SIDE = 1 << 22
"""Bytes of a side table that are read."""
Scope = Literal["user", "candidate"]


@dataclass(slots=True, kw_only=True)
class Features:
    """The features as they are found."""

    taken: Sequence[str]
    """Names that a feature of a side table must not have."""
    found: list[Feature] = field(default_factory=list)
    raw: dict[str, str] = field(default_factory=dict)
    """The raw column of each feature of the events."""
    values: dict[str, pl.Series] = field(default_factory=dict)
    """The values of the sample's rows, of the events' features."""
    expressions: dict[str, str] = field(default_factory=dict)
    """How a feature of the events is computed, where it is not read as it is."""
    sides: list[Side] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    """What is said about each."""
    left_out: list[tuple[str, str]] = field(default_factory=list)
    """Raw columns and tables that are not used, and why."""

    def add(self, column: Column, share: float, scope: Scope, what: str = "") -> None:
        """Add a column of the events, of whose rows the sample is a `share`; `what` says that it is user or item."""
        if self._add(column, share, scope, what):
            self.raw[column.name], self.values[column.name] = column.raw, column.values
            feature = self.found[-1]
            if not feature.is_id and not feature.log1p and (scale := _scale(column)) > 1:
                self.expressions[column.name] = f"{as_column(column.raw)} / {scale}"

    def _add(self, column: Column, share: float, scope: Scope, what: str = "") -> bool:
        if why := "" if what else _useless(column):
            self.left_out.append((column.raw, why))
            return False
        feature, said = _feature(column, share, scope, is_id=bool(what))
        nulls = column.values.null_count() / max(column.values.len(), 1)
        self.found.append(feature)
        self.notes[column.name] = what + said + (f", {nulls:.1%} missing" if nulls else "")
        return True

    def add_side(self, table: RawTable, mine: Column, theirs: Column, scope: Scope) -> None:
        """Add the columns of a table that are joined where its column `theirs` is the feature `mine`."""
        table = sample(table.pattern, table.files, _SIDE)
        key = next(c for c in table.columns if c.raw == theirs.raw)
        once = key.distinct >= _UNIQUE * key.rows
        since = None if once else table.time
        if not (once or since):
            self.left_out.append((table.pattern, f"it has several rows of one {theirs.raw!r}, and no time"))
            return
        name = re.sub(r"[^a-z0-9]+", "_", PurePosixPath(table.pattern).name.split(".")[0].lower()).strip("_")
        name = name if re.match("[a-z]", name) else f"side_{name}".strip("_")
        given = []
        for column in table.columns:
            if column in (key, since):
                continue
            if column.name in [*self.taken, *(feature.name for feature in self.found)]:
                column = replace(column, name=f"{name}_{column.name}")
            if self._add(column, table.share, scope):
                given.append((column.name, column.raw))
        if given:
            side = Side(
                name=name, pattern=table.pattern, key=((mine.name, theirs.raw),), columns=tuple(given)
            )
            if since:
                unit = since.unit or "iso8601"
                side = replace(side, valid_from=since.raw, time_unit=unit)  # type: ignore[arg-type]
            self.sides.append(side)

    def remove(self, name: str, why: str) -> None:
        """Take a feature of the events out again."""
        self.found = [feature for feature in self.found if feature.name != name]
        self.left_out.append((self.raw.pop(name), why))


def _useless(column: Column) -> str:
    """Return why a column is no feature; empty where it can be one."""
    if column.kind == "unusable":
        return column.why
    if column.kind == "time":
        return "a time"
    if column.distinct < 2:
        return f"always {column.values.drop_nulls()[0]!r:.60}"
    several = column.rows >= 2 * _FEW and column.distinct >= _UNIQUE * column.rows
    if several and (column.kind == "text" or is_id_name(column.name)):
        return "another value in nearly every row"
    return ""


def _feature(column: Column, share: float, scope: Scope, *, is_id: bool) -> tuple[Feature, str]:
    """Return the feature of a column, and what is said about it."""
    several = column.kind == "int" and column.distinct > _FEW and not is_id and not is_id_name(column.name)
    if column.kind == "number" or several:
        low, high = _span(column)
        # Models see a number as it is, or its log1p, and are trained badly on large ones.
        large = low >= 0 and high > _LARGE
        return Feature(
            name=column.name, dtype="float32", log1p=large, scope=scope
        ), f"from {low:g} to {high:g}"
    ids = column.distinct_in(share)
    integers = column.kind == "int" or column.values.dtype == pl.List(pl.Int64)
    length = 0
    if column.kind == "list":
        length = min(max(int(column.values.list.len().quantile(0.95) or 1), 1), _LONGEST)
    said = f"{'about ' if share < 1 else ''}{ids:,} ids"
    if integers and not length and (column.values == -1).any():
        said += " (one is -1, which models see where it is missing, too)"
    return (
        Feature(
            name=column.name,
            dtype="int64" if integers else "string",
            capacity=_capacity(ids),
            length=length,
            scope=scope,
        ),
        said,
    )


def _scale(column: Column) -> int:
    """Return the power of ten by which numbers are divided to lie between -10 and 10."""
    largest = max(map(abs, _span(column)))
    return int(10 ** max(math.ceil(math.log10(largest / _LARGE)), 0)) if largest else 1


def _span(column: Column) -> tuple[float, float]:
    """Return the lowest and the highest number."""
    values = column.values.cast(pl.Float64).drop_nulls()
    return float(values.min()), float(values.max())  # type: ignore[arg-type]


def _capacity(ids: int) -> int:
    """Return about twice as many embeddings as there are ids: 100, 200, 500, 1,000 and so on."""
    steps = (step * 10**power for power in range(2, 9) for step in (1, 2, 5))
    return next((step for step in steps if step >= 2 * ids), 10**9)
