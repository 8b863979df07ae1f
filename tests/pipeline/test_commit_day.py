"""Days of data are judged in order, each against the days before it. A bad day is quarantined, the others go on."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from tests.pipeline.rows import DAY, Row, Rows
from tutelage.pipeline import commit_day
from tutelage.pipeline.commit_day import DayCommitter, StagedDay, accept
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.arrow import write_arrow
from tutelage.pipeline.io.json import read_json
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.materialize import Materialized, materialize
from tutelage.pipeline.quality import DEFAULT_QUALITY, QualityConfig
from tutelage.pipeline.schema import STATISTICS, Feature, Schema, Task
from tutelage.pipeline.sources.base import Unit
from tutelage.pipeline.table import Table

SCHEMA = Schema(
    features=(
        Feature(name="user", dtype="int64", capacity=10),
        Feature(name="item", dtype="string", capacity=10),
    ),
    tasks=(Task(name="click", label="click"),),
    key=("user", "event_time_us"),
)
DAYS = [date(1970, 1, 1) + timedelta(days=n) for n in range(6)]
BAD = DAYS[3]
ROWS = 400
SAID = "fail; nulls of item: 1 on 400 rows, 0 is expected and "


def _rows(day: date, *, bad: bool = False) -> tuple[Row, ...]:
    """One row in twenty is a click. On a bad day it is one in two, and no item is known."""
    start = (day - DAYS[0]).days * DAY
    every = 2 if bad else 20
    return tuple(
        (start + i, i % 50, None if bad else "abcd"[i % 4], int(i % every == 0), "")  # type: ignore[misc]
        for i in range(ROWS)
    )


def _source(*, bad: Sequence[date] = (BAD,), days: Sequence[date] = DAYS) -> Rows:
    """Two days per unit, so that the rows of a day arrive with those of another."""
    parts = [_rows(day, bad=day in bad) for day in days]
    return Rows(tuple(sum(parts[i : i + 2], ()) for i in range(0, len(parts), 2)))


def _run(
    root: Path, source: Rows, days: Sequence[date] = DAYS, quality: QualityConfig = DEFAULT_QUALITY
) -> tuple[Lake, Materialized]:
    lake = Lake(root / "lake", SCHEMA)
    lake.create()
    return lake, materialize(source, SCHEMA, lake, raw_dir="", workdir=str(root), days=days, quality=quality)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Materialized]:
    root = tmp_path_factory.mktemp("made")
    return root, _run(root, _source())[1]


@pytest.fixture
def root(made: tuple[Path, Materialized], tmp_path: Path) -> Path:
    """Five days in the table, the fourth in quarantine."""
    shutil.copytree(made[0], tmp_path / "made")
    return tmp_path / "made"


def _lake(root: Path) -> Lake:
    return Lake(root / "lake", SCHEMA)


def test_a_bad_day_goes_into_quarantine_and_the_days_after_it_go_on(made: tuple[Path, Materialized]) -> None:
    root, done = made
    lake = _lake(root)
    assert list(done.days) == [day for day in DAYS if day != BAD]
    assert list(done.quarantined) == [BAD]
    assert done.quarantined[BAD].startswith(SAID)
    assert "; mean of click: 0.5 on 400 rows, 0.05 is expected and " in done.quarantined[BAD]
    assert done.quarantined[BAD].endswith(" (quality.rate_ratio); models go on without it")
    assert lake.interactions.partitions()["day"].to_list() == list(done.days)
    assert (done.held[BAD].rows_in, done.held[BAD].kept, done.held[BAD].dropped) == (ROWS, ROWS, {})
    assert done.rows_in == len(DAYS) * ROWS
    assert lake.quarantined_days() == [BAD]
    rows = pl.read_parquet(root / "lake/quarantine/interactions")
    assert rows["day"].unique().to_list() == [BAD]
    assert (rows.height, rows["click"].sum(), rows["item"].null_count()) == (ROWS, ROWS // 2, ROWS)
    # No file is left in the table's folder.
    assert list((root / f"lake/interactions/day={BAD}").iterdir()) == []


def test_the_record_says_what_failed_with_both_values(made: tuple[Path, Materialized]) -> None:
    record = read_json(made[0] / f"lake/quarantine/{BAD}.json")
    assert (record["day"], record["outcome"]) == (str(BAD), "skipped")
    failed = [check for check in record["attempts"][0]["checks"] if not check["passed"]]
    assert [(c["name"], c["value"], c["reference"]) for c in failed] == [
        ("nulls of item", 1.0, 0.0),
        ("mean of click", 0.5, 0.05),
    ]
    assert record["attempts"][0]["counts"]["kept"] == ROWS


def test_statistics_are_a_table_that_opens_without_the_project(made: tuple[Path, Materialized]) -> None:
    statistics = pl.read_delta(str(made[0] / "lake/statistics"))
    assert statistics["day"].unique().sort().to_list() == [day for day in DAYS if day != BAD]
    click = statistics.filter(day=DAYS[4], column="click")
    assert (click["rows"].item(), click["mean"].item()) == (ROWS, 0.05)
    # There is no day before the first.
    drift = statistics.filter(column="user").sort("day")["drift"].to_list()
    assert drift == [None, 0, 0, 0, 0]


def test_the_statistics_of_all_days_say_which_day_is_quarantined(made: tuple[Path, Materialized]) -> None:
    statistics = commit_day.statistics(_lake(made[0]))
    nulls = statistics.filter(column="item").select("day", "nulls", "quarantined").rows()
    assert nulls == [(day, ROWS if day == BAD else 0, day == BAD) for day in DAYS]


def test_days_materialised_one_by_one_or_together_give_the_same_tables(
    made: tuple[Path, Materialized], tmp_path: Path
) -> None:
    message = {}
    for day in DAYS:
        _, done = _run(tmp_path, _source(), [day])
        message.update(done.quarantined)
    assert message == made[1].quarantined
    one, other = (
        pl.read_delta(str(root / "lake/statistics")).sort("day", maintain_order=True)
        for root in (made[0], tmp_path)
    )
    assert one.equals(other)


def test_statistics_of_a_job_are_one_commit_and_a_kill_after_it_leaves_nothing_of_the_days_without_rows(
    made: tuple[Path, Materialized], tmp_path: Path
) -> None:
    finish = DayCommitter._finish

    def killed(committer: DayCommitter, judged: commit_day._JudgedDay) -> None:
        if judged.made.day == DAYS[2]:
            raise KeyboardInterrupt
        finish(committer, judged)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DayCommitter, "_finish", killed)
        with pytest.raises(KeyboardInterrupt):
            _run(tmp_path, _source())
    lake = _lake(tmp_path)
    assert lake.interactions.partitions()["day"].to_list() == DAYS[:2]
    assert lake.statistics.partitions()["day"].to_list() == [day for day in DAYS if day != BAD]
    assert lake.statistics.version == 1
    assert commit_day.statistics(lake)["day"].unique(maintain_order=True).to_list() == DAYS[:2]
    _, done = _run(tmp_path, _source(), DAYS[2:])
    assert done.quarantined == made[1].quarantined
    for table in ("statistics", "interactions"):
        one, other = (pl.read_delta(str(root / "lake" / table)) for root in (made[0], tmp_path))
        assert one.sort("day", maintain_order=True).equals(other.sort("day", maintain_order=True))


def test_an_accepted_day_is_committed_as_it_is_and_recorded(root: Path) -> None:
    lake = _lake(root)
    assert accept(lake, BAD, "a sale") == ROWS
    rows = lake.interactions.scan(day=BAD).collect()
    assert (rows.height, rows["click"].sum()) == (ROWS, ROWS // 2)
    commit = lake.interactions.counts()[str(BAD)]
    assert commit["accepted"]["reason"] == "a sale"
    assert commit["accepted"]["said"].startswith(SAID)
    record = lake.quarantine.days()[BAD]
    assert (record["outcome"], record["reason"]) == ("accepted", "a sale")
    assert lake.quarantined_days() == []
    assert not (root / f"lake/quarantine/interactions/day={BAD}").exists()
    assert lake.statistics.scan(day=BAD, column="click").collect()["mean"].to_list() == [0.5]
    with pytest.raises(UserError, match=r"^--accept_day=1970-01-04: no such day of data is in quarantine"):
        accept(lake, BAD, "again")


@pytest.mark.parametrize("moment", ["_commit_statistics", "forget"])
def test_an_acceptance_that_was_killed_gives_the_same_result_when_it_is_run_again(
    root: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: object, **fields: object) -> None:
        raise KeyboardInterrupt

    lake = _lake(root)
    with monkeypatch.context() as patch:
        patch.setattr(commit_day, moment, killed)
        with pytest.raises(KeyboardInterrupt):
            accept(lake, BAD, "a sale")
    if moment == "_commit_statistics":
        accept(lake, BAD, "a sale")
    assert lake.interactions.scan(day=BAD).collect().height == ROWS
    assert lake.quarantine.days()[BAD]["outcome"] == "accepted"


def test_a_corrected_day_is_committed_and_its_record_says_so(root: Path) -> None:
    lake, done = _run(root, _source(bad=()), [BAD])
    assert list(done.days) == [BAD]
    assert lake.interactions.partitions()["day"].to_list() == DAYS
    assert lake.quarantine.days()[BAD]["outcome"] == "passed"
    assert lake.quarantine.describe() == []
    assert list((root / "lake/quarantine/interactions").iterdir()) == []


def test_what_to_look_at_is_told_once_for_all_days(tmp_path: Path) -> None:
    """A feature is missing where nothing was clicked, and a number is absurd now and then."""

    class Leaking(Rows):
        def columns(self) -> Mapping[str, pl.DataType]:
            return {**super().columns(), "seconds": pl.Float32()}

        def read(self, unit: Unit) -> Iterator[pl.DataFrame]:
            for frame in super().read(unit):
                odd = pl.int_range(pl.len()) % ROWS == 7
                seconds = pl.when(odd).then(3e38).when(pl.col("click") == 1).then(pl.col("user"))
                yield frame.with_columns(seconds=seconds.cast(pl.Float32))

    schema = replace(SCHEMA, features=(*SCHEMA.features, Feature(name="seconds", dtype="float32")))
    lake = Lake(tmp_path / "lake", schema)
    lake.create()
    source = Leaking(_source(bad=()).parts)
    quality = QualityConfig(not_finite=0.01)
    done = materialize(source, schema, lake, raw_dir="", workdir=str(tmp_path), days=DAYS, quality=quality)
    assert list(done.days) == DAYS
    assert list(done.warnings) == [
        "seconds alone ranks click with an AUC of 1.000 on 400 rows; take it out of the features if it is known only "
        "after the event (1970-01-06)",
        "seconds has 1 of 400 numbers that count as missing, such as 3e+38 (1970-01-01 and 5 more days)",
    ]
    strict = materialize(source, schema, lake, raw_dir="", workdir=str(tmp_path), days=DAYS[:1])
    assert strict.quarantined[DAYS[0]].startswith(
        "fail; share of seconds that is beyond ±1e+06: 0.0025, 1, such as 3e+38, of 400 rows, and 0.001 is the bound"
    )


def test_a_bad_replacement_leaves_the_rows_that_were_there(root: Path) -> None:
    lake, done = _run(root, _source(bad=DAYS[4:5]), DAYS[4:5])
    assert done.days == {}
    assert done.quarantined[DAYS[4]].endswith("; the rows that were there before stay")
    assert lake.interactions.scan(day=DAYS[4]).collect()["click"].sum() == ROWS // 20
    assert lake.statistics.scan(day=DAYS[4], column="click").collect()["mean"].to_list() == [0.05]
    # The day is in the table, so models are trained on it.
    assert lake.quarantined_days() == [BAD]
    accept(lake, DAYS[4], "it is right")
    assert lake.interactions.scan(day=DAYS[4]).collect()["click"].sum() == ROWS // 2


def test_a_column_all_null_fails_whatever_the_thresholds_and_all_else_passes_with_looser_ones(
    root: Path,
) -> None:
    _, done = _run(root, _source(), [BAD], QualityConfig(nulls_rise=0.999, rate_ratio=20.0, id_drift=1.0))
    assert done.quarantined == {
        BAD: "fail; nulls of item: 1 on 400 rows, 0 is expected and 0.9975 the bound: 566.7 standard errors "
        "(quality.nulls_rise); models go on without it"
    }


def test_a_runner_that_repeats_the_commit_changes_nothing(tmp_path: Path, root: Path) -> None:
    lake = _lake(root)
    record = lake.quarantine.days()[BAD]["attempts"][0]
    files = tuple(commit_day.DataFile(**file) for file in record["files"])
    sketches = commit_day.Sketches(SCHEMA)
    sketches.add(pl.read_parquet(root / f"lake/quarantine/interactions/day={BAD}/*.parquet"))
    write_arrow(sketches.parts(), str(tmp_path / "sketches"))
    again = StagedDay(
        day=BAD,
        files=files,
        sketches=(str(tmp_path / "sketches"),),
        differences=(),
        metadata=record["counts"],
    )
    before = lake.quarantine.days()
    committer = DayCommitter(lake, DEFAULT_QUALITY, attempt=record["attempt"], as_of=lake.interactions)
    assert [verdict.blessed for _, verdict in committer.commit_days([again])] == [False]
    assert lake.quarantine.days() == before
    assert accept(lake, BAD, "a sale") == ROWS


def test_statistics_of_other_rows_are_computed_again_when_they_are_needed(root: Path) -> None:
    lake = _lake(root)
    right = lake.statistics.scan(day=DAYS[2]).sort("column").collect()
    wrong = lake.statistics.write_file(right.drop("day").head(1), {"day": DAYS[2]}, name="part")
    # A job that was killed before it committed the rows leaves this.
    lake.statistics.commit([wrong], {"day": DAYS[2]}, attempt=1, metadata={})
    assert DAYS[2] not in commit_day.statistics(lake)["day"].to_list()
    _, done = _run(root, _source(), [BAD])
    assert done.quarantined[BAD].startswith(SAID)
    mended = lake.statistics.scan(day=DAYS[2]).sort("column").collect()
    of_its_own = pl.exclude("drift", "drift_rest", "new_ids", "mix")
    assert mended.select(of_its_own).equals(right.select(of_its_own))
    assert lake.statistics.attempts(DAYS[:3]) == lake.interactions.attempts(DAYS[:3])


def test_a_lake_without_statistics_still_judges_its_next_day(root: Path) -> None:
    shutil.rmtree(root / "lake/statistics")
    _, done = _run(root, _source(), [BAD])
    assert done.quarantined[BAD].startswith(SAID)
    assert DeltaTable(root / "lake/statistics").version() > 0


OLD = [name for name in STATISTICS.names if name not in ("absurd", "repeats", "mix", "drift_rest")]


def test_a_table_of_an_older_release_gets_the_columns_that_it_lacks(root: Path) -> None:
    lake = _lake(root)
    attempts = lake.statistics.attempts(DAYS)
    rows = lake.statistics.scan().select("day", *OLD).collect()
    shutil.rmtree(lake.statistics.path)
    old = Table(
        lake.statistics.path,
        pa.schema([STATISTICS.field(name) for name in OLD]),
        partition_by={"day": pa.date32()},
    )
    old.create()
    for (day,), of_day in rows.partition_by("day", as_dict=True, include_key=False).items():
        attempt = attempts[day]  # type: ignore[index]
        assert attempt is not None
        old.commit(
            [old.write_file(of_day, {"day": day}, name="part")], {"day": day}, attempt=attempt, metadata={}
        )
    # Reading alone changes nothing, and quarantined days of both releases stand beside one another.
    statistics = commit_day.statistics(lake)
    assert "repeats" not in statistics.columns
    assert statistics.filter("quarantined")["day"].unique().to_list() == [BAD]
    _, done = _run(root, _source(), [BAD])
    assert done.quarantined[BAD].startswith(SAID)
    assert accept(lake, BAD, "a sale") == ROWS
    statistics = commit_day.statistics(lake)
    assert statistics.filter(day=BAD)["repeats"].null_count() == 0
    assert statistics.filter(day=DAYS[0])["repeats"].null_count() == 3


class Changed(Rows):
    """Returns other columns than it offers."""

    def read(self, unit: Unit) -> Iterator[pl.DataFrame]:
        for frame in super().read(unit):
            yield frame.drop("item").with_columns(user=pl.col("user").cast(pl.String), more=pl.lit(1))


def test_columns_that_are_missing_added_or_of_another_type_are_reported(tmp_path: Path) -> None:
    lake, done = _run(tmp_path, Changed(_source(bad=()).parts[:1]), DAYS[:2])
    message = (
        "fail; columns that differ: more of part 0 is not offered; user of part 0 is String, expected Int64; "
        "item of part 0 is missing, expected String; nulls of item: all 400 rows (quality.nulls_rise); "
        "models go on without it"
    )
    assert done.quarantined == dict.fromkeys(DAYS[:2], message)
    accept(lake, DAYS[0], "the new logger")
    assert lake.interactions.scan(day=DAYS[0]).collect()["user"].to_list() == [i % 50 for i in range(ROWS)]


@pytest.mark.parametrize("path", ["../../../stolen/part.parquet", "/{root}/stolen/part.parquet"])
def test_a_record_that_names_a_file_outside_of_the_table_is_refused_and_nothing_moves(
    tmp_path: Path, root: Path, path: str
) -> None:
    lake = Lake(root / "lake", SCHEMA)
    record = lake.quarantine.folder / f"{BAD}.json"
    values = read_json(record)
    name = Path(values["attempts"][-1]["files"][0]["path"]).name
    path = path.replace("/{root}", str(root)).replace("part.parquet", name)
    values["attempts"][-1]["files"][0]["path"] = path
    record.write_text(json.dumps(values))
    files = sorted(root.rglob("*.parquet"))
    with pytest.raises(UserError, match=r"the record .*\.json names .*, expected a path below ") as error:
        accept(lake, BAD, "checked")
    assert "\n" not in str(error.value)
    assert sorted(root.rglob("*.parquet")) == files
    assert not (root / "stolen").exists()


@pytest.mark.parametrize("where", ["interactions/day=1970-01-04", "interactions", "statistics", ""])
def test_quarantine_deletes_nothing_through_a_link(tmp_path: Path, root: Path, where: str) -> None:
    folder = root / "lake/quarantine" / where
    kept = tmp_path / "kept"
    shutil.move(folder, kept)
    (kept / "day=1970-01-04").mkdir(exist_ok=True)
    (kept / "day=1970-01-04/letters").write_text("dear")
    (kept / "letters").write_text("dear")
    folder.symlink_to(kept)
    with pytest.raises(UserError, match=r" is a link, and nothing is deleted through a link"):
        _run(root, _source(), [BAD])
    with pytest.raises(UserError, match=r" is a link, and nothing is deleted through a link"):
        commit_day.forget(Lake(root / "lake", SCHEMA), BAD)
    assert (kept / "letters").exists()
    assert (kept / "day=1970-01-04/letters").exists()
