"""The inputs of the models: features, growing vocabularies and histories."""

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa

from tutelage.pipeline.errors import UserError

_ARROW = {"int64": pa.int64(), "string": pa.string(), "float32": pa.float32()}
DEFAULTS: dict[str, int | str | float] = {"int64": -1, "string": "", "float32": 0.0}
"""What models see where a value is missing, by dtype."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """When an id feature's ids are given rows of the table of their own, and when they lose them."""

    min_seen: int = 2
    """An id is given a row when it is met for this many times; the first times it is on the default row."""
    unseen_days: int = 30
    """An id that was not met on so many days, up to a day's end, is forgotten then: its row and its count."""

    def __post_init__(self) -> None:
        if self.min_seen < 1 or self.unseen_days < 1:
            raise UserError(
                f"growth: min_seen is {self.min_seen} and unseen_days {self.unseen_days}, expected at least 1"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One input of the models.

    An `int64` or `string` feature is an id: it is looked up in an embedding table of `capacity` vectors.
    A `float32` feature is a number: it is fed as it is, or as log1p(max(value, 0)) where `log1p`.
    A null is stored as a null; models see `default` in its place.
    A `user` feature is the same for all candidates of a request (who asks, from where); one of a
    `candidate` differs between them.

    An id of `length` n is a list (of tags, say) of which models see the mean of the first n items'
    embeddings; a null is as good as an empty one, and an item that is null or `default` is none.
    A number with `buckets`, ascending edges in its own unit, is fed with the embedding of the bucket
    that it lies in besides; an edge belongs to the bucket above it.

    Ids are hashed into the `capacity`, and may share a vector; with `grows` an id has a row of its own or the first
    one, the default row (`models.id_map`), as each model has met it.
    """

    name: str
    dtype: Literal["int64", "string", "float32"]
    capacity: int = 0
    log1p: bool = False
    scope: Literal["user", "candidate"] = "candidate"
    length: int = 0
    buckets: tuple[float, ...] = ()
    grows: Growth | None = None

    def __post_init__(self) -> None:
        if self.dtype not in _ARROW:
            raise UserError(
                f"feature {self.name!r}: dtype is {self.dtype!r}, expected one of {sorted(_ARROW)}"
            )
        if self.scope not in ("user", "candidate"):
            raise UserError(f"feature {self.name!r}: scope is {self.scope!r}, expected 'user' or 'candidate'")
        if self.is_id and not 1 <= self.capacity < 2**31:
            raise UserError(
                f"feature {self.name!r}: capacity is {self.capacity}, an id needs between 1 and 2**31 - 1"
            )
        if self.is_id and self.log1p:
            raise UserError(f"feature {self.name!r}: log1p is for float32 features, this one is {self.dtype}")
        if self.length < 0 or (self.length and not self.is_id):
            raise UserError(
                f"feature {self.name!r}: length is {self.length}, expected at least 0, and 0 for a float32"
            )
        ascending = all(a < b for a, b in itertools.pairwise(self.buckets))
        if not (ascending and all(map(math.isfinite, self.buckets))) or (self.buckets and self.is_id):
            raise UserError(
                f"feature {self.name!r}: buckets is {self.buckets}, expected ascending numbers, "
                "and none for an id"
            )
        if self.grows and (not self.is_id or self.length or self.capacity < 2):
            raise UserError(
                f"feature {self.name!r}: grows is for single ids with a capacity of at least 2, the default row and "
                f"another; this one is {self.dtype} of length {self.length} with a capacity of {self.capacity}"
            )

    @property
    def is_id(self) -> bool:
        return self.dtype != "float32"

    @property
    def default(self) -> int | str | float:
        """What models see where the value is missing, and after the last item of a list."""
        return DEFAULTS[self.dtype]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row's value."""
        return (self.length,) if self.length else ()

    @property
    def arrow(self) -> pa.DataType:
        """The type of its column in a data file."""
        dtype = _ARROW[self.dtype]
        return pa.list_(dtype) if self.length else dtype

    def array(self, values: pl.Series) -> np.ndarray:
        """A column as models take it: [rows], nulls filled, or of a list [rows, length], filled up."""
        if not self.length:
            return values.fill_null(self.default).to_numpy()
        lists = values.list.drop_nulls().list.head(self.length)
        sizes = lists.list.len().fill_null(0)
        items = lists.filter(sizes > 0).explode().to_numpy()
        filled = np.full([len(values), self.length], self.default, items.dtype)
        filled[np.arange(self.length) < sizes.to_numpy()[:, None]] = items
        return filled

    @property
    def fields(self) -> int:
        """How many embeddings one row's value takes."""
        return max(self.length, 1)

    @property
    def embeddings(self) -> int:
        """How many rows of the embedding table are its own."""
        return self.capacity if self.is_id else len(self.buckets) + 1 if self.buckets else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What a row's user met before the row's day: a list of the user's that models weigh by the candidate.

    Of the rows of the `days` days before it, where the label `where` is above 0 (empty: of all), the
    values of the id feature `of`, the newest `length` of them, newest first. It shares the embeddings of `of`.
    """

    name: str = "history"
    of: str
    length: int = 20
    days: int = 7
    where: str = ""

    def __post_init__(self) -> None:
        if self.length < 1 or self.days < 1:
            raise UserError(
                f"history {self.name!r}: length is {self.length} and days {self.days}, expected at least 1"
            )
