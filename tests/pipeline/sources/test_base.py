"""Raw files that change or vanish while a job reads them."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.materialize import materialize
from tutelage.pipeline.schema import Feature, Schema, Task
from tutelage.pipeline.sources.base import Unit
from tutelage.pipeline.sources.files import Files

SCHEMA = Schema(
    features=(Feature(name="user", dtype="int64", capacity=10),),
    tasks=(Task(name="click", label="click"),),
    key=("event_time_us",),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Meddled(Files):
    """Changes a file after it was listed: before it is read (`early`), or after its first frame."""

    meddle: Callable[[Path], object]
    early: bool

    def read(self, unit: Unit) -> Iterator[pl.DataFrame]:
        path = Path(unit.where)
        if self.early:
            self.meddle(path)
        for frame in Files.read(self, unit):
            yield frame
            if not self.early:
                self.meddle(path)


def _append(path: Path) -> None:
    with path.open("a") as file:
        file.write("7,1,9\n")


def _write_again(path: Path) -> None:
    stat = path.stat()
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


def _cut(path: Path) -> None:
    path.write_text(path.read_text()[:-4])


CHANGED = (
    "PATH changed while the job ran: it had 34 bytes and has {}, or was written again; "
    "run again once it is complete"
)


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize(
    ("meddle", "says"),
    [
        (_append, CHANGED.format(40)),
        (_write_again, CHANGED.format(34)),
        (_cut, CHANGED.format(30)),
        (Path.unlink, "PATH was removed while the job ran; put it back, or run again without it"),
    ],
)
def test_nothing_is_committed_of_a_file_that_changed_since_it_was_listed(
    tmp_path: Path, meddle: Callable[[Path], object], early: bool, says: str
) -> None:
    path = tmp_path / "a.csv"
    path.write_text("user,click,event_time\n1,1,5\n2,0,6\n")
    lake = Lake(tmp_path / "lake", SCHEMA)
    lake.create()
    fields = {"pattern": "*.csv", "schema": SCHEMA, "event_time": "event_time", "time_unit": "us"}
    where = {"raw_dir": str(tmp_path), "workdir": str(tmp_path), "days": [date(1970, 1, 1)]}
    with pytest.raises(UserError, match=f"^{re.escape(says.replace('PATH', str(path)))}$"):
        materialize(Meddled(**fields, meddle=meddle, early=early), SCHEMA, lake, **where)  # type: ignore[arg-type]
    assert lake.interactions.partitions().height == 0
    path.write_text("user,click,event_time\n1,1,5\n2,0,6\n3,1,7\n")
    materialize(Files(**fields), SCHEMA, lake, **where)  # type: ignore[arg-type]
    assert lake.interactions.scan().collect()["user"].to_list() == [1, 2, 3]
