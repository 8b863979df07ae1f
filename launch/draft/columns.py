"""What the columns of raw files look like, judged by a sample of their rows."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from keyword import iskeyword
from typing import Literal

import polars as pl

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.sources.formats import BAD, column_names, frames
from tutelage.pipeline.sources.sample import Sampled

Kind = Literal["time", "int", "number", "text", "list", "unusable"]
_FIT = 0.99
"""This share of the values must be of a kind; the others are rows that materialising drops and counts."""
_BOOLEANS = {"true": "1", "True": "1", "false": "0", "False": "0"}
_ISO = r"^\d{4}-\d\d-\d\d([ T]\d\d:\d\d:\d\d|$)"
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000}
_RESERVED = ("day", "example_id", "event_time_us", "content", "dropped", "sampling_rate", "score")
_SINCE, _UNTIL = 631_152_000, 2_208_988_800
"""The years 1990 to 2039, in seconds since 1970: numbers of these are likely to be times."""
_PAIRS = 100
"""Pairs of rows that `depends_on` needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A raw column of a sample."""

    raw: str
    """Its name in the files."""
    name: str
    """The name of the feature or label that it would be."""
    kind: Kind
    values: pl.Series
    """One per row of the sample: Datetime, Int64, Float64, String or a list of the last three; null where a value is
    missing or of another kind."""
    unit: str = ""
    """Of a time: s, ms, us or iso8601; empty for a timestamp of Parquet."""
    why: str = ""
    """Why it is unusable."""

    @property
    def distinct(self) -> int:
        """How many different values the sample has."""
        return self.values.drop_nulls().n_unique()

    @property
    def rows(self) -> int:
        """How many rows of the sample have a value."""
        return self.values.len() - self.values.null_count()

    @property
    def is_binary(self) -> bool:
        """Whether it holds both 0 and 1, and nothing else."""
        return self.kind == "int" and sorted(self.values.drop_nulls().unique()) == [0, 1]

    def distinct_in(self, share: float) -> int:
        """Return the number of different values of all rows, of which the sample is a `share`.

        The estimator is GEE (Charikar et al. 2000, "Towards Estimation Error Guarantees for Distinct Values"): values
        that the sample has once are counted 1/√share times.
        """
        counts = (
            (self.values.explode() if self.kind == "list" else self.values)
            .drop_nulls()
            .alias("value")
            .value_counts()
        )
        once = counts.filter(pl.col("count") == 1).height
        return round(counts.height + once * (math.sqrt(1 / share) - 1))

    def depends_on(self, other: "Column") -> bool:
        """Return whether it hardly ever changes among the rows of one value of `other`.

        The chance that two neighbouring rows of one value differ is compared with that of any two rows.
        """
        if self is other or self.kind == "list" or self.distinct < 2:
            return False
        rows = (
            pl.DataFrame({"value": self.values, "of": other.values})
            .drop_nulls()
            .sort("of", maintain_order=True)
        )
        together = pl.col("of") == pl.col("of").shift()
        if rows.filter(together).height < _PAIRS:
            return False
        within = rows.select((pl.col("value") != pl.col("value").shift()).filter(together).mean()).item()
        overall = rows.select(1 - (pl.col("value").unique_counts() / pl.len()).pow(2).sum()).item()
        return bool(within <= 0.05 * overall)


def raw_rows(files: Sequence[Sampled]) -> tuple[pl.DataFrame, int]:
    """Return the raw rows of sampled files, with the columns that all of them have, and the number of bad rows.

    Text formats give text. Raises UserError if a file cannot be read.
    """
    found = [column_names(file) for file in files]
    names = [n for n in found[0] if _is_text(n) and all(each.count(n) == 1 for each in found)]
    if not names:
        raise UserError(
            f"{files[0]}: it has no column that the other files have too, expected a header or named values"
        )
    # A list of JSON or tf.Example that is read as a single value is `BAD`.
    rows, bad = _read(files, names, [])
    lists = [name for name in names if rows.schema[name] == pl.String and _is_list_text(rows[name])]
    if lists:
        rows, bad = _read(files, names, lists)
    return rows, bad


def _read(files: Sequence[Sampled], names: Sequence[str], lists: Sequence[str]) -> tuple[pl.DataFrame, int]:
    parts = []
    bad = 0
    for file in files:
        for raw, _, bad_row in frames(file, dict.fromkeys(names, ""), lists):
            bad += int(bad_row.sum())
            parts.append(raw.select(names).filter(~bad_row))
    rows = pl.concat(parts, how="vertical_relaxed") if parts else pl.DataFrame()
    if rows.is_empty():
        raise UserError(f"{files[0]}: it has no rows; expected some, to see what its columns hold")
    return rows, bad


def _is_text(name: str) -> bool:
    """Return whether a name can be written as UTF-8: bytes that are none are read as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _is_list_text(values: pl.Series) -> bool:
    """Return whether values that are read as text are lists: of JSON and tf.Example (`BAD`), or as JSON in CSV."""
    there = values.drop_nulls()
    in_csv = there.str.contains(r"^\[.*\]$")
    return bool((there == BAD).any()) or _share(in_csv) > 0.5


def columns(rows: pl.DataFrame) -> list[Column]:
    """Return what each column of raw rows looks like. Their names are usable as names of features, and distinct."""
    found: list[Column] = []
    for raw in rows.columns:
        name = _name(raw)
        while name in [column.name for column in found]:
            name += "_2"
        found.append(_column(raw, name, rows[raw]))
    return found


def _name(raw: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "_", raw.lower()).strip("_")
    usable = re.match("[a-z]", name) and not iskeyword(name) and name not in _RESERVED
    return name if usable else f"column_{name}".rstrip("_")


def _column(raw: str, name: str, values: pl.Series) -> Column:
    dtype = values.dtype
    if dtype == pl.String:
        values = values.set(values == "", None)
    elif dtype.is_float():
        values = values.set(~values.is_finite(), None)
    kind: Kind = "unusable"
    unit = why = ""
    if not values.drop_nulls().len():
        why = "it has no value"
    elif isinstance(dtype, pl.Datetime | pl.Date):
        values = values.cast(pl.Datetime("us")) if dtype == pl.Date else values
        kind, values = "time", values.dt.replace_time_zone(None).cast(pl.Datetime("us"))
    elif isinstance(dtype, pl.List | pl.Array):
        return _list(raw, name, values.cast(pl.List(dtype.inner)))
    elif dtype == pl.String and (values == BAD).any():
        why = "it has objects, or text that is not UTF-8"
    elif dtype == pl.String:
        kind, values, unit = _text(name, values)
    elif dtype.is_integer() or dtype.is_float() or dtype == pl.Boolean:
        kind, values, unit = _number(name, values)
    else:
        why = f"{dtype} is not read"
    if not why and not values.drop_nulls().len():
        kind, why = "unusable", "its values do not fit into 64 bits"
    return Column(raw=raw, name=name, kind=kind, values=values, unit=unit, why=why)


def _list(raw: str, name: str, values: pl.Series) -> Column:
    items = _column(raw, name, values.explode())
    if items.kind not in ("int", "text"):
        why = items.why or f"it has lists of {items.kind}s"
        return Column(raw=raw, name=name, kind="unusable", values=values, why=why)
    if items.kind == "int":
        values = values.cast(pl.List(pl.Int64), strict=False)
    return Column(raw=raw, name=name, kind="list", values=values)


def _text(name: str, values: pl.Series) -> tuple[Kind, pl.Series, str]:
    there = values.drop_nulls()
    if _share(there.str.contains(_ISO)) >= _FIT:
        seconds = (
            values.str.replace(r"^(.{10})$", "${1} 00:00:00")
            .str.slice(0, 19)
            .str.replace("T", " ", literal=True)
        )
        return "time", seconds.str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False, time_unit="us"), "iso8601"
    if there.str.contains(r"^-?0\d").any():  # As integers, 007 and 7 would be one id.
        return "text", values, ""
    plain = values.replace(_BOOLEANS).str.replace(r"\.0+$", "")
    for dtype in (pl.Int64, pl.Float64):
        number = plain.cast(dtype, strict=False)
        if number.drop_nulls().len() >= _FIT * there.len():
            return _number(name, number)
    return "text", values, ""


def _number(name: str, values: pl.Series) -> tuple[Kind, pl.Series, str]:
    """Return a column of numbers: times, if all lie in likely years by one of the units and the name is not an id's."""
    number = values.cast(pl.Float64).fill_nan(None)
    for unit, second in _PER_SECOND.items():
        likely = number.is_between(_SINCE * second, _UNTIL * second)
        if _share(likely) >= _FIT and values.n_unique() > 1 and not is_id_name(name):
            us = number.set(~likely, None) * (1_000_000 // second)
            return "time", us.cast(pl.Int64).cast(pl.Datetime("us")), unit
    if values.dtype.is_float() and not (number.drop_nulls() == number.drop_nulls().round()).all():
        return "number", number, ""
    return "int", values.cast(pl.Int64, strict=False), ""


def _share(flags: pl.Series) -> float:
    return float(flags.mean() or 0.0)  # type: ignore[arg-type]


def is_id_name(name: str) -> bool:
    """Return whether a column of this name is likely to hold ids, whatever its values."""
    return bool(re.search(r"(^|_)(id|uid|key|code)s?$|id$", name))
