"""Negatives for a day of positives only: items that the user did not meet, drawn from those of the day."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tutelage.pipeline.ids import example_id
from tutelage.pipeline.pieces import Piece
from tutelage.pipeline.schema import SAMPLING_RATE, Schema, interaction_columns

BUCKET_ROWS = 1 << 22
"""Rows that are held at a time: of some users, with their negatives."""
_Ints = NDArray[np.int64]
_FIRST = ["event_time_us", "example_id"]
# Columns beside those of the schema, which has none of such names.
_START, _STEP, _USER, _ITEM, _POSITIVE = "#start", "#step", "#user", "#item", "#positive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """The negatives of some of a day's users."""

    rows: pl.DataFrame
    """With the columns of a `Piece`."""
    pairs: int
    """How many pairs there are of such a user and an item of the day that the user did not meet."""


def draw(
    pieces: Sequence[Piece], schema: Schema, day: date, *, share: tuple[int, int] = (0, 1)
) -> Iterator[Drawn]:
    """Yield the negatives of a day, some users at a time. The same rows in other pieces have the same negatives.

    `share`: only those of the users in one of so many shares of all users, by its number and the number of the shares.

    A positive is a row with a label above 0. It gets `per_positive` negatives, with its time and its `user` features,
    and with the other features of the first row of their item on that day. No user gets an item that it met on the
    day, or gets one twice, so a user of many items may get fewer. The labels are 0, or null where the positive's are.

    Memory: the day's items with their features, which each share reads anew, and 4,194,304 rows.
    """
    assert schema.negatives
    items = _items(pieces, schema)
    rows = sum(piece.rows for piece in pieces) * (1 + schema.negatives.per_positive)
    number, of = share
    each = -(-rows // (of * BUCKET_ROWS))
    buckets = of * each
    for bucket in range(number * each, (number + 1) * each):
        yield _of_users(_rows(pieces, schema, day, bucket, buckets), items, schema)


def _item_columns(schema: Schema) -> list[str]:
    return [f.name for f in schema.features if f.scope == "candidate" and f.name != schema.user]


def _items(pieces: Sequence[Piece], schema: Schema) -> pl.DataFrame:
    """Return the features of each item, those of its first row, sorted by item."""
    assert schema.negatives
    item, columns = schema.negatives.item, _item_columns(schema)
    first = pl.DataFrame()
    for piece in pieces:
        rows = pl.concat([first, piece.read().select(*columns, *_FIRST)], how="diagonal")
        first = rows.sort(_FIRST, maintain_order=True).unique(item, keep="first")
    return first.select(columns).sort(item)


def _rows(pieces: Sequence[Piece], schema: Schema, day: date, bucket: int, buckets: int) -> pl.DataFrame:
    """Return the rows of the users in the bucket without repeats, by user and time, with two hashes of each user.

    The hashes are of the seed, the day and the user.
    """
    assert schema.negatives
    assert schema.user
    left_out = {*_item_columns(schema), SAMPLING_RATE} - {schema.negatives.item}
    columns = [name for name in interaction_columns(schema).names if name not in left_out]
    found = []
    for piece in pieces:
        rows = piece.read().select(columns)
        for name in (_START, _STEP):
            seed = pl.lit(f"{name} {schema.negatives.seed} {day}").alias(name)
            hashed = example_id([name, schema.user], pl.Schema({**rows.schema, name: pl.String()}))
            rows = rows.with_columns(seed).with_columns(hashed.reinterpret(signed=False).alias(name))
        found.append(rows.filter(pl.col(_START) % buckets == bucket) if buckets > 1 else rows)
    rows = pl.concat(found).unique("example_id", keep="first", maintain_order=True)
    return rows.sort(schema.user, *_FIRST)


def _of_users(rows: pl.DataFrame, items: pl.DataFrame, schema: Schema) -> Drawn:
    """Return the negatives of these users' rows, which `_rows` returned."""
    assert schema.negatives
    assert schema.user
    number = items.select(schema.negatives.item, pl.int_range(pl.len()).alias(_ITEM))
    rows = rows.join(number, on=schema.negatives.item, maintain_order="left").with_columns(
        pl.col(schema.user).rank("dense").cast(pl.Int64).sub(1).alias(_USER),
        pl.any_horizontal(pl.col(name) > 0 for name in schema.labels).fill_null(False).alias(_POSITIVE),
    )
    of_user = (pl.col(_POSITIVE).sum().cast(pl.Int64), pl.col(_ITEM).n_unique().cast(pl.Int64))
    users = rows.group_by(_USER).agg(*of_user, pl.first(_START, _STEP)).sort(_USER)
    positives, met = (users[name].to_numpy() for name in (_POSITIVE, _ITEM))
    unmet = items.height - met
    wanted = np.minimum(positives * schema.negatives.per_positive, unmet)
    owner, index, place = _walks(users, rows.select(_USER, _ITEM).unique(), wanted, items.height)
    first = np.cumsum(positives) - positives
    chosen = rows.filter(_POSITIVE)[first[owner] + place % positives[owner]]
    columns = interaction_columns(schema)
    made = chosen.with_columns(
        *items[index].get_columns(),
        *(
            pl.when(pl.col(name).is_not_null()).then(0).cast(rows.schema[name]).alias(name)
            for name in schema.labels
        ),
        pl.Series(SAMPLING_RATE, (wanted / np.maximum(unmet, 1))[owner], pl.Float32),
        content=pl.lit(0, pl.UInt64),
    )
    made = made.with_columns(example_id=example_id(schema.key, made.schema))
    return Drawn(rows=made.select(*columns.names, "content"), pairs=int(unmet[positives > 0].sum()))


def _walks(users: pl.DataFrame, met: pl.DataFrame, wanted: _Ints, items: int) -> tuple[_Ints, _Ints, _Ints]:
    """Return [negatives] the user, the item's number, and which of its user's negatives each one is.

    A user walks through the numbers from 0 to a prime in steps of its own, from a start of its own, past what is no
    item or is one that it met. No number comes twice before all have come. With `start` and `step` at random, each item
    is as likely as another at each place, and so is each pair of items at each pair of places.
    """
    prime = _prime(items)
    start, step = (users[name].to_numpy() for name in (_START, _STEP))
    start, step = (start % prime).astype(np.int64), (1 + step % (prime - 1)).astype(np.int64)
    lengths = np.where(wanted > 0, wanted + users[_ITEM].to_numpy() + prime - items, 0)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    index = (start[owner] + _places(lengths) * step[owner]) % prime
    pairs = met[_USER].to_numpy() * items + met[_ITEM].to_numpy()
    good = (index < items) & ~np.isin(owner * items + index, pairs)
    owner, index = owner[good], index[good]
    place = _places(np.bincount(owner, minlength=len(lengths)))
    good = place < wanted[owner]
    return owner[good], index[good], place[good]


def _places(lengths: _Ints) -> _Ints:
    """Return 0, 1, ... for each group of as many elements.

    >>> _places(np.array([2, 0, 3])).tolist()
    [0, 1, 0, 1, 2]
    """
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _prime(least: int) -> int:
    """Return the smallest prime that is at least `least`.

    >>> [_prime(n) for n in (1, 2, 8, 11)]
    [2, 2, 11, 11]
    """
    number = max(least, 2)
    while any(number % divisor == 0 for divisor in range(2, math.isqrt(number) + 1)):
        number += 1
    return number
