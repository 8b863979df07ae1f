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
_NOTHING_ASSIGNED = pl.DataFrame(schema={"id": pl.Int64, "since": pl.Int64, "row": pl.Int32})


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

    def observe(self, day: date) -> "DayVocabulary":
        """Return what observes the ids of a day, which begins with this vocabulary."""
        return DayVocabulary(self, day)


class DayVocabulary:
    """Observes the ids of a day, chunk by chunk in order.

    An id that is seen for the `min_seen`-th time, counted over all days, is assigned the lowest free embedding,
    from that example on; if none is free, it keeps the default one. Ids that by the end of the day were not seen
    for `unseen_days` are forgotten, and their embeddings are free from the next day on.
    """

    def __init__(self, before: Vocabulary, day: date):
        self._before, self._day, self._rows = before, day, 0
        growing = [feature.name for feature in before.id_map.growing]
        self._known = dict(before.known)
        self._assigned = dict.fromkeys(growing, _NOTHING_ASSIGNED)
        self._full = dict.fromkeys(growing, pl.DataFrame(schema={"id": pl.Int64}))
        self._default = dict.fromkeys(growing, 0)

    def add(self, columns: Mapping[str, np.ndarray], ahead: tf.Tensor) -> tf.Tensor:
        """Observe the next examples; return their indices as they are when each of them comes, as `DayIds.indices`.

        `columns` holds their raw inputs in order, `ahead` their indices by the vocabulary before the day.
        """
        id_map, own = self._before.id_map, _fields(self._before.id_map)
        for feature in id_map.growing:
            name = feature.name
            ids = as_ids(tf.constant(columns[name]), 1).numpy()[:, 0]
            self._known[name], new, full = _observe(feature, self._known[name], ids, self._day, self._rows)
            self._assigned[name] = pl.concat([self._assigned[name], new])
            self._full[name] = pl.concat([self._full[name], full]).unique()
        indices = assign(id_map, self._assigned, columns, ahead, start=self._rows)
        for feature in id_map.growing:
            is_default = indices[:, own[feature.name].start] == id_map.offsets[feature.name]
            self._default[feature.name] += int(is_default.sum())
        self._rows += len(indices)
        return tf.constant(indices)

    def result(self) -> "DayIds":
        """Return what the day adds, at its end."""
        id_map, known, counts = self._before.id_map, {}, {}
        for feature in id_map.growing:
            name, after = feature.name, self._known[feature.name]
            assert feature.grows
            unseen_since = self._day - timedelta(days=feature.grows.unseen_days)
            known[name] = kept = after.filter(pl.col("last") > unseen_since)
            with_own = [int((frame["row"] > 0).sum()) for frame in (after, kept)]
            counts[name] = {
                "ids_known": float(kept.height),
                "ids_with_rows": float(with_own[1]),
                "ids_given": float(self._assigned[name].height),
                "ids_evicted": float(with_own[0] - with_own[1]),
                "ids_full": float(self._full[name].height),
                "default_row_share": self._default[name] / self._rows,
            }
        rows = [id_map.offsets[name] + new["row"].to_numpy() for name, new in self._assigned.items()]
        return DayIds(
            by_feature=self._assigned,
            assigned=np.concatenate(rows),
            vocabulary=Vocabulary(id_map, known),
            counts=counts,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DayIds:
    """The ids of a day, as its model sees them."""

    by_feature: Mapping[str, pl.DataFrame]
    """By feature: each `id` that is assigned during the day, its `row`, and `since` which example of the day."""
    assigned: np.ndarray
    """int32: indices that are assigned during the day, to be reset before the day is trained on."""
    vocabulary: Vocabulary
    """The vocabulary after the day."""
    counts: Mapping[str, Mapping[str, float]]
    """By feature: `ids_known` and `ids_with_rows` (with their own embedding) after the day; `ids_given` one during
    the day and `ids_evicted` at its end; `ids_full`, for which none was free; `default_row_share` of the examples."""

    def indices(self, columns: Mapping[str, np.ndarray], ahead: tf.Tensor, *, start: int) -> tf.Tensor:
        """Return the indices of examples as they are when each of them comes, int32 [examples, fields].

        `columns` holds their raw inputs, `ahead` their indices by the vocabulary before the day; the first is
        number `start` of the day.
        """
        return tf.constant(assign(self.vocabulary.id_map, self.by_feature, columns, ahead, start=start))


def _fields(id_map: GrowingIdMap) -> dict[str, slice]:
    """Return the fields of each feature among the indices of an example."""
    ends = itertools.accumulate(f.fields for f in id_map.features)
    return {f.name: slice(end - f.fields, end) for f, end in zip(id_map.features, ends, strict=True)}


def assign(
    id_map: GrowingIdMap,
    assigned: Mapping[str, pl.DataFrame],
    columns: Mapping[str, np.ndarray],
    ahead: tf.Tensor,
    *,
    start: int,
) -> np.ndarray:
    """Return the indices `ahead` with those of the ids that were assigned by the time of each example."""
    indices = ahead.numpy().copy()
    for name, new in assigned.items():
        # Its own field, and those of its histories. Their items were counted on the days when they occurred.
        for feature in id_map.features:
            if id_map.parts.get(feature.name) == id_map.parts[name]:
                part = indices[:, _fields(id_map)[feature.name]]
                ids = as_ids(tf.constant(columns[feature.name]), feature.fields).numpy()
                _assign(part, ids, new, id_map.offsets[name], start)
    return indices


def _observe(
    feature: Feature, known: pl.DataFrame, ids: np.ndarray, day: date, start: int
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Observe the next `ids` of a day, the first of which is example `start`.

    Returns the frame after them, the assigned `id`s with `row` and `since` which example, in order, and the `id`s for
    which no embedding was free.
    """
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
    reached = reached.select("id", pl.Series("since", start + since)).sort("since")
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
    return after, assigned.cast(_NOTHING_ASSIGNED.schema), reached[assigned.height :].select("id")


def _assign(indices: np.ndarray, ids: np.ndarray, assigned: pl.DataFrame, offset: int, start: int) -> None:
    """Set the `indices` [examples, fields] of `ids` that had been assigned one by then; padding stays -1."""
    if not assigned.height:
        return
    by_id = assigned.sort("id")
    keys, since, own = (by_id[name].to_numpy() for name in ("id", "since", "row"))
    at = np.minimum(np.searchsorted(keys, ids), len(keys) - 1)
    example = start + np.arange(len(ids))[:, None]
    hit = (keys[at] == ids) & (since[at] <= example) & (indices >= 0)
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
