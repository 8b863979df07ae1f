"""One Delta Lake table: replace a partition in one commit, read it as it is now or as it was."""

import contextlib
import copy
import hashlib
import json
import os
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.schema import Schema as DeltaSchema
from deltalake.transaction import AddAction, RemoveAction

from tutelage.pipeline.commits import Commits, added
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io import leases
from tutelage.pipeline.io.atomic import make_folder, sync
from tutelage.pipeline.io.digests import differs, sha256_of
from tutelage.pipeline.io.json import TornFile
from tutelage.pipeline.io.paths import StorePath, as_path, remote

Partition = Mapping[str, str | date]
"""The value of each partition column."""

# The counts of a day are read from its commit, so the log is kept for as long as the table.
_CONFIGURATION = {"delta.logRetentionDuration": "interval 36500 days"}

_ATTEMPTS = 10
"""How often rows are replaced where another commit came first."""

_COUNTS = "counts_by_partition"
"""The name in a commit of several partitions under which their metadata is stored, by `Table.key`."""

PRUNED = "pruned"
"""The reason under which the last commit of a removed day counts the rows that it had."""

FORGOTTEN = "forgotten"
"""The reason under which a day's counts hold the rows of deleted users."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """A Parquet file under the table's folder, which is invisible until it is committed."""

    path: str
    """Relative to the table's folder."""
    rows: int
    digest: int
    """Hash of its rows, whatever their order. The digest of several files is the sum of theirs."""
    sha256: str = ""
    """Hash of the file; empty in a record of an older release."""


class Table:
    """One Delta table. A partition has one writer at a time; a reader never sees half of a commit.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> columns = pa.schema([("example_id", pa.int64())])
        >>> table = Table(Path(folder.name), columns, partition_by={"day": pa.date32()})
        >>> table.create()
        >>> table.replace(pl.DataFrame({"example_id": [7, 8]}), {"day": date(2026, 1, 1)})
        >>> table.partitions().rows()
        [(datetime.date(2026, 1, 1), 2)]
    """

    def __init__(self, path: Path, columns: pa.Schema, *, partition_by: Mapping[str, pa.DataType]):
        """Declare a table at `path`: `columns` are those of its data files, without the partition columns."""
        self.path = path
        self.commits = Commits(path)
        self.partition_by = list(partition_by)
        self.schema = pa.schema([*columns, *(pa.field(k, v) for k, v in partition_by.items())])
        self._pinned: DeltaTable | None = None
        self._pinned_numbers: Mapping[str, int] | None = None
        self._committed: tuple[DeltaTable, dict[str, int]] | None = None
        """The table before the last commit through this object, from which the next one goes on, and its numbers."""

    @classmethod
    def open(cls, path: Path) -> "Table":
        """Open an existing table with the columns that it has. Raises UserError where there is none."""
        if not DeltaTable.is_deltatable(str(path)):
            raise UserError(f"{path} is no Delta table; give the folder that holds its `_delta_log`")
        table = DeltaTable(str(path))
        columns = pa.schema(table.schema().to_arrow())
        by = {name: columns.field(name).type for name in table.metadata().partition_columns}
        return cls(path, pa.schema([f for f in columns if f.name not in by]), partition_by=by)

    def snapshot(self) -> "Table":
        """Return the table as it is now. Later commits are not seen through it."""
        return self._pin(DeltaTable(str(self.path)))

    def as_of(self, version: int | datetime) -> "Table":
        """Return the table as of a version of its log, or as of a time. Raises UserError where there was none."""
        table = DeltaTable(str(self.path))
        try:
            table.load_as_version(version)
        except DeltaError as error:
            raise UserError(
                f"{self.path.name} has no version as of {version} ({error}); "
                f"its versions are 0 to {DeltaTable(str(self.path)).version()}"
            ) from None
        return self._pin(table)

    def _pin(self, delta: DeltaTable) -> "Table":
        pinned = copy.copy(self)
        pinned._pinned, pinned._pinned_numbers = delta, None
        return pinned

    @property
    def pinned(self) -> bool:
        """Whether it shows one version only, and not the newest."""
        return self._pinned is not None

    @property
    def version(self) -> int:
        """The version that is read: a number that grows with each commit."""
        return self._delta.version()

    @property
    def _delta(self) -> DeltaTable:
        return self._pinned or DeltaTable(str(self.path))

    def create(self) -> None:
        """Create an empty table unless it exists."""
        if not DeltaTable.is_deltatable(str(self.path)):
            make_folder(self.path)
            DeltaTable.create(
                str(self.path),
                self.schema,
                mode="ignore",
                partition_by=self.partition_by,
                configuration=_CONFIGURATION,
            )
            self._sync(-1)
            sync(self.path)  # It holds the name of the log's folder.

    def add_columns(self) -> None:
        """Add the declared columns that the table lacks. They are null in the rows that exist."""
        table = DeltaTable(str(self.path))
        have = [field.name for field in table.schema().fields]
        declared = DeltaSchema.from_arrow(self.schema).fields
        if new := [field for field in declared if field.name not in have]:
            before = table.version()
            table.alter.add_columns(new)
            self._sync(before)

    def scan(self, **partition: str | date) -> pl.LazyFrame:
        """Return the rows whose partition columns have these values.

        Raises TornFile where a data file that holds them is damaged: a part of a table is not read for the whole.
        """
        # Of a scan over many partitions most columns are not read, and hashing would read them: sizes must do.
        whole = {*self.partition_by} <= partition.keys()
        of = {name: value for name, value in partition.items() if name in self.partition_by}
        self.check(digests=whole, days=None, **of)
        frame = pl.scan_delta(self._pinned or str(self.path))
        return frame.filter(*(pl.col(name) == value for name, value in partition.items()))

    def damaged(
        self, *, digests: bool = True, days: Collection[date] | None = None, **partition: str | date
    ) -> dict[str, str]:
        """Return the data files that are not what was written, by their paths in the table, and how they differ.

        Without `digests` only their sizes are compared, and with `days` only the files of these.
        """
        adds = self._adds().filter(*(pl.col(name) == value for name, value in partition.items()))
        if days is not None:
            adds = adds.filter(pl.col("day").is_in(list(days)))
        known = self.commits.digests() if digests and adds.height else {}
        named = dict(adds.select("path", "size_bytes").iter_rows())
        if stored := remote(self.path):
            return _differ(stored, named)
        found = ((path, differs(self.path / path, size, known.get(path))) for path, size in named.items())
        return {path: why for path, why in found if why}

    def check(
        self, *, digests: bool = True, days: Collection[date] | None = None, **partition: str | date
    ) -> None:
        """Raise TornFile where `damaged` finds a file."""
        for path, why in self.damaged(digests=digests, days=days, **partition).items():
            raise TornFile(f"{self.path / path} {why}; tutelage-verify says what mends it")

    def first_days(self, paths: Collection[str]) -> dict[str, date | None]:
        """Return the first day in each of these data files, as the log has it; None where it does not."""
        adds = self._adds().filter(pl.col("path").is_in(list(paths)))
        if "min.day" not in adds.columns:
            return dict.fromkeys(paths)
        return dict(adds.select("path", pl.col("min.day").cast(pl.Date)).iter_rows())

    def files(self, **partition: str | date) -> list[str]:
        """Return the paths of a partition's Parquet files, sorted."""
        adds = self._adds().filter(*(pl.col(name) == value for name, value in partition.items()))
        return [str(self.path / path) for path in adds["path"].sort()]

    def partitions(self) -> pl.DataFrame:
        """Return one line per partition: its partition columns and `rows`. Reads the log only."""
        return (
            self._adds()
            .group_by(self.partition_by)
            .agg(rows=pl.col("num_records").sum())
            .sort(self.partition_by)
        )

    def _adds(self, table: DeltaTable | None = None) -> pl.DataFrame:
        """Return the files of the version that is read: `path`, `size_bytes`, `num_records`, the partition columns."""
        adds = pl.DataFrame((table or self._delta).get_add_actions(flatten=True))
        if adds.height:
            return adds.rename({f"partition.{name}": name for name in self.partition_by})
        empty = pl.DataFrame(self.schema.empty_table()).select(self.partition_by)
        return empty.with_columns(
            path=pl.lit("", pl.String), size_bytes=pl.lit(0, pl.Int64), num_records=pl.lit(0, pl.Int64)
        )

    def read_file(self, path: str) -> pl.LazyFrame:
        """Return the rows of a data file. A column that was added to the table later is null.

        Raises TornFile where the file is damaged.
        """
        if why := differs(as_path(path), None, self.commits.digests().get(self._name(path))):
            raise TornFile(f"{path} {why}; tutelage-verify says what mends it")
        columns = {name: t for name, t in pl.Schema(self.schema).items() if name not in self.partition_by}
        return pl.scan_parquet(path, schema=columns, missing_columns="insert", extra_columns="ignore")

    def replace(self, frame: pl.DataFrame, partition: Partition, **where: str | date) -> None:
        """Replace the rows of `partition` for which the columns `where` have these values.

        Columns that `frame` lacks are null.
        """
        leases.check()
        values = {**partition, **where}
        full = frame.with_columns(pl.lit(value).alias(name) for name, value in partition.items())
        full = full.select(n if n in full.columns else pl.lit(None).alias(n) for n in self.schema.names)
        predicate = " AND ".join(f"{name} = '{value}'" for name, value in values.items())
        content = [] if where else [_content(self.key(partition), _digest(self._data(full)))]
        for left in reversed(range(_ATTEMPTS)):
            table = DeltaTable(str(self.path))
            before = table.version()
            try:
                write_deltalake(
                    table,
                    full.to_arrow().cast(self.schema),
                    mode="overwrite",
                    predicate=predicate,
                    commit_properties=CommitProperties(app_transactions=content),
                )
            except CommitFailedError:
                # Another commit came first, or this one, whose answer was lost: to replace the rows again is safe.
                if not left:
                    raise
            else:
                self._sync(before)
                return

    def clear(self, partition: Partition, **where: str | date) -> None:
        """Remove the rows that `replace` would replace."""
        self.replace(pl.DataFrame(self.schema.empty_table()), partition, **where)

    def write_file(self, frame: pl.DataFrame, partition: Partition, *, name: str) -> DataFile:
        """Write a data file under a name that no other attempt has. `commit` makes it visible."""
        folder = "/".join(f"{key}={partition[key]}" for key in self.partition_by)
        path = f"{folder}/{name}-{uuid.uuid4().hex}.parquet"
        make_folder(self.path / folder)
        data = self._data(frame)
        if remote(self.path):
            content = BytesIO()
            _write_parquet(data, content)
            (self.path / path).write_bytes(content.getbuffer())
            sha256 = hashlib.sha256(content.getbuffer()).hexdigest()
        else:
            _write_parquet(data, self.path / path)
            sync(self.path / path)
            sync(self.path / folder)
            sha256 = sha256_of(self.path / path)
        return DataFile(path=path, rows=frame.height, digest=_digest(data), sha256=sha256)

    def commit(
        self,
        files: Sequence[DataFile],
        partition: Partition,
        *,
        attempt: int,
        metadata: Mapping[str, Any],
        source: int | None = None,
    ) -> None:
        """Replace what `partition` holds with `files`, in one commit.

        `metadata` is stored in the commit, and returned by `counts`.
        `source` identifies the rows that these were made from, and is returned by `sources`.
        `attempt` is one number per job. A runner may repeat a commit; the repeat changes nothing, because this
        method looks for the number (Delta records it but does not check it).

        Through a snapshot, the commit is refused if another job replaced the partition after the snapshot was taken.

        Raises UserError where another job replaced the partition meanwhile, and RuntimeError where the files do not
        hold the rows that they should. Nothing is committed then.
        """
        leases.check()
        key = self.key(partition)
        sources = [] if source is None else [Transaction(f"{key}#source", source)]
        self._commit([(partition, files)], attempt, sources=sources, custom=self._custom(partition, metadata))

    def commit_together(self, parts: Sequence[tuple[Partition, Sequence[DataFile]]], *, attempt: int) -> None:
        """Replace what each of several partitions holds with its files, all in one commit, without metadata.

        `attempt` and what is raised are as in `commit`.
        """
        self._commit(parts, attempt, sources=[], custom={})

    def _commit(
        self,
        parts: Sequence[tuple[Partition, Sequence[DataFile]]],
        attempt: int,
        *,
        sources: Sequence[Transaction],
        custom: dict[str, str],
    ) -> None:
        asked = {self.key(partition): (partition, files) for partition, files in parts}
        table, numbers = self._caught_up()
        before = self._numbers() if self.pinned else numbers
        while left := {key: part for key, part in asked.items() if numbers.get(key) != attempt}:
            for key in left:
                if numbers.get(key) != before.get(key):
                    raise UserError(
                        f"{self.path.name}, {key}: another job replaced it meanwhile, and its rows stay; "
                        "run this one again if they are to be replaced"
                    )
            transactions = [*sources]
            for key, (_, files) in left.items():
                self._check_rows(key, files)
                transactions += [Transaction(key, attempt), _content(key, sum(file.digest for file in files))]
            opened = table.version()
            try:
                table.create_write_transaction(
                    self._replacing(table, left),
                    "append",  # What is removed is among the actions.
                    self.schema,
                    self.partition_by,
                    commit_properties=CommitProperties(custom_metadata=custom, app_transactions=transactions),
                )
            except CommitFailedError:
                # Delta also refuses a commit after another partition was replaced, which is no conflict.
                table, numbers = self._caught_up()
                continue
            self._sync(opened, [file for _, files in left.values() for file in files])
            break
        self._committed = table, numbers

    def _replacing(
        self, table: DeltaTable, parts: Mapping[str, tuple[Partition, Sequence[DataFile]]]
    ) -> list[AddAction | RemoveAction]:
        """Return what puts the files of `parts`, by key, in the place of those that `table` has of these partitions."""
        now = int(time.time() * 1000)
        added = [
            self._add(file, self._values(partition), now)
            for partition, files in parts.values()
            for file in files
        ]
        # A file that is committed again stays.
        old = self._in(table, parts).filter(~pl.col("path").is_in([action.path for action in added]))
        return [*added, *self._removals(old)]

    def _removals(self, adds: pl.DataFrame) -> list[RemoveAction]:
        """Return what takes some of the files of `_adds` out of the table."""
        now = int(time.time() * 1000)
        return [
            RemoveAction(row["path"], True, now, row["size_bytes"], self._values(row))
            for row in adds.iter_rows(named=True)
        ]

    def _values(self, partition: Mapping[str, Any]) -> dict[str, str | None]:
        """Return the values of the partition columns, as Delta Lake records them."""
        return {name: str(partition[name]) for name in self.partition_by}

    def _sync(self, before: int, files: Sequence[DataFile] = ()) -> None:
        """Bring the commits after the version `before` to the disk with the files that they name, and record them.

        Delta Lake does neither. What is written next, such as a checkpoint, says that these rows are there. In an
        object store a commit that was answered is there to stay.
        """
        if remote(self.path):
            return
        log = self.path / "_delta_log"
        known = {file.path: file.sha256 for file in files}
        records, folders = [], {log}
        version = before + 1
        while (entry := log / f"{version:020}.json").exists():
            commit, digests = entry.read_bytes(), dict[str, str]()
            for name in added(commit):
                data = self.path / name
                with contextlib.suppress(FileNotFoundError):  # A later commit may have replaced it.
                    sync(data)
                    folders |= {folder for folder in data.parents if folder.is_relative_to(self.path)}
                    digests[name] = known.get(name) or sha256_of(data)
            sync(entry)
            if (checkpoint := log / f"{version:020}.checkpoint.parquet").exists():
                sync(checkpoint)
                digests[os.path.relpath(checkpoint, self.path)] = sha256_of(checkpoint)
            records.append((version, commit, digests))
            version += 1
        if (last := log / "_last_checkpoint").exists():
            sync(last)
        for folder in folders:
            sync(folder)
        for record in records:
            self.commits.append(*record)

    def _caught_up(self) -> tuple[DeltaTable, dict[str, int]]:
        """Return the table as it is now, to be committed to, and the numbers that its commits recorded.

        A job that commits many days reads the log once.
        """
        committed, self._committed = self._committed, None
        if committed is None:
            table = DeltaTable(str(self.path))
            return table, self._recorded(table.version())
        table, numbers = committed
        before = table.version()
        table.update_incremental()
        return table, numbers | self._entries(before + 1, table.version())

    def _check_rows(self, key: str, files: Sequence[DataFile]) -> None:
        """Raise RuntimeError where the files of a partition do not hold the rows that they should."""
        expected = sum(file.rows for file in files)
        rows = sum(_rows(self.path / file.path) for file in files)
        if rows != expected:
            raise RuntimeError(
                f"{self.path.name}, {key}: {expected} rows are to be committed, {rows} are there"
            )

    def delete_rows(self, partition: Partition, gone: pl.Expr, *, metadata: Mapping[str, Any] | None) -> None:
        """Delete the rows of `partition` for which `gone` holds, in one commit.

        Only files that hold such rows are rewritten, one in memory at a time. The partition keeps its attempt, so
        nothing that was made from its other rows becomes stale. `metadata` is as in `commit`; with None, the
        metadata of the last commit stays valid.
        """
        leases.check()
        table = DeltaTable(str(self.path))
        values = self._values(partition)
        now = int(time.time() * 1000)
        actions: list[AddAction | RemoveAction] = []
        for path in self.files(**partition):
            rows = self.read_file(path).collect()
            left = rows.filter(~gone.fill_null(False))
            if left.height == rows.height:
                continue
            if left.height:
                part = PurePosixPath(path).name.rsplit("-", 1)[0]
                actions.append(self._add(self.write_file(left, partition, name=part), values, now))
            size = as_path(path).stat().st_size
            actions.append(RemoveAction(self._name(path), True, now, size, values))
        if not actions:
            return
        custom = {} if metadata is None else self._custom(partition, metadata)
        self._append(table, actions, custom)

    def delete_partitions(self, parts: Sequence[tuple[Partition, Mapping[str, Any]]]) -> None:
        """Delete all rows of each partition, in one commit; what comes with each is its `metadata`, as in `commit`.

        The partitions keep their attempts, so nothing that was made from them becomes stale.
        """
        leases.check()
        table = DeltaTable(str(self.path))
        metadata = {self.key(partition): counts for partition, counts in parts}
        if removed := self._removals(self._in(table, metadata)):
            self._append(table, removed, {_COUNTS: json.dumps(metadata)})

    def _append(
        self, table: DeltaTable, actions: Sequence[AddAction | RemoveAction], custom: dict[str, str]
    ) -> None:
        """Commit what is added to the table and taken out of it, with this metadata."""
        before = table.version()
        try:
            table.create_write_transaction(
                [*actions],
                "append",
                table.schema(),
                self.partition_by,
                commit_properties=CommitProperties(custom_metadata=custom),
            )
        except CommitFailedError:
            # The answer to a commit that was made may be lost, and what is sent again is then refused.
            left_over = set(self._adds()["path"])
            if any(action.path in left_over for action in actions if isinstance(action, RemoveAction)):
                raise
        self._sync(before)

    def _in(self, table: DeltaTable, keys: Collection[str]) -> pl.DataFrame:
        """Return what `_adds` has of some partitions."""
        key = pl.concat_str(pl.col(self.partition_by).cast(pl.String), separator="/")
        return self._adds(table).filter(key.is_in(list(keys)))

    def drop_files(self, paths: Collection[str]) -> None:
        """Take data files, by their paths in the table, out of its newest version. They stay on the disk."""
        leases.check()
        table = DeltaTable(str(self.path))
        removed = self._removals(self._adds(table).filter(pl.col("path").is_in(list(paths))))
        self._append(table, removed, {})

    def vacuum(self) -> None:
        """Remove every file that the newest version does not name. No other process may use the table meanwhile."""
        leases.check()
        table = DeltaTable(str(self.path))
        before = table.version()
        table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False, full=True)
        self._sync(before)

    def key(self, partition: Partition) -> str:
        """Return the values of the partition columns, joined by `/`: the partition's name in commits."""
        return "/".join(str(partition[name]) for name in self.partition_by)

    def attempts(self, days: Sequence[date]) -> dict[date, int | None]:
        """Return the attempt that committed each day of a table by day; None where no job did."""
        numbers = self._numbers()
        return {day: numbers.get(str(day)) for day in days}

    def versions(self, keys: Sequence[str]) -> dict[str, int]:
        """Return a number for the rows of each partition that has any, by its `key`.

        The number depends on the rows, not on their order or on when they were written. For rows written before
        it was recorded, it is the attempt.
        """
        numbers = self._numbers()
        found = {key: numbers.get(f"{key}#content", numbers.get(key)) for key in keys}
        # The number of an empty partition is 0.
        return {key: number for key, number in found.items() if number}

    def sources(self, keys: Sequence[str]) -> dict[str, int]:
        """Return the `source` of each partition whose commit was given one, by its `key`."""
        numbers = self._numbers()
        return {key: numbers[f"{key}#source"] for key in keys if f"{key}#source" in numbers}

    def _numbers(self) -> Mapping[str, int]:
        """Return the numbers that commits recorded, up to the version that is read, by their names."""
        if self._pinned_numbers is not None:
            return self._pinned_numbers
        numbers = self._recorded(self.version)
        if self.pinned:
            self._pinned_numbers = numbers
        return numbers

    def _recorded(self, last: int) -> dict[str, int]:
        """Return the numbers that the commits up to version `last` recorded, by their names.

        They are read from the log in one pass: `DeltaTable.transaction_version` reads the log anew for each name.
        """
        log = self.path / "_delta_log"
        checkpoints = [int(path.name[:20]) for path in log.glob("?" * 20 + ".checkpoint.parquet")]
        newest = max((version for version in checkpoints if version <= last), default=-1)
        numbers: dict[str, int] = {}
        if newest >= 0:
            recorded = pl.read_parquet(str(log / f"{newest:020}.checkpoint.parquet"), columns=["txn"])
            numbers |= recorded["txn"].struct.unnest().select("appId", "version").drop_nulls().iter_rows()
        return numbers | self._entries(newest + 1, last)

    def _entries(self, first: int, last: int) -> dict[str, int]:
        """Return the numbers in the entries of the log from version `first` to `last`, by their names."""
        numbers: dict[str, int] = {}
        for version in range(first, last + 1):
            entry = self.path / "_delta_log" / f"{version:020}.json"
            for line in entry.read_text().splitlines():
                if transaction := json.loads(line).get("txn"):
                    numbers[transaction["appId"]] = transaction["version"]
        return numbers

    def counts(self) -> dict[str, dict[str, Any]]:
        """Return the `metadata` of each partition's newest commit, by its `key`."""
        newest: dict[str, dict[str, Any]] = {}
        for entry in self._delta.history():
            if "counts" in entry:
                newest.setdefault(entry["partition"], json.loads(entry["counts"]))
            for partition, counts in json.loads(entry.get(_COUNTS, "{}")).items():
                newest.setdefault(partition, counts)
        return newest

    def _name(self, path: str) -> str:
        """Return a data file's path in the table."""
        return path.removeprefix(f"{self.path}/") if remote(self.path) else os.path.relpath(path, self.path)

    def _add(self, file: DataFile, values: Mapping[str, str | None], now: int) -> AddAction:
        stats = json.dumps({"numRecords": file.rows})
        return AddAction(file.path, (self.path / file.path).stat().st_size, values, now, True, stats)

    def _custom(self, partition: Partition, metadata: Mapping[str, Any]) -> dict[str, str]:
        return {"partition": self.key(partition), "counts": json.dumps(metadata)}

    def _data(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the columns that are stored in the data files, in their order."""
        return frame.select(name for name in self.schema.names if name not in self.partition_by)


def add_dropped(counts: Mapping[str, Any], rows: int, reason: str) -> dict[str, Any]:
    """Return a day's counts after `rows` of its kept rows were removed for `reason`.

    Rows in = kept + dropped still holds.

    Example:
        >>> add_dropped({"rows_in": 5, "kept": 4, "dropped": {"duplicate": 1}}, 3, FORGOTTEN)
        {'rows_in': 5, 'kept': 1, 'dropped': {'duplicate': 1, 'forgotten': 3}}
    """
    if "kept" not in counts:
        return {**counts, reason: counts.get(reason, 0) + rows}
    dropped = dict(counts["dropped"])
    dropped[reason] = dropped.get(reason, 0) + rows
    return {**counts, "kept": counts["kept"] - rows, "dropped": dict(sorted(dropped.items()))}


def _differ(folder: StorePath, named: Mapping[str, int]) -> dict[str, str]:
    """Return the files, named with their sizes, that are missing in a folder of an object store or have another size.

    A store checks by itself that it returns what it was given.
    """
    below = PurePosixPath(os.path.commonpath([os.path.dirname(name) for name in named] or [""]))
    there = {str(below / name): size for name, size in (folder / below).sizes().items()}
    return {
        name: f"has {there[name]:,} bytes, expected {size:,}" if name in there else "is missing"
        for name, size in named.items()
        if there.get(name) != size
    }


def _rows(file: Path) -> int:
    with file.open("rb") as opened:
        return int(pq.read_metadata(opened).num_rows)


def _write_parquet(rows: pl.DataFrame, to: Path | BytesIO) -> None:
    # Level 1 takes two thirds of the default level's time, for files of the same size. A trainer reads some minutes of
    # a large day at a time, out of all its files, and of each a row group more at most.
    rows.write_parquet(to, compression_level=1, row_group_size=2**16)


def _digest(rows: pl.DataFrame) -> int:
    """Return a hash of the rows, whatever their order. It may differ between versions of Polars."""
    return int(rows.hash_rows().to_numpy().sum(dtype=np.uint64))


def _content(key: str, digest: int) -> Transaction:
    # The number of a Delta transaction has 63 bits.
    return Transaction(f"{key}#content", digest % 2**63)
