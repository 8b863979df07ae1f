"""Beam job: what each user of a day saw in the days before it, from `interactions`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial

import polars as pl

from tutelage.pipeline import beam_job, file_job
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

    @property
    def where(self) -> str:
        """What people call it."""
        return f"the histories of {self.day}"


class BuildShare(file_job.WriteFile):
    """Takes a share of a day's users, and writes a file of `histories`: one line for each user.

    Memory: four columns of these users' rows of one earlier day, and their lists, up to `length` items each.
    """

    what = "the histories"

    def write(self, unit: HistoryUnit) -> DataFile:
        """Write the histories of a share."""
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
        building = BuildShare(schema, str(root), str(staging.path))
        made = file_job.run(units, building, staging=staging, flags=beam_flags, progress=progress)
        for day, files in made:
            commit = partial(lake.histories.commit, attempt=attempts[day], metadata={})
            with_retries(f"the histories of {day}", commit, files, {"day": day})
    return stale
