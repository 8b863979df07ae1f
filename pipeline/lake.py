"""The tables of one workdir, under WORKDIR/lake, and which of their days were made from other rows than now."""

import copy
import hashlib
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.paths import as_path
from tutelage.pipeline.quarantine import Quarantine
from tutelage.pipeline.schema import METRICS, STATISTICS, Schema
from tutelage.pipeline.schema.tables import history_columns, interaction_columns
from tutelage.pipeline.soft_labels import LabelPartition, SoftLabelStore
from tutelage.pipeline.table import PRUNED, Table

LOCK = ".lock"
"""The lock file beside the tables. Jobs that write data files share it; whoever removes data files holds it alone."""


class Lake:
    """The tables of one workdir.

    Example:
        >>> from tutelage.pipeline.schema import Feature, Task
        >>> user = Feature(name="user", dtype="int64", capacity=100)
        >>> schema = Schema(features=(user,), tasks=(Task(name="click", label="click"),), key=("user",))
        >>> Lake("/data/workdir/lake", schema).interactions.path.name
        'interactions'
    """

    def __init__(self, root: str | Path, schema: Schema, *, interactions: Path | None = None):
        """Declare the tables under `root`. `create` creates those that do not exist.

        `interactions`: the table of another workdir, which is read instead of this one's.
        """
        # Workers of a Beam job may run in another folder.
        root = as_path(root)
        self.schema = schema
        day = {"day": pa.date32()}
        self.interactions = Table(
            interactions or root / "interactions", interaction_columns(schema), partition_by=day
        )
        self.soft_labels = SoftLabelStore.declare(root, schema.outputs)
        self.metrics = Table(root / "metrics", METRICS, partition_by={"model": pa.string()})
        # These are made from the interactions, and lie beside them.
        beside = self.interactions.path.parent
        self.statistics = Table(beside / "statistics", STATISTICS, partition_by=day)
        self.quarantine = Quarantine(
            beside / "quarantine",
            mend="restore it from a backup, or run tutelage-materialize with --start_day={day} --end_day={day}",
        )
        self.histories = (
            Table(beside / "histories", history_columns(schema), partition_by=day)
            if schema.histories
            else None
        )

    @property
    def by_day(self) -> list[Table]:
        """The tables that have a partition for each day. `interactions`, which the others are made from, is last."""
        made = [self.soft_labels.table, self.histories, self.statistics, self.interactions]
        return [table for table in made if table]

    def create(self) -> None:
        """Create the tables that do not exist."""
        for table in (*self.by_day, self.metrics):
            table.create()

    def snapshot(self) -> "Lake":
        """Return the lake with the tables that a model reads as they are now: rows, histories and labels of one
        moment, whatever is committed while they are read."""
        pinned = copy.copy(self)
        pinned.interactions = self.interactions.snapshot()
        pinned.soft_labels = self.soft_labels.snapshot()
        pinned.histories = self.histories and self.histories.snapshot()
        return pinned

    def quarantined_days(self) -> list[date]:
        """Return the days that failed the quality gate and are not in `interactions`. Models go on without them."""
        skipped = self.quarantine.skipped()
        # Most often there is none, and the table need not be asked.
        have = set(self.interactions.partitions()["day"]) if skipped else set()
        return [day for day in skipped if day not in have]

    def pruned(self, days: Sequence[date]) -> frozenset[date]:
        """Return those of `days` that were removed from `interactions` and not materialised again."""
        have = set(self.interactions.partitions()["day"])
        newest = max(have, default=date.min)
        # The newest day is never removed. The log is long, so it is read only where a day is missing.
        missing = {day for day in days if day not in have and day < newest}
        counts = self.interactions.counts() if missing else {}
        of = {day: counts.get(str(day), {}) for day in missing}
        return frozenset(day for day in missing if PRUNED in {**of[day], **of[day].get("dropped", {})})

    def history_days(self, day: date) -> list[date]:
        """Return the days before `day` that its histories are made from, the newest first."""
        longest = max(history.days for history in self.schema.histories)
        return [day - timedelta(days=back) for back in range(1, longest + 1)]

    def history_attempts(self, days: Sequence[date]) -> dict[date, int]:
        """Return, for each day, the attempt that makes its histories from `interactions` as they are now."""
        keys = {day: [str(day), *map(str, self.history_days(day))] for day in days}
        versions = self.interactions.versions(sorted({key for each in keys.values() for key in each}))
        # Equal versions of the input give an equal number, so the number tells whether the histories are stale.
        return {day: _number(map(versions.get, each)) for day, each in keys.items()}

    def stale_histories(self, days: Sequence[date]) -> list[date]:
        """Return those of `days` whose histories are missing, or were made from other rows than are there now."""
        if not self.histories:
            return []
        expected, found = self.history_attempts(days), self.histories.attempts(days)
        return [day for day in days if expected[day] != found[day]]

    def input_versions(
        self, days: Sequence[date], *, histories: bool, labels: tuple[str, str] | None = None
    ) -> dict[date, dict[str, int]]:
        """Return the versions (`Table.versions`) of what a model is trained on, by day and table.

        These are the rows, with `histories` those of their users, and with `labels` the soft labels of this
        (teacher, producer). A table that has nothing of a day is left out.
        """
        found: dict[date, dict[str, int]] = {day: {} for day in days}
        rows = [("interactions", self.interactions)]
        if histories and self.histories:
            rows.append(("histories", self.histories))
        for name, table in rows:
            for key, version in table.versions([str(day) for day in days]).items():
                found[date.fromisoformat(key)][name] = version
        if labels:
            versions = self.soft_labels.versions([LabelPartition(*labels, day) for day in days])
            for partition, version in versions.items():
                found[partition.day]["soft_labels"] = version
        return found

    def label_sources(self, days: Sequence[date]) -> dict[date, int]:
        """Return a number for the rows and histories that a labeler scores, for each of `days` that is there."""
        input_versions = self.input_versions(days, histories=True)
        return {
            day: _number(versions.get(name) for name in ("interactions", "histories"))
            for day, versions in input_versions.items()
            if "interactions" in versions
        }

    def with_histories(self, rows: pl.LazyFrame, day: date, *, of: pl.Series | None = None) -> pl.LazyFrame:
        """Return rows of a day of `interactions` with the histories of their users, in the same order.

        `of`: all users of the rows, where these are few of the day's; the histories of others are not kept in memory.

        Raises UserError as `made_histories` does.
        """
        if not self.histories:
            return rows
        made = self.made_histories(day)
        if of is not None:
            made = made.filter(pl.col(of.name).is_in(of.implode()))
        return rows.join(made, on=self.schema.user, how="left", maintain_order="left")

    def made_histories(self, day: date) -> pl.LazyFrame:
        """Return the histories of a day, a row for each of its users.

        Raises UserError where they are missing, or were made from other rows than are there now.
        """
        assert self.histories
        if self.stale_histories([day]):
            raise UserError(
                f"day {day} of {self.histories.path} is missing, or older than the days that it is made from; "
                "run tutelage-run, or tutelage-materialize for that day"
            )
        return self.histories.scan(day=day).drop("day")


def _number(parts: Iterable[object]) -> int:
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7])
