"""The inputs of the models: features, vocabularies that grow, and histories."""

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa

from tutelage.pipeline.errors import UserError

_ARROW = {"int64": pa.int64(), "string": pa.string(), "float32": pa.float32()}
_LARGEST, _LARGEST_LOGGED = 1e6, 1e20
DEFAULTS: dict[str, int | str | float] = {"int64": -1, "string": "", "float32": 0.0}
"""What models see where a value is missing, by dtype."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """When an id of a growing feature gets an embedding of its own, and when it loses it."""

    min_seen: int = 2
    """An id gets an embedding of its own when it is seen for this many times. Before, it has the default one."""
    unseen_days: int = 30
    """An id that was not seen for so many days, up to the end of a day, loses its embedding and its count."""

    def __post_init__(self) -> None:
        if self.min_seen < 1 or self.unseen_days < 1:
            raise UserError(
                f"growth: min_seen is {self.min_seen} and unseen_days {self.unseen_days}, expected at least 1"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One input of the models.

    An `int64` or `string` feature is an id. It is looked up in an embedding table of `capacity` vectors.
    A `float32` feature is a number. It is fed as it is, or with `log1p` as log1p(max(value, 0)).
    A missing value is stored as a null; models see `default` instead. So they do for a number that is NaN, infinite
    or beyond `largest`.
    A `user` feature is the same for all candidates of a request (who asks, from where). A `candidate` feature
    differs between them.

    An id with a `length` is a list, for example of tags. Models see the mean of the embeddings of its first `length`
    items. A null counts as an empty list, and an item that is null or `default` is skipped.
    A number with `buckets` (ascending edges in its own unit) is also fed as the embedding of its bucket. An edge
    belongs to the bucket above it.

    Ids are hashed into the `capacity`, so several may share a vector. With `grows`, an id has a vector of its own or
    the default one (`models.id_map`), depending on how often the model has seen it.

    A feature with `serve_as` is known in training only, such as the position at which an item was shown. Models train
    on its values. No signature of a student takes it: its value is `serve_as` in every request. `serve_as` may be
    changed in a workdir at any time, and holds for the versions that are exported from then on.

    Example:
        >>> tags = Feature(name="tags", dtype="string", capacity=1_000, length=2)
        >>> tags.array(pl.Series([["new", "fun", "old"], ["new"], None])).tolist()
        [['new', 'fun'], ['new', ''], ['', '']]
    """

    name: str
    dtype: Literal["int64", "string", "float32"]
    capacity: int = 0
    log1p: bool = False
    scope: Literal["user", "candidate"] = "candidate"
    length: int = 0
    buckets: tuple[float, ...] = ()
    grows: Growth | None = None
    serve_as: int | float | str | None = None

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
                f"feature {self.name!r}: grows needs a single id with a capacity of at least 2, the default embedding "
                f"and another; this one is {self.dtype} of length {self.length} with a capacity of {self.capacity}"
            )
        if self.serve_as is not None:
            self._check_served(self.serve_as)

    def _check_served(self, value: int | float | str) -> None:
        if self.length:
            raise UserError(
                f"feature {self.name!r}: serve_as is {value!r}, expected None for a list; if no request has the list, "
                "name it in `without` of each student's model"
            )
        kinds = {"int64": (int,), "string": (str,), "float32": (int, float)}[self.dtype]
        fits = type(value) in kinds
        if not fits or (not self.is_id and not math.isfinite(float(value))):
            raise UserError(
                f"feature {self.name!r}: serve_as is {value!r}, expected a value of its dtype, {self.dtype}"
            )

    @property
    def is_id(self) -> bool:
        """Whether it is looked up in an embedding table."""
        return self.dtype != "float32"

    @property
    def default(self) -> int | str | float:
        """What models see where the value is missing, and after the last item of a list."""
        return DEFAULTS[self.dtype]

    @property
    def largest(self) -> float:
        """The largest sound number, up or down from 0. One beyond it is absurd, and counts as missing.

        Networks multiply their inputs with one another, so that a few larger ones would make a day's losses infinite.
        Logarithms of numbers are never large. Buckets of millions make room for numbers of thousands of millions.

        >>> Feature(name="age", dtype="float32").largest, Feature(name="age", dtype="float32", log1p=True).largest
        (1000000.0, 1e+20)
        """
        edge = max(map(abs, self.buckets), default=0.0)
        return _LARGEST_LOGGED if self.log1p else 1_000 * edge if edge > _LARGEST else _LARGEST

    @property
    def cut(self) -> float | None:
        """Where sound numbers are cut, up and down from 0: at the outermost of buckets of millions; None: nowhere."""
        edge = max(map(abs, self.buckets), default=0.0)
        return edge if edge > _LARGEST and not self.log1p else None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example's value."""
        return (self.length,) if self.length else ()

    @property
    def arrow(self) -> pa.DataType:
        """The type of its column in a data file."""
        dtype = _ARROW[self.dtype]
        return pa.list_(dtype) if self.length else dtype

    def served_array(self, rows: int) -> np.ndarray:
        """Return what a served model sees of a feature with `serve_as`, an array [rows]."""
        return np.full(
            rows, self.serve_as, {"int64": np.int64, "float32": np.float32}.get(self.dtype, object)
        )

    def array(self, values: pl.Series) -> np.ndarray:
        """Return a column as models take it: [examples] with nulls filled, or for a list [examples, length], padded."""
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
        """How many embeddings are looked up for one example."""
        return max(self.length, 1)

    @property
    def embeddings(self) -> int:
        """How many vectors of the embedding table are its own."""
        return self.capacity if self.is_id else len(self.buckets) + 1 if self.buckets else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What the user of an example saw on the days before: a list that models weigh by the candidate.

    It holds the values of the id feature `of` in the user's examples of the `days` days before: the newest `length` of
    them, the newest first. With `where`, only examples whose label `where` is above 0 count. A history shares the
    embeddings of `of`.
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
