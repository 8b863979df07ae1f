"""The readers on the worst files that logs have: every row is read right, or dropped with its reason."""

from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.pipeline.sources.mutants import FORMATS, SCHEMA, US, Nursery, Row
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.materialize import materialize
from tutelage.pipeline.schema import interaction_columns
from tutelage.pipeline.sources.files import Files

FILES = 10_000  # Of all formats together, in the slow test.
DAY = date(2026, 1, 1)
EMPTY = pl.DataFrame(interaction_columns(SCHEMA).empty_table()).select(
    pl.exclude("example_id"), content=pl.lit(None, pl.UInt64), dropped=pl.lit(None, pl.String)
)
MIDNIGHT, DAY_US = US - 123_000, 86_400_000_000


def _files(kind: str, *, iso8601: bool, pattern: str = "*") -> Files:
    return Files(
        pattern=f"{pattern}.delta/" if kind == "delta" else f"{pattern}.{kind}",
        schema=SCHEMA,
        event_time="ts",
        time_unit="iso8601" if iso8601 else "ms",
        renamed=(("user", "uid"),),
    )


def _read(path: Path, kind: str, *, iso8601: bool) -> pl.DataFrame | str:
    source = _files(kind, iso8601=iso8601, pattern=path.name.partition(".")[0])
    try:
        units = source.units(str(path.parent), workdir="", days=[])
        source.units(str(path.parent), workdir="", days=[DAY])  # This also reads the statistics.
        return pl.concat([EMPTY, *(frame for unit in units for frame in source.read(unit))])
    except UserError as error:
        return str(error)


def _bad(row: Row) -> list[str]:
    return [value for value in row.values() if str(value).startswith("bad_")]


def _kept(row: Row) -> Row:
    return {name: None if value in _bad(row) else value for name, value in row.items()}


def _outcome(row: Row, seen: set[Any]) -> str:
    """Return what the job must do with the row, after the rows that it has seen."""
    time = row["event_time_us"]
    if time == "bad_time" or not MIDNIGHT <= time < MIDNIGHT + DAY_US:
        return "elsewhere"  # The reason depends: a Parquet file that lies outside as a whole is not read.
    if _bad(row):
        return _bad(row)[0]  # The first in the order of the columns.
    if row["user"] is None:
        return "bad_key"
    if row["click"] is None or row["seconds"] is None:
        return "bad_label"
    key = (row["user"], row["event_time_us"])
    if key in seen:
        return "duplicate"
    seen.add(key)
    return "kept"


def _job(folder: Path, kind: str, *, iso8601: bool) -> tuple[Counter[str], pl.DataFrame]:
    """Run the job; return the number of rows by outcome, and the rows that it kept."""
    lake = Lake(folder / "lake", SCHEMA)
    lake.create()
    source = _files(kind, iso8601=iso8601)
    where = {"raw_dir": str(folder), "workdir": str(folder)}
    done = materialize(source, SCHEMA, lake, **where, days=[DAY], rows_per_shard=100)
    counts = Counter(done.days[DAY].dropped)
    counts["duplicate"] += counts.pop("conflicting_duplicate", 0)
    counts.update(kept=done.days[DAY].kept, elsewhere=sum(done.elsewhere.values()))
    assert done.rows_in == counts.total()
    return counts, lake.interactions.scan().drop("day").collect()


def _sound_files_are_read_right(folder: Path, kind: str, files: int, *, iso8601: bool) -> None:
    folder.mkdir()
    nursery = Nursery(folder, kind, seed=1, iso8601=iso8601)
    seen: set[Any] = set()
    expected: Counter[str] = Counter()
    kept: list[Row] = []
    for _ in range(files):
        made = nursery.sound()
        read = _read(made.path, kind, iso8601=iso8601)
        if isinstance(read, str):
            assert made.rows is None, read
            assert ": column '" in read  # The type of the column fits nothing.
            assert str(made.path) in read
            made.path.rename(made.path.with_suffix(".refused"))
            continue
        assert made.rows is not None, f"{made.path} has a column of a type that fits nothing"
        found = read.to_dicts()
        assert [row["dropped"] for row in found] == [(_bad(row) or [None])[0] for row in made.rows], made.path
        values = [{name: row[name] for name in made.rows[0]} for row in found]
        assert values == [_kept(row) for row in made.rows], made.path
        for row in made.rows:
            outcome = _outcome(row, seen)
            expected[outcome] += 1
            if outcome == "kept":
                kept.append(row)
    counts, rows = _job(folder, kind, iso8601=iso8601)
    assert counts == expected
    order = ["user", "event_time_us"]
    assert rows.drop("example_id").sort(order).to_dicts() == sorted(
        ({name: row[name] for name in rows.columns[1:]} for row in kept),
        key=lambda row: [row[n] for n in order],
    )
    assert rows["example_id"].n_unique() == len(rows)


def _broken_files_are_refused_or_counted(folder: Path, kind: str, files: int, *, iso8601: bool) -> int:
    """Return how many files were refused."""
    folder.mkdir()
    nursery = Nursery(folder, kind, seed=2, iso8601=iso8601)
    # Without this file the job might have no row of the day.
    read, refused = [_read(nursery.sound().path, kind, iso8601=iso8601)], 0
    for _ in range(files):
        path = nursery.broken()
        found = _read(path, kind, iso8601=iso8601)
        if isinstance(found, str):
            assert str(path) in found
            assert "\n" not in found
            refused += 1
            path.rename(path.with_suffix(".refused"))
        else:
            read.append(found)
    counts, rows = _job(folder, kind, iso8601=iso8601)
    assert counts.total() == sum(map(len, read))
    assert counts["kept"] == len(rows) == rows["example_id"].n_unique()
    return refused


GROUPS = [
    (kind, iso8601) for kind in FORMATS for iso8601 in (False, True) if not (iso8601 and "tfrecord" in kind)
]


@pytest.mark.parametrize(("kind", "iso8601"), [(kind, kind == "csv") for kind in ("parquet", "delta", "csv")])
def test_every_row_of_odd_files_is_kept_right_or_dropped_with_its_reason(
    tmp_path: Path, kind: str, iso8601: bool
) -> None:
    _sound_files_are_read_right(tmp_path / "sound", kind, 12, iso8601=iso8601)
    _broken_files_are_refused_or_counted(tmp_path / "broken", kind, 12, iso8601=iso8601)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "iso8601"), GROUPS)
def test_ten_thousand_files_never_give_a_traceback(
    tmp_path: Path, kind: str, iso8601: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    files = -(-FILES // (2 * len(GROUPS)))
    _sound_files_are_read_right(tmp_path / "sound", kind, files, iso8601=iso8601)
    refused = _broken_files_are_refused_or_counted(tmp_path / "broken", kind, files, iso8601=iso8601)
    assert files // 10 < refused
    with capsys.disabled():
        print(f"\n{kind}: {files} sound files and {files} broken ones, of which {refused} were refused")
