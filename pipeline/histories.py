"""Beam job: what each user of a day saw in the days before it, from `interactions`."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from functools import partial
from itertools import groupby

import apache_beam as beam
import polars as pl

from tutelage.pipeline import beam_job
from tutelage.pipeline.arrivals import check_units
from tutelage.pipeline.io.retry import with_retries
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.pieces import ROWS_PER_SHARD, shards
from tutelage.pipeline.schema import History, Schema, interaction_columns
from tutelage.pipeline.table import DataFile


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryUnit:
    """A share of the users of a day."""

    index: int
    day: date
    number: int
    of: int
    """The number of shares of the day."""


class BuildShare(beam.DoFn):
    """Takes a share of a day's users, and writes a file of `histories`: one line for each user.

    Memory: four columns of these users' rows of one earlier day, and their lists, up to `length` items each.
    """

    def __init__(self, schema: Schema, lake_root: str, staging: str):
        self.schema = schema
        self.lake_root = lake_root
        self.staging = beam_job.Staging(staging)

    def process(self, group: tuple[int, Iterable[HistoryUnit]]) -> None:
        for unit in group[1]:
            with self.staging.telling(unit.index):
                file = with_retries(f"the histories of {unit.day}", self._build, unit)
            self.staging.give(f"{unit.index}", asdict(file))
            self.staging.done(unit.index)

    def _build(self, unit: HistoryUnit) -> DataFile:
        lake = Lake(self.lake_root, self.schema)
        assert lake.histories
        user, day = self.schema.user, unit.day
        of_share = (
            lake.interactions.scan(day=day).select(user).drop_nulls().filter(_in_share(self.schema, unit))
        )
        users = of_share.unique().sort(user).collect()
        for history in self.schema.histories:
            users = users.with_columns(_items(lake, history, users.to_series(), unit))
        return lake.histories.write_file(users, {"day": day}, name=f"part-{unit.number:05d}")


def _in_share(schema: Schema, unit: HistoryUnit) -> pl.Expr:
    """Return whether a row is of one of the unit's users."""
    assert schema.user
    # The hash is the same in all processes of a job, and need not be in another version of Polars.
    return pl.col(schema.user).hash() % unit.of == unit.number


def _items(lake: Lake, history: History, users: pl.Series, unit: HistoryUnit) -> pl.Series:
    """Return the history of each of `users`, a list each: day by day back from the day, up to `length` items."""
    user, of = lake.schema.user, history.of
    dtype = pl.List(pl.Schema(interaction_columns(lake.schema))[of])
    found = pl.DataFrame({user: users}).with_columns(pl.lit([], dtype).alias("items"))
    for back in range(1, history.days + 1):
        rows = lake.interactions.scan(day=unit.day - timedelta(days=back))
        rows = rows.filter(pl.col(of).is_not_null(), _in_share(lake.schema, unit))
        if history.where:
            rows = rows.filter(pl.col(history.where) > 0)
        newest = (
            rows.select(user, of, "event_time_us", "example_id")
            .join(found.lazy().select(user), on=user, how="semi")
            .sort("event_time_us", "example_id", descending=True)
            .group_by(user)
            .agg(pl.col(of).head(history.length).alias("earlier"))
        )
        found = (
            found.lazy()
            .join(newest, on=user, how="left", maintain_order="left")
            .select(
                user,
                pl.concat_list("items", pl.col("earlier").fill_null(pl.lit([], dtype)))
                .list.head(history.length)
                .alias("items"),
            )
            .collect()
        )
    return found["items"].rename(history.name)


def build(
    schema: Schema,
    lake: Lake,
    *,
    days: Sequence[date],
    rows_per_shard: int = ROWS_PER_SHARD,
    beam_flags: Sequence[str] = (),
    progress: beam_job.Progress | None = None,
) -> list[date]:
    """Build the stale histories of `days`. Returns the days that were stale.

    A unit is a share of a day's users: the day, or the largest of the days before it, has up to `rows_per_shard` rows
    for each share. Each day is committed by itself, once all its shares are there.

    Raises UserError, and commits nothing, where the runner lost a share.
    """
    stale = lake.stale_histories(days)
    if not stale:
        return []
    assert lake.histories
    attempts = lake.history_attempts(stale)
    rows = dict(lake.interactions.partitions().iter_rows())
    units: list[HistoryUnit] = []
    for day in stale:
        of = shards(max(rows.get(each, 0) for each in (day, *lake.history_days(day))), rows_per_shard)
        units += [HistoryUnit(index=len(units) + i, day=day, number=i, of=of) for i in range(of)]
    root = lake.interactions.path.parent
    with beam_job.staging_folder(root) as staging:

        def graph(pipeline: beam.Pipeline) -> None:
            _ = beam_job.in_groups(pipeline, units, size=1) | "Build" >> beam.ParDo(
                BuildShare(schema, str(root), str(staging.path))
            )

        beam_job.run(graph, flags=beam_flags, staging=staging, units=len(units), progress=progress)
        made = staging.given()
        check_units({str(unit.index): f"the histories of {unit.day}" for unit in units}, made)
        for day, of_day in groupby(units, key=lambda unit: unit.day):
            files = [DataFile(**made[str(unit.index)]) for unit in of_day]
            commit = partial(lake.histories.commit, attempt=attempts[day], metadata={})
            with_retries(f"the histories of {day}", commit, files, {"day": day})
    return stale
