"""`example_id`: a specified 64-bit hash of an exposure's key, the same in every library version."""

from collections.abc import Sequence

import polars as pl
import polars_hash as plh


def example_id(key: Sequence[str], schema: pl.Schema) -> pl.Expr:
    """xxHash64 (seed 0) of the key's canonical bytes, read as a signed integer.

    The canonical bytes are the key's values in the order declared, each followed by `;`: an integer
    in decimal, a string as its UTF-8 bytes after their number and a `:`. No two keys have the same
    bytes. Two keys may have the same hash (3e-8 likely in a million rows, 3e-4 in a hundred million).
    """
    parts: list[pl.Expr] = []
    for name in key:
        if schema[name] == pl.String:
            parts += [pl.col(name).str.len_bytes().cast(pl.String), pl.lit(":")]
        parts += [pl.col(name).cast(pl.String), pl.lit(";")]
    return plh.concat_str(parts).nchash.xxhash64().reinterpret(signed=True)
