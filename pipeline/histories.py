"""Beam job: what each user of a day saw in the days before it, from `interactions`."""

from collections.abc import Iterable, Sequence
from datetime import date, timedelta

import apache_beam as beam
import polars as pl

from tutelage.pipeline import beam_job
from tutelage.pipeline.io.retry import with_retries
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.schema import History, Schema, interaction_columns


class BuildDay(beam.DoFn):
    """Takes a day, and commits its partition of `histories`: one line for each user of the day.

    Memory: four columns of one earlier day, and the lists of the day's users, up to `length` items each.
    """

    def __init__(self, schema: Schema, lake_root: str, staging: str):
        self.schema = schema
        self.lake_root = lake_root
        self.staging = beam_job.Staging(staging)

    def process(self, group: tuple[int, Iterable[tuple[date, int]]]) -> None:
        ((day, attempt),) = group[1]
        with self.staging.telling(str(day)):
            with_retries(f"the histories of {day}", self._build, day, attempt)
        self.staging.done(day.toordinal())

    def _build(self, day: date, attempt: int) -> None:
        lake = Lake(self.lake_root, self.schema)
        assert lake.histories
        user = self.schema.user
        users = lake.interactions.scan(day=day).select(user).drop_nulls().unique().sort(user).collect()
        for history in self.schema.histories:
            users = users.with_columns(_items(lake, history, users.to_series(), day))
        partition = {"day": day}
        file = lake.histories.write_file(users, partition, name="part")
        lake.histories.commit([file], partition, attempt=attempt, metadata={})


def _items(lake: Lake, history: History, users: pl.Series, day: date) -> pl.Series:
    """Return the history of each of `users`, a list each: day by day back from `day`, up to `length` items."""
    user, of = lake.schema.user, history.of
    dtype = pl.List(pl.Schema(interaction_columns(lake.schema))[of])
    found = pl.DataFrame({user: users}).with_columns(pl.lit([], dtype).alias("items"))
    for back in range(1, history.days + 1):
        rows = lake.interactions.scan(day=day - timedelta(days=back)).filter(pl.col(of).is_not_null())
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
    beam_flags: Sequence[str] = (),
    progress: beam_job.Progress | None = None,
) -> list[date]:
    """Build the stale histories of `days`, each day in a unit of its own. Returns the days that were stale."""
    stale = lake.stale_histories(days)
    if not stale:
        return []
    units = list(lake.history_attempts(stale).items())
    root = lake.interactions.path.parent
    with beam_job.staging_folder(root) as staging:

        def graph(pipeline: beam.Pipeline) -> None:
            _ = beam_job.in_groups(pipeline, units, size=1) | "Build" >> beam.ParDo(
                BuildDay(schema, str(root), str(staging.path))
            )

        beam_job.run(graph, flags=beam_flags, staging=staging, units=len(units), progress=progress)
    return stale
