"""The state of a workdir for Prometheus: a file that node exporter's textfile collector reads."""

import os
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.atomic import move_new

_Sample = tuple[Mapping[str, str], float | None]
_HELP = {
    "last_success_timestamp_seconds": "When the last tutelage-run with status 0 ended.",
    "last_run_duration_seconds": "How long the last tutelage-run took.",
    "last_run_status": "Exit code of the last tutelage-run.",
    "status": "Exit code of tutelage-status --monitor.",
    "days_missing": "Days asked for that are still to be materialised (no model) or trained on.",
    "days_quarantined": "Days asked for whose data is in quarantine.",
    "last_day_rows": "Rows of the newest day of data (no model), or of the last day that a model was trained on.",
    "last_day_timestamp_seconds": "That day, as 00:00 UTC.",
    "last_day_duration_seconds": "How long a model was trained on its last day.",
    "label_age_days": "Days since the newest day with the labels that a student reads.",
    "version_age_days": "Days since the last day that the served version was trained on.",
    "teacher_lead_ratio": "How far the teacher's loss is below the student's, as a share of the student's.",
}
"""Every metric, without its prefix `tutelage_`. All are gauges."""


def write_textfile(path: str, state: Mapping[str, Any]) -> None:
    """Write the metrics of `state_of` to `path`, whole or not at all. Raises UserError where it cannot be written."""
    target = Path(path)
    if target.suffix != ".prom":
        raise UserError(
            f"--textfile={path}: node exporter reads files that end in .prom only; give a path that does"
        )
    # Not a .prom file before it is whole: the collector reads every one of them, whatever it begins with.
    partial = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        partial.write_text(textfile(state))
        move_new(partial, target)
    except OSError as error:
        raise UserError(
            f"--textfile={path}: cannot be written ({error.strerror}); give a path in a folder that can"
        ) from None
    finally:
        partial.unlink(missing_ok=True)


def textfile(state: Mapping[str, Any]) -> str:
    """Return the metrics of `state_of` in Prometheus' text format. What is not known is left out.

    https://prometheus.io/docs/instrumenting/exposition_formats/
    """
    lines = []
    samples = dict(_samples(state))
    for name, what in _HELP.items():
        known = [(labels, value) for labels, value in samples[name] if value is not None]
        if known:
            lines += [f"# HELP tutelage_{name} {what}", f"# TYPE tutelage_{name} gauge"]
        for labels, value in known:
            shown = {"experiment": state["experiment"], **labels}
            pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in shown.items())
            lines.append(f"tutelage_{name}{{{pairs}}} {value:.15g}")
    return "".join(f"{line}\n" for line in lines)


def _samples(state: Mapping[str, Any]) -> Iterator[tuple[str, list[_Sample]]]:
    last, data, days, models = state["last_run"] or {}, state["data"], state["days"], state["models"]

    def of_models(field: str) -> list[_Sample]:
        return [({"model": model["model"]}, model[field]) for model in models]

    yield "last_success_timestamp_seconds", [({}, _moment(last.get("succeeded")))]
    yield "last_run_duration_seconds", [({}, last.get("seconds"))]
    yield "last_run_status", [({}, last.get("status"))]
    yield "status", [({}, state["status"])]
    missing: list[_Sample] = [({"model": m["model"]}, len(m["days_missing"])) for m in models]
    yield "days_missing", [({}, len(days["to_materialize"])), *missing]
    yield "days_quarantined", [({}, len(days["quarantined"]))]
    yield "last_day_rows", [({}, data["last_rows"]), *of_models("last_rows")]
    last_days: list[_Sample] = [({"model": m["model"]}, _day(m["last_day"])) for m in models]
    yield "last_day_timestamp_seconds", [({}, _day(data["last_day"])), *last_days]
    yield "last_day_duration_seconds", of_models("last_seconds")
    yield "label_age_days", of_models("label_age_days")
    yield "version_age_days", of_models("version_age_days")
    leads = [(m["model"], *name.split(" "), lead) for m in models for name, lead in m["teacher_lead"].items()]
    yield "teacher_lead_ratio", [({"model": m, "task": t, "metric": x}, lead) for m, t, x, lead in leads]


def _moment(text: str | None) -> float | None:
    return datetime.fromisoformat(text).timestamp() if text else None


def _day(text: str | None) -> float | None:
    return datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC).timestamp() if text else None


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
