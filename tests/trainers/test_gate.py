"""The gate of a day by hand, and what becomes of a day that does not pass it."""

import dataclasses
import math
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tests.tiny import AUXILIARY, DAYS, commit, interactions, make_run
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.json import read_json
from tutelage.pipeline.schema import Feature, Schema, Task
from tutelage.trainers.config import GateConfig, StudentConfig
from tutelage.trainers.day_loop import Accept, train_student, train_teacher
from tutelage.trainers.gate import judge, rows, trailing, values
from tutelage.trainers.run import TEACHER, Run

SCHEMA = Schema(
    features=(Feature(name="age", dtype="float32"),),
    tasks=(Task(name="watch", label="watch_seconds", kind="log1p"),),
    key=("event_time_us",),
)
CONFIG = GateConfig(min_days=2, squared_error_rise=0.25, logit_shift=1.0, logit_spread=2.0)
AHEAD, PRE = "day_ahead watch relative_squared_error", "pre_update watch relative_squared_error"
MEAN, SD = "watch_log1p mean", "watch_log1p sd"


def _metrics(error: float) -> list[dict[str, object]]:
    return [
        {"basis": basis, "task": "watch", "metric": "relative_squared_error", "slice": "", "value": error}
        for basis in ("day_ahead", "pre_update")
    ]


def _before(*values: tuple[float, float, float]) -> list[dict[str, float]]:
    """Error, mean and standard deviation of each day."""
    return [{AHEAD: error, PRE: error, MEAN: mean, SD: sd} for error, mean, sd in values]


BEFORE = _before((0.7, 1.0, 0.5), (0.9, 2.0, 0.7))
# Means: an error of 0.8, a mean of 1.5, a standard deviation of 0.6. So an error up to 0.8 · 1.25 = 1,
# a mean within 1.5 ± 0.6, a standard deviation between 0.3 and 1.2.


def test_an_output_s_mean_and_deviation_are_weighted() -> None:
    outputs = {"watch_log1p": np.array([0.0, 1.0], np.float32)}
    assert values([], outputs) == {MEAN: 0.5, SD: 0.5}
    # 0, 0, 0 and 1: a mean of 1/4, a variance of 3/4 · 1/16 + 1/4 · 9/16.
    assert values([], outputs, np.array([3, 1], np.float32)) == {
        MEAN: 0.25,
        SD: pytest.approx((3 / 16) ** 0.5),
    }


@pytest.mark.parametrize(
    ("error", "mean", "sd", "failed"),
    [
        (1.0, 1.5, 0.6, []),
        (1.01, 1.5, 0.6, [(AHEAD, 1.0), (PRE, 1.0)]),
        (0.8, 2.09, 0.6, []),
        (0.8, 2.11, 0.6, [(MEAN, 2.1)]),
        (0.8, 0.89, 0.6, [(MEAN, 0.9)]),
        (0.8, 1.5, 1.21, [(SD, 1.2)]),
        (0.8, 1.5, 0.29, [(SD, 0.3)]),
        (math.nan, 1.5, 0.6, [(AHEAD, None), (PRE, None)]),
    ],
)
def test_a_day_is_compared_with_the_mean_of_the_days_before(
    error: float, mean: float, sd: float, failed: list[tuple[str, float | None]]
) -> None:
    verdict = judge(
        SCHEMA, _metrics(error), {"watch_log1p": np.array([mean - sd, mean + sd])}, BEFORE, CONFIG
    )
    assert verdict.verdict == ("fail" if failed else "pass")
    found = [(check.name, check.bound) for check in verdict.checks if not check.passed]
    assert found == [(name, bound if bound is None else pytest.approx(bound)) for name, bound in failed]


def test_calibration_is_judged_by_how_far_from_1_it_is() -> None:
    schema = dataclasses.replace(SCHEMA, tasks=(Task(name="click", label="click"),))
    # The days before were 0.1 off, one above and one below: 1.1 and 0.9. Another 0.25 may be added.
    names = [
        f"{b} click {m}"
        for b in ("day_ahead", "pre_update")
        for m in ("auc", "normalized_entropy", "calibration")
    ]
    before = [dict.fromkeys(names, 0.7) | {n: c for n in names if "calibration" in n} for c in (1.1, 0.9)]
    for calibration, passes in ((1.34, True), (1.36, False), (0.66, True), (0.64, False)):
        now = [
            {"basis": basis, "task": "click", "metric": metric, "slice": "", "value": value}
            for basis in ("day_ahead", "pre_update")
            for metric, value in (("auc", 0.7), ("normalized_entropy", 0.7), ("calibration", calibration))
        ]
        assert judge(schema, now, {}, before, CONFIG).blessed is passes


def test_a_day_without_days_before_is_a_first_one_and_one_that_cannot_be_judged_an_error() -> None:
    outputs = {"watch_log1p": np.array([100.0])}
    assert judge(SCHEMA, _metrics(9.0), outputs, BEFORE[:1], CONFIG).verdict == "first"
    broken = judge(SCHEMA, [{"basis": "day_ahead"}], outputs, BEFORE, CONFIG)
    assert (broken.verdict, broken.reason, broken.blessed) == ("error", "KeyError: 'slice'", False)


def test_the_days_before_are_the_last_ones_without_the_model_s_first() -> None:
    days = [date(2026, 1, 1) + timedelta(days=n) for n in range(5)]
    written = [
        pl.DataFrame(rows(judge(SCHEMA, _metrics(n), {}, [], CONFIG), rates=1.0, size=9)).with_columns(
            day=day
        )
        for n, day in enumerate(map(pl.lit, days))
    ]
    table = pl.concat(written, how="diagonal_relaxed")
    found = [trailing(table, dataclasses.replace(CONFIG, trailing_days=n)) for n in (7, 3)]
    assert [[day[AHEAD] for day in one] for one in found] == [[1, 2, 3, 4], [2, 3, 4]]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"on_failure": "hope"}, "gate: on_failure is 'hope', expected stop, skip or retry"),
        ({"min_days": 0}, "gate: min_days is 0, expected at least 1"),
        ({"min_days": 8}, "gate: min_days is 8, expected at most trailing_days, 7"),
        ({"auc_drop": -0.1}, "gate: auc_drop is -0.1, expected a number of at least 0"),
        ({"logit_spread": 1}, "gate: logit_spread is 1, expected a number above 1"),
        ({"fallback_rate": 1}, "gate: fallback_rate is 1, expected between 0 and 1"),
    ],
)
def test_a_gate_config_that_contradicts_itself_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(UserError) as refused:
        GateConfig(**fields)  # type: ignore[arg-type]
    assert str(refused.value) == says


FOURTH, FIFTH = date(2026, 1, 4), date(2026, 1, 5)
FIVE = [*DAYS, FOURTH, FIFTH]
# Noise in days of 60 rows is wide; what is not finite fails all the same.
WIDE = GateConfig(
    auc_drop=1, entropy_rise=9, squared_error_rise=9, calibration_drift=9, logit_shift=9, logit_spread=99
)


def _run(root: Path, gate: GateConfig) -> Run:
    run = make_run(root)
    for day in (FOURTH, FIFTH):
        ago = pl.lit((day - DAYS[0]).days * 86_400_000_000)
        rows_ = interactions(DAYS[0]).with_columns(
            pl.col("event_time_us") + ago, pl.col("example_id") + 1000 * day.day
        )
        commit(run.lake, day, rows_)
    return dataclasses.replace(run, teacher=dataclasses.replace(run.teacher, gate=gate))


def _record(run: Run, day: date) -> dict[str, object]:
    return dict(read_json(run.root / f"teacher/quarantine/{day}.json"))


def _trained(run: Run, model: str = TEACHER) -> list[date]:
    return [state.day for state in run.checkpoints(model).states()]


def _labelled(run: Run) -> list[date]:
    return run.lake.soft_labels.partitions().filter(pl.col("rows") > 0)["day"].to_list()


# No mean of the outputs is exactly that of the days before.
STRICT = dataclasses.replace(WIDE, logit_shift=0.0)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The teacher was trained on all five days in one call."""
    run = _run(tmp_path_factory.mktemp("plain"), WIDE)
    train_teacher(run, FIVE)
    return run


def _labels(run: Run, days: list[date] = FIVE) -> pl.DataFrame:
    return run.lake.soft_labels.scan().filter(pl.col("day").is_in(days)).sort("example_id").collect()


def test_a_day_that_fails_stops_the_teacher_until_it_is_accepted(plain: Run, tmp_path: Path) -> None:
    run = _run(tmp_path, STRICT)
    says = (
        r"^teacher: 2026-01-04 did not pass its gate and is not kept: fail; click_logit mean is .* is the bound; "
        r".*, or keep it as it is with --accept_day=2026-01-04 --reason=\.\.\.$"
    )
    for _ in range(2):
        with pytest.raises(UserError, match=says):
            train_teacher(run, FIVE)
        assert _trained(run) == _labelled(run) == DAYS
        assert _record(run, FOURTH)["outcome"] == "stopped"
    (attempt,) = _record(run, FOURTH)["attempts"]  # type: ignore[misc]
    failed = {check["name"]: check for check in attempt["checks"] if not check["passed"]}
    assert set(failed) == {"click_logit mean", "watch_log1p mean"}
    assert all(check["value"] != check["reference"] == check["bound"] for check in failed.values())

    with pytest.raises(UserError, match=r"^--accept_day=2026-01-05: teacher has no such day in quarantine"):
        train_teacher(run, FIVE, accept=Accept(day=FIFTH, reason="it looked sound"))
    train_teacher(run, FIVE[:4], accept=Accept(day=FOURTH, reason="a holiday"))
    assert _trained(run) == _labelled(run) == FIVE[:4]
    record = _record(run, FOURTH)
    assert (record["outcome"], record["reason"]) == ("accepted", "a holiday")
    # The day is the same as before it was accepted, and as without a gate.
    assert_frame_equal(_labels(run), _labels(plain, FIVE[:4]), check_exact=True)


def test_a_skipped_day_leaves_no_trace_and_students_go_on_without_its_labels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = _run(tmp_path, dataclasses.replace(WIDE, on_failure="skip"))
    rows_ = interactions(DAYS[1]).with_columns(watch_seconds=pl.lit(math.inf, pl.Float32))
    commit(run.lake, DAYS[1], rows_, attempt=2)
    train_teacher(run, DAYS)
    assert _trained(run) == _labelled(run) == [DAYS[0], DAYS[2]]
    (message,) = caplog.messages
    assert message.startswith("teacher: 2026-01-02 did not pass its gate and is not kept: fail; losses that ")
    assert message.endswith(". It is skipped, as the config says")
    assert _record(run, DAYS[1])["outcome"] == "skipped"
    assert (
        run.quarantine(TEACHER)
        .describe()[0]
        .startswith("2026-01-02 skipped (fail; losses that are not finite")
    )
    # The third day follows the first one's checkpoint.
    labels = run.lake.soft_labels.scan(day=DAYS[2]).collect()
    assert labels["snapshot_day"].unique().to_list() == [DAYS[0]]
    assert labels["teacher_step"].min() == 4
    assert train_teacher(run, DAYS) == []
    # Sound rows for the student, and no labels of the day.
    commit(run.lake, DAYS[1], interactions(DAYS[1]), attempt=3)
    train_student(run, AUXILIARY, DAYS)
    missing = run.lake.metrics.scan(model="auxiliary", metric="labels_missing").sort("day").collect()
    assert missing["value"].to_list() == [0, 57, 0]


def test_a_day_of_a_rate_a_thousand_times_too_high_is_trained_on_again_with_a_thousandth(
    plain: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate = dataclasses.replace(WIDE, logit_spread=5, on_failure="retry", fallback_rate=1e-3)
    run = _run(tmp_path, gate)
    train_teacher(run, DAYS)
    model = run.teacher.model
    hot = dataclasses.replace(
        model, embedding_rate=1000 * model.embedding_rate, dense_rate=1000 * model.dense_rate
    )
    train_teacher(dataclasses.replace(run, teacher=dataclasses.replace(run.teacher, model=hot)), FIVE[:4])
    (message,) = caplog.messages
    assert "2026-01-04 did not pass its gate and is not kept: fail; " in message
    assert message.endswith(". It is trained on again with 0.001 times the rates, as the config says")
    record = _record(run, FOURTH)
    attempts = [(a["rates"], a["verdict"]) for a in record["attempts"]]  # type: ignore[attr-defined]
    assert (record["outcome"], attempts) == ("retried", [(1.0, "fail"), (1e-3, "pass")])
    judged = run.lake.metrics.scan(model=TEACHER, day=FOURTH, basis="day_gate", metric="rates").collect()
    assert judged["value"].to_list() == [1e-3]
    # The day, and the next one with the usual rates, are those of a teacher that always had these.
    train_teacher(run, FIVE)
    assert_frame_equal(_labels(run), _labels(plain), abs_tol=1e-4)


def test_a_day_that_fails_again_stops_the_teacher(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = _run(tmp_path, dataclasses.replace(STRICT, on_failure="retry", fallback_rate=0.5))
    with pytest.raises(UserError, match=r"^teacher: 2026-01-04 did not pass its gate"):
        train_teacher(run, FIVE)
    assert len(caplog.messages) == 1
    record = _record(run, FOURTH)
    assert record["outcome"] == "stopped"
    assert [a["rates"] for a in record["attempts"]] == [1.0, 0.5]  # type: ignore[attr-defined]
    assert _trained(run) == _labelled(run) == DAYS


def test_a_student_s_days_go_through_a_gate_of_its_own(tmp_path: Path) -> None:
    run = _run(tmp_path, WIDE)
    student = StudentConfig(name="strict", model=AUXILIARY.model, gate=STRICT)
    with pytest.raises(
        UserError, match=r"^strict: 2026-01-04 did not pass its gate and is not kept: fail; click"
    ):
        train_student(run, student, FIVE)
    assert _trained(run, "strict") == DAYS
    assert (tmp_path / "students/strict/quarantine/2026-01-04.json").exists()
