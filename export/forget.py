"""Take a user's rows out of what is stored beside a version: its golden batch and its warm-up requests."""

from pathlib import Path

import polars as pl

from tutelage.export import card, golden, warmup
from tutelage.export.versions import DIGESTS, write_digests
from tutelage.pipeline.io.atomic import move_new
from tutelage.pipeline.io.folders import replace_files
from tutelage.pipeline.io.paths import remote
from tutelage.pipeline.io.scratch import local_copy

_REPLACED = (warmup.PATH, f"{card.PATH}.json", f"{card.PATH}.md", DIGESTS, golden.PATH)
"""What changes, in the order in which it is replaced."""


def forget(folder: Path, model: str, whose: pl.Expr) -> int:
    """Remove the golden rows of which `whose` is true from a version of `model`, and return their number.

    The warm-up requests are made again from the rows that are left. The golden batch is replaced last, right
    after the card that holds its hash: if the process is killed before that, the rows are still there and the
    next call does everything again.
    """
    if remote(folder):
        with local_copy(folder) as copy:
            gone = forget(copy, model, whose)
            if gone:
                replace_files(folder, {name: (copy / name).read_bytes() for name in _REPLACED})
        return gone
    path = folder / golden.PATH
    batch = pl.read_parquet(path)
    left = batch.filter(~whose.fill_null(False))
    if left.height < batch.height:
        partial = path.with_name(f".{path.name}.partial")
        left.write_parquet(partial)
        requests = folder / warmup.PATH
        rewritten = requests.with_name(f".{requests.name}.partial")
        warmup.write_warmup(rewritten, model, golden.read_golden(partial).features)
        move_new(rewritten, requests)
        card.update_hash(folder, {path: partial})
        write_digests(folder, {path: partial})
        move_new(partial, path)
    return batch.height - left.height
