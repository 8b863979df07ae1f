"""Find what a log could be trained to predict: columns of 0 and 1, types of events, stars, or that there is a row."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from tutelage.launch.draft.columns import Column
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Task
from tutelage.pipeline.sources.expressions import as_column

_EVENT = re.compile(r"event|action|behavio|interaction|^type$")
_TYPES = 30
"""An event type is one of at most so many."""
_SHOWN = re.compile(r"impr|view|show|expos|display|serve|skip|^pv$")
"""Types of events that are no success by themselves."""
_OUTCOME = re.compile(
    r"label|target|click|like|buy|bought|purchas|order|cart|share|follow|comment|conver|watch|read|play|open|view|save|instal"
)
_STARS = re.compile(r"rating|stars?$|score|grade")


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The tasks of a draft, and where their labels come from."""

    tasks: tuple[Task, ...]
    renamed: tuple[tuple[str, str], ...] = ()
    expressions: tuple[tuple[str, str], ...] = ()
    used: Sequence[Column] = ()
    """The columns that they come from, which are no features."""
    left_out: Sequence[tuple[str, str]] = ()
    """Those of them that are no labels, and why."""
    values: Mapping[str, pl.Series] = field(default_factory=dict)
    """The labels of the sample's rows."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What is said about a label, by its name."""
    guesses: Sequence[str] = ()
    negatives: bool = False
    """Whether the log has positives only, so that negatives must be sampled."""


def find_labels(columns: Sequence[Column], user: Column | None, item: Column | None) -> Labels:
    """Return the tasks that the columns of a log suggest.

    These are its columns of 0 and 1 with the name of an outcome, or else the first one; or else a column of two texts
    with such a name; or else the types of events, where the most frequent one is no success by itself; or else stars.
    In any other log each row is a positive. Raises UserError if negatives must be sampled and user or item are unknown.
    """
    free = [
        c for c in columns if c not in (user, item) and not any(c.depends_on(k) for k in (user, item) if k)
    ]
    named = [c for c in columns if c.is_binary and _OUTCOME.search(c.name)]
    if (
        binary := [c for c in free if c.is_binary] or named
    ):  # In few rows an outcome may look like a user's property.
        chosen = [c for c in binary if _OUTCOME.search(c.name)] or binary[:1]
        return _binary(chosen, [c for c in binary if c not in chosen])
    if answers := [c for c in free if c.kind == "text" and c.distinct == 2 and _OUTCOME.search(c.name)]:
        return _events(answers[0], _types(answers[0]), answers[0].name)
    events = [c for c in free if _EVENT.search(c.name) and c.kind in ("text", "int") and c.distinct <= _TYPES]
    types = _types(events[0]) if events else []
    if len(types) > 1 and _SHOWN.search(types[0][0].lower()):
        return _events(events[0], types, _name([name for name, _ in types[1:]]))
    stars = [
        c for c in free if _STARS.search(c.name) and c.kind in ("int", "number") and 2 < c.distinct <= _TYPES
    ]
    if stars and stars[0].values.min() >= 0:  # type: ignore[operator]
        return _stars(stars[0])
    if not (user and item):
        raise UserError(
            "no column looks like a label (0 and 1, a type of event, stars), and negatives cannot be sampled without "
            f"a column of the {'item' if user else 'user'}; there are {', '.join(repr(c.raw) for c in columns):.500}; "
            "add one, or write the config by hand, from examples/own_events.py"
        )
    return _positives(events[0] if events else None)


def _binary(chosen: Sequence[Column], others: Sequence[Column]) -> Labels:
    why = "it is 0 or 1, and may be known only after the event: then it could be a task, else a feature"
    return Labels(
        tasks=tuple(Task(name=c.name, label=c.name) for c in chosen),
        renamed=tuple((c.name, c.raw) for c in chosen if c.name != c.raw),
        used=[*chosen, *others],
        left_out=[(c.raw, why) for c in others],
        values={c.name: c.values for c in chosen},
        notes={c.name: f"1 in {_number(c.values.mean()):.2%} of the rows" for c in chosen},
    )


def _number(value: Any) -> float:
    return float(value)


def _types(column: Column) -> list[tuple[str, float]]:
    """Return the types of events with their shares, the most frequent first."""
    shares = (
        column.values.drop_nulls().cast(pl.String).alias("type").value_counts(normalize=True, name="share")
    )
    return list(shares.sort("share", "type", descending=[True, False]).iter_rows())


def _shares(types: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{name!r} {share:.1%}" for name, share in types)


def _events(column: Column, types: Sequence[tuple[str, float]], label: str) -> Labels:
    """Return the task that tells the rarer types from the most frequent one."""
    chosen = [name for name, _ in types[1:]]
    return Labels(
        tasks=(Task(name=label, label=label),),
        expressions=((label, _is_in(column, chosen)),),
        used=[column],
        values={label: column.values.cast(pl.String).is_in(chosen).cast(pl.Int8)},
        notes={label: _shares(types)},
        guesses=[
            f"{types[0][0]!r} of {column.raw!r} is no success, and its other types are; each row is an example"
        ],
    )


def _positives(column: Column | None) -> Labels:
    """Return the task that each row is a positive of, and one for the rarer types of events."""
    tasks, expressions = [Task(name="interaction", label="interaction")], [("interaction", "1")]
    notes = {"interaction": "every row, against items that are sampled"}
    types = _types(column) if column else []
    if column and len(types) > 1:
        chosen = [name for name, _ in types[1:]]
        label = _name(chosen)
        tasks.append(Task(name=label, label=label))
        expressions.append((label, _is_in(column, chosen)))
        notes[label] = _shares(types)
    return Labels(
        tasks=tuple(tasks),
        expressions=tuple(expressions),
        used=[column] if column else [],
        notes=notes,
        guesses=["each row is a positive: no column looks like a label, so negatives are sampled"],
        negatives=True,
    )


def _stars(column: Column) -> Labels:
    name, values = column.name, column.values.cast(pl.Float64)
    low, high, mean = map(_number, (values.min(), values.max(), values.mean()))
    return Labels(
        tasks=(Task(name=name, label=name, kind="log1p", unit="stars"),),
        renamed=((name, column.raw),) if name != column.raw else (),
        used=[column],
        values={name: values},
        notes={name: f"{low:g} to {high:g}, with a mean of {mean:.2f}"},
        guesses=[
            f"{column.raw!r} is a value to predict; another task may be whether {as_column(column.raw)} >= 4"
        ],
    )


def _name(types: Sequence[str]) -> str:
    """Return a name for a label that holds for any of these types of events."""
    name = re.sub(r"[^a-z0-9]+", "_", "_or_".join(types[:3]).lower()).strip("_")
    return name if re.match("[a-z]", name) and len(types) <= 3 and len(name) <= 40 else "success"


def _is_in(column: Column, types: Sequence[str]) -> str:
    if column.kind == "int":
        return f"{as_column(column.raw)} IN ({', '.join(types)})"
    texts = ", ".join("'" + name.replace("'", "''") + "'" for name in types)
    return f"{as_column(column.raw)} IN ({texts})"
