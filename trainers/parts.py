"""Rows on disk in parts, read one part at a time: the way from one order of a day's rows to another."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl


class Parts:
    """Rows that are added in one order and read back part by part. Memory: the rows of one `add`, or of one part.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> parts = Parts(Path(folder.name), 2)
    >>> parts.add(pl.DataFrame({"a": [1, 2, 3]}), np.array([1, 0, 1]))
    >>> parts.add(pl.DataFrame({"a": [4, 5]}), np.array([1, 1]))
    >>> [parts.read(part)["a"].to_list() for part in range(2)]
    [[2], [1, 3, 4, 5]]
    """

    def __init__(self, folder: Path, count: int):
        """Keep `count` parts in a folder that nothing else uses."""
        folder.mkdir(parents=True, exist_ok=True)
        self.count = count
        self._folder = folder
        self._files: list[tuple[Path, np.ndarray]] = []

    def add(self, rows: pl.DataFrame, part: np.ndarray) -> None:
        """Add rows; `part` is the number [rows], from 0, of the part that each belongs to."""
        order = np.argsort(part, kind="stable")
        path = self._folder / f"{len(self._files):06}.arrow"
        rows[order].write_ipc(path, compression="uncompressed")
        self._files.append((path, np.searchsorted(part[order], np.arange(self.count + 1))))

    def read(self, part: int) -> pl.DataFrame:
        """Return the rows of a part, in the order in which they were added."""
        pieces = [
            pl.scan_ipc(path).slice(int(starts[part]), int(starts[part + 1] - starts[part])).collect()
            for path, starts in self._files
        ]
        return pl.concat(pieces, rechunk=True)

    def remove(self) -> None:
        """Remove them from the disk."""
        shutil.rmtree(self._folder)


def part_of(key: pl.Series, count: int) -> np.ndarray:
    """Return the part, of so many, that each key [rows] belongs to, by its hash."""
    return (key.hash(seed=0).to_numpy() % np.uint64(count)).astype(np.int64)
