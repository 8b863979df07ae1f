"""The gate serves no version that is worse than the last one or differs from what its trainer made."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tensorflow as tf

from tests.export.lenient import LENIENT
from tests.tiny import AUXILIARY, DAYS, MODEL, SCHEMA, commit, interactions, make_run
from tutelage.export import golden
from tutelage.export.config import ServingConfig
from tutelage.export.gate import adversarial, compare, record_override
from tutelage.export.publish import Exported, export_student
from tutelage.export.versions import Versions, write_digests
from tutelage.pipeline.io.json import read_json
from tutelage.pipeline.verdict import Check, Verdict
from tutelage.trainers.config import StudentConfig
from tutelage.trainers.day_loop import train_student, train_teacher
from tutelage.trainers.run import Run

STRICT = ServingConfig(
    score=(("click", 1.0),),
    auc_drop=0.02,
    entropy_rise=0.1,
    squared_error_rise=0.1,
    calibration_drift=0.1,
)
BEFORE = {
    ("click", "auc", ""): 0.75,
    ("click", "normalized_entropy", ""): 0.5,
    ("click", "calibration", ""): 0.9,
    ("watch", "relative_squared_error", ""): 2.0,
}


def _failed(now: Mapping[tuple[str, str, str], float], before: Any = BEFORE) -> dict[str, float | None]:
    """Return the bounds of the failed checks by name."""
    return {c.name: c.bound for c in compare(SCHEMA.tasks, now, before, STRICT) if not c.passed}


def test_a_version_at_the_edge_of_the_margins_passes() -> None:
    # .75 − .02; .5 · 1.1; calibration up to .1 + .1 from 1 on either side; 2 · 1.1.
    for calibration in (0.8, 1.2):
        now = {
            ("click", "auc", ""): 0.73,
            ("click", "normalized_entropy", ""): 0.55,
            ("click", "calibration", ""): calibration,
            ("watch", "relative_squared_error", ""): 2.2,
        }
        assert _failed(now) == {}


@pytest.mark.parametrize(
    ("task", "metric", "value", "bound"),
    [
        ("click", "auc", 0.72, 0.73),
        ("click", "normalized_entropy", 0.56, 0.55),
        ("click", "calibration", 0.79, 0.8),
        ("click", "calibration", 1.21, 1.2),
        ("watch", "relative_squared_error", 2.21, 2.2),
    ],
)
def test_a_worse_metric_fails_with_its_bound(task: str, metric: str, value: float, bound: float) -> None:
    failed = _failed({**BEFORE, (task, metric, ""): value})
    assert failed == {f"{task} {metric}": pytest.approx(bound)}


def test_a_metric_that_is_missing_or_not_finite_fails() -> None:
    now = {key: value for key, value in BEFORE.items() if key[1] != "normalized_entropy"}
    assert _failed({**now, ("click", "auc", ""): float("nan")}) == {
        "click auc": None,
        "click normalized_entropy": None,
    }
    # The same holds for the first version.
    assert _failed(now, None) == {"click normalized_entropy": None}
    assert _failed(BEFORE, None) == {}


def test_slices_that_both_days_have_are_compared() -> None:
    before = {**BEFORE, ("click", "auc", "tab=1"): 0.7, ("click", "auc", "tab=2"): 0.7}
    now = {**BEFORE, ("click", "auc", "tab=1"): 0.6, ("click", "auc", "tab=3"): 0.1}
    # .7 − 3 · .02: the margin of a slice is three times as large.
    assert _failed(now, before) == {"click auc, tab=1": pytest.approx(0.64)}
    assert _failed({**now, ("click", "auc", "tab=1"): 0.641}, before) == {}


def test_a_verdict_as_text_names_what_failed_with_both_values() -> None:
    checks = (
        Check(name="click auc", value=0.6, reference=0.75, bound=0.73, passed=False),
        Check(name="click normalized_entropy", value=None, passed=False),
        Check(name="parity", value=1e-7, bound=1e-5, passed=True),
    )
    text = "fail; click auc is 0.6, 0.73 is the bound; click normalized_entropy is missing"
    assert str(Verdict(verdict="fail", checks=checks)) == text


def test_adversarial_columns_have_one_length_and_the_features_dtypes() -> None:
    rows = adversarial(SCHEMA)
    assert list(rows) == [feature.name for feature in SCHEMA.features]
    assert {len(values) for values in rows.values()} == {7}
    assert {-(2**63), 2**63 - 1} <= set(rows["user"].tolist())
    assert "" in rows["topic"]
    assert np.isnan(rows["age"]).any()
    assert np.isinf(rows["seconds"]).any()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = make_run(tmp_path_factory.mktemp("run"))
    train_teacher(run, DAYS[:2])
    return run


def _student(run: Run, name: str, days: list[date] = DAYS[:2]) -> StudentConfig:
    student = replace(AUXILIARY, name=name)
    train_student(run, student, days)
    return student


def _verdicts(exported: list[Exported]) -> list[str]:
    return [one.verdict.verdict for one in exported if one.verdict]


def test_the_first_version_has_its_own_verdict_and_all_its_files(run: Run) -> None:
    student = _student(run, "good")
    exported = export_student(run, student, LENIENT)
    assert _verdicts(exported) == ["first", "pass"]
    first, second = (one.version for one in exported)
    assert Versions(run.root / "export/good").published() == [first, second]
    beside = second.path / "assets.extra"
    assert {path.name for path in beside.iterdir()} == {
        "golden.parquet",
        "model_card.json",
        "model_card.md",
        "model_card.digests",
        "tf_serving_warmup_requests",
        "tutelage.json",
    }
    card = read_json(beside / "model_card.json")
    assert card["verdict"] == "pass"
    assert (card["first_day"], card["day"], card["rows"]) == ("2026-01-01", "2026-01-02", 117)
    assert card["teacher"] == "teacher"
    assert card["label_coverage"] == 1.0
    checks = {check["name"]: check for check in card["checks"]}
    assert checks["click auc"]["value"] == card["metrics"]["click"]["auc"]
    assert checks["click auc"]["reference"] == card["blessed"]["click"]["auc"]
    assert checks["parity"]["value"] <= 1e-5
    # The metrics table has the same: both values of each check, and the verdict.
    rows = run.lake.metrics.scan(model="good", day=DAYS[1]).collect()
    values = {
        basis: dict(part.select("metric", "value").iter_rows())
        for (basis,), part in rows.partition_by("basis", as_dict=True).items()
    }
    assert values["gate"]["blessed"] == 1.0
    assert values["gate"]["click auc"] == values["day_ahead"]["auc"] == checks["click auc"]["value"]
    assert values["gate_reference"]["click auc"] == checks["click auc"]["reference"]


def test_the_version_scores_its_golden_batch_as_the_trainer_does(run: Run) -> None:
    (version,) = (one.version for one in export_student(run, _student(run, "parity", DAYS[:1]), LENIENT))
    batch = golden.read_golden(version.path / golden.PATH)
    assert batch.frame.height == 60
    assert set(batch.expected) == {"click", "watch_log1p", "score"}
    model = tf.saved_model.load(str(version.path))
    assert golden.parity(model.signatures["serving_default"], batch) <= 1e-5


def test_a_student_trained_on_flipped_labels_is_not_blessed_and_the_last_good_version_stays(
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path)
    train_teacher(run, DAYS)
    # The features determine the label, so a model trained on it is wrong about every row once it is flipped.
    for i, day in enumerate(DAYS):
        rows = interactions(day).with_columns(pl.col("user").fill_null(0))
        told = pl.col("user") % 2 == (i < 2)
        commit(run.lake, day, rows.with_columns(click=told.cast(pl.Int8)), attempt=2)
    student = StudentConfig(name="spoiled", model=replace(MODEL, embedding_rate=0.5, dense_rate=0.05))
    train_student(run, student, DAYS[:2])
    serving = replace(LENIENT, auc_drop=0.1)
    good = export_student(run, student, serving)
    assert _verdicts(good) == ["first", "pass"]
    train_student(run, student, DAYS)
    (bad,) = export_student(run, student, serving)
    assert bad.verdict
    assert bad.verdict.verdict == "fail"
    assert "click auc is 0." in str(bad.verdict)
    assert bad.version.path == run.root / "rejected/spoiled/2026010301"
    assert [v.number for v in Versions(run.root / "export/spoiled").published()] == [2026010101, 2026010201]
    # It is not judged again. With a reason it is served anyway.
    assert export_student(run, student, serving) == []
    rows = run.lake.metrics.scan(model="spoiled", day=DAYS[2], basis="gate", metric="blessed").collect()
    assert rows["value"].to_list() == [0.0]
    record_override(run, "spoiled", DAYS[2])
    gate = run.lake.metrics.scan(model="spoiled", day=DAYS[2], basis="gate").collect()
    assert (
        dict(gate.select("metric", "value").iter_rows()).items() >= {"blessed": 0.0, "override": 1.0}.items()
    )


def test_a_changed_signature_is_refused_unless_it_is_allowed(run: Run) -> None:
    student = _student(run, "changed")
    export_student(run, student, LENIENT, days=DAYS[:1])
    (version,) = Versions(run.root / "export/changed").published()
    batch = version.path / golden.PATH
    # As if the version before had one more input and no output `watch_log1p`.
    pl.read_parquet(batch).with_columns(extra=pl.lit(1, pl.Int64)).drop("expected_watch_log1p").write_parquet(
        batch
    )
    write_digests(version.path)
    (refused,) = export_student(run, student, LENIENT)
    assert refused.verdict
    assert str(refused.verdict) == (
        "fail; signature: extra was int64 and is absent, output watch_log1p is in only one of the two versions"
    )


def test_a_judge_that_fails_blesses_nothing(run: Run) -> None:
    student = _student(run, "broken")
    export_student(run, student, LENIENT, days=DAYS[:1])
    (version,) = Versions(run.root / "export/broken").published()
    (version.path / golden.PATH).write_bytes(b"no Parquet")
    write_digests(version.path)
    (one,) = export_student(run, student, LENIENT)
    assert one.verdict
    assert one.verdict.verdict == "error"
    assert one.version.path.parent == run.root / "rejected/broken"


def test_versions_beyond_keep_are_retired(run: Run) -> None:
    student = _student(run, "kept")
    export_student(run, student, replace(LENIENT, keep=1))
    assert [v.number for v in Versions(run.root / "export/kept").published()] == [2026010201]
    assert (run.root / "retired/kept/2026010101/saved_model.pb").is_file()
