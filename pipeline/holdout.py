"""The holdout: the few rows of each day that no model is trained on, so that any two versions can be judged on them."""

from datetime import date

import polars as pl
import polars_hash as plh

from tutelage.pipeline.schema import Schema


def known_user(schema: Schema) -> pl.Expr:
    """Return whether the user of a row is known: the schema names one, and the row has an id other than the default."""
    if schema.user is None:
        return pl.lit(False)
    default = next(feature.default for feature in schema.ids if feature.name == schema.user)
    return pl.col(schema.user).is_not_null() & (pl.col(schema.user) != default)


def held_out(schema: Schema, day: date, share: float) -> pl.Expr:
    """Return whether a row of `day` belongs to the holdout, bool, from the user's id and `example_id`.

    A hash of (user, day) decides, so that all of a user's rows of a day are withheld together, and other users' the
    next day. A row without a known user is decided by its own id. The hash is xxHash64 of text that begins with
    `holdout`, which has nothing to do with the hashes that sample negatives.

    Args:
        schema: its `user`, if it has one.
        day: the day of the rows.
        share: the share of the (user, day) that is withheld, from 0 to below 1.

    Example:
        >>> from tutelage.pipeline.schema import Feature, Task
        >>> user = Feature(name="user", dtype="int64", capacity=100)
        >>> schema = Schema(features=(user,), tasks=(Task(name="click", label="click"),), key=("user",), user="user")
        >>> rows = pl.DataFrame({"user": [7, 7, 8], "example_id": [1, 2, 3]})
        >>> rows.select(held_out(schema, date(2026, 1, 1), 0.0)).to_series().any()
        False
    """
    own = pl.format("holdout;{};row;{}", pl.lit(str(day)), pl.col("example_id"))
    decides = own
    if schema.user is not None:
        of_user = pl.format("holdout;{};user;{}", pl.lit(str(day)), pl.col(schema.user))
        decides = pl.when(known_user(schema)).then(of_user).otherwise(own)
    return plh.concat_str([decides]).nchash.xxhash64() < int(share * 2**64)
