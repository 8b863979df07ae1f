"""Which ids have a row of their own: what a model has met of the ids of features that grow."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import polars as pl
import tensorflow as tf

from tutelage.models.id_map import Entries, GrowingIdMap, as_ids
from tutelage.pipeline.schema import Feature

_COLUMNS = pl.Schema({"id": pl.Int64, "row": pl.Int32, "seen": pl.Int64, "last": pl.Date})


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """What a model has met by the end of a day: a function of the days that it has gone through, and of no other.

    Of each growing feature, by its name, the ids met in the last `unseen_days`, in their order: `id`, `row` in
    the feature's range (0: the default row, none of its own), times `seen`, day of the `last` time.
    """

    id_map: GrowingIdMap
    known: Mapping[str, pl.DataFrame]

    @classmethod
    def empty(cls, id_map: GrowingIdMap) -> "Vocabulary":
        return cls(id_map, {f.name: pl.DataFrame(schema=_COLUMNS) for f in id_map.growing})

    def entries(self) -> Entries:
        """As a lookup takes them."""
        own = {name: frame.filter(pl.col("row") > 0) for name, frame in self.known.items()}
        return self.id_map.entries(
            {name: (frame["id"].to_numpy(), frame["row"].to_numpy()) for name, frame in own.items()}
        )

    def observe(self, columns: Mapping[str, np.ndarray], ahead: tf.Tensor, day: date) -> "DayIds":
        """Go through a day: its raw inputs by name, in the order of the day, and their rows by these `entries`.

        An id that comes for the `min_seen`-th time, counted over the days, is given the lowest free row, from
        that example on; where none is free it stays on the default row. Ids that by the end of the day were
        not met for `unseen_days` are forgotten, and their rows are free from the next day on.
        """
        features, offsets, parts = self.id_map.features, self.id_map.offsets, self.id_map.parts
        fields = list(itertools.accumulate((f.fields for f in features), initial=0))
        rows, known = ahead.numpy().copy(), {}
        given: list[np.ndarray] = []
        counts: dict[str, dict[str, float]] = {}
        for feature in self.id_map.growing:
            name, offset = feature.name, offsets[feature.name]
            ids = as_ids(tf.constant(columns[name]), 1).numpy()[:, 0]
            known[name], new, counts[name] = _meet(feature, self.known[name], ids, day)
            given.append(offset + new["row"].to_numpy())
            # Its own slot, and those of the histories that are of it, whose items were counted on their days.
            for f, first in zip(features, fields, strict=False):
                if parts.get(f.name) == parts[name]:
                    part = rows[:, first : first + f.fields]
                    _give(part, as_ids(tf.constant(columns[f.name]), f.fields).numpy(), new, offset)
            own = rows[:, fields[features.index(feature)]]
            counts[name]["default_row_share"] = float(np.mean(own == offset))
        return DayIds(
            ahead=ahead,
            rows=tf.constant(rows),
            given=np.concatenate(given),
            vocabulary=Vocabulary(self.id_map, known),
            counts=counts,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DayIds:
    """A day as its model meets its ids."""

    ahead: tf.Tensor
    """int32 [rows, slots]: rows of the table as they were before the day, which it is scored by."""
    rows: tf.Tensor
    """int32 [rows, slots]: as they are when each example comes, which it is learnt by."""
    given: np.ndarray
    """int32: rows of the table that are given during the day, to be reset before it is learnt."""
    vocabulary: Vocabulary
    """As it is after the day."""
    counts: Mapping[str, Mapping[str, float]]
    """By feature: `ids_known` and `ids_with_rows` after the day, `ids_given` and `ids_evicted` a row during it
    and at its end, `ids_full` that no row was left for, `default_row_share` of the day's examples."""


def _meet(
    feature: Feature, known: pl.DataFrame, ids: np.ndarray, day: date
) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, float]]:
    """What is known after the day; the `id`s given a `row` and the example `since` which, in order; counts."""
    grows = feature.grows
    assert grows
    # Each id's examples side by side, in their order.
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    day_ids = (
        pl.DataFrame({"id": ordered[first], "first": first, "today": np.diff(first, append=len(ids))})
        .join(known, on="id", how="left")
        .with_columns(pl.col("row", "seen").fill_null(0))
    )
    reached = day_ids.filter(pl.col("row") == 0, pl.col("seen") + pl.col("today") >= grows.min_seen)
    times = reached.select(pl.max_horizontal(grows.min_seen - pl.col("seen"), 1)).to_series().to_numpy()
    since = order[reached["first"].to_numpy() + times - 1]
    reached = reached.select("id", pl.Series("since", since)).sort("since")
    free = np.setdiff1d(np.arange(1, feature.capacity, dtype=np.int32), known["row"].to_numpy())
    given = reached.head(len(free))
    given = given.with_columns(row=pl.Series(free[: given.height]))
    after = (
        known.join(day_ids.select("id", "today"), on="id", how="full", coalesce=True)
        .join(given.select("id", given="row"), on="id", how="left")
        .select(
            "id",
            pl.coalesce("given", pl.col("row"), pl.lit(0, pl.Int32)).alias("row"),
            pl.col("seen").fill_null(0) + pl.col("today").fill_null(0),
            pl.when(pl.col("today").is_null()).then("last").otherwise(pl.lit(day)).alias("last"),
        )
        .sort("id")
    )
    kept = after.filter(pl.col("last") > day - timedelta(days=grows.unseen_days))
    with_rows = [int((frame["row"] > 0).sum()) for frame in (after, kept)]
    counts = {
        "ids_known": kept.height,
        "ids_with_rows": with_rows[1],
        "ids_given": given.height,
        "ids_evicted": with_rows[0] - with_rows[1],
        "ids_full": reached.height - given.height,
    }
    return kept, given, {name: float(count) for name, count in counts.items()}


def _give(rows: np.ndarray, ids: np.ndarray, given: pl.DataFrame, offset: int) -> None:
    """Set in `rows` [examples, slots], where their `ids` were given one by then; what fills a list up stays -1."""
    if not given.height:
        return
    by_id = given.sort("id")
    keys, since, own = (by_id[name].to_numpy() for name in ("id", "since", "row"))
    at = np.minimum(np.searchsorted(keys, ids), len(keys) - 1)
    hit = (keys[at] == ids) & (since[at] <= np.arange(len(ids))[:, None]) & (rows >= 0)
    rows[hit] = offset + own[at[hit]]


class VocabularyVariables(tf.Module):
    """A vocabulary's frames as variables: a checkpoint holds them with the model that they are of."""

    def __init__(self, vocabulary: Vocabulary):
        super().__init__(name="vocabulary")
        self.columns = {
            name: {
                column: tf.Variable(values, shape=[None], trainable=False, validate_shape=False)
                for column, values in _arrays(frame).items()
            }
            for name, frame in vocabulary.known.items()
        }

    def write(self, vocabulary: Vocabulary) -> None:
        for name, frame in vocabulary.known.items():
            for column, values in _arrays(frame).items():
                self.columns[name][column].assign(values)

    def read(self, id_map: GrowingIdMap) -> Vocabulary:
        known = {
            name: pl.DataFrame({column: variable.numpy() for column, variable in columns.items()}).cast(
                _COLUMNS
            )
            for name, columns in self.columns.items()
        }
        return Vocabulary(id_map, known)


def _arrays(frame: pl.DataFrame) -> dict[str, np.ndarray]:
    return {name: frame[name].to_physical().to_numpy() for name in frame.columns}
