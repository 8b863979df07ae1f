"""Commit a materialised day to `interactions`, or put it in quarantine until its data is corrected or accepted."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tutelage.pipeline.alarms import AlarmBudget
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.expected import MEMORY
from tutelage.pipeline.io.arrow import read_arrow
from tutelage.pipeline.io.atomic import atomic_write, make_folder, move, remove
from tutelage.pipeline.io.links import refuse_links, refuse_path_outside
from tutelage.pipeline.io.retry import with_retries
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.quality import DEFAULT_ALARMS, FIELDS, QualityConfig, judge, largest, scalars
from tutelage.pipeline.schema import Schema
from tutelage.pipeline.statistics import DayStatistics, Sketches, compare
from tutelage.pipeline.table import FORGOTTEN, DataFile, Table, add_dropped
from tutelage.pipeline.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedDay:
    """A day that a job has written and not yet committed."""

    day: date
    files: tuple[DataFile, ...]
    sketches: tuple[str, ...]
    """Paths of the staged `Sketches.parts` of its shards."""
    differences: tuple[str, ...]
    """How its columns differ from what the source offers."""
    metadata: Mapping[str, Any]
    """Stored in its commit."""
    leaks: Mapping[str, str] = field(default_factory=dict)
    """What is said of each column that seems to give a label away (`leaks.Suspicion.said`)."""


TOGETHER = 50
"""Days whose statistics are committed together. It bounds what is judged again after a kill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _JudgedDay:
    made: StagedDay
    verdict: Verdict
    file: DataFile | None = None
    """Its statistics, in a file that is not committed yet; None: it did not pass."""
    statistics: pl.DataFrame | None = None
    """Its statistics, if it did not pass."""


class DayCommitter:
    """Judges the days of one job in order, so that each day is compared with the days of the job before it.

    Memory: the statistics of the trailing days, and single numbers of the eight weeks before a day.
    """

    def __init__(
        self,
        lake: Lake,
        config: QualityConfig,
        *,
        attempt: int,
        as_of: Table,
        alarms: AlarmBudget = DEFAULT_ALARMS,
    ):
        """`as_of`: `interactions` as it was when the job began to read (`Table.snapshot`)."""
        self.lake = lake
        self.config = config
        self.alarms = alarms
        self.attempt = attempt
        self.as_of = as_of
        self.have = set(lake.interactions.partitions()["day"])
        self.window: dict[date, pl.DataFrame] = {}
        self.memory: dict[date, np.ndarray] = {}
        self.remembered: set[date] = set()
        """The days that were looked for in `statistics`."""
        records = lake.quarantine.days()
        self.accepted = {day for day, record in records.items() if record["outcome"] == "accepted"}
        lake.statistics.add_columns()
        self.skipped = {day for day, record in records.items() if record["outcome"] == "skipped"}
        self.leaks: dict[str, tuple[str, list[date]]] = {}
        """What was said first of each column that seems to give a label away, and the days on which it was found."""
        self.missing: dict[str, tuple[str, list[date]]] = {}
        """The same of each column with numbers that count as missing."""
        self.quarantined_days: dict[date, str] = {}
        """The message about each day that went into quarantine."""

    def commit_days(self, made: Iterable[StagedDay]) -> Iterator[tuple[StagedDay, Verdict]]:
        """Judge days in order, then commit each, or put it in quarantine; what the table held of that day stays then.

        The statistics of all these days are committed first, in one commit, under the attempt of the rows. If the job
        is killed before a day's rows are committed, their attempt shows that they belong to other rows.

        Yields each day with its verdict, once that is done.
        """
        days = iter(made)
        while together := list(islice(days, TOGETHER)):
            judged = [with_retries(f"the statistics of {day.day}", self._judge, day) for day in together]
            if files := [({"day": each.made.day}, [each.file]) for each in judged if each.file]:
                commit = self.lake.statistics.commit_together
                with_retries("the commit of statistics", commit, files, attempt=self.attempt)
            for each in judged:
                with_retries(f"the commit of {each.made.day}", self._finish, each)
                yield each.made, each.verdict

    def _judge(self, made: StagedDay) -> "_JudgedDay":
        """Judge a day, and write a file of its statistics if it passed. Nothing is committed."""
        lake, day = self.lake, made.day
        statistics = compare(_added_up(lake.schema, made.sketches), self._before(day))
        now = scalars(lake.schema, statistics)
        verdict = judge(
            lake.schema,
            (day, now),
            self._remembered(day),
            self.config,
            alarms=self.alarms,
            accepted=self.accepted,
            differences=made.differences,
        )
        if not verdict.blessed:
            self._note(made, now)
            return _JudgedDay(made=made, verdict=verdict, statistics=statistics)
        file = lake.statistics.write_file(statistics, {"day": day}, name="part")
        self._note(made, now)
        self.have.add(day)
        self.window[day] = statistics
        self.memory[day] = now
        self.remembered.add(day)
        return _JudgedDay(made=made, verdict=verdict, file=file)

    def _finish(self, judged: "_JudgedDay") -> None:
        """Commit the rows of a day, or put them in quarantine."""
        lake, made, verdict = self.lake, judged.made, judged.verdict
        day = made.day
        if judged.statistics is not None:
            meanwhile = (
                "the rows that were there before stay" if day in self.have else "models go on without it"
            )
            message = f"{verdict}; {meanwhile}"
            record = {"said": message, **asdict(verdict), "attempt": self.attempt}
            _quarantine(lake, made, judged.statistics, record)
            self.quarantined_days[day] = message
            return
        self.as_of.commit(made.files, {"day": day}, attempt=self.attempt, metadata=made.metadata)
        if day in self.skipped:
            lake.quarantine.write(day, "passed", lake.quarantine.days()[day]["attempts"])
            forget(lake, day)

    def _note(self, made: StagedDay, now: np.ndarray) -> None:
        """Note what to warn of: leaks, and numbers that count as missing."""
        for column, said in made.leaks.items():
            self.leaks.setdefault(column, (said, []))[1].append(made.day)
        for index, feature in enumerate(self.lake.schema.features):
            rows, not_finite, absurd = (
                int(np.nan_to_num(now[FIELDS.index(name), index]))
                for name in ("rows", "not_finite", "absurd")
            )
            if feature.is_id or not (not_finite or absurd):
                continue
            such = f"such as {largest(now[:, index]):g}" if absurd else "NaN or infinite"
            said = f"has {not_finite + absurd:,} of {rows:,} numbers that count as missing, {such}"
            self.missing.setdefault(feature.name, (said, []))[1].append(made.day)

    def warnings(self) -> list[str]:
        """Return a line for each column that seems to give a label away, or has numbers that count as missing."""
        found = []
        for column, (said, days) in (*self.leaks.items(), *self.missing.items()):
            more = f" and {len(days) - 1} more days" if len(days) > 1 else ""
            found.append(f"{column} {said} ({days[0]}{more})")
        return found

    def _before(self, day: date) -> list[pl.DataFrame]:
        """Return the statistics of the trailing days before `day`."""
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

    def _remembered(self, day: date) -> dict[date, np.ndarray]:
        """Return what is judged of the eight weeks before `day`, by day in order, where there are statistics."""
        days = sorted(other for other in self.have if other < day)[-MEMORY:]
        left = [other for other in days if other not in self.remembered]
        if left:
            outdated = stale(self.lake, left)
            left = [other for other in left if other not in outdated]
        if left:
            among = pl.col("day").is_between(left[0], left[-1])
            names = ["day", "column", *FIELDS]
            found = self.lake.statistics.scan().filter(among).select(names).collect()
            of_day = found.partition_by("day", as_dict=True, include_key=False)
            for other in left:
                self.memory[other] = scalars(self.lake.schema, of_day[other,])
        self.remembered.update(days)
        self.memory = {other: self.memory[other] for other in sorted(self.memory) if other in set(days)}
        return self.memory


def stale(lake: Lake, days: Sequence[date]) -> dict[date, int | None]:
    """Return those of `days` whose statistics are missing or belong to other rows, with the attempt of the rows."""
    if not days:
        return {}
    attempts, found = lake.interactions.attempts(days), lake.statistics.attempts(days)
    return {day: attempts[day] for day in days if attempts[day] is None or attempts[day] != found[day]}


def _added_up(schema: Schema, paths: Sequence[str]) -> DayStatistics:
    """Return the statistics of a day from the staged sketches of its shards."""
    sketches = Sketches(schema)
    for path in paths:
        sketches.add_parts(read_arrow(path))
    return sketches.finish()


def _sketched(lake: Lake, day: date) -> DayStatistics:
    """Return the statistics of a day's rows, read one data file at a time, without comparing them with other days."""
    sketches = Sketches(lake.schema)
    for file in lake.interactions.files(day=day):
        sketches.add(lake.interactions.read_file(file).collect())
    return sketches.finish()


def _measure(lake: Lake, day: date, attempt: int | None) -> pl.DataFrame:
    """Compute the statistics of a day that has none, one data file at a time.

    `drift` and `new_ids` are null, because the days before it may have changed since.
    """
    statistics = _sketched(lake, day).columns
    if attempt is not None:
        _commit_statistics(lake, day, statistics, attempt=attempt)
    return statistics


def measure_again(lake: Lake, day: date, *, trailing_days: int) -> None:
    """Compute the statistics of a day from its rows, and compare them with those of the days before it."""
    attempt = lake.interactions.attempts([day])[day]
    if attempt is None:
        raise UserError(f"{day} is not in {lake.interactions.path} any more; run tutelage-materialize for it")
    have = lake.interactions.partitions()["day"].to_list()
    before = sorted(other for other in have if other < day)[-trailing_days:]
    statistics = [lake.statistics.scan(day=other).drop("day").collect() for other in before]
    # The attempt is recorded with the damaged statistics, and a repeated commit would change nothing.
    lake.statistics.commit([], {"day": day}, attempt=0, metadata={})
    _commit_statistics(lake, day, compare(_sketched(lake, day), statistics), attempt=attempt)


def _commit_statistics(lake: Lake, day: date, statistics: pl.DataFrame, *, attempt: int) -> None:
    made = lake.statistics.write_file(statistics, {"day": day}, name="part")
    lake.statistics.commit([made], {"day": day}, attempt=attempt, metadata={})


def _rows(lake: Lake, day: date) -> Path:
    return lake.quarantine.folder / "interactions" / f"day={day}"


def _statistics(lake: Lake, day: date) -> Path:
    return lake.quarantine.folder / "statistics" / f"day={day}" / "part.parquet"


def _read_statistics(lake: Lake, day: date) -> pl.DataFrame:
    """Return the statistics of a day in quarantine, with null in the columns that an older release did not have."""
    return lake.statistics.read_file(str(_statistics(lake, day))).collect()


def forget(lake: Lake, day: date) -> None:
    """Remove the rows and statistics of a day from quarantine. Its record stays. Raises UserError for a link there."""
    refuse_links(lake.quarantine.folder)
    remove(_rows(lake, day))
    remove(_statistics(lake, day).parent)


def _quarantine(lake: Lake, made: StagedDay, statistics: pl.DataFrame, record: Mapping[str, Any]) -> None:
    """Move a day's files into quarantine, then its statistics, and last the record that names them."""
    day = made.day
    refuse_links(lake.quarantine.folder)
    folder = _rows(lake, day)
    make_folder(folder)
    sources = [lake.interactions.path / file.path for file in made.files]
    for source in sources:
        if source.exists():  # A runner may repeat this.
            move(source, folder / source.name)
    names = [source.name for source in sources]
    for path in folder.iterdir():
        if path.name not in names:  # A file of an earlier attempt.
            path.unlink()
    with atomic_write(_statistics(lake, day)) as unfinished:
        statistics.write_parquet(unfinished)
    files = [asdict(file) for file in made.files]
    lake.quarantine.write(day, "skipped", [{**record, "files": files, "counts": made.metadata}])


def accept(lake: Lake, day: date, reason: str) -> int:
    """Commit a quarantined day as it is, and return the number of its rows.

    `reason` is recorded in the commit and in the day's record. If it is killed at any point and run again, the
    result is the same.

    Raises UserError where the day is not in quarantine, or its record names a file outside of the table.
    """
    record = lake.quarantine.days().get(day)
    if record is None or record["outcome"] != "skipped":
        raise UserError(
            f"--accept_day={day}: no such day of data is in quarantine; tutelage-status shows those that are"
        )
    last = record["attempts"][-1]
    if "files" not in last:
        raise UserError(f"--accept_day={day}: {last['said']}; run tutelage-materialize for that day first")
    files, counts = [], last["counts"]
    named = [DataFile(**file) for file in last["files"]]
    for file in named:
        whose = f"--accept_day={day}: the record {lake.quarantine.folder / f'{day}.json'}"
        refuse_path_outside(lake.interactions.path / file.path, lake.interactions.path, whose)
    for file in named:
        source, target = _rows(lake, day) / Path(file.path).name, lake.interactions.path / file.path
        if source.exists():
            make_folder(target.parent)
            move(source, target)
        elif not target.exists():
            raise UserError(
                f"--accept_day={day}: {source} is gone; run tutelage-materialize for that day first"
            )
        left = pl.scan_parquet(str(target)).select(pl.len()).collect().item()
        if left < file.rows:
            counts = add_dropped(counts, file.rows - left, FORGOTTEN)
        files.append(replace(file, rows=left))
    lake.statistics.add_columns()
    _commit_statistics(lake, day, _read_statistics(lake, day), attempt=last["attempt"])
    metadata = {**counts, "accepted": {"said": last["said"], "reason": reason}}
    lake.interactions.commit(files, {"day": day}, attempt=last["attempt"], metadata=metadata)
    lake.quarantine.write(day, "accepted", record["attempts"], reason=reason)
    forget(lake, day)
    return sum(file.rows for file in files)


def statistics(lake: Lake) -> pl.DataFrame:
    """Return the numeric columns of `statistics` for every day, with `quarantined` true for days in quarantine."""
    days = lake.interactions.partitions()["day"].to_list()
    numbers = [
        name for name, dtype in lake.statistics.scan().collect_schema().items() if not dtype.is_nested()
    ]
    kept = lake.statistics.scan().select(numbers).drop("seen").collect()
    outdated = stale(lake, days)
    known = [day for day in days if day not in outdated]
    frames = [kept.filter(pl.col("day").is_in(known)).with_columns(quarantined=False)]
    for day in lake.quarantined_days():
        if _statistics(lake, day).exists():
            columns = _read_statistics(lake, day).with_columns(day=pl.lit(day), quarantined=True)
            frames.append(columns.select(frames[0].columns))
    return pl.concat(frames).sort("day", maintain_order=True)
