"""Beam jobs whose units each write one data file of a day. The driver commits a day once all its files are there."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import date
from itertools import groupby
from typing import Any, Protocol

import apache_beam as beam

from tutelage.pipeline import beam_job
from tutelage.pipeline.arrivals import check_units
from tutelage.pipeline.io.retry import with_retries
from tutelage.pipeline.schema import Schema
from tutelage.pipeline.table import DataFile


class FileUnit(Protocol):
    """A part of a day that one data file is written of."""

    @property
    def index(self) -> int:
        """The number of the unit in its job."""

    @property
    def day(self) -> date: ...

    @property
    def where(self) -> str:
        """What people call it."""


class WriteFile(beam.DoFn):
    """Takes units, writes a data file of each, and gives it to the driver."""

    what = "the rows"
    """What the files hold, in messages."""

    def __init__(self, schema: Schema, lake_root: str, staging: str):
        self.schema = schema
        self.lake_root = lake_root
        self.staging = beam_job.Staging(staging)

    def process(self, group: tuple[int, Iterable[Any]]) -> None:
        for unit in group[1]:
            with self.staging.telling(unit.index):
                file = with_retries(f"{self.what} of {unit.day}", self.write, unit)
            self.staging.give(f"{unit.index}", asdict(file))
            self.staging.done(unit.index)

    def write(self, unit: Any) -> DataFile:
        """Write the file of a unit; it is not committed."""
        raise NotImplementedError


def run(
    units: Sequence[FileUnit],
    writing: WriteFile,
    *,
    staging: beam_job.Staging,
    flags: Sequence[str],
    progress: beam_job.Progress | None,
) -> Iterator[tuple[date, list[DataFile]]]:
    """Let workers write the file of each unit; yield the days in the order of `units`, each with its files.

    Raises UserError, before the first day, where the runner lost a unit.
    """

    def build(pipeline: beam.Pipeline) -> None:
        _ = beam_job.in_groups(pipeline, units, size=1) | "Write" >> beam.ParDo(writing)

    beam_job.run(build, flags=flags, staging=staging, units=len(units), progress=progress)
    made = staging.given()
    check_units({str(unit.index): unit.where for unit in units}, made)
    for day, of_day in groupby(units, key=lambda unit: unit.day):
        yield day, [DataFile(**made[str(unit.index)]) for unit in of_day]
