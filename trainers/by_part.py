"""The judgement of a day of more than a chunk: each part of its users is judged as a whole day is, then all together.

No row of a user with an id is apart from the others, so that metrics within a user and the standard errors, which add
up a user's rows, are those of the whole day. What is known as sums over rows or users (log loss, normalised entropy,
calibration and GAUC of a binary task) is exact. AUC and PR-AUC come from a histogram of the logits; the metrics
`auc_error_bound` and `pr_auc_error_bound` say how far they are off at most. Everything else is the mean of the parts,
by their rows: of parts of about a chunk each, it differs from that of the whole day by much less than its standard
error.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from tutelage.models.task_kinds import kind_of
from tutelage.models.task_kinds.binary import Binary
from tutelage.pipeline.holdout import known_user
from tutelage.pipeline.schema import Schema
from tutelage.trainers.day import Day, JudgedRows
from tutelage.trainers.day_checks import Observed
from tutelage.trainers.metrics import by_slice, raw_outputs
from tutelage.trainers.parts import Parts, part_of
from tutelage.trainers.streaming import BinarySums, GroupSums

Scores = Mapping[str, Mapping[str, np.ndarray]]
"""Raw outputs [rows] by basis and name."""
_Row = Mapping[str, Any]
_SEPARATOR = "/"


def parts(schema: Schema, day: Day, scores: Scores) -> Iterator[tuple[JudgedRows, Scores]]:
    """Yield the rows of a day and their scores, in as many parts as it has chunks; none is empty.

    `scores` are those of the day [examples], in its order. Of one chunk the part is the day in its order.
    """
    if day.is_one_chunk:
        yield day.judged_rows(day.whole.judged), scores
        return
    assert day.scratch
    spread = Parts(day.scratch / "judged", day.chunk_count)
    for rows, (_, pieces) in zip(day.judged(), day.pieces(*scores.values()), strict=True):
        columns = [
            pl.Series(f"{basis}{_SEPARATOR}{name}", values)
            for basis, of in zip(scores, pieces, strict=True)
            for name, values in of.items()
        ]
        spread.add(rows.with_columns(columns), _part_of_user(schema, rows, day.chunk_count))
    for part in range(day.chunk_count):
        rows = spread.read(part)
        if rows.height:
            found = {
                basis: {name: rows[f"{basis}{_SEPARATOR}{name}"].to_numpy() for name in of}
                for basis, of in scores.items()
            }
            yield day.judged_rows(rows), found
    spread.remove()


def _part_of_user(schema: Schema, rows: pl.DataFrame, count: int) -> np.ndarray:
    """Return the part [rows] that each user belongs to. Rows without a known user are spread over all."""
    own = part_of(rows["example_id"], count)
    if schema.user is None:
        return own
    known = rows.select(known_user(schema)).to_series().to_numpy()
    return np.where(known, part_of(rows[schema.user], count), own)


@dataclass(slots=True)
class Merged:
    """What the parts of a day say together."""

    schema: Schema
    _metrics: list[Sequence[_Row]] = field(default_factory=list)
    _observed: list[Mapping[str, Observed]] = field(default_factory=list)
    _sums: dict[tuple[str, str, str], BinarySums] = field(default_factory=lambda: defaultdict(BinarySums))
    _groups: dict[tuple[str, str, str], GroupSums] = field(default_factory=lambda: defaultdict(GroupSums))

    def add(
        self, rows: JudgedRows, scores: Scores, metrics: Sequence[_Row], observed: Mapping[str, Observed]
    ) -> None:
        """Take in a part: its rows and scores, and what `day_metrics` and `gate.observe` say of it."""
        self._metrics.append(metrics)
        self._observed.append(observed)
        for basis, outputs in scores.items():
            for name, i, task, inside in by_slice(self.schema, rows.targets, rows.slices):
                if not isinstance(kind_of(task), Binary):
                    continue
                key, target = (basis, task.name, name), rows.targets[inside, i]
                logit = raw_outputs(task, outputs)[inside, 0]
                weight = None if rows.weight is None else rows.weight[inside]
                self._sums[key] = self._sums[key].update(target, logit, weight)
                if rows.users is not None:
                    self._groups[key] = self._groups[key].update(target, logit, rows.users[inside])

    def metrics(self) -> list[dict[str, Any]]:
        """Return the rows of `metrics` of the whole day."""
        if len(self._metrics) == 1:
            return [dict(row) for row in self._metrics[0]]
        found: dict[tuple[str, str, str, str], list[_Row]] = defaultdict(list)
        for row in (row for part in self._metrics for row in part):
            found[row["basis"], row["task"], row["slice"], row["metric"]].append(row)
        merged = []
        for (basis, task, name, metric), rows in found.items():
            values = [(float(row["value"]), int(row["rows"])) for row in rows]
            key = (basis, task, name)
            exact = self._sums[key].result() if key in self._sums else {}
            exact |= self._groups[key].result() if key in self._groups else {}
            value, count = exact.get(metric, _mean(values)), sum(n for _, n in values)
            merged.append({**rows[0], "value": value, "rows": count})
            if metric in (bounds := self._sums[key].bounds() if key in self._sums else {}):
                merged.append(
                    {**rows[0], "metric": f"{metric}_error_bound", "value": bounds[metric], "rows": count}
                )
        return merged

    def observed(self) -> dict[str, Observed]:
        """Return what `gate.observe` says of the whole day."""
        if len(self._observed) == 1:
            return dict(self._observed[0])
        values = {
            f"{r['basis']} {r['task']} {r['metric']}": r["value"] for r in self.metrics() if not r["slice"]
        }
        merged = {}
        for name in dict.fromkeys(name for part in self._observed for name in part):
            found = [part[name] for part in self._observed if name in part]
            rows = sum(each.rows for each in found)
            merged[name] = Observed(
                value=values.get(name, _mean([(each.value, each.rows) for each in found])),
                # Users of different parts are independent.
                error=math.sqrt(sum((each.rows / rows * each.error) ** 2 for each in found)),
                rows=rows,
            )
        return merged


def _mean(values: Sequence[tuple[float, int]]) -> float:
    """Return the mean of values by their rows; those that are NaN are left out."""
    known = [(value, rows) for value, rows in values if not math.isnan(value)]
    return sum(value * rows for value, rows in known) / sum(rows for _, rows in known) if known else math.nan
