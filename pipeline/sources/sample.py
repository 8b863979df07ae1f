"""A bounded sample of raw files: evenly spaced pieces of each, which are read like the files themselves."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from tutelage.pipeline.sources.base import Unit
from tutelage.pipeline.sources.store import CODECS, File, readable

PIECES = 16
"""Pieces of a file, the first and the last of them at its ends."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled(File):
    """Pieces of a file, in memory. It is read like the file: whole rows, below the file's own header."""

    content: bytes
    """A file of the same format without compression."""
    share: float
    """The share of the file's bytes that it holds, above 0 and at most 1."""

    @classmethod
    def of(cls, file: File, size: int) -> Self:
        """Return about `size` bytes of a file: evenly spaced pieces, or its beginning if it must be read in order.

        Compressed text and TFRecord must be. Raises UserError if the file cannot be read.
        """
        with readable(file):
            if file.suffix == ".parquet":
                content, share = _row_groups(file, size)
            elif file.suffix in (".csv", ".jsonl"):
                content, share = _lines(file, size)
            else:
                content, share = _beginning(file, size)
        return cls(
            **{field.name: getattr(file, field.name) for field in fields(File)}, content=content, share=share
        )

    def open(self) -> pa.NativeFile:
        """Open the pieces."""
        return pa.BufferReader(self.content)

    def stream(self, *, head: bool = False) -> pa.NativeFile:
        """Open the pieces."""
        return pa.BufferReader(self.content)


def evenly(items: Sequence[_T], count: int) -> list[_T]:
    """Return up to `count` evenly spaced items, the first and the last among them.

    Example:
        >>> evenly(range(10), 4)
        [0, 3, 6, 9]
    """
    if len(items) <= count:
        return list(items)
    return [items[i * (len(items) - 1) // max(count - 1, 1)] for i in range(count)]


def sampled(unit: Unit, size: int) -> Unit:
    """Return a unit of about `size` bytes of its file; a unit that is not of one file is returned as it is."""
    file: Any = unit.args.get("file")
    return (
        replace(unit, args={**unit.args, "file": Sampled.of(file, size)}) if isinstance(file, File) else unit
    )


def _row_groups(file: File, size: int) -> tuple[bytes, float]:
    """Return the first rows of evenly spaced row groups, as a Parquet file."""
    with file.open() as source:
        if source.size() <= size:
            return source.read(), 1.0
        with pq.ParquetFile(source) as parquet:
            every = parquet.metadata.num_rows
            groups = evenly(range(parquet.num_row_groups), PIECES)
            rows = max(1, every * size // source.size() // max(len(groups), 1))
            batches = [
                batch
                for group in groups
                for batch in [next(parquet.iter_batches(batch_size=rows, row_groups=[group]), None)]
                if batch is not None
            ]
            table = pa.Table.from_batches(batches, parquet.schema_arrow)
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue(), table.num_rows / max(every, 1)


def _lines(file: File, size: int) -> tuple[bytes, float]:
    """Return whole lines at evenly spaced places, the first line among them."""
    with file.open() as source:
        every = source.size()
        if every <= size:
            return source.read(), 1.0
        length = max(size // PIECES, 1)
        pieces = []
        for start in evenly(range(every - length + 1), PIECES):
            piece = source.read_at(length, start)
            begin = piece.find(b"\n") + 1 if start else 0
            end = len(piece) if start + length == every else piece.rfind(b"\n") + 1
            pieces.append(piece[begin:end])
    content = b"".join(pieces)
    return content, len(content) / every


def _beginning(file: File, size: int) -> tuple[bytes, float]:
    """Return the first whole lines or records, decompressed."""
    codec = CODECS.get(file.suffix)
    with file.open() as source:
        every = source.size()
        stream = pa.CompressedInputStream(source, codec) if codec else source
        content = stream.read(size + 1)
        share = source.tell() / max(every, 1)
    if len(content) <= size:
        return content, 1.0
    end = _last_record(content) if ".tfrecord" in file.suffixes else content.rfind(b"\n") + 1
    return content[:end], min(share * end / len(content), 1.0)


def _last_record(content: bytes) -> int:
    """Return where the last whole record of a TFRecord file ends: a length (8 bytes), its checksum, data, checksum."""
    end = 0
    while (after := end + 16 + int.from_bytes(content[end : end + 8], "little")) <= len(content):
        end = after
    return end
