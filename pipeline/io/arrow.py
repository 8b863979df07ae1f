"""Staged frames as uncompressed Arrow IPC, which is written and read at the speed of memory."""

from io import BytesIO
from typing import cast

import polars as pl
import pyarrow as pa

from tutelage.pipeline.io.paths import as_path, remote

_BATCH_ROWS = 1 << 16
"""Rows of an object store's file that are read at a time, so that a part of it is read without the rest."""


def write_arrow(frame: pl.DataFrame, path: str) -> None:
    """Write a frame to a new file."""
    if stored := remote(as_path(path)):
        content = BytesIO()
        frame.write_ipc(content, record_batch_size=_BATCH_ROWS)
        stored.write_bytes(content.getbuffer())
    else:
        frame.write_ipc(path)


def read_arrow(path: str, start: int = 0, rows: int | None = None) -> pl.DataFrame:
    """Return rows of a file (None: all from `start` on).

    A local file is memory-mapped: only what is used of it is read. Of an object store's file the record batches that
    hold the rows are read.
    """
    if stored := remote(as_path(path)):
        with stored.open("rb") as file:
            reader = pa.ipc.open_file(pa.PythonFile(file, mode="r"))
            first = start // _BATCH_ROWS
            end = reader.num_record_batches if rows is None else -(-(start + rows) // _BATCH_ROWS)
            batches = [reader.get_batch(n) for n in range(first, min(end, reader.num_record_batches))]
            table = pa.Table.from_batches(batches, reader.schema).slice(start - first * _BATCH_ROWS, rows)
    else:
        with pa.memory_map(path) as source:
            table = pa.ipc.open_file(source).read_all().slice(start, rows)
    return cast(pl.DataFrame, pl.from_arrow(table, rechunk=False))
