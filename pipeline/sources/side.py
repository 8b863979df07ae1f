"""Side tables of users or videos whose rows change over time: each event gets the row that was valid then."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow.parquet as pq

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.sources.columns import Columns, TimeUnit, check_time
from tutelage.pipeline.sources.store import File, check_pattern, find, readable

_ROWS = 1 << 19
"""Rows that are held before those that cannot be joined any more are removed."""
_DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What was known about a user or a video at the time of an event.

    An event gets the columns of the newest row of its key that was known then (see `valid_from` and `lag_days`), or
    nulls if there is none. So a day that is made again gets the same values as the first time, and none of later rows.

    Files, formats and values are read like those of events, see `Files`. Rows are left out and counted once per job, as
    NAME_bad_row, NAME_bad_time, NAME_bad_<column>, NAME_bad_key (no key), and, of rows with the same key and time, the
    later ones by file and row as NAME_duplicate or NAME_conflicting_duplicate. Parquet files whose times are all later
    are not read.

    A worker holds the rows that can be joined to events of a unit's slices (for text files: of all requested slices):
    for each key the newest row before the slices, and the rows within them.
    """

    name: str
    """The name of the table, used in the counts."""
    pattern: str
    """A glob below the raw folder, like users/*.parquet."""
    key: tuple[tuple[str, str], ...]
    """Pairs of a feature of the events, or of an earlier side table, and the raw column here that must equal it."""
    columns: tuple[tuple[str, str], ...]
    """Pairs of a feature and the raw column of this table that it is read from."""
    valid_from: str = ""
    """The raw column with the time from which a row is valid. A date means its midnight. Empty: the table has no dates,
    and its one row of a key holds for all events. A day that is made again then gets what the table says by that
    time, which a model must not know if it came later than the events."""
    time_unit: TimeUnit = "iso8601"
    """The unit of `valid_from`, see `Files.time_unit`."""
    time_zone: str = "UTC"
    """The time zone of times and dates that name none (an IANA name)."""
    lag_days: int = 0
    """Days of 24 hours from `valid_from` until a row is known: 1 for a snapshot named after the day that it sums up."""
    max_age_days: int | None = None
    """A row that has been known for more days is neither joined nor read. None: it is valid until the next one."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise UserError(f"Side: name is {self.name!r}, expected lower-case letters, digits or _")
        check_pattern(self._whose, self.pattern)
        check_time(self._whose, self.time_unit, self.time_zone)
        if not self.key or not self.columns:
            raise UserError(
                f"{self._whose}: key is {self.key}, columns {self.columns}; expected at least one pair each"
            )
        if self.lag_days < 0 or (self.max_age_days is not None and self.max_age_days < 1):
            raise UserError(
                f"{self._whose}: lag_days is {self.lag_days} and max_age_days {self.max_age_days}, "
                "expected at least 0, and at least 1 or None"
            )
        if not self.valid_from and (self.lag_days or self.max_age_days):
            raise UserError(
                f"{self._whose}: lag_days is {self.lag_days} and max_age_days {self.max_age_days}, and there is no "
                "valid_from that they count from; name its column, or leave them out"
            )

    @property
    def _whose(self) -> str:
        return f"Side {self.name!r}"

    def check(self, features: Mapping[str, pl.DataType], free: Sequence[str], earlier: Sequence[str]) -> None:
        """Raise UserError if a column is not one of the `free` features, or a key is not one of the `earlier` ones."""
        given = [name for name, _ in self.columns]
        for name in given:
            if name not in free or given.count(name) > 1:
                raise UserError(
                    f"{self._whose}: columns has {name!r}, expected features that nothing else gives, each once: "
                    f"{', '.join(free)}"
                )
        for name, _ in self.key:
            if name not in earlier or features[name] == pl.List:
                raise UserError(
                    f"{self._whose}: key has {name!r}, expected features of single values that the events, or a side "
                    f"table before it, give: {', '.join(earlier)}"
                )

    def load(
        self, raw_dir: str, features: Mapping[str, pl.DataType], start: int, end: int
    ) -> tuple[pl.DataFrame, Counter[str]]:
        """Return the rows that can be joined to events in [start, end) (microseconds), and the counts of rows left out.

        The rows have the key, `known_us` and the columns, and are sorted by `known_us`. Raises UserError if the files
        cannot be read.
        """
        raw = dict((*self.key, *self.columns))
        rows = Columns(
            time=self.valid_from,
            time_unit=self.time_unit,
            time_zone=self.time_zone,
            dates=True,
            raw=raw,
            dtypes={name: features[name] for name in raw},
        )
        oldest = start - self._max_age_us if self._max_age_us is not None else None
        keys = [name for name, _ in self.key]
        bad: Counter[str] = Counter()
        held: list[pl.DataFrame] = []
        enough = _ROWS
        for file in find(raw_dir, self.pattern):
            with readable(file):
                if not self._may_hold(rows, file, oldest, end):
                    continue
                for frame in rows.read(file):
                    no_key = pl.any_horizontal(pl.col(keys).is_null())
                    frame = frame.with_columns(
                        pl.col("event_time_us").add(self.lag_days * _DAY_US).alias("known_us"),
                        pl.coalesce("dropped", pl.when(no_key).then(pl.lit("bad_key"))).alias("dropped"),
                    )
                    bad.update(dict(frame["dropped"].drop_nulls().value_counts().iter_rows()))
                    known = pl.col("known_us")
                    held.append(
                        frame.filter(
                            pl.col("dropped").is_null()
                            & (known < end)
                            & (True if oldest is None else known >= oldest)
                        ).select(*keys, "known_us", *dict(self.columns), "content")
                    )
                    if sum(map(len, held)) >= enough:
                        held = [_joinable(pl.concat(held), keys, start)]
                        enough = max(_ROWS, 2 * len(held[0]))
        if not held:  # The times of all files are later.
            none = dict.fromkeys((*keys, "known_us", *dict(self.columns)), pl.Int64()) | {
                "content": pl.UInt64()
            }
            held = [pl.DataFrame(schema=none).cast(rows.dtypes)]  # type: ignore[arg-type]
        table, repeats = _without_repeats(_joinable(pl.concat(held), keys, start), keys)
        bad.update(repeats)
        return table.sort("known_us"), Counter({f"{self.name}_{reason}": n for reason, n in bad.items()})

    def join(self, events: pl.DataFrame, table: pl.DataFrame) -> pl.DataFrame:
        """Return `events`, in their order, with the columns of `table`, which `load` returned."""
        keys = [name for name, _ in self.key]
        # The cost of the join depends on both sides.
        table = table.join(events.select(keys).unique(), on=keys, how="semi", maintain_order="left")
        joined = (
            events.with_row_index("row")
            .sort("event_time_us")
            .join_asof(
                table,
                left_on="event_time_us",
                right_on="known_us",
                by=keys,
                tolerance=self._max_age_us,
                check_sortedness=False,
            )
        )
        return joined.sort("row").drop("row", "known_us")

    @property
    def _max_age_us(self) -> int | None:
        return None if self.max_age_days is None else self.max_age_days * _DAY_US

    def _may_hold(self, rows: Columns, file: File, oldest: int | None, end: int) -> bool:
        """Return whether a file may hold rows that became known before `end`, and not before `oldest`."""
        if file.suffix != ".parquet":
            return True
        with file.open() as source, pq.ParquetFile(source) as parquet:
            bounds = rows.bounds(file, parquet.metadata)
        if bounds is None:
            return True
        first, last = (us + self.lag_days * _DAY_US for us in bounds)
        return first < end and (oldest is None or last >= oldest)


def _joinable(rows: pl.DataFrame, keys: Sequence[str], start: int) -> pl.DataFrame:
    """Return the rows without those that a newer row of the same key replaced before `start`."""
    before = pl.when(pl.col("known_us") < start).then("known_us")
    return rows.filter((before.is_null()) | (before == before.max().over(keys)))


def _without_repeats(rows: pl.DataFrame, keys: Sequence[str]) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return the first row of each key and time, without `content`, and the number of other rows by reason."""
    same_row = [*keys, "known_us"]
    same = pl.col("content") == pl.col("content").first().over(same_row)
    rows = rows.with_columns(
        reason=pl.when(pl.struct(same_row).is_first_distinct())
        .then(None)
        .otherwise(pl.when(same).then(pl.lit("duplicate")).otherwise(pl.lit("conflicting_duplicate")))
    )
    counts = dict(rows["reason"].drop_nulls().value_counts().iter_rows())
    return rows.filter(pl.col("reason").is_null()).drop("reason", "content"), counts
