"""Decide which part each raw column plays in an experiment."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import polars as pl

from tutelage.launch.draft.columns import Column, is_id_name
from tutelage.launch.draft.features import Features, Scope
from tutelage.launch.draft.labels import Labels, find_labels
from tutelage.launch.draft.tables import RawTable, find_tables, sample
from tutelage.pipeline.days import slice_of
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.leaks import leaks
from tutelage.pipeline.schema import Negatives, Schema
from tutelage.pipeline.sources.files import Files
from tutelage.pipeline.sources.store import find

_USER = re.compile(r"user|(^|_)uid|visitor|customer|member|reader|viewer|account")
_ITEM = re.compile(r"item|(^|_)iid|video|movie|film|song|track|article|news|book|product|content|post|doc")
_FEWEST_IDS = 20
"""A column without the name of a user or an item has at least so many of them."""
_UNIQUE = 0.95
"""A column with this many different values per row is no user and no item."""
_REPEATS = 0.001
"""This share of the rows may repeat a key."""
_SLICES = ((7, 2_000), (28, 500), (91, 500))
"""Lengths of slices in days, and the rows of a shorter slice below which they are used."""
_PER_POSITIVE = 4
_MONDAY = 4
"""The first Monday, in days since 1970-01-01."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a config is written from."""

    table: RawTable
    source: Files
    features: Features
    labels: Labels
    guesses: Sequence[str]
    """What to look at first."""
    start: date
    end: date

    @property
    def schema(self) -> Schema:
        return self.source.schema

    @property
    def slices(self) -> int:
        """The number of slices from `start` to `end`."""
        return max(((self.end - self.start).days + 1) // self.schema.slice_days, 1)

    @property
    def rows_per_slice(self) -> int:
        """With the negatives that are sampled."""
        return round(self.table.rows * (1 + _PER_POSITIVE * self.labels.negatives) / self.slices)

    @property
    def notes(self) -> Mapping[str, str]:
        """What is said about each feature and label."""
        return {**self.features.notes, **self.labels.notes}


def draft(raw_dir: str, pattern: str = "") -> Draft:
    """Return the draft for the logs below a folder or URL: the files of `pattern`, or else the largest table.

    Raises UserError if no column can be the time of the events, or no label is found or can be sampled.
    """
    tables, unread = find_tables(raw_dir)
    if pattern:
        table = sample(pattern, find(raw_dir, pattern))
    else:
        largest = max(tables, key=lambda table: (table.time is not None, table.rows))
        table = sample(largest.pattern, largest.files)
    time = _time(table)
    columns = [column for column in table.columns if column is not time]
    user, item, guesses = _who_and_what(columns)
    labels = find_labels(columns, user, item)
    features = _features(columns, table.share, user, item, labels)
    _add_sides(features, table, tables, user, item)
    features.left_out += unread.items()
    known = [column.name for column in (user, item) if column]
    for name, why in _leaks(features, labels):
        if name not in known:
            features.remove(name, why)
    if not features.found:
        raise UserError(
            f"{table.pattern}: beside the time and the label it has no column that can be a feature; add some"
        )
    key, repeats = _key(time, columns, features, labels, known)
    if repeats > _REPEATS:
        what = f"{repeats:.1%} of them repeat an earlier one and are dropped"
        guesses.append(f"{', '.join(key)} tell rows apart; {what}")
    start, end, slice_days = _days(time.values.drop_nulls().dt.date(), table)
    schema = Schema(
        features=tuple(features.found),
        tasks=labels.tasks,
        key=key,
        user=user.name if user else None,
        negatives=Negatives(item=item.name, per_positive=_PER_POSITIVE)
        if labels.negatives and item
        else None,
        slice_days=slice_days,
        slice_weekday="monday" if slice_days > 1 else "",
    )
    return Draft(
        table=table,
        source=_source(table, schema, features, labels, time),
        features=features,
        labels=labels,
        guesses=[*_other_times(columns, time), *guesses, *labels.guesses],
        start=start,
        end=end,
    )


def _source(table: RawTable, schema: Schema, features: Features, labels: Labels, time: Column) -> Files:
    return Files(
        pattern=table.pattern,
        schema=schema,
        event_time=time.raw,
        time_unit=time.unit or "iso8601",  # type: ignore[arg-type]
        renamed=(
            *((n, raw) for n, raw in features.raw.items() if n != raw and n not in features.expressions),
            *labels.renamed,
        ),
        expressions=(*features.expressions.items(), *labels.expressions),
        sides=tuple(features.sides),
    )


def _time(table: RawTable) -> Column:
    if table.time is None:
        raise UserError(
            f"{table.pattern}: no column looks like the time of the events, as text like 2026-01-31T18:30:00 or s, ms "
            f"or us since 1970; it has {', '.join(repr(c.raw) for c in table.columns):.500}; add one, or name another "
            "table by --pattern"
        )
    return table.time


def _other_times(columns: Sequence[Column], time: Column) -> list[str]:
    others = ", ".join(repr(column.raw) for column in columns if column.kind == "time")
    return [f"{time.raw!r} is the time of the events, and not {others}"] if others else []


def _who_and_what(columns: Sequence[Column]) -> tuple[Column | None, Column | None, list[str]]:
    """Return the columns of the user and of the item, by their names or else the first with many ids, and guesses."""
    ids = [
        c
        for c in columns
        if c.kind in ("int", "text") and c.distinct > 1 and (c.distinct < _UNIQUE * c.rows or c.rows < 100)
    ]
    found: list[Column | None] = []
    guesses = []
    for what, own, other in (("user", _USER, _ITEM), ("item", _ITEM, _USER)):
        left = [c for c in ids if c not in found]
        named = [c for c in left if own.search(c.name)]
        many = [c for c in left if c.distinct >= _FEWEST_IDS and not other.search(c.name)]
        # Beside the id there may be a user_age or an item_category_id.
        column = max(named, key=lambda c: (is_id_name(c.name), c.distinct), default=next(iter(many), None))
        if column and not named:
            guesses.append(f"{column.raw!r} is the {what}: no column has such a name")
        found.append(column)
    return found[0], found[1], guesses


def _features(
    columns: Sequence[Column], share: float, user: Column | None, item: Column | None, labels: Labels
) -> Features:
    features = Features(taken=[task.label for task in labels.tasks], left_out=list(labels.left_out))
    for column in columns:
        if column in labels.used:
            continue
        if labels.negatives:  # What is not the item's stays that of the request.
            of_user = column is not item and not (item and column.depends_on(item))
        else:
            of_user = bool(user and column.depends_on(user))
        scope: Scope = "user" if column is user or of_user else "candidate"
        what = "the user; " if column is user else "the item; " if column is item else ""
        features.add(column, share, scope, what)
    return features


def _add_sides(
    features: Features, table: RawTable, tables: Sequence[RawTable], user: Column | None, item: Column | None
) -> None:
    """Add the tables that have the column of the user or of the item under the same name, and not both."""
    own = {file.name for file in table.files}
    for other in tables:
        if own & {file.name for file in other.files}:
            continue
        by_name = {column.name: column for column in other.columns}
        keys = [column for column in (user, item) if column and column.name in by_name]
        if len(keys) == 1:
            scope: Scope = "user" if keys[0] is user else "candidate"
            features.add_side(other, keys[0], by_name[keys[0].name], scope)
        else:
            why = (
                "the columns of both user and item" if keys else "no column of the user's or the item's name"
            )
            features.left_out.append((other.pattern, f"it has {why}"))


def _leaks(features: Features, labels: Labels) -> list[tuple[str, str]]:
    """Return the features of the events that give a label away in the sample, each with what was found."""
    frame = pl.DataFrame({**features.values, **labels.values})
    events = tuple(feature for feature in features.found if feature.name in features.values)
    tasks = tuple(task for task in labels.tasks if task.label in labels.values)
    if not (events and tasks):
        return []
    schema = Schema(features=events, tasks=tasks, key=("event_time_us",))
    return [(found.column, found.said) for found in leaks(frame, schema)]


def _key(
    time: Column, columns: Sequence[Column], features: Features, labels: Labels, ids: Sequence[str]
) -> tuple[tuple[str, ...], float]:
    """Return the columns that tell rows apart, and the share of rows that repeat an earlier one's.

    These are user, item and time, and where they do not suffice more features and labels, the best first.
    """
    everything = pl.DataFrame({c.raw: c.values for c in (time, *columns)}).with_row_index("row")
    listed = {f.name for f in features.found if f.length}
    usable = {
        name: values for name, values in (features.values | dict(labels.values)).items() if name not in listed
    }
    rows = pl.DataFrame({**usable, "event_time_us": time.values}).with_row_index("row")
    if not any(isinstance(dtype, pl.List) for dtype in everything.dtypes):
        # Equal rows are one row that was written twice, whatever the key is.
        rows = rows.join(everything.unique(set(everything.columns) - {"row"}), on="row", how="semi")
    key = [*ids, "event_time_us"]

    def repeats(more: str) -> float:
        return 1 - rows.select(pl.struct({*key, more}).n_unique()).item() / max(len(rows), 1)

    now = repeats(key[0])
    for _ in usable:
        left = [name for name in usable if name not in key]
        best = min(left, key=repeats, default="")
        if now <= _REPEATS or not best or repeats(best) >= now:
            break
        key.append(best)
        now = repeats(best)
    return tuple(key), now


def _days(days: pl.Series, table: RawTable) -> tuple[date, date, int]:
    """Return the first and the last day to train on, and the days of a slice.

    Slices of weeks begin on Mondays and are whole. A first or last day with less than half of the usual rows is not
    whole. Where slices have no rows, the days are those of the longest run of slices that do.
    """
    first, last = days.min(), days.max()
    assert isinstance(first, date)
    assert isinstance(last, date)
    per_day = table.rows / ((last - first).days + 1)
    length = 1
    for longer, enough in _SLICES:
        start, end = _whole(first, last, longer)
        if per_day * length < enough and (end - start).days + 1 >= 2 * longer:
            length = longer
    usual = float(days.value_counts()["count"].median() or 0)  # type: ignore[arg-type]
    if length == 1 and (last - first).days >= 3:
        last -= timedelta(days=int((days == last).sum() < usual / 2))
        first += timedelta(days=int((days == first).sum() < usual / 2))
    start, end = _whole(first, last, length)
    if table.whole:
        start, end = _without_gaps(days.filter(days.is_between(start, end)), length)
    return start, end, length


def _whole(first: date, last: date, length: int) -> tuple[date, date]:
    """Return the first and the last day of the whole slices between two days."""
    offset = _MONDAY if length > 1 else 0
    start = slice_of(first + timedelta(days=length - 1), slice_days=length, offset=offset)
    return start, slice_of(last + timedelta(days=1), slice_days=length, offset=offset) - timedelta(days=1)


def _without_gaps(days: pl.Series, length: int) -> tuple[date, date]:
    """Return the first and the last day of the longest run of slices that have rows."""
    offset, step = _MONDAY if length > 1 else 0, timedelta(days=length)
    found = sorted({slice_of(day, slice_days=length, offset=offset) for day in days.unique()})
    starts = [day for day in found if day - step not in found]
    ends = [day + step for day in found if day + step not in found]
    start, end = max(zip(starts, ends, strict=True), key=lambda run: run[1] - run[0])
    return start, end - timedelta(days=1)
