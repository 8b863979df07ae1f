"""Take a user's rows out of what is stored beside a version: its golden batch and its warm-up requests."""

import os
from pathlib import Path

import polars as pl

from tutelage.export import card, golden, warmup


def forget(folder: Path, model: str, whose: pl.Expr) -> int:
    """Remove the golden rows of which `whose` is true from a version of `model`, and return their number.

    The warm-up requests are made again from the rows that are left. The golden batch is replaced last, right
    after the card that holds its hash: if the process is killed before that, the rows are still there and the
    next call does everything again.
    """
    path = folder / golden.PATH
    batch = pl.read_parquet(path)
    left = batch.filter(~whose.fill_null(False))
    if left.height < batch.height:
        partial = path.with_name(f".{path.name}.partial")
        left.write_parquet(partial)
        requests = folder / warmup.PATH
        rewritten = requests.with_name(f".{requests.name}.partial")
        warmup.write_warmup(rewritten, model, golden.read_golden(partial).features)
        os.replace(rewritten, requests)
        card.update_hash(folder, {path: partial})
        os.replace(partial, path)
    return batch.height - left.height
