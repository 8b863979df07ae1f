"""A day that was made comes into the table, or into quarantine: there it stays until it is mended or accepted."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.atomic import atomic_write
from tutelage.pipeline.lake import FORGOTTEN, DataFile, Lake, Table, counted
from tutelage.pipeline.quality import QualityConfig, judge
from tutelage.pipeline.statistics import DayStatistics, Sketches, compare
from tutelage.pipeline.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedDay:
    """A day as a job made it: its data files, not committed yet.

    `statistics` is the path of its DayStatistics, `differences` are of its columns from what the source
    offers, `metadata` is for the commit.
    """

    day: date
    files: tuple[DataFile, ...]
    statistics: str
    differences: tuple[str, ...]
    metadata: Mapping[str, Any]


class DayCommitter:
    """Judges the days of one job in their order, so that each is held against those of the job before it.

    Memory: the statistics of the trailing days.
    """

    def __init__(self, lake: Lake, config: QualityConfig, *, attempt: int, as_of: Table):
        self.lake = lake
        self.config = config
        self.attempt = attempt
        self.as_of = as_of
        self.have = set(lake.interactions.partitions()["day"])
        self.window: dict[date, pl.DataFrame] = {}
        self.quarantined_days: dict[date, str] = {}
        """What is said of the days that went into quarantine."""

    def commit_day(self, made: StagedDay) -> Verdict:
        """Commit the day, or put it into quarantine; what the table held of it stays then.

        The statistics are committed first, under the number of the attempt that made the rows: those of a job that
        was killed in between are seen to be of other rows.
        """
        lake, day = self.lake, made.day
        before = self._before(day)
        statistics = compare(DayStatistics.read(Path(made.statistics)), before)
        verdict = judge(lake.schema, statistics, before, self.config, differences=made.differences)
        if not verdict.blessed:
            message = f"{verdict}; the rows that were there before stay" if day in self.have else str(verdict)
            record = {"said": message, **asdict(verdict), "attempt": self.attempt}
            _keep_out(lake, made, statistics, record)
            self.quarantined_days[day] = message
            return verdict
        _commit(lake, made.day, made.files, statistics, made.metadata, attempt=self.attempt, as_of=self.as_of)
        if day in lake.quarantine.skipped():
            lake.quarantine.write(day, "passed", lake.quarantine.days()[day]["attempts"])
            forget(lake, day)
        self.have.add(day)
        self.window[day] = statistics
        return verdict

    def _before(self, day: date) -> list[pl.DataFrame]:
        days = sorted(other for other in self.have if other < day)[-self.config.trailing_days :]
        left = [other for other in days if other not in self.window]
        self.window = {other: self.window[other] for other in days if other in self.window}
        found = stale(self.lake, left)
        for other in left:
            self.window[other] = (
                _measure(self.lake, other, found[other])
                if other in found
                else self.lake.statistics.scan(day=other).drop("day").collect()
            )
        return [self.window[other] for other in days]


def stale(lake: Lake, days: Sequence[date]) -> dict[date, int | None]:
    """Those of `days` whose statistics are not there, or of other rows, with the attempt that made the rows."""
    if not days:
        return {}
    attempts, found = lake.interactions.attempts(days), lake.statistics.attempts(days)
    return {day: attempts[day] for day in days if attempts[day] is None or attempts[day] != found[day]}


def _measure(lake: Lake, day: date, attempt: int | None) -> pl.DataFrame:
    """Make the statistics of a day of the table that has none, one data file at a time. `drift` and `new_ids` are
    null: what was before it then is not known."""
    sketches = Sketches(lake.schema)
    for file in lake.interactions.files(day=day):
        sketches.add(lake.interactions.read_file(file).collect())
    statistics = sketches.finish().columns
    if attempt is not None:
        made = lake.statistics.write_file(statistics, {"day": day}, name="part")
        lake.statistics.commit([made], {"day": day}, attempt=attempt, metadata={})
    return statistics


def _commit(
    lake: Lake,
    day: date,
    files: tuple[DataFile, ...],
    statistics: pl.DataFrame,
    metadata: Mapping[str, Any],
    *,
    attempt: int,
    as_of: Table | None = None,
) -> None:
    made = lake.statistics.write_file(statistics, {"day": day}, name="part")
    lake.statistics.commit([made], {"day": day}, attempt=attempt, metadata={})
    lake.interactions.commit(files, {"day": day}, attempt=attempt, metadata=metadata, as_of=as_of)


def _rows(lake: Lake, day: date) -> Path:
    return lake.quarantine.folder / "interactions" / f"day={day}"


def _statistics(lake: Lake, day: date) -> Path:
    return lake.quarantine.folder / "statistics" / f"day={day}" / "part.parquet"


def forget(lake: Lake, day: date) -> None:
    """Remove what lies in quarantine of a day; its record stays."""
    shutil.rmtree(_rows(lake, day), ignore_errors=True)
    shutil.rmtree(_statistics(lake, day).parent, ignore_errors=True)


def _keep_out(lake: Lake, made: StagedDay, statistics: pl.DataFrame, record: Mapping[str, Any]) -> None:
    """Its files, then its statistics, then its record, which says that they are there."""
    day = made.day
    folder = _rows(lake, day)
    folder.mkdir(parents=True, exist_ok=True)
    sources = [lake.interactions.path / file.path for file in made.files]
    for source in sources:
        if source.exists():  # A runner may repeat this.
            os.rename(source, folder / source.name)
    names = [source.name for source in sources]
    for path in folder.iterdir():
        if path.name not in names:  # Of an attempt before.
            path.unlink()
    with atomic_write(_statistics(lake, day)) as unfinished:
        statistics.write_parquet(unfinished)
    files = [asdict(file) for file in made.files]
    lake.quarantine.write(day, "skipped", [{**record, "files": files, "counts": made.metadata}])


def accept(lake: Lake, day: date, reason: str) -> int:
    """Commit a day that is in quarantine as it is; returns its rows. `reason` is recorded in the commit and in the
    day's record. Killed anywhere and run again, it ends the same.

    Raises UserError where the day is not there.
    """
    record = lake.quarantine.days().get(day)
    if record is None or record["outcome"] != "skipped":
        raise UserError(
            f"--accept_day={day}: no such day of data is in quarantine; tutelage-status shows those that are"
        )
    last = record["attempts"][-1]
    files, counts = [], last["counts"]
    for file in (DataFile(**file) for file in last["files"]):
        source, target = _rows(lake, day) / Path(file.path).name, lake.interactions.path / file.path
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(source, target)
        elif not target.exists():
            raise UserError(
                f"--accept_day={day}: {source} is gone; run tutelage-materialize for that day first"
            )
        left = pl.scan_parquet(target).select(pl.len()).collect().item()
        if left < file.rows:
            counts = counted(counts, file.rows - left, FORGOTTEN)
        files.append(replace(file, rows=left))
    statistics = pl.read_parquet(_statistics(lake, day))
    metadata = {**counts, "accepted": {"said": last["said"], "reason": reason}}
    _commit(lake, day, tuple(files), statistics, metadata, attempt=last["attempt"])
    lake.quarantine.write(day, "accepted", record["attempts"], reason=reason)
    forget(lake, day)
    return sum(file.rows for file in files)


def statistics(lake: Lake) -> pl.DataFrame:
    """The numbers of `statistics` of all days of the table and, `quarantined`, of those that were kept out of it."""
    days = lake.interactions.partitions()["day"].to_list()
    numbers = [
        name for name, dtype in lake.statistics.scan().collect_schema().items() if not dtype.is_nested()
    ]
    kept = lake.statistics.scan().select(numbers).drop("seen").collect()
    known = [day for day in days if day not in stale(lake, days)]
    frames = [kept.filter(pl.col("day").is_in(known)).with_columns(quarantined=False)]
    for day in lake.quarantined_days():
        if (path := _statistics(lake, day)).exists():
            columns = pl.read_parquet(path).with_columns(day=pl.lit(day), quarantined=True)
            frames.append(columns.select(frames[0].columns))
    return pl.concat(frames).sort("day", maintain_order=True)
