"""The second stage of materialising: the staged pieces of a shard of a day become data files without repeats."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date

import apache_beam as beam

from tutelage.pipeline import beam_job, negatives
from tutelage.pipeline.io.arrow import write_arrow
from tutelage.pipeline.io.retry import with_retries
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.leaks import leaks
from tutelage.pipeline.pieces import Piece, ShardRows, shards
from tutelage.pipeline.read_unit import Job
from tutelage.pipeline.statistics import Sketches
from tutelage.pipeline.table import DataFile

_AFTER_ALL = 1 << 40
"""The index of the unit that draws the first negatives of a day: they come after all rows that were read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardUnit:
    """A share of a day, and the pieces that it is made from."""

    day: str
    number: int
    of: int
    """The number of shards of the day."""
    pieces: Sequence[Piece]

    @property
    def name(self) -> str:
        """What people read in messages."""
        return self.day if self.of == 1 else f"{self.day}, shard {self.number + 1} of {self.of}"


class GroupShards(beam.DoFn):
    """Takes all pieces, cuts each day into shards, and puts a few of these into a group, which one worker takes.

    Memory: what there is of each piece but its rows.
    """

    def __init__(self, rows_per_shard: int, size: int, *, whole_pieces: bool = False):
        """`size`: the shards in a group. `whole_pieces`: each shard gets all pieces, because it is one of users."""
        self.rows_per_shard = rows_per_shard
        self.size = size
        self.whole_pieces = whole_pieces

    def process(self, group: tuple[int, Iterable[tuple[str, Piece]]]) -> Iterator[tuple[int, ShardUnit]]:
        days: dict[str, list[Piece]] = {}
        for day, piece in group[1]:
            days.setdefault(day, []).append(piece)
        units = [unit for day in sorted(days) for unit in self._shards(day, days[day])]
        groups = -(-len(units) // self.size)
        for number, unit in enumerate(units):
            yield number % groups, unit

    def _shards(self, day: str, of_day: Sequence[Piece]) -> Iterator[ShardUnit]:
        of = shards(sum(piece.rows for piece in of_day), self.rows_per_shard)
        for number in range(of):
            parts = of_day if self.whole_pieces else [piece.of_shard(number, of) for piece in of_day]
            if there := [part for part in parts if part]:
                yield ShardUnit(day=day, number=number, of=of, pieces=there)


class DrawNegatives(beam_job.ThreadedDoFn):
    """Takes a share of the users of a day, and stages their negatives (`negatives.draw`)."""

    def __init__(self, job: Job):
        self.job = job
        self.staging = beam_job.Staging(job.staging)

    def work(self, unit: ShardUnit) -> list[tuple[int, tuple[str, Piece]]]:
        with self.staging.telling(f"users of {unit.day} {unit.number}"):
            return with_retries(f"the negatives of {unit.name}", self._draw, unit)

    def _draw(self, unit: ShardUnit) -> list[tuple[int, tuple[str, Piece]]]:
        assert self.job.schema.negatives
        day, index = date.fromisoformat(unit.day), _AFTER_ALL + unit.number
        of_day = sorted(unit.pieces, key=lambda piece: piece.order)
        expected = sum(piece.rows for piece in of_day) * (1 + self.job.schema.negatives.per_positive)
        made: list[Piece] = []
        pairs = 0
        drawn = negatives.draw(of_day, self.job.schema, day, share=(unit.number, unit.of))
        for number, some in enumerate(drawn):
            if some.rows.height:
                made.append(self.job.stage(some.rows, day, expected=expected, order=(index, number)))
            pairs += some.pairs
        rows = sum(piece.rows for piece in made)
        self.staging.give(
            f"drawn-{unit.day}-{unit.number}",
            {
                "unit": index,
                "where": f"the negatives of {unit.name}",
                "of": unit.of,
                "days": {unit.day: {"rows": rows, "dropped": {}}},
                "pairs": pairs,
            },
        )
        return [(beam_job.ALL, (unit.day, piece)) for piece in made]


class MakeShard(beam_job.ThreadedDoFn):
    """Turns the pieces of a shard into data files in the order of event time, and gives these to the driver.

    Memory, for each of three shards at a time: what `ShardRows` says, and the day's sketches.
    """

    def __init__(self, job: Job):
        self.job = job
        # A backfill need not say the same of every day.
        self.searched = str(max(job.days))
        """The day that is searched for leaks."""
        self.staging = beam_job.Staging(job.staging)

    def work(self, unit: ShardUnit) -> tuple[()]:
        with self.staging.telling(f"{unit.day} {unit.number}"):
            with_retries(f"the rows of {unit.name}", self._make, unit)
        return ()

    def _make(self, unit: ShardUnit) -> None:
        schema, day = self.job.schema, date.fromisoformat(unit.day)
        rows = ShardRows.find(unit.pieces, schema.key, (unit.number, unit.of))
        table = Lake(self.job.lake_root, schema).interactions
        sketches, files = Sketches(schema), list[DataFile]()
        late, masked = 0, Counter[str]()
        suspicions = {}
        for frame, late_rows in rows.files():
            sketches.add(frame)
            if unit.day == self.searched and not files:
                suspicions = {found.column: found.said for found in leaks(frame, schema)}
            files.append(
                table.write_file(frame, {"day": day}, name=f"part-{unit.number:05d}-{len(files):05d}")
            )
            late += late_rows
            masked.update({name: frame[name].null_count() for name in schema.maturity})
            del frame  # Before the rows of the next file are fetched.
        path = str(self.staging.path / f"{unit.day}-{unit.number}.sketches")
        write_arrow(sketches.parts(), path)
        self.staging.give(
            f"made-{unit.day}-{unit.number}",
            {
                "day": unit.day,
                "number": unit.number,
                "arrived": {str(index): count for index, count in rows.arrived.items()},
                "dropped": dict(rows.dropped),
                "late": late,
                "masked": masked,
                "files": [asdict(file) for file in files],
                "sketches": path,
                "leaks": suspicions,
            },
        )
