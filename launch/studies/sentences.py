"""What a study found, in sentences."""

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

from tutelage.launch.studies.results import DELTA, FARTHER, Quantity, Row, StudyResults, axis


def sentences(results: StudyResults, study: str) -> list[str]:
    """Return a sentence on the losses, one on the calibration of each arm or curve, and one on the training time."""
    rows = results.studies[study]
    subjects: dict[str, list[Row]] = {}
    for row in rows:
        if row["baseline"] is not None:
            subject = f"{row['arm']} against {row['baseline']}"
            if row["x"] is not None:
                subject = (
                    f"{row['group'] or 'arms'} by {axis(study)}, against {_baselines(rows, row['group'])}"
                )
            subjects.setdefault(subject, []).append(row)
    if not subjects:
        return ["This study compares nothing."]
    return [f"{subject}: {_findings(results, own)}" for subject, own in subjects.items()] + results.costs(
        rows
    )


def _baselines(rows: Sequence[Row], group: str) -> str:
    names = {row["baseline"] for row in rows if row["x"] is not None and row["group"] == group} - {None}
    return names.pop() if len(names) == 1 else "their baselines"


def _findings(results: StudyResults, rows: Sequence[Row]) -> str:
    describe = _over_x if rows[0]["x"] is not None else _of_one
    losses, calibrations = [], []
    for _, block in groupby(rows, itemgetter("task")):
        own = list(block)
        losses.append(f"{results.loss(own[0])} {describe(own, DELTA)}")
        if any(row["farther"] is not None for row in own):
            calibrations.append(f"{own[0]['task']} {describe(own, FARTHER)}")
    text = "; ".join(losses) + "."
    return f"{text} Calibration: {'; '.join(calibrations)}." if calibrations else text


def _of_one(rows: Sequence[Row], quantity: Quantity) -> str:
    (row,) = rows
    verdict = quantity.verdict(row)
    if not verdict:
        return "is unknown"
    value = f"{row['calibration']:.3f}, " if quantity is FARTHER else ""
    words = {**quantity.words, "none": "no clear difference"}[verdict]
    return f"{value}{quantity.text(row, quantity.unit)}, {words}"


def _over_x(rows: Sequence[Row], quantity: Quantity) -> str:
    """Return at which x it is better, and where most; where it is worse; and where there is no clear difference."""
    parts = []
    for verdict in ("better", "worse", "none", ""):
        found = sorted((row for row in rows if quantity.verdict(row) == verdict), key=itemgetter("x"))
        if not found:
            continue
        *places, last = (f"{row['x']:g}" for row in found)
        at = f"at {', '.join(places)} and {last}" if places else f"at {last}"
        if verdict in quantity.words:
            most = max(found, key=lambda row: abs(row[quantity.name]))
            where = f"most at {most['x']:g}: " if places else ""
            parts.append(f"is {quantity.words[verdict]} {at}, {where}{quantity.text(most, quantity.unit)}")
        else:
            parts.append(f"{'shows no clear difference' if verdict else 'is unknown'} {at}")
    return ", ".join(parts)
