"""The store of soft labels: what teachers predicted for each example, and which state of the teacher predicted it.

Everything about the table `soft_labels` is defined here: its columns, its partitions, and the leak rule. A label
must come from a teacher that was not yet trained on the example. The store checks this when labels are written and
again when they are read. It imports neither TensorFlow nor Beam, so any training loop can use it:

    store = SoftLabelStore.open("WORKDIR/lake")
    for day in store.days("teacher"):
        examples = pl.scan_delta("WORKDIR/lake/interactions").filter(day=day).collect()
        labels, weights, counts = store.join(examples["example_id"], day, LabelRequest(teacher="teacher"))
        ...  # train on them
"""

import copy
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import polars as pl
import pyarrow as pa

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.paths import as_path
from tutelage.pipeline.table import DataFile, Table

Producer = Literal["pre_update", "snapshot"]
"""How labels were made.

`pre_update`: by the teacher while it was trained, in the forward pass before each update.
`snapshot`: by a published teacher of an earlier day.
"""
PRE_UPDATE: Producer = "pre_update"
SNAPSHOT: Producer = "snapshot"

_FOLDER = "soft_labels"
_PARTITION_BY = {"teacher": pa.string(), "producer": pa.string(), "day": pa.date32()}
_PROVENANCE = {"snapshot_day": pa.date32(), "teacher_step": pa.int64(), "trained_step": pa.int64()}
_LEAKS = {
    PRE_UPDATE: ~(pl.col("teacher_step") < pl.col("trained_step")),
    SNAPSHOT: ~(pl.col("snapshot_day") < pl.col("day")),
}


def label_columns(outputs: Sequence[str]) -> pa.Schema:
    """Return the columns of a data file of `soft_labels`, without the partition columns.

    These are `example_id`, a float32 for each raw output of the teacher, and where the label comes from:
    `snapshot_day` is the last day that the teacher was trained on completely (null: none),
    `teacher_step` the number of updates that it had made,
    `trained_step` its number of updates after the one that trained it on the example (null: not trained on it).
    """
    return pa.schema(
        [("example_id", pa.int64()), *((name, pa.float32()) for name in outputs), *_PROVENANCE.items()]
    )


class LabelPartition(NamedTuple):
    """The labels of one teacher, made in one way, for one day: the unit that is replaced or withdrawn.

    Example:
        >>> LabelPartition("teacher", PRE_UPDATE, date(2026, 1, 2)).key
        'teacher/pre_update/2026-01-02'
    """

    teacher: str
    producer: str
    day: date

    @property
    def key(self) -> str:
        """Its name in the commits of the table."""
        return "/".join(map(str, self))

    @property
    def values(self) -> dict[str, str | date]:
        """The values of the partition columns, by name."""
        return self._asdict()


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRequest:
    """Which labels a student reads, and how much each of them weighs."""

    teacher: str
    producer: Producer = PRE_UPDATE
    min_step: int = 0
    """Labels of a teacher that had made fewer updates are masked."""
    half_life: float | None = None
    """Days of age after which a label weighs half; None: all weigh the same. A label made by the teacher of the day
    before has age 0."""
    required: tuple[str, ...] = ()
    """Raw outputs that the student is trained on. A label that lacks one of them counts as missing."""
    masked: bool = False
    """Whether all labels are masked, because the teacher is new to the student."""

    @property
    def source(self) -> tuple[str, str]:
        """The teacher and the producer."""
        return self.teacher, self.producer


class JoinedLabels(NamedTuple):
    """Soft labels beside the examples of a batch or of a day, in their order."""

    labels: np.ndarray
    """float32 [examples, raw outputs]: 0 where there is none."""
    weight: np.ndarray
    """float32 [examples]: 0 where the label is missing or masked."""
    counts: dict[str, int]
    """Examples by what became of their label; they add up to all examples. `labels_used`, `teacher_too_young`,
    `labels_missing`, and `teacher_changed` where the teacher is new to the student."""


def labels_before_update(
    example_id: np.ndarray | pl.Series,
    outputs: Mapping[str, np.ndarray],
    *,
    teacher_step: np.ndarray | int,
    snapshot_day: date | None = None,
) -> pl.DataFrame:
    """Return the rows of labels that a teacher made in the forward pass before the update on the same examples.

    Args:
        example_id: int64 [examples].
        outputs: the teacher's raw outputs by name, each float [examples].
        teacher_step: the updates that the teacher had made before this forward pass, int64 [examples] or one number.
        snapshot_day: the last day that the teacher was trained on completely; None: none.

    Example:
        >>> frame = labels_before_update(np.array([7]), {"click_logit": np.array([0.5])}, teacher_step=3)
        >>> frame.row(0, named=True)
        {'example_id': 7, 'click_logit': 0.5, 'teacher_step': 3, 'snapshot_day': None, 'trained_step': 4}
    """
    return _rows(example_id, outputs, teacher_step).with_columns(
        snapshot_day=pl.lit(snapshot_day, pl.Date), trained_step=pl.col("teacher_step") + 1
    )


def labels_by_snapshot(
    example_id: np.ndarray | pl.Series,
    outputs: Mapping[str, np.ndarray],
    *,
    snapshot_day: date,
    teacher_step: int,
) -> pl.DataFrame:
    """Return the rows of labels made by a teacher that was trained on `snapshot_day` and nothing after it.

    Args:
        example_id: int64 [examples].
        outputs: the teacher's raw outputs by name, each float [examples].
        snapshot_day: the last day that the teacher was trained on.
        teacher_step: the updates that the teacher had made.
    """
    return _rows(example_id, outputs, teacher_step).with_columns(
        snapshot_day=pl.lit(snapshot_day, pl.Date), trained_step=pl.lit(None, pl.Int64)
    )


def _rows(
    example_id: np.ndarray | pl.Series, outputs: Mapping[str, np.ndarray], teacher_step: np.ndarray | int
) -> pl.DataFrame:
    values = [pl.Series(name, each, dtype=pl.Float32) for name, each in outputs.items()]
    step = pl.lit(teacher_step, pl.Int64) if isinstance(teacher_step, int) else pl.Series(teacher_step)
    return pl.DataFrame([pl.Series("example_id", example_id, dtype=pl.Int64), *values]).with_columns(
        teacher_step=step.cast(pl.Int64)
    )


class SoftLabelStore:
    """The soft labels of one workdir, by teacher, producer and day.

    A partition has one writer at a time. Labels are replaced by whole partitions, in one commit.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> store = SoftLabelStore.declare(folder.name, ["click_logit"])
        >>> store.create()
        >>> labels = labels_before_update(np.array([7, 8]), {"click_logit": np.array([0.5, -1])}, teacher_step=3)
        >>> store.write(LabelPartition("teacher", PRE_UPDATE, date(2026, 1, 2)), labels)
        >>> store.days("teacher")
        [datetime.date(2026, 1, 2)]
        >>> joined = store.join(pl.Series([8, 9]), date(2026, 1, 2), LabelRequest(teacher="teacher"))
        >>> joined.labels.tolist(), joined.weight.tolist()
        ([[-1.0], [0.0]], [1.0, 0.0])
        >>> joined.counts
        {'labels_used': 1, 'teacher_too_young': 0, 'labels_missing': 1}
    """

    def __init__(self, table: Table):
        self.table = table

    @classmethod
    def open(cls, lake: str | Path) -> Self:
        """Open the store of a workdir's lake, `WORKDIR/lake`. Raises UserError where there is none."""
        return cls(Table.open(as_path(lake) / _FOLDER))

    @classmethod
    def declare(cls, lake: str | Path, outputs: Sequence[str]) -> Self:
        """Return the store of a lake for teachers with these raw outputs. `create` creates it."""
        return cls(Table(as_path(lake) / _FOLDER, label_columns(outputs), partition_by=_PARTITION_BY))

    def create(self) -> None:
        """Create an empty store unless it exists."""
        self.table.create()

    @property
    def path(self) -> Path:
        """The folder of the Delta table."""
        return self.table.path

    @property
    def outputs(self) -> list[str]:
        """The raw outputs that a label has, in the order of the columns."""
        others = {"example_id", *_PROVENANCE, *_PARTITION_BY}
        return [name for name in self.table.schema.names if name not in others]

    def snapshot(self) -> Self:
        """Return the store as it is now. Later commits are not seen through it."""
        return self._at(self.table.snapshot())

    def as_of(self, version: int | datetime) -> Self:
        """Return the store, to read only, as of a version of the table or as of a time.

        Raises UserError where the table had no version then.
        """
        return self._at(self.table.as_of(version))

    def _at(self, table: Table) -> Self:
        store = copy.copy(self)
        store.table = table
        return store

    # What is there.

    def scan(self, **where: str | date) -> pl.LazyFrame:
        """Return the labels, unchecked, whose partition columns (teacher, producer, day) have these values."""
        return self.table.scan(**where)

    def partitions(self) -> pl.DataFrame:
        """Return one line per partition: teacher, producer, day and `rows`, the number of labels."""
        return self.table.partitions()

    def days(self, teacher: str, producer: Producer = PRE_UPDATE) -> list[date]:
        """Return the days that a teacher labelled, in order."""
        return self.partitions().filter(teacher=teacher, producer=producer)["day"].to_list()

    def coverage(self, examples: pl.LazyFrame) -> pl.DataFrame:
        """Return how many of the examples each teacher and producer labelled.

        `examples` has the columns `day` and `example_id`, as `interactions` has. The result has the columns teacher,
        producer, day, `examples`, `labelled` and `coverage`, the share of the day's examples with a label.
        """
        on = ["day", "example_id"]
        by = [*_PARTITION_BY]
        labelled = self.scan().select(*by, "example_id").join(examples.select(on), on=on, how="semi")
        return (
            labelled.group_by(by)
            .agg(labelled=pl.col("example_id").n_unique())
            .join(examples.group_by("day").agg(examples=pl.len()), on="day")
            .select(*by, "examples", "labelled", coverage=pl.col("labelled") / pl.col("examples"))
            .sort(by)
            .collect()
        )

    def versions(self, partitions: Iterable[LabelPartition]) -> dict[LabelPartition, int]:
        """Return a number for the labels of each partition that has any: equal labels have equal numbers."""
        by_key = {partition.key: partition for partition in partitions}
        return {by_key[key]: version for key, version in self.table.versions(list(by_key)).items()}

    def sources(self) -> dict[LabelPartition, int]:
        """Return the number of the rows that each partition was made from, where it was recorded."""
        rows = self.partitions().select(*_PARTITION_BY).rows()
        by_key = {partition.key: partition for partition in (LabelPartition(*row) for row in rows)}
        return {by_key[key]: source for key, source in self.table.sources(list(by_key)).items()}

    def trained_since(self, teacher: str, day: date) -> set[LabelPartition]:
        """Return the partitions of `teacher` whose labels depend on what it was trained on since `day`."""
        later = self.partitions().filter(pl.col("teacher") == teacher, pl.col("day") >= day)
        # Labels made before an update depend on the earlier batches of their own day, and need not be read.
        before_update = {
            LabelPartition(teacher, PRE_UPDATE, labelled)
            for labelled in later.filter(producer=PRE_UPDATE)["day"]
        }
        newest = (
            self.scan(teacher=teacher, producer=SNAPSHOT)
            .filter(pl.col("day") >= day)
            .group_by("day")
            .agg(pl.col("snapshot_day").max())
            .filter(pl.col("snapshot_day") >= day)
            .collect()
        )
        return before_update | {LabelPartition(teacher, SNAPSHOT, labelled) for labelled in newest["day"]}

    # Reading.

    def read(self, partition: LabelPartition) -> pl.DataFrame:
        """Return the labels of a partition, at most one per example.

        Raises UserError where a label breaks the leak rule, or an example has two.
        """
        labels = self.scan(**partition.values).collect()
        self.check(partition, labels)
        return labels

    def batches(self, partition: LabelPartition, rows: int) -> Iterator[pl.DataFrame]:
        """Yield the labels of a partition, unchecked, up to so many at a time. The first batch is empty."""
        yield self.scan(**partition.values).drop(_PARTITION_BY).head(0).collect()
        for path in self.table.files(**partition.values):
            file = self.table.read_file(path)
            for start in range(0, int(file.select(pl.len()).collect().item()), rows):
                yield file.slice(start, rows).collect()

    def check(self, partition: LabelPartition, labels: pl.DataFrame) -> None:
        """Raise UserError where one of these labels, which were read, breaks the leak rule, or an example has two."""
        self._check(partition, labels, "write the labels of that day again")

    def join(
        self,
        example_id: pl.Series,
        day: date,
        request: LabelRequest,
        *,
        outputs: Sequence[str] | None = None,
        labels: pl.DataFrame | None = None,
    ) -> JoinedLabels:
        """Return the labels of these examples of a day, in their order.

        `outputs` are the raw outputs to return; None: all that the store has.
        `labels` are those of the day that belong to these examples, checked; None: they are read.
        Raises UserError where a label breaks the leak rule, or an example has two.
        """
        names = self.outputs if outputs is None else list(outputs)
        if labels is None:
            labels = self.read(LabelPartition(*request.source, day))
        joined = pl.DataFrame({"example_id": example_id}).join(
            labels.select("example_id", "teacher_step", "snapshot_day", *names),
            on="example_id",
            how="left",
            maintain_order="left",
        )
        missing = joined.select(
            pl.any_horizontal(pl.col("teacher_step", *request.required).is_null())
        ).to_series()
        young = (joined["teacher_step"] < request.min_step).fill_null(False) & ~missing
        used = ~(missing | young)
        counts = {
            "labels_used": int(used.sum()),
            "teacher_too_young": int(young.sum()),
            "labels_missing": int(missing.sum()),
        }
        if request.masked:
            counts |= {"labels_used": 0, "teacher_changed": int(used.sum())}
            used = used & False
        weight = used.to_numpy().astype(np.float32)
        if request.half_life:
            # Labels made before the teacher had trained on any whole day have age 0.
            age = (pl.lit(day) - pl.col("snapshot_day")).dt.total_days().fill_null(1) - 1
            days = joined.select(age.fill_null(0)).to_series().to_numpy()
            weight *= np.power(0.5, days / request.half_life, dtype=np.float32)
        soft = joined.select(pl.col(names).fill_null(0.0)).to_numpy().astype(np.float32)
        return JoinedLabels(soft, weight, counts)

    # Writing.

    def write(self, partition: LabelPartition, labels: pl.DataFrame) -> None:
        """Replace the labels of a partition with `labels`, as `labels_before_update` or `labels_by_snapshot` makes
        them, in one commit. Outputs that `labels` lacks are null.

        Raises UserError, and writes nothing, where a label breaks the leak rule or an example has two.
        """
        self._check_writable(partition, labels)
        self.table.replace(labels, partition.values)

    def write_parts(self, partition: LabelPartition, parts: Iterable[pl.DataFrame]) -> None:
        """Replace the labels of a partition with those of all `parts`, one in memory at a time, in one commit.

        Otherwise as `write`, but that an example which has a label in two parts is found when they are read.
        """
        files = [
            self.write_file(partition, labels, name=f"part-{number:05}")
            for number, labels in enumerate(parts)
        ]
        self.commit(partition, files, attempt=uuid.uuid4().int >> 66)

    def withdraw(self, partition: LabelPartition) -> None:
        """Remove the labels of a partition. Does nothing where it has none."""
        if self.partitions().filter(**partition.values).height:
            self.table.clear(partition.values)

    def write_file(self, partition: LabelPartition, labels: pl.DataFrame, *, name: str) -> DataFile:
        """Write a part of a partition's labels to a file that `commit` makes visible, with those of other workers.

        Raises UserError, and writes nothing, where a label breaks the leak rule.
        """
        self._check_writable(partition, labels)
        lacking = [name for name in self.outputs if name not in labels.columns]
        full = labels.with_columns(pl.lit(None, pl.Float32).alias(name) for name in lacking)
        return self.table.write_file(full, partition.values, name=name)

    def commit(
        self, partition: LabelPartition, files: Sequence[DataFile], *, attempt: int, source: int | None = None
    ) -> None:
        """Replace the labels of a partition with those in `files`, in one commit. `attempt` and `source` are as in
        `Table.commit`, and so are the errors."""
        metadata: dict[str, Any] = {"labelled": sum(file.rows for file in files)}
        self.table.commit(files, partition.values, attempt=attempt, metadata=metadata, source=source)

    def _check_writable(self, partition: LabelPartition, labels: pl.DataFrame) -> None:
        if self.table.pinned:
            raise UserError(
                f"{self.path}: this is the store as of version {self.table.version}; "
                "write through the store itself, not through snapshot() or as_of()"
            )
        self._check(partition, labels, "nothing was written")

    def _check(self, partition: LabelPartition, labels: pl.DataFrame, remedy: str) -> None:
        if partition.producer not in _LEAKS:
            raise UserError(
                f"{self.path}: producer is {partition.producer!r}, expected one of {', '.join(_LEAKS)}"
            )
        path = f"{self.path}: teacher {partition.teacher}, producer {partition.producer}, day {partition.day}"
        if leaks := self._leaks(partition, labels):
            raise UserError(
                f"{path}: {leaks} labels come from a teacher that was already trained on the example, or do not say "
                f"which state made them; a label must be older than the update on its example; {remedy}"
            )
        if labels["example_id"].n_unique() != labels.height:
            raise UserError(f"{path}: an example_id has more than one label; {remedy}")

    def _leaks(self, partition: LabelPartition, labels: pl.DataFrame) -> int:
        """Return how many labels break the leak rule. A study overrides this to measure what the rule is worth."""
        # A comparison with a null is null: a label that does not say where it comes from is refused too.
        leaks = _LEAKS[partition.producer].fill_null(True)  # type: ignore[index]
        return labels.with_columns(day=pl.lit(partition.day)).filter(leaks).height
