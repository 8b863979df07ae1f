"""Which ids have embeddings of their own: what a model has seen of the ids of growing features."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import polars as pl
import tensorflow as tf

from tutelage.models.id_map import Entries, GrowingIdMap, as_ids
from tutelage.pipeline.schema import Feature

# A checkpoint holds these columns by name: `row` is an index into the feature's range of the embedding table.
_COLUMNS = pl.Schema({"id": pl.Int64, "row": pl.Int32, "seen": pl.Int64, "last": pl.Date})


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """What a model has seen by the end of a day. It depends on the days that the model was trained on, and no others.

    `known` has a frame for each growing feature, with the ids that were seen in the last `unseen_days`, ascending:
    `id`, `row` (index in the feature's range; 0 is the default embedding, shared by ids without their own), how
    often it was `seen`, and the day of the `last` time.
    """

    id_map: GrowingIdMap
    known: Mapping[str, pl.DataFrame]

    @classmethod
    def empty(cls, id_map: GrowingIdMap) -> "Vocabulary":
        """Return the vocabulary of a model before its first day."""
        return cls(id_map, {f.name: pl.DataFrame(schema=_COLUMNS) for f in id_map.growing})

    def with_known(self, known: Mapping[str, pl.DataFrame]) -> "Vocabulary":
        """Return this vocabulary with the frames of some features replaced."""
        return Vocabulary(self.id_map, {**self.known, **known})

    def entries(self) -> Entries:
        """Return the ids that have their own embedding, in the form that a lookup takes."""
        own = {name: frame.filter(pl.col("row") > 0) for name, frame in self.known.items()}
        return self.id_map.entries(
            {name: (frame["id"].to_numpy(), frame["row"].to_numpy()) for name, frame in own.items()}
        )

    def observe(self, columns: Mapping[str, np.ndarray], ahead: tf.Tensor, day: date) -> "DayIds":
        """Return what a day adds. `columns` holds its raw inputs in order, `ahead` their indices by `entries`.

        An id that is seen for the `min_seen`-th time, counted over all days, is assigned the lowest free embedding,
        from that example on; if none is free, it keeps the default one. Ids that by the end of the day were not seen
        for `unseen_days` are forgotten, and their embeddings are free from the next day on.
        """
        features, offsets, parts = self.id_map.features, self.id_map.offsets, self.id_map.parts
        fields = list(itertools.accumulate((f.fields for f in features), initial=0))
        indices, known = ahead.numpy().copy(), {}
        assigned: list[np.ndarray] = []
        counts: dict[str, dict[str, float]] = {}
        for feature in self.id_map.growing:
            name, offset = feature.name, offsets[feature.name]
            ids = as_ids(tf.constant(columns[name]), 1).numpy()[:, 0]
            known[name], new, counts[name] = _observe(feature, self.known[name], ids, day)
            assigned.append(offset + new["row"].to_numpy())
            # Its own field, and those of its histories. Their items were counted on the days when they occurred.
            for f, first in zip(features, fields, strict=False):
                if parts.get(f.name) == parts[name]:
                    part = indices[:, first : first + f.fields]
                    _assign(part, as_ids(tf.constant(columns[f.name]), f.fields).numpy(), new, offset)
            own = indices[:, fields[features.index(feature)]]
            counts[name]["default_row_share"] = float(np.mean(own == offset))
        return DayIds(
            ahead=ahead,
            indices=tf.constant(indices),
            assigned=np.concatenate(assigned),
            vocabulary=Vocabulary(self.id_map, known),
            counts=counts,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DayIds:
    """The ids of a day, as its model sees them."""

    ahead: tf.Tensor
    """int32 [examples, fields]: indices into the embedding table as before the day; it is scored ahead by them."""
    indices: tf.Tensor
    """int32 [examples, fields]: indices as they are when each example comes; it is trained on by them."""
    assigned: np.ndarray
    """int32: indices that are assigned during the day, to be reset before the day is trained on."""
    vocabulary: Vocabulary
    """The vocabulary after the day."""
    counts: Mapping[str, Mapping[str, float]]
    """By feature: `ids_known` and `ids_with_rows` (with their own embedding) after the day; `ids_given` one during
    the day and `ids_evicted` at its end; `ids_full`, for which none was free; `default_row_share` of the examples."""


def _observe(
    feature: Feature, known: pl.DataFrame, ids: np.ndarray, day: date
) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, float]]:
    """Return the frame after the day, the assigned `id`s with `row` and `since` which example, in order, and counts."""
    grows = feature.grows
    assert grows
    # The examples of each id side by side, in their order.
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    today = (
        pl.DataFrame({"id": ordered[first], "first": first, "today": np.diff(first, append=len(ids))})
        .join(known, on="id", how="left")
        .with_columns(pl.col("row", "seen").fill_null(0))
    )
    reached = today.filter(pl.col("row") == 0, pl.col("seen") + pl.col("today") >= grows.min_seen)
    times = reached.select(pl.max_horizontal(grows.min_seen - pl.col("seen"), 1)).to_series().to_numpy()
    since = order[reached["first"].to_numpy() + times - 1]
    reached = reached.select("id", pl.Series("since", since)).sort("since")
    free = np.setdiff1d(np.arange(1, feature.capacity, dtype=np.int32), known["row"].to_numpy())
    assigned = reached.head(len(free))
    assigned = assigned.with_columns(row=pl.Series(free[: assigned.height]))
    after = (
        known.join(today.select("id", "today"), on="id", how="full", coalesce=True)
        .join(assigned.select("id", assigned="row"), on="id", how="left")
        .select(
            "id",
            pl.coalesce("assigned", pl.col("row"), pl.lit(0, pl.Int32)).alias("row"),
            pl.col("seen").fill_null(0) + pl.col("today").fill_null(0),
            pl.when(pl.col("today").is_null()).then("last").otherwise(pl.lit(day)).alias("last"),
        )
        .sort("id")
    )
    kept = after.filter(pl.col("last") > day - timedelta(days=grows.unseen_days))
    with_own = [int((frame["row"] > 0).sum()) for frame in (after, kept)]
    counts = {
        "ids_known": kept.height,
        "ids_with_rows": with_own[1],
        "ids_given": assigned.height,
        "ids_evicted": with_own[0] - with_own[1],
        "ids_full": reached.height - assigned.height,
    }
    return kept, assigned, {name: float(count) for name, count in counts.items()}


def _assign(indices: np.ndarray, ids: np.ndarray, assigned: pl.DataFrame, offset: int) -> None:
    """Set the `indices` [examples, fields] of `ids` that had been assigned one by then; padding stays -1."""
    if not assigned.height:
        return
    by_id = assigned.sort("id")
    keys, since, own = (by_id[name].to_numpy() for name in ("id", "since", "row"))
    at = np.minimum(np.searchsorted(keys, ids), len(keys) - 1)
    hit = (keys[at] == ids) & (since[at] <= np.arange(len(ids))[:, None]) & (indices >= 0)
    indices[hit] = offset + own[at[hit]]


class VocabularyVariables(tf.Module):
    """A vocabulary's frames as variables, so that a checkpoint holds them with the model."""

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
        """Set the variables to a vocabulary."""
        for name, frame in vocabulary.known.items():
            for column, values in _arrays(frame).items():
                self.columns[name][column].assign(values)

    def read(self, id_map: GrowingIdMap) -> Vocabulary:
        """Return the vocabulary that the variables hold."""
        known = {
            name: pl.DataFrame({column: variable.numpy() for column, variable in columns.items()}).cast(
                _COLUMNS
            )
            for name, columns in self.columns.items()
        }
        return Vocabulary(id_map, known)


def _arrays(frame: pl.DataFrame) -> dict[str, np.ndarray]:
    return {name: frame[name].to_physical().to_numpy() for name in frame.columns}
