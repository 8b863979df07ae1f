"""The Delta Lake tables under WORKDIR/lake: replace a partition in one commit, read a snapshot."""

import copy
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError
from deltalake.schema import Schema as DeltaSchema
from deltalake.transaction import AddAction, RemoveAction

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.quarantine import Quarantine
from tutelage.pipeline.schema import METRICS, STATISTICS, Schema

Partition = Mapping[str, str | date]

# What was counted for a day is read from its commit, so the log is kept for as long as the table.
_CONFIGURATION = {"delta.logRetentionDuration": "interval 36500 days"}

PRUNED = "pruned"
"""The reason under which the last commit of a day that was removed has its rows."""

FORGOTTEN = "forgotten"
"""The reason under which a day's counts have the rows of users who were deleted."""

LOCK = ".lock"
"""The file beside the tables that a job which writes data files holds, and who removes some holds alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """A Parquet file that a worker wrote under the table's folder; invisible until it is committed."""

    path: str
    rows: int
    digest: int
    """Of its rows, in any order: those of some files are added up."""


class Table:
    """One Delta table. A partition has one writer at a time; readers never see half of a commit."""

    def __init__(self, path: Path, columns: pa.Schema, *, partition_by: Mapping[str, pa.DataType]):
        self.path = path
        self.partition_by = list(partition_by)
        self.schema = pa.schema([*columns, *(pa.field(k, v) for k, v in partition_by.items())])
        self._pinned: DeltaTable | None = None

    @classmethod
    def at(cls, path: Path) -> "Table":
        """A table that is there, with the columns that it has."""
        table = DeltaTable(path)
        columns = pa.schema(table.schema().to_arrow())
        by = {name: columns.field(name).type for name in table.metadata().partition_columns}
        return cls(path, pa.schema([f for f in columns if f.name not in by]), partition_by=by)

    def snapshot(self) -> "Table":
        """The table as it is now, to be read: what is committed later is not seen."""
        pinned = copy.copy(self)
        pinned._pinned = DeltaTable(self.path)
        return pinned

    @property
    def _delta(self) -> DeltaTable:
        return self._pinned or DeltaTable(self.path)

    def create(self) -> None:
        """Make an empty table where there is none."""
        if not DeltaTable.is_deltatable(str(self.path)):
            DeltaTable.create(
                self.path,
                self.schema,
                mode="ignore",
                partition_by=self.partition_by,
                configuration=_CONFIGURATION,
            )

    def add_columns(self) -> None:
        """Add the declared columns that the table has not; rows that are there have a null."""
        table = DeltaTable(self.path)
        have = [field.name for field in table.schema().fields]
        declared = DeltaSchema.from_arrow(self.schema).fields
        if new := [field for field in declared if field.name not in have]:
            table.alter.add_columns(new)

    def scan(self, **partition: str | date) -> pl.LazyFrame:
        """The newest snapshot, or the part of it where the partition columns have these values."""
        frame = pl.scan_delta(self._pinned or str(self.path))
        return frame.filter(*(pl.col(name) == value for name, value in partition.items()))

    def files(self, **partition: str | date) -> list[str]:
        """Paths of the Parquet files of a partition, sorted."""
        adds = self._adds().filter(*(pl.col(name) == value for name, value in partition.items()))
        return [str(self.path / path) for path in adds["path"].sort()]

    def partitions(self) -> pl.DataFrame:
        """One row per partition: its partition columns and `rows`. Reads the log, no data file."""
        return (
            self._adds()
            .group_by(self.partition_by)
            .agg(rows=pl.col("num_records").sum())
            .sort(self.partition_by)
        )

    def _adds(self) -> pl.DataFrame:
        """The files of the newest snapshot: `path`, `num_records` and the partition columns."""
        adds = pl.DataFrame(self._delta.get_add_actions(flatten=True))
        if adds.height:
            return adds.rename({f"partition.{name}": name for name in self.partition_by})
        empty = pl.DataFrame(self.schema.empty_table()).select(self.partition_by)
        return empty.with_columns(path=pl.lit("", pl.String), num_records=pl.lit(0, pl.Int64))

    def replace(self, frame: pl.DataFrame, partition: Partition, **where: str | date) -> None:
        """Put `frame` in the place of the rows of `partition` (where the columns `where` match).

        A column that `frame` has not is null.
        """
        values = {**partition, **where}
        full = frame.with_columns(pl.lit(value).alias(name) for name, value in partition.items())
        full = full.select(n if n in full.columns else pl.lit(None).alias(n) for n in self.schema.names)
        predicate = " AND ".join(f"{name} = '{value}'" for name, value in values.items())
        content = [] if where else [_content(_key(partition, self.partition_by), _digest(self._data(full)))]
        write_deltalake(
            self.path,
            full.to_arrow().cast(self.schema),
            mode="overwrite",
            predicate=predicate,
            commit_properties=CommitProperties(app_transactions=content),
        )

    def write_file(self, frame: pl.DataFrame, partition: Partition, *, name: str) -> DataFile:
        """Write a data file under a name that no other attempt has. `commit` makes it visible."""
        folder = "/".join(f"{key}={partition[key]}" for key in self.partition_by)
        path = f"{folder}/{name}-{uuid.uuid4().hex}.parquet"
        (self.path / folder).mkdir(parents=True, exist_ok=True)
        data = self._data(frame)
        # Two thirds of the default level's time, for files of the same size.
        data.write_parquet(self.path / path, compression_level=1)
        return DataFile(path=path, rows=frame.height, digest=_digest(data))

    def leave_out(
        self, partition: Partition, gone: pl.Expr | None, *, metadata: Mapping[str, Any] | None
    ) -> None:
        """Take the rows for which `gone` holds (None: all) out of `partition`, in one commit.

        Only the files that have such rows are written anew, one in memory at a time. The partition's attempt
        stays what it was: nothing that was made of its other rows becomes stale. `metadata` is as in `commit`;
        None: what its last commit says still holds.
        """
        table = DeltaTable(self.path)
        values = {name: str(partition[name]) for name in self.partition_by}
        now = int(time.time() * 1000)
        actions: list[AddAction | RemoveAction] = []
        for path in self.files(**partition):
            name = os.path.relpath(path, self.path)
            if gone is not None:
                rows = self.read_file(path).collect()
                left = rows.filter(~gone.fill_null(False))
                if left.height == rows.height:
                    continue
                if left.height:
                    part = Path(path).name.rsplit("-", 1)[0]
                    actions.append(self._add(self.write_file(left, partition, name=part), values, now))
            size = os.path.getsize(path)
            actions.append(RemoveAction(name, True, now, size, values))  # type: ignore[arg-type]
        if not actions:
            return
        custom = {} if metadata is None else self._custom(values, metadata)
        table.create_write_transaction(
            actions,
            "append",
            table.schema(),
            self.partition_by,
            commit_properties=CommitProperties(custom_metadata=custom),
        )

    def read_file(self, path: str) -> pl.LazyFrame:
        """A data file's rows; a column that was added to the table after it is null."""
        columns = {name: t for name, t in pl.Schema(self.schema).items() if name not in self.partition_by}
        return pl.scan_parquet(path, schema=columns, missing_columns="insert", extra_columns="ignore")

    def vacuum(self) -> None:
        """Remove every file that is not in the newest snapshot: no one else may be at work on the table."""
        DeltaTable(self.path).vacuum(
            retention_hours=0, enforce_retention_duration=False, dry_run=False, full=True
        )

    def _add(self, file: DataFile, values: Mapping[str, str], now: int) -> AddAction:
        stats = json.dumps({"numRecords": file.rows})
        return AddAction(file.path, os.path.getsize(self.path / file.path), values, now, True, stats)

    def _custom(self, values: Mapping[str, str], metadata: Mapping[str, Any]) -> dict[str, str]:
        return {"partition": "/".join(values.values()), "counts": json.dumps(metadata)}

    def _data(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The columns that are in the data files."""
        return frame.select(name for name in self.schema.names if name not in self.partition_by)

    def commit(
        self,
        files: Sequence[DataFile],
        partition: Partition,
        *,
        attempt: int,
        metadata: Mapping[str, Any],
        source: int | None = None,
        as_of: "Table | None" = None,
    ) -> None:
        """Put `files` in the place of what `partition` held, in one commit that carries `metadata`.

        `source` is a number for what the rows are made of, which `sources` gives back.

        `attempt` is one number per job: a runner that repeats a commit it already made changes
        nothing (Delta records the number but does not look at it, so this does). `as_of` is a snapshot
        of the table from when the job began to read what it commits; None: now.
        Raises UserError where another job replaced the partition meanwhile, RuntimeError where the
        table does not hold the rows that were committed.
        """
        values = {name: str(partition[name]) for name in self.partition_by}
        key = _key(values, self.partition_by)
        numbers = [Transaction(key, attempt), _content(key, sum(file.digest for file in files))]
        if source is not None:
            numbers.append(Transaction(f"{key}#source", source))
        overtaken = UserError(
            f"{self.path.name}, {key}: another job replaced it meanwhile, and its rows stay; "
            "run this one again if they are to be replaced"
        )
        table = DeltaTable(self.path)
        before = table.transaction_version(key)
        if before == attempt:
            return
        if as_of and as_of._delta.transaction_version(key) != before:
            raise overtaken
        now = int(time.time() * 1000)
        where = [(name, "=", value) for name, value in values.items()]
        adds: list[AddAction | RemoveAction] = [self._add(file, values, now) for file in files]
        while True:
            try:
                table.create_write_transaction(
                    adds,
                    "overwrite",
                    self.schema,
                    self.partition_by,
                    partition_filters=where,
                    commit_properties=CommitProperties(
                        custom_metadata=self._custom(values, metadata),
                        app_transactions=numbers,
                    ),
                )
                break
            except CommitFailedError:
                table = DeltaTable(self.path)
                now_there = table.transaction_version(key)
                if now_there == attempt:
                    return
                # Delta also refuses where another partition was replaced: that is no conflict.
                if now_there != before:
                    raise overtaken from None
        table.update_incremental()
        expected = sum(file.rows for file in files)
        found = sum(pq.read_metadata(file).num_rows for file in table.file_uris(file_pruning_predicate=where))
        if found != expected:
            raise RuntimeError(
                f"{self.path.name}, {key}: {expected} rows were committed and {found} are there"
            )

    def attempts(self, days: Sequence[date]) -> dict[date, int | None]:
        """The attempt that made what there is of each day, of a table by day; None: nothing did."""
        table = self._delta
        return {day: table.transaction_version(str(day)) for day in days}

    def versions(self, keys: Sequence[str]) -> dict[str, int]:
        """A number for the rows of each partition that has any, by the values of its columns, joined by /.

        It is of what the rows are, in any order, and not of when they were written; where they were written
        before this was recorded, it is the attempt.
        """
        table = self._delta
        # An empty partition's is 0.
        found = {key: table.transaction_version(f"{key}#content") for key in keys}
        found = {key: table.transaction_version(key) if n is None else n for key, n in found.items()}
        return {key: number for key, number in found.items() if number}

    def sources(self, keys: Sequence[str]) -> dict[str, int]:
        """The `source` of the commit of each partition that was given one."""
        table = self._delta
        found = {key: table.transaction_version(f"{key}#source") for key in keys}
        return {key: number for key, number in found.items() if number is not None}

    def counts(self) -> dict[str, dict[str, Any]]:
        """The `metadata` of the newest commit of each partition, by the values of its columns, joined by /."""
        newest: dict[str, dict[str, Any]] = {}
        for entry in self._delta.history():
            if "counts" in entry:
                newest.setdefault(entry["partition"], json.loads(entry["counts"]))
        return newest


def _key(partition: Partition, by: Sequence[str]) -> str:
    return "/".join(str(partition[name]) for name in by)


def _digest(rows: pl.DataFrame) -> int:
    """Of the rows in any order. Another version of Polars may give another one."""
    return int(rows.hash_rows().to_numpy().sum(dtype=np.uint64))


def _content(key: str, digest: int) -> Transaction:
    # A Delta transaction has a number, of 63 bits.
    return Transaction(f"{key}#content", digest % 2**63)


def _number(parts: Iterable[object]) -> int:
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7])


def counted(counts: Mapping[str, Any], rows: int, reason: str) -> dict[str, Any]:
    """A day's counts after `rows` kept ones went for `reason`: rows in = kept + dropped, as before."""
    if "kept" not in counts:
        return {**counts, reason: counts.get(reason, 0) + rows}
    dropped = dict(counts["dropped"])
    dropped[reason] = dropped.get(reason, 0) + rows
    return {**counts, "kept": counts["kept"] - rows, "dropped": dict(sorted(dropped.items()))}


class Lake:
    """The tables of one workdir."""

    def __init__(self, root: str | Path, schema: Schema, *, interactions: Path | None = None):
        """`interactions`: the path of a table of another workdir, to be read in the place of its own."""
        # Resolved: workers of a Beam job may run in another folder.
        root = Path(root).resolve()
        self.schema = schema
        day = {"day": pa.date32()}
        text = pa.string()
        self.interactions = Table(
            interactions or root / "interactions", schema.interactions, partition_by=day
        )
        self.soft_labels = Table(
            root / "soft_labels", schema.soft_labels, partition_by={"teacher": text, "producer": text, **day}
        )
        self.metrics = Table(root / "metrics", METRICS, partition_by={"model": text})
        # They lie beside what they are made of.
        beside = self.interactions.path.parent
        self.statistics = Table(beside / "statistics", STATISTICS, partition_by=day)
        self.quarantine = Quarantine(beside / "quarantine")
        self.histories = (
            Table(beside / "histories", schema.history_columns, partition_by=day)
            if schema.histories
            else None
        )

    def create(self) -> None:
        for table in (
            self.interactions,
            self.statistics,
            self.soft_labels,
            self.metrics,
            self.histories,
        ):
            if table:
                table.create()

    def snapshot(self) -> "Lake":
        """What a model reads of a day, as it is now: rows, histories and labels of one moment, whatever is
        committed while they are read."""
        pinned = copy.copy(self)
        pinned.interactions = self.interactions.snapshot()
        pinned.soft_labels = self.soft_labels.snapshot()
        pinned.histories = self.histories and self.histories.snapshot()
        return pinned

    def quarantined_days(self) -> list[date]:
        """The days that did not pass the quality gate and are not in `interactions`: all others go on without them."""
        have = set(self.interactions.partitions()["day"])
        return [day for day in self.quarantine.skipped() if day not in have]

    def pruned(self, days: Sequence[date]) -> frozenset[date]:
        """Those of `days` that were removed from `interactions`, and not made anew since."""
        have = self.interactions.partitions()["day"].to_list()
        # The newest day is never removed. The log is long, so that it is read only where a day is missing.
        missing = {day for day in days if day not in have and day < max(have, default=day)}
        counts = self.interactions.counts() if missing else {}
        of = {day: counts.get(str(day), {}) for day in missing}
        return frozenset(day for day in missing if PRUNED in {**of[day], **of[day].get("dropped", {})})

    def history_days(self, day: date) -> list[date]:
        """The days before `day` that its histories can be of, the newest first."""
        longest = max(history.days for history in self.schema.histories)
        return [day - timedelta(days=back) for back in range(1, longest + 1)]

    def history_attempts(self, days: Sequence[date]) -> dict[date, int]:
        """The attempt that makes the histories of each of `days` from `interactions` as they are now."""
        input_versions = {day: [str(day), *map(str, self.history_days(day))] for day in days}
        versions = self.interactions.versions(
            sorted({key for keys in input_versions.values() for key in keys})
        )
        # That of the versions it is made of is as good as they are.
        return {day: _number(map(versions.get, keys)) for day, keys in input_versions.items()}

    def stale_histories(self, days: Sequence[date]) -> list[date]:
        """Those of `days` whose histories are not there, or are of other rows than `interactions` now holds."""
        if not self.histories:
            return []
        expected, found = self.history_attempts(days), self.histories.attempts(days)
        return [day for day in days if expected[day] != found[day]]

    def input_versions(
        self, days: Sequence[date], *, histories: bool, labels: Partition | None = None
    ) -> dict[date, dict[str, int]]:
        """The versions (`Table.versions`) of what a model learns each of `days` from, by table, of those that
        are there: the rows, `histories` of their users, and the soft `labels` of this teacher and producer."""
        read: dict[str, tuple[Table, dict[date, str]]] = {}
        read["interactions"] = self.interactions, {day: str(day) for day in days}
        if histories and self.histories:
            read["histories"] = self.histories, {day: str(day) for day in days}
        if labels:
            keys = {day: _key({**labels, "day": day}, self.soft_labels.partition_by) for day in days}
            read["soft_labels"] = self.soft_labels, keys
        found: dict[date, dict[str, int]] = {day: {} for day in days}
        for name, (table, keys) in read.items():
            versions = table.versions(list(keys.values()))
            for day, key in keys.items():
                if key in versions:
                    found[day][name] = versions[key]
        return found

    def label_sources(self, days: Sequence[date]) -> dict[date, int]:
        """A number for the rows that a labeler scores, with their histories, of each of `days` that is there."""
        input_versions = self.input_versions(days, histories=True)
        return {
            day: _number(versions.get(name) for name in ("interactions", "histories"))
            for day, versions in input_versions.items()
            if "interactions" in versions
        }

    def with_histories(self, rows: pl.LazyFrame, day: date) -> pl.LazyFrame:
        """Rows of a day of `interactions` with the histories of their users, in the same order.

        Raises UserError where those have not been made from the days before as they are now.
        """
        if not self.histories:
            return rows
        if self.stale_histories([day]):
            raise UserError(
                f"day {day} of {self.histories.path} is not there, or older than the days that it is made of; "
                "run tutelage-run, or tutelage-materialize for that day"
            )
        made = self.histories.scan(day=day).drop("day")
        return rows.join(made, on=self.schema.user, how="left", maintain_order="left")
