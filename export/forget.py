"""Take a user's rows out of what lies beside a version: its golden batch and its warm-up requests."""

import os
from pathlib import Path

import polars as pl

from tutelage.export import card, golden, warmup


def forget(folder: Path, model: str, whose: pl.Expr) -> int:
    """Take the golden rows for which `whose` holds out of a version of `model`, and make its warm-up requests
    of those that are left. Returns how many went.

    The golden batch goes last, with the card that names its hash right before it: a version in which this was
    killed has the rows still, and is taken up again.
    """
    path = folder / golden.PATH
    batch = pl.read_parquet(path)
    left = batch.filter(~whose.fill_null(False))
    if left.height < batch.height:
        partial = path.with_name(f".{path.name}.partial")
        left.write_parquet(partial)
        requests = folder / warmup.PATH
        made = requests.with_name(f".{requests.name}.partial")
        warmup.write_warmup(made, model, golden.read_golden(partial).features)
        os.replace(made, requests)
        card.renew(folder, {path: partial})
        os.replace(partial, path)
    return batch.height - left.height
