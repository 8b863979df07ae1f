"""`example_id`: a specified 64-bit hash of an exposure's key, the same in every version of the libraries."""

from collections.abc import Sequence

import polars as pl
import polars_hash as plh


def example_id(key: Sequence[str], schema: pl.Schema) -> pl.Expr:
    """Return the xxHash64 (seed 0) of the key's canonical bytes, read as a signed integer.

    The canonical bytes are the key's values in the declared order, each followed by `;`. An integer is written
    in decimal, a string as the number of its UTF-8 bytes, `:`, and the bytes. No two keys have the same
    bytes. Two keys may have the same hash: the probability is 3e-8 for a million rows, 3e-4 for a hundred million.

    Example:
        >>> frame = pl.DataFrame({"user": [7], "topic": ["news"]})  # hashes "7;4:news;"
        >>> frame.select(example_id(["user", "topic"], frame.schema)).to_series().dtype
        Int64
    """
    parts: list[pl.Expr] = []
    for name in key:
        if schema[name] == pl.String:
            parts += [pl.col(name).str.len_bytes().cast(pl.String), pl.lit(":")]
        parts += [pl.col(name).cast(pl.String), pl.lit(";")]
    return plh.concat_str(parts).nchash.xxhash64().reinterpret(signed=True)


def shard_of(ids: pl.Expr, shards: int) -> pl.Expr:
    """Return the number of the shard of each id, from 0.

    A shard is a range of the lower 32 bits of the id, which is a hash. The upper bits decide what
    `Downsampling` keeps, so they are not spread evenly.

    Example:
        >>> pl.DataFrame({"id": [0, 2**31, 2**32 - 1, -1]}).select(shard_of(pl.col("id"), 2)).to_series().to_list()
        [0, 1, 1, 1]
    """
    return (ids.reinterpret(signed=False) % 2**32 * shards // 2**32).cast(pl.UInt32)
