"""A day as a model is trained on it: its examples in the order of their events, chunk by chunk."""

import hashlib
import mmap
import shutil
import tempfile
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
import tensorflow as tf

from tutelage.models.ranker import Batch
from tutelage.pipeline.io.retry import with_retries
from tutelage.trainers.vocabulary import DayIds, DayVocabulary, Vocabulary

_SLICE = 1_000
"""Examples of the smallest slice: the AUC of fewer is mostly noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Consecutive examples of a day, in the order of event time, ties by example_id."""

    start: int
    """The number of the first example in the day, from 0."""
    tensors: Batch
    """As in `Batch`, with B = the examples of the chunk."""
    ahead_rows: tf.Tensor
    """`tensors.rows` by the vocabulary from before the day; the same where no feature grows."""
    columns: Mapping[str, np.ndarray]
    """The raw inputs [examples], until `tensors.rows` is known; empty where no feature grows."""
    judged: pl.DataFrame
    """What the day is judged by: example_id, labels, weights, the user, and the features that name slices."""
    counts: Mapping[str, int]
    """Soft labels that were used, and that were not, by reason. Empty for a model that reads none."""

    @property
    def stop(self) -> int:
        """The number of the example after the last."""
        return self.start + self.judged.height

    @property
    def example_id(self) -> np.ndarray:
        """int64 [examples]."""
        return self.judged["example_id"].to_numpy()

    @property
    def ahead(self) -> Batch:
        """The tensors for scoring ahead: growing features have the vocabulary from before the day."""
        return self.tensors._replace(rows=self.ahead_rows)

    def to_train_on(self, rows: tf.Tensor) -> "Chunk":
        """Return the chunk with these indices to train on, and without the inputs that they were made of."""
        return replace(self, tensors=self.tensors._replace(rows=rows), columns={})


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedRows:
    """Rows that a day is judged by."""

    targets: np.ndarray
    """The hard targets, float32 [rows, tasks]."""
    users: np.ndarray | None
    """A number [rows] for each user; None if the schema names no user."""
    weight: np.ndarray | None
    """`Schema.example_weight` [rows]."""
    slices: Mapping[str, np.ndarray]
    """bool [rows] by name, as in `tab=1`."""


class Reader(Protocol):
    """What a day is read by (`feed.py`)."""

    size: int
    """Examples of the day."""
    chunk_rows: int
    """Examples of a chunk."""
    vocabulary: Vocabulary | None
    """That of the growing features, as it was before the day; None: the model has none."""
    slice_by: Sequence[str]
    """Features; each of their values that 1,000 examples or more have is a slice."""
    input_versions: Mapping[str, int]
    """The versions of the tables that the day is read from (`Lake.input_versions`)."""
    holdout: float
    """`TrainingConfig.holdout`: the share of the day's users whose rows weigh 0."""
    scratch: Path | None
    """A folder for what does not fit into memory, which goes with the day; None for a day of one chunk."""

    def chunk(self, start: int, stop: int) -> Chunk:
        """Return these examples of the day, with `tensors.rows` by the vocabulary from before the day."""

    def judged(self, start: int, stop: int) -> pl.DataFrame:
        """Return `Chunk.judged` of these examples, and read nothing else."""

    def judged_rows(self, judged: pl.DataFrame, slices: Sequence[tuple[str, object]]) -> JudgedRows:
        """Return what `judged`, a part of the day, says, with these values of features as slices."""


@dataclass(slots=True)
class _Survey:
    """What a first pass over a day finds out. The order of the chunks is that of the day."""

    ids: DayVocabulary | None
    slice_by: Sequence[str]
    digests: list["hashlib._Hash"] = field(default_factory=lambda: [hashlib.sha256() for _ in range(7)])
    counts: Counter[str] = field(default_factory=Counter)
    values: dict[str, pl.DataFrame] = field(default_factory=dict)

    def add(self, chunk: Chunk, *, only: bool) -> Chunk:
        """Take in the next chunk; return it with the indices that its examples are trained on by.

        `only`: it is the whole day.
        """
        if self.ids:
            chunk = chunk.to_train_on(self.ids.add(chunk.columns, chunk.ahead_rows))
        # Of a day of one chunk, the digest is that of all arrays one after the other.
        digests = self.digests[:1] * 7 if only else self.digests
        arrays = (chunk.example_id, *(tensor.numpy() for tensor in chunk.tensors))
        for digest, array in zip(digests, arrays, strict=True):
            digest.update(array.tobytes())
        self.counts.update(chunk.counts)
        for name in self.slice_by:
            found = chunk.judged[name].value_counts()
            before = self.values.get(name, found.clear())
            self.values[name] = pl.concat([before, found]).group_by(name).agg(pl.col("count").sum())
        return chunk

    def digest(self, *, only: bool) -> str:
        if only:
            return self.digests[0].hexdigest()
        return hashlib.sha256(b"".join(digest.digest() for digest in self.digests)).hexdigest()

    def slices(self) -> list[tuple[str, object]]:
        """Return the feature and value of each slice: those that enough examples have."""
        return [
            (name, value)
            for name in self.slice_by
            for value, count in self.values[name].sort(name).iter_rows()
            if count >= _SLICE
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    digest: str
    counts: Mapping[str, int]
    day_ids: DayIds | None
    slices: Sequence[tuple[str, object]]


class Day:
    """The examples of a day in the order of event time, ties by example_id.

    They come in chunks of `chunk_rows`, the next of which is read while one is worked on. A day of one chunk is read
    once and kept. One of more is read as often as it is gone through: ahead of its training, when it is scored and
    surveyed, for training, and a few columns of it when it is judged. What it leaves of each example lies on the disk.
    """

    def __init__(self, day: date, reader: Reader):
        """Read the first chunk of what `reader` reads of `day`."""
        self.day, self.size = day, reader.size
        self.input_versions, self.holdout = reader.input_versions, reader.holdout
        self.waited = 0.0
        """Seconds that the trainer waited for rows to be read."""
        self.when_last_is_read: Callable[[Day], None] = lambda day: None
        """Called with the day once its last chunk is being trained on: the next day can be read."""
        self._reader, self.scratch = reader, reader.scratch
        if self.scratch:
            weakref.finalize(self, shutil.rmtree, self.scratch, ignore_errors=True)
        starts = range(0, self.size, reader.chunk_rows)
        self._ranges = [(start, min(start + reader.chunk_rows, self.size)) for start in starts]
        self._found: _Found | None = None
        survey = self._new_survey()
        self._first: Chunk | None = survey.add(reader.chunk(*self._ranges[0]), only=self.is_one_chunk)
        self._survey: _Survey | None = None if self.is_one_chunk else survey
        if self.is_one_chunk:
            self._conclude(survey)

    @property
    def is_one_chunk(self) -> bool:
        """Whether all of it is in memory at once."""
        return self.chunk_count == 1

    @property
    def chunk_count(self) -> int:
        """The number of its chunks."""
        return len(self._ranges)

    @property
    def whole(self) -> Chunk:
        """The one chunk of a day that has no more."""
        if not self.is_one_chunk or self._first is None:
            raise ValueError(f"day {self.day} has {self.chunk_count} chunks; go through `chunks`")
        return self._first

    @property
    def digest(self) -> str:
        """SHA-256 of the example ids and of all tensors: training on two days of one digest is the same."""
        return self._surveyed.digest

    @property
    def counts(self) -> Mapping[str, int]:
        """As in `Chunk`, of the whole day."""
        return self._surveyed.counts

    @property
    def day_ids(self) -> DayIds | None:
        """The ids of growing features; None for a model without such a feature."""
        return self._surveyed.day_ids

    @property
    def _surveyed(self) -> _Found:
        for _ in () if self._found else self.ahead():
            pass
        assert self._found
        return self._found

    def _new_survey(self) -> _Survey:
        vocabulary = self._reader.vocabulary
        return _Survey(vocabulary.observe(self.day) if vocabulary else None, self._reader.slice_by)

    def _conclude(self, survey: _Survey) -> None:
        self._found = _Found(
            digest=survey.digest(only=self.is_one_chunk),
            counts=dict(survey.counts),
            day_ids=survey.ids.result() if survey.ids else None,
            slices=survey.slices(),
        )

    def ahead(self) -> Iterator[Chunk]:
        """Yield the chunks in order, to be scored before any of the day is trained on (`Chunk.ahead`)."""
        if self.is_one_chunk:
            yield self.whole
            return
        if self._found:
            yield from self._from_example(0)
            return
        # Of a pass that was broken off nothing is left.
        survey, first = self._survey or self._new_survey(), [self._first] if self._first else []
        self._survey = self._first = None
        yield from self._timed(
            first.pop() if first else survey.add(self._chunk(each), only=False) for each in self._ranges
        )
        self._conclude(survey)

    def chunks(self, start: int = 0) -> Iterator[Chunk]:
        """Yield the chunks in order, to be trained on, from the one that holds example `start`."""
        if self.is_one_chunk:
            self.when_last_is_read(self)
            yield self.whole
            return
        for chunk in self._from_example(start):
            if chunk.stop == self.size:
                self.when_last_is_read(self)
            yield chunk

    def _from_example(self, start: int) -> Iterator[Chunk]:
        day_ids = self.day_ids
        return self._timed(self._for_training(each, day_ids) for each in self._ranges if each[1] > start)

    def _for_training(self, of: tuple[int, int], day_ids: DayIds | None) -> Chunk:
        chunk = self._chunk(of)
        if day_ids is None:
            return chunk
        return chunk.to_train_on(day_ids.indices(chunk.columns, chunk.ahead_rows, start=chunk.start))

    def _chunk(self, of: tuple[int, int]) -> Chunk:
        return with_retries(f"rows of {self.day} from {of[0]:,} on", self._reader.chunk, *of)

    def _timed(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """Yield chunks, each of which is read while the one before it is worked on; count the time without one."""
        with ThreadPoolExecutor(1) as reader:
            following = iter(chunks)
            coming = reader.submit(next, following, None)
            while True:
                started = time.monotonic()
                chunk = coming.result()
                self.waited += time.monotonic() - started
                if chunk is None:
                    return
                coming = reader.submit(next, following, None)
                yield chunk

    def judged(self) -> Iterator[pl.DataFrame]:
        """Yield `Chunk.judged` of each chunk, in order."""
        if self.is_one_chunk:
            yield self.whole.judged
            return
        for start, stop in self._ranges:
            what = f"what {self.day} is judged by"
            yield with_retries(what, self._reader.judged, start, stop)

    def judged_rows(self, judged: pl.DataFrame) -> JudgedRows:
        """Return what these rows of `judged` say. Which values are slices depends on the whole day."""
        return self._reader.judged_rows(judged, self._surveyed.slices)

    def new_column(self) -> np.ndarray:
        """Return room for a number of each example, float32 [examples]: in memory for one chunk, else on the disk."""
        if self.is_one_chunk:
            return np.empty(self.size, np.float32)
        with tempfile.NamedTemporaryFile(dir=self.scratch, delete=False) as file:
            return np.memmap(file.name, np.float32, "w+", shape=(self.size,))

    def pieces(
        self, *columns: Mapping[str, np.ndarray]
    ) -> Iterator[tuple[slice, list[dict[str, np.ndarray]]]]:
        """Yield, chunk by chunk, which examples they are and their part of each of `columns` [examples] by name."""
        for start, stop in self._ranges:
            copies = [
                {name: np.array(values[start:stop]) for name, values in each.items()} for each in columns
            ]
            for each in columns:
                self.unmap(each)
            yield slice(start, stop), copies

    @staticmethod
    def unmap(columns: Mapping[str, np.ndarray]) -> None:
        """Give back the memory of columns that lie on the disk. What was written to them stays there."""
        for values in columns.values():
            if isinstance(values, np.memmap):
                values._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


def read_ahead(
    days: Sequence[date],
    read: Callable[[date, Vocabulary | None], Day],
    *,
    vocabulary: Callable[[], Vocabulary | None] = lambda: None,
) -> Iterator[Day]:
    """Yield each day in turn. While the last chunk of one is trained on, the first of the next is read.

    A day is read with the vocabulary that follows from the day before it. If that day was not kept, it is read
    once more: `vocabulary` returns the model's own when a day's turn comes.
    """
    left, waits = deque(days), False
    with ThreadPoolExecutor(1) as reader:
        expected = vocabulary()
        coming: Future[Day] | None = reader.submit(read, left[0], expected)

        def begin_next(finished: Day) -> None:
            nonlocal expected, coming
            if left and coming is None:
                expected = finished.day_ids.vocabulary if finished.day_ids else None
                coming = reader.submit(read, left[0], expected)

        while coming:
            started = time.monotonic()
            day = coming.result()
            if vocabulary() is not expected:
                day = read(left[0], vocabulary())
            # Nothing could hide the reading of the first day.
            day.waited += time.monotonic() - started if waits else 0.0
            coming, waits = None, True
            left.popleft()
            day.when_last_is_read = begin_next
            if day.is_one_chunk:
                begin_next(day)
            yield day
            begin_next(day)
