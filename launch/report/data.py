"""What the report shows, gathered from a workdir: `gather` reads, the page only renders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from tutelage.launch import steps
from tutelage.launch.report.summary import NOTES, Results
from tutelage.trainers.checkpoints import State

if TYPE_CHECKING:
    from tutelage.launch.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class DayCounts:
    """What became of the rows of one materialised day, or of all days together."""

    day: date
    """The last one where there are several."""
    rows_in: int
    kept: int
    late: int
    """Kept rows whose event came with a later day's files."""
    masked: int
    """Labels of kept rows that were not mature."""
    dropped: Mapping[str, int]
    """Rows by reason. All days have the same reasons."""
    sampled: int = 0
    """Negatives that were added to the rows that came in."""

    @property
    def dropped_rows(self) -> int:
        return sum(self.dropped.values())

    @property
    def reconciled(self) -> bool:
        """Whether every row that came in or was sampled was kept or dropped."""
        return self.rows_in + self.sampled == self.kept + self.dropped_rows

    @property
    def notes(self) -> dict[str, int]:
        """The counts that `summary.NOTES` names."""
        return {"sampled": self.sampled, "late": self.late, "masked": self.masked}


@dataclass(frozen=True, slots=True, kw_only=True)
class IdMap:
    """The id map of a growing feature, as the teacher has it."""

    capacity: int
    """How many ids fit."""
    by_metric: Mapping[str, Mapping[date, float]]
    """Counts of ids by metric and day: `ids_with_rows`, `ids_given`, `ids_evicted`, `ids_full`."""


Compared = Mapping[str, Mapping[date, tuple[float, float]]]
"""A version's value and the served version's, on the same rows, by metric (as in `click auc`) and day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """Everything that the page is rendered from. The same data gives the same bytes."""

    experiment: str
    results: Results
    counts: Sequence[DayCounts] = ()
    """Of each materialised day, in order."""
    id_maps: Mapping[str, IdMap] = field(default_factory=dict)
    """By growing feature."""
    states: Mapping[str, Sequence[State]] = field(default_factory=dict)
    """By model, a state per trained day."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """The newest published version of each model that has one."""
    compared: Mapping[str, Compared] = field(default_factory=dict)
    """What the gate before serving compared of each student's versions, on all rows."""
    version_waits: Mapping[str, str] = field(default_factory=dict)
    """What the newest version of each student waits for, of those that wait."""
    quarantined: Sequence[str] = ()
    """A line per day in quarantine."""
    teachers: Sequence[str] = ()
    """A line per change of teacher."""
    statistics: pl.DataFrame | None = None
    """A row per day and column, as `commit_day.statistics` returns them."""
    labels: Sequence[str] = ()
    """Which columns of `statistics` are labels."""
    created: str = ""
    """Shown as it is."""
    study: Path | None = None
    """The study's page. The report links to it if the file exists."""


def gather(session: "Session") -> ReportData:
    """Read what the report shows from the session's workdir."""
    from tutelage.pipeline import commit_day

    run, experiment = session.run, session.experiment
    run.lake.metrics.check()
    run.lake.statistics.check()
    metrics = run_metrics(session)
    published = {model: session.versions(model).published() for model in session.models}
    capacities = {feature.name: feature.capacity - 1 for feature in experiment.schema.ids if feature.grows}
    return ReportData(
        experiment=experiment.name,
        results=Results.of(
            metrics,
            {student.name: student.baseline for student in experiment.students if student.baseline},
            students=session.students,
            tasks=[task.name for task in experiment.schema.tasks],
            units={task.name: task.unit for task in experiment.schema.tasks if task.unit},
            teacher=run.teacher_model,
        ),
        counts=counts_by_day(day_counts(session)),
        id_maps=id_maps(metrics, capacities, run.teacher_model),
        states={model: run.checkpoints(model).states() for model in session.models},
        versions={model: str(versions[-1].number) for model, versions in published.items() if versions},
        compared=compared(metrics, [task.name for task in experiment.schema.tasks]),
        version_waits={m: waits for m in session.students if (waits := session.version_waits(m))},
        quarantined=quarantined(session),
        teachers=steps.describe_teachers(session),
        statistics=commit_day.statistics(run.lake),
        labels=experiment.schema.labels,
        created=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        study=run.root / "study" / "results.html",
    )


def run_metrics(session: "Session") -> pl.DataFrame:
    """Return the run's rows of the metrics table, without former teachers, which stay behind for good."""
    former = [change.before.model for change in session.run.takeovers]
    metrics = session.run.lake.metrics.scan()
    return metrics.filter(pl.col("run") == session.run.name, ~pl.col("model").is_in(former)).collect()


def day_counts(session: "Session") -> pl.DataFrame:
    """Return one row per materialised day and reason for dropping rows: day, rows_in, kept, reason, dropped.

    A day that dropped nothing has one row whose reason is null. `late`, `masked` and `sampled` are as in `DayCounts`.
    """
    table = session.run.lake.interactions
    have = set(table.partitions()["day"])
    rows = [
        (
            date.fromisoformat(day),
            counts["rows_in"],
            counts["kept"],
            reason,
            dropped,
            counts.get("late", 0),
            sum(counts.get("masked", {}).values()),
            counts.get("sampled", 0),
        )
        for day, counts in table.counts().items()
        for reason, dropped in (counts["dropped"] or {None: 0}).items()
    ]
    columns = ("day", "rows_in", "kept", "reason", "dropped", "late", "masked", "sampled")
    schema = {**dict.fromkeys(columns, pl.Int64), "day": pl.Date, "reason": pl.String}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    return frame.filter(pl.col("day").is_in(have)).sort("day", "reason")


def counts_by_day(counts: pl.DataFrame) -> list[DayCounts]:
    """Return the rows of `day_counts` day by day."""
    reasons = sorted(set(counts["reason"].drop_nulls()) - {""})
    days: dict[date, DayCounts] = {}
    for row in counts.sort("day").iter_rows(named=True):
        values = {name: row[name] for name in ("day", "rows_in", "kept", *NOTES)}
        of_day = days.setdefault(row["day"], DayCounts(dropped=dict.fromkeys(reasons, 0), **values))
        if row["reason"]:
            dropped = {**of_day.dropped, row["reason"]: of_day.dropped[row["reason"]] + row["dropped"]}
            days[row["day"]] = replace(of_day, dropped=dropped)
    return list(days.values())


def total_counts(days: Sequence[DayCounts]) -> DayCounts:
    """Return the sums over `days`, of which there is at least one."""
    return DayCounts(
        day=days[-1].day,
        rows_in=sum(day.rows_in for day in days),
        kept=sum(day.kept for day in days),
        late=sum(day.late for day in days),
        masked=sum(day.masked for day in days),
        sampled=sum(day.sampled for day in days),
        dropped={reason: sum(day.dropped[reason] for day in days) for reason in days[0].dropped},
    )


def id_maps(metrics: pl.DataFrame, capacities: Mapping[str, int], teacher: str) -> dict[str, IdMap]:
    """Return the teacher's id map of each feature in `capacities`, where `metrics` have counts of it."""
    maps = {}
    for feature, capacity in capacities.items():
        counted = metrics.filter(model=teacher, task="", slice=feature, basis="pre_update")
        by_metric = {
            metric: dict(by_day.select("day", "value").iter_rows())
            for (metric,), by_day in counted.partition_by("metric", as_dict=True).items()
        }
        if by_metric:
            maps[feature] = IdMap(capacity=capacity, by_metric=by_metric)
    return maps


def compared(metrics: pl.DataFrame, tasks: Sequence[str]) -> Mapping[str, Compared]:
    """Return, by model, the loss of each of `tasks` that versions and the served ones had on the same rows."""
    names = [f"{task} {loss}" for task in tasks for loss in ("normalized_entropy", "relative_squared_error")]
    keys, values = ["model", "metric", "day"], ["value", "reference"]
    gate = metrics.filter(pl.col("basis") == "gate", pl.col("metric").is_in(names)).select(*keys, "value")
    served = metrics.filter(pl.col("basis") == "gate_reference").select(*keys, reference="value")
    found: dict[str, dict[str, dict[date, tuple[float, float]]]] = {}
    both = gate.join(served, on=keys).sort(keys)
    for model, name, day, value, reference in both.select(*keys, *values).iter_rows():
        found.setdefault(model, {}).setdefault(name, {})[day] = value, reference
    return found


def quarantined(session: "Session") -> list[str]:
    """Return a line for each day, of the data or of a model, that is in quarantine or was kept against its verdict."""
    quarantines = {"data": session.run.lake.quarantine}
    quarantines |= {model: session.run.quarantine(model) for model in session.models}
    names: dict[str, list[str]] = {}
    for name, quarantine in quarantines.items():
        for line in quarantine.describe():
            names.setdefault(line, []).append(name)
    return [f"{', '.join(who)}: {line}" for line, who in names.items()]
