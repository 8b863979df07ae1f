"""The gate serves no version that is worse than the last one or differs from what its trainer made."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tensorflow as tf

from tests.export.lenient import LENIENT
from tests.tiny import AUXILIARY, BATCH, DAYS, MODEL, SCHEMA, commit, interactions, make_run
from tutelage.export import golden
from tutelage.export.comparison import Comparison
from tutelage.export.config import ServingConfig
from tutelage.export.gate import adversarial, record_override
from tutelage.export.publish import Exported, export_student
from tutelage.export.versions import DIGESTS, Versions, write_digests
from tutelage.models.metrics import auc
from tutelage.pipeline.holdout import held_out
from tutelage.pipeline.io.json import read_json
from tutelage.pipeline.verdict import Check, Verdict
from tutelage.trainers.config import StudentConfig, TrainingConfig
from tutelage.trainers.day_loop import train_student, train_teacher
from tutelage.trainers.run import Run

SERVING = ServingConfig(score=(("click", 1.0),), max_latency_ms=10_000.0)


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


def _held_out(root: Path, share: float) -> Run:
    return replace(make_run(root), training=TrainingConfig(batch_size=BATCH, holdout=share))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = _held_out(tmp_path_factory.mktemp("run"), 0.4)
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
    compared = {check["name"]: check for check in card["comparisons"]}
    rows = run.lake.interactions.scan(day=DAYS[1]).filter(held_out(SCHEMA, DAYS[1], 0.4)).collect()
    assert 10 < rows.height < 40
    judged = (card["judged_day"], card["judged_rows"], card["served"])
    assert judged == ("2026-01-02", rows.height, first.number)
    # Both versions' scores of these rows, as served, give the two values.
    click = rows.sort("example_id")["click"].to_numpy()
    for version, name in ((second, "value"), (first, "reference")):
        signature = tf.saved_model.load(str(version.path)).signatures["serving_default"]
        features = SCHEMA.arrays(rows.sort("example_id"), signature.structured_input_signature[1])
        scores = signature(**{feature: tf.constant(values) for feature, values in features.items()})[
            "click"
        ].numpy()
        assert compared["click auc"][name] == pytest.approx(auc(click, scores))
    one = compared["click auc"]
    assert one["worse"] == pytest.approx(one["reference"] - one["value"])
    assert one["low"] < one["worse"] < one["high"]
    assert {check["name"]: check for check in card["checks"]}["parity"]["value"] <= 1e-5
    # The metrics table has the same: both values of each check, the interval, and the verdict.
    found = run.lake.metrics.scan(model="good", day=DAYS[1]).collect()
    values = {
        basis: dict(part.select("metric", "value").iter_rows())
        for (basis,), part in found.partition_by("basis", as_dict=True).items()
    }
    assert (values["gate"]["blessed"], values["gate"]["days_later"]) == (1, 0)
    assert values["gate"]["click auc"] == one["value"]
    assert values["gate_reference"]["click auc"] == one["reference"]
    ends = ("worse", "low", "high")
    assert [values["gate_interval"][f"click auc {end}"] for end in ends] == [one[end] for end in ends]
    assert found.filter(basis="gate", metric="click auc")["rows"].to_list() == [rows.height]


def test_no_model_is_trained_on_the_rows_that_versions_are_judged_on(run: Run, tmp_path: Path) -> None:
    # With other labels on these rows alone, the trained student is the same.
    other = _held_out(tmp_path, 0.4)
    for day in DAYS[:2]:
        rows = interactions(day)
        flipped = pl.when(held_out(SCHEMA, day, 0.4)).then(1 - pl.col("click")).otherwise("click")
        changed = rows.with_columns(click=flipped.cast(pl.Int8))
        assert not changed.equals(rows)
        commit(other.lake, day, changed, attempt=2)
    student = StudentConfig(name="apart", model=MODEL)
    versions = []
    for each in (run, other):
        train_student(each, student, DAYS[:2])
        versions.append(export_student(each, student, LENIENT)[-1].version)
    one, two = (golden.read_golden(version.path / golden.PATH).expected["click"] for version in versions)
    np.testing.assert_array_equal(one, two)


def test_without_a_holdout_a_version_is_judged_on_the_next_day_and_the_last_one_waits(tmp_path: Path) -> None:
    run = _held_out(tmp_path, 0.0)
    student = StudentConfig(name="later", model=MODEL)
    train_student(run, student, DAYS)
    exported = export_student(run, student, LENIENT)
    assert [one.version.day for one in exported] == DAYS[:2]
    card = read_json(exported[1].version.path / "assets.extra/model_card.json")
    assert (card["judged_day"], card["judged_rows"], card["holdout"]) == ("2026-01-03", 64, 0)
    later = run.lake.metrics.scan(model="later", day=DAYS[1], metric="days_later").collect()
    assert later["value"].to_list() == [1]


def test_of_too_few_rows_to_tell_a_version_is_served_or_waits_as_the_config_says(tmp_path: Path) -> None:
    run = _held_out(tmp_path, 0.03)
    versions = Versions(run.root / "export/few")
    student = _student(run, "few")
    first, second = export_student(run, student, SERVING)
    assert second.verdict
    assert second.verdict.blessed
    text = second.verdict.describe()
    assert text.startswith("pass; not shown to be worse: ")
    assert " are too few to tell for click auc" in text
    train_student(run, student, DAYS)
    (third,) = export_student(run, student, replace(SERVING, undecided="wait"))
    assert third.verdict
    assert third.verdict.describe().startswith("wait; not shown to be worse: ")
    assert versions.published() == [first.version, second.version]
    states = run.checkpoints("few").states()
    assert [versions.waits(state) for state in states] == [False, False, True]
    # It is not judged again, and a person may serve it.
    assert export_student(run, student, SERVING) == []
    versions.promote(third.version.number, "it looks well")
    assert not versions.waits(states[-1])


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
    run, flipped = _held_out(tmp_path / "run", 0.4), make_run(tmp_path / "flipped")
    # The features determine the label, so a model trained on it is wrong about every row once it is flipped.
    for day in DAYS:
        rows = interactions(day).with_columns(pl.col("user").fill_null(0))
        for lake, even in ((run.lake, 0), (flipped.lake, 1)):
            told = pl.col("user") % 2 == even
            commit(lake, day, rows.with_columns(click=told.cast(pl.Int8)), attempt=2)
    train_teacher(run, DAYS)
    student = StudentConfig(name="spoiled", model=replace(MODEL, embedding_rate=0.5, dense_rate=0.05))
    train_student(run, student, DAYS[:2])
    serving = replace(LENIENT, auc_drop=0.1)
    good = export_student(run, student, serving)
    assert _verdicts(good) == ["first", "pass"]
    # Something is wrong with what it is trained on, from nothing, and not with the rows that it is judged on.
    run.checkpoints("spoiled").remove()
    train_student(replace(run, interactions=flipped.lake.interactions.path), student, DAYS)
    (bad,) = export_student(run, student, serving, days=DAYS[2:])
    assert bad.verdict
    assert bad.verdict.verdict == "fail"
    assert str(bad.verdict).startswith("fail; click auc is 0.")
    assert " and serving.auc_drop allows 0.1, on " in str(bad.verdict)
    assert bad.version.path == run.root / "rejected/spoiled/2026010301"
    assert [v.number for v in Versions(run.root / "export/spoiled").published()] == [2026010101, 2026010201]
    # It is not judged again. With a reason it is served anyway.
    assert export_student(run, student, serving, days=DAYS[2:]) == []
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


def test_a_judge_that_fails_blesses_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **fields: object) -> None:
        raise ZeroDivisionError("no rows")

    student = _student(run, "broken")
    export_student(run, student, LENIENT, days=DAYS[:1])
    monkeypatch.setattr("tutelage.export.gate.compare", fail)
    (one,) = export_student(run, student, LENIENT)
    assert one.verdict
    assert one.verdict.describe() == "error; ZeroDivisionError: no rows"
    assert one.version.path.parent == run.root / "rejected/broken"


VARIABLES = "variables/variables.data-00000-of-00001"


def _tear(path: Path, contents: bytes | None) -> None:
    if contents is None:
        path.unlink()
    else:
        path.write_bytes(contents)


def _told(caplog: pytest.LogCaptureFixture) -> str:
    """Return the one line that says why a version is not compared with."""
    (line,) = [
        record.getMessage() for record in caplog.records if "the served version" in record.getMessage()
    ]
    assert "\n" not in line
    return line


def _references(exported: Exported) -> set[bool]:
    """Return whether the judged metrics were compared with a served version's."""
    assert exported.verdict
    compared = [check for check in exported.verdict.checks if isinstance(check, Comparison)]
    return {check.reference is not None for check in compared if check.value is not None}


@pytest.mark.parametrize(
    ("name", "file", "contents", "says"),
    [
        ("graph", "saved_model.pb", b"", "is empty"),
        ("variables", VARIABLES, b"torn", "is not what was written"),
        ("torn", golden.PATH, b"no Parquet", "is not what was written"),
        ("missing", golden.PATH, None, "is missing"),
    ],
)
def test_a_damaged_served_version_is_told_and_does_not_reject_a_sound_one(
    run: Run, name: str, file: str, contents: bytes | None, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    student = _student(run, f"damaged_{name}")
    export_student(run, student, LENIENT, days=DAYS[:1])
    versions = Versions(run.root / "export" / student.name)
    (version,) = versions.published()
    _tear(version.path / file, contents)
    # The day of the damaged one is exported again. The next day's version is compared with that.
    again, one = export_student(run, student, LENIENT)
    assert _verdicts([again, one]) == ["pass", "pass"]
    damage = f"the served version 2026010101 of 2026-01-01: {version.path / file} {says}"
    assert str(again.verdict) == f"pass; {damage}; judged without it"
    assert _told(caplog) == f"{student.name}: {damage}; judged without it"
    assert "damaged:" not in str(one.verdict)
    assert (_references(again), _references(one)) == ({False}, {True})
    assert [each.number for each in versions.published()] == [2026010102, 2026010201]
    assert read_json(one.version.path / "assets.extra/model_card.json")["served"] == 2026010102


@pytest.mark.parametrize("release", ["this", "older"])
def test_a_version_is_judged_against_the_newest_one_that_is_not_damaged(
    run: Run, release: str, caplog: pytest.LogCaptureFixture
) -> None:
    student = _student(run, f"judged_{release}")
    _, newest = export_student(run, student, LENIENT)
    path = newest.version.path
    (path / VARIABLES).write_bytes(b"torn")
    if release == "older":
        (path / DIGESTS).unlink()
        # Without digests the damage is not known, so the day is exported again only where it was trained on again.
        run.checkpoints(student.name).remove()
        train_student(run, student, DAYS[:2])
    again = export_student(run, student, LENIENT, days=DAYS[1:2])[-1]
    assert again.verdict
    assert again.verdict.verdict == "pass"
    assert _told(caplog).startswith(f"{student.name}: the served version 2026010201 of 2026-01-02: ")
    assert str(again.verdict).endswith("; judged against 2026010101")
    assert _references(again) == {True}
    assert read_json(again.version.path / "assets.extra/model_card.json")["served"] == 2026010101


@pytest.mark.parametrize(
    ("name", "file", "contents", "says"),
    [
        ("graph", "saved_model.pb", b"no graph", "its SavedModel cannot be read ("),
        ("variables", VARIABLES, b"torn", "its SavedModel cannot be read ("),
        ("torn", golden.PATH, b"no Parquet", "its assets.extra/golden.parquet cannot be read ("),
        ("missing", golden.PATH, None, "its assets.extra/golden.parquet cannot be read ("),
    ],
)
def test_a_damaged_version_of_an_older_release_is_told_and_does_not_reject_a_sound_one(
    run: Run, name: str, file: str, contents: bytes | None, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    student = _student(run, f"old_{name}")
    export_student(run, student, LENIENT, days=DAYS[:1])
    (version,) = Versions(run.root / "export" / student.name).published()
    (version.path / DIGESTS).unlink()
    _tear(version.path / file, contents)
    (one,) = export_student(run, student, LENIENT)
    assert one.verdict
    assert one.verdict.verdict == "pass"
    damage = f"the served version 2026010101 of 2026-01-01: {says}"
    assert damage in one.verdict.describe()
    assert _told(caplog).startswith(f"{student.name}: {damage}")
    # The SavedModel is read where it can be.
    assert _references(one) == {file == golden.PATH}


def test_versions_beyond_keep_are_retired(run: Run) -> None:
    student = _student(run, "kept")
    export_student(run, student, replace(LENIENT, keep=1))
    assert [v.number for v in Versions(run.root / "export/kept").published()] == [2026010201]
    assert (run.root / "retired/kept/2026010101/saved_model.pb").is_file()
