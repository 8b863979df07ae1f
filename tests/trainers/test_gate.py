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
from tutelage.pipeline.alarms import AlarmBudget
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.io.json import read_json
from tutelage.pipeline.schema import Feature, Schema, Task
from tutelage.pipeline.verdict import Check, Verdict
from tutelage.trainers.config import GateConfig, StudentConfig
from tutelage.trainers.day_checks import KeptDay, Observed
from tutelage.trainers.day_loop import Accept, train_student, train_teacher
from tutelage.trainers.gate import judge, kept_days, observe, rows
from tutelage.trainers.run import TEACHER, Run

SCHEMA = Schema(
    features=(Feature(name="age", dtype="float32"),),
    tasks=(Task(name="watch", label="watch_seconds", kind="log1p"),),
    key=("event_time_us",),
)
CLICK = dataclasses.replace(SCHEMA, tasks=(Task(name="click", label="click"),))
CONFIG = GateConfig(min_days=2, squared_error_rise=0.25, logit_shift=1.0, logit_spread=2.0)
AHEAD, PRE = "day_ahead watch relative_squared_error", "pre_update watch relative_squared_error"
MEAN, SD = "watch_log1p mean", "watch_log1p sd"
ALWAYS = AlarmBudget(per_year=1e9)
"""So many false alarms are wanted that chance leaves no room: only the margins are left."""
ONCE = AlarmBudget(per_year=1.0)
FIRST_DAY = date(2026, 1, 1)
TODAY = date(2026, 3, 1)


def _days(name: str, *values: float, error: float = math.nan, **others: float) -> list[KeptDay]:
    """Return the days before `TODAY`, of 1,000 rows each."""
    return [
        KeptDay(
            day=TODAY - timedelta(days=len(values) - n),
            values={name: value, **others},
            errors={name: error} if error == error else {},
            rows=1000,
        )
        for n, value in enumerate(values)
    ]


def _before(*values: tuple[float, float, float]) -> list[KeptDay]:
    """Error, mean and standard deviation of each day."""
    return [
        KeptDay(
            day=TODAY - timedelta(days=len(values) - n),
            values={AHEAD: error, PRE: error, MEAN: mean, SD: sd},
            errors={},
            rows=1000,
        )
        for n, (error, mean, sd) in enumerate(values)
    ]


def _now(error: float, mean: float = 1.5, sd: float = 0.6) -> dict[str, Observed]:
    values = {AHEAD: error, PRE: error, MEAN: mean, SD: sd}
    return {name: Observed(value=value, rows=1000) for name, value in values.items()}


BEFORE = _before((0.7, 1.0, 0.5), (0.9, 2.0, 0.7))
# Medians: an error of 0.8, a mean of 1.5, a standard deviation of 0.6. So an error up to 0.8 · 1.25 = 1,
# a mean within 1.5 ± 0.6, a standard deviation between √(0.5 · 0.7) / 2 and √(0.5 · 0.7) · 2 (of its logarithm).
SPREAD = math.sqrt(0.5 * 0.7)


def test_an_output_s_mean_and_deviation_are_weighted() -> None:
    outputs = {"watch_log1p": np.array([0.0, 1.0], np.float32)}
    targets = np.array([[0.0], [1.0]], np.float32)
    rows_ = [_metric("pre_update", "watch", "relative_squared_error", 0.8)]
    found = observe(SCHEMA, rows_, targets, {"pre_update": outputs})
    assert (found[MEAN].value, found[SD].value) == (0.5, 0.5)
    # The variance of the mean of two rows is Σ (x − 0.5)² / 2² · 2 / (2 − 1).
    assert found[MEAN].error == pytest.approx(0.5)
    # 0, 0, 0 and 1: a mean of 1/4, a variance of 3/4 · 1/16 + 1/4 · 9/16.
    weight = np.array([3, 1], np.float32)
    found = observe(SCHEMA, rows_, targets, {"pre_update": outputs}, weight=weight)
    assert (found[MEAN].value, found[SD].value) == (0.25, pytest.approx((3 / 16) ** 0.5))


def _metric(basis: str, task: str, metric: str, value: float, rows: int = 1000) -> dict[str, object]:
    return {"basis": basis, "task": task, "metric": metric, "slice": "", "value": value, "rows": rows}


@pytest.mark.parametrize(
    ("error", "mean", "sd", "failed"),
    [
        (1.0, 1.5, 0.6, []),
        (1.01, 1.5, 0.6, [(AHEAD, 1.0), (PRE, 1.0)]),
        (0.1, 1.5, 0.6, []),
        (0.8, 2.09, 0.6, []),
        (0.8, 2.11, 0.6, [(MEAN, 2.1)]),
        (0.8, 0.89, 0.6, [(MEAN, 0.9)]),
        (0.8, 1.5, 2.01 * SPREAD, [(SD, 2 * SPREAD)]),
        (0.8, 1.5, 0.49 * SPREAD, [(SD, SPREAD / 2)]),
        (math.nan, 1.5, 0.6, [(AHEAD, None), (PRE, None)]),
    ],
)
def test_a_day_fails_that_is_worse_than_the_median_of_the_days_before_by_more_than_the_margin(
    error: float, mean: float, sd: float, failed: list[tuple[str, float | None]]
) -> None:
    verdict = judge(SCHEMA, _now(error, mean, sd), BEFORE, CONFIG, ALWAYS, day=TODAY)
    assert verdict.verdict == ("fail" if failed else "pass")
    found = [(check.name, check.bound) for check in verdict.checks if not check.passed]
    assert found == [(name, bound if bound is None else pytest.approx(bound)) for name, bound in failed]


def test_chance_widens_the_margin_until_there_are_days_enough_to_know_it() -> None:
    name = "day_ahead click auc"
    steady = [0.70, 0.71, 0.69, 0.70, 0.72, 0.70, 0.69, 0.71, 0.70, 0.70, 0.71, 0.69]

    def bound(days: int, error: float = 0.01) -> float | None:
        before = _days(name, *steady[:days], error=error)
        now = _click(auc=Observed(value=0.7, error=error, rows=1000))
        verdict = judge(CLICK, now, before, GateConfig(auc_drop=0.0), ONCE, day=TODAY)
        return next(check.bound for check in verdict.checks if check.name == name)

    assert bound(2) is None  # one deviation has one degree of freedom
    nine, twelve, few = bound(9), bound(12), bound(12, 0.02)
    assert nine
    assert twelve
    assert few
    assert nine < twelve < 0.69
    assert twelve > 0.62
    # A quarter of the rows, twice the error.
    assert 0.70 - few == pytest.approx(2 * (0.70 - twelve), rel=0.5)


def _click(**changes: Observed) -> dict[str, Observed]:
    """Return a sound day of clicks, with changes of its day-ahead metrics by name."""
    sound = {"auc": 0.7, "normalized_entropy": 0.9, "calibration": 1.0}
    found = {
        f"{basis} click {metric}": Observed(value=value, error=0.01, rows=1000)
        for basis in ("day_ahead", "pre_update")
        for metric, value in sound.items()
    }
    return found | {f"day_ahead click {metric}": observed for metric, observed in changes.items()}


def _checks(name: str, now: Observed, before: list[KeptDay], **fields: float) -> dict[str, Check]:
    """Return the checks of a day-ahead metric of clicks, by name."""
    config = GateConfig(**fields)  # type: ignore[arg-type]
    verdict = judge(CLICK, _click(**{name.split()[-1]: now}), before, config, ONCE, day=TODAY)
    return {check.name: check for check in verdict.checks if check.name.startswith(name)}


AUC, CALIBRATION = "day_ahead click auc", "day_ahead click calibration"
NOISE = [0.002, -0.003, 0.001, 0.003, -0.002, -0.001, 0.0]


def test_a_better_value_is_no_alarm_and_a_worse_one_says_what_it_would_take_to_keep_it() -> None:
    before = _days(AUC, *(0.7 + each for each in NOISE * 4), error=0.004)
    better = _checks(AUC, Observed(value=0.9, error=0.004, rows=4870), before)
    assert all(check.passed for check in better.values())
    worse = _checks(AUC, Observed(value=0.6, error=0.004, rows=4870), before)[AUC]
    assert not worse.passed
    assert worse.describe() == (
        "day_ahead click auc: 0.6 on 4,870 rows, where 0.702 is expected and 0.682 is the bound; 25.5 standard errors "
        "off (gate.auc_drop=0.11 would keep it)"
    )


def test_the_days_of_a_weekday_are_expected_of_it_once_there_are_three_of_each() -> None:
    # TODAY is a Sunday, and on Sundays the AUC is lower by 0.1.
    def before(days: int) -> list[KeptDay]:
        sundays = [(TODAY - timedelta(days=days - n)).weekday() == 6 for n in range(days)]
        values = [0.7 - 0.1 * sunday + NOISE[n % 5] / 10 for n, sunday in enumerate(sundays)]
        return _days(AUC, *values, error=0.002)

    sunday = Observed(value=0.6, error=0.002, rows=1000)
    four, two, none = (_checks(AUC, sunday, before(days))[AUC] for days in (28, 20, 6))
    assert four.reference == pytest.approx(0.6, abs=0.002)
    assert two.reference == pytest.approx(0.7, abs=0.002)
    assert none.bound is None  # a weekday that was never seen
    assert all(check.passed for check in (four, two, none))
    for days in (28, 20):
        assert not _checks(AUC, dataclasses.replace(sunday, value=0.5), before(days))[AUC].passed


def test_calibration_is_judged_by_the_events_that_so_many_rows_lead_to_expect() -> None:
    before = _days(CALIBRATION, *(1 + each for each in NOISE * 4), error=0.05)

    def passes(value: float, error: float) -> bool:
        return _checks(CALIBRATION, Observed(value=value, error=error, rows=1000), before)[CALIBRATION].passed

    # Of 400 events that are expected 200 come, then 800: observed / predicted is known to 1 / √400.
    assert not passes(2.0, 0.05)
    assert not passes(0.5, 0.1)
    # Of 4 events 2 come, 8 come, none comes.
    assert passes(2.0, 0.5)
    assert passes(0.5, 0.7)
    assert passes(math.nan, 0.5)
    # Of 100 none comes.
    assert not passes(math.nan, 0.1)
    # A model that was off by 1.3 for weeks may be off by 1.3, and be right.
    off = _days(CALIBRATION, *(1.3 + each for each in NOISE * 4), error=0.001)
    for value, passed in ((1.3, True), (1.0, True), (1.54, True), (1.56, False), (0.76, True), (0.7, False)):
        now = Observed(value=value, error=0.001, rows=10**6)
        assert _checks(CALIBRATION, now, off)[CALIBRATION].passed is passed, value


def test_a_day_of_fewer_than_five_users_of_equal_weight_is_not_judged() -> None:
    # (Σ n)² / Σ n² of 2, 2, 1, 1 and 1 rows: 49 / 11; of five users with one row each: 25 / 5.
    few, five = np.array([1, 1, 2, 2, 3, 4, 5]), np.array([1, 2, 3, 4, 5])
    for users, judged in ((few, False), (five, True)):
        targets = np.linspace(0.0, 3.0, len(users), dtype=np.float32)[:, None]
        outputs = {"watch_log1p": np.linspace(1.0, 2.0, len(users), dtype=np.float32)}
        metric = {"basis": "pre_update", "task": "watch", "metric": "relative_squared_error", "slice": ""}
        of_day = [{**metric, "value": 1.0, "rows": len(users)}]
        found = observe(SCHEMA, of_day, targets, {"pre_update": outputs}, groups=users)
        assert found.keys() == {PRE, MEAN, SD}
        assert all(math.isfinite(each.error) is judged for each in found.values())


def test_too_few_rows_of_a_class_are_not_judged_and_not_compared_with() -> None:
    before = _days(AUC, *[0.1] * 28, error=math.inf)
    now = Observed(value=math.nan, error=math.inf, rows=500)
    (check,) = _checks(AUC, now, before).values()
    assert check.passed
    assert (
        check.describe()
        == "day_ahead click auc: not judged, 500 rows hold too few users, or too few of one class"
    )
    known = _checks(AUC, Observed(value=0.7, error=0.01, rows=500), before)[AUC]
    assert (known.reference, known.passed) == (None, True)


def test_a_model_that_still_improves_is_settling_and_does_not_stay_so_for_ever() -> None:
    def verdict(days: int, last: float) -> Verdict:
        before = _days(AUC, *(0.5 + 0.03 * n for n in range(days)), error=0.001)
        config = GateConfig(auc_drop=0.02)
        now = _click(auc=Observed(value=last, error=0.001, rows=1000))
        return judge(CLICK, now, before, config, ONCE, day=TODAY)

    assert verdict(10, 0.5).blessed
    assert "6 of 6 values have no bound yet" in verdict(10, 0.5).reason
    assert verdict(10, 0.5).verdict == "first"
    assert verdict(30, 1.35).blessed
    assert not verdict(30, 0.2).blessed
    assert rows(verdict(10, 0.5), _click(), rates=1.0, size=9)[2]["value"] == 6


def test_a_slow_drift_is_found_before_any_day_stands_out_and_names_the_day_it_began() -> None:
    # A standard deviation of 0.01; each of the last days is 0.02 below the day before.
    quiet = [0.7 + 4 * NOISE[(3 * n) % 7] for n in range(28)]
    falling = [0.68, 0.66, 0.64]
    before = _days(AUC, *quiet, *falling, error=0.005)
    today = Observed(value=0.62, error=0.005, rows=1000)
    found = _checks(AUC, today, before, auc_drop=0.03)
    drift = found[f"{AUC} over weeks"]
    assert not drift.passed
    began = TODAY - timedelta(days=len(falling))
    back = f"tutelage-rollback --to_day={began - timedelta(days=1)} takes it back"
    assert f"standard errors off, a drift since {began} ({back}) (gate.auc_drop=" in drift.describe()
    # None of it is there on a quiet day, nor while there are too few days to see it against.
    sound = Observed(value=0.7, error=0.005, rows=1000)
    assert all(c.passed for c in _checks(AUC, sound, _days(AUC, *quiet, error=0.005)).values())
    assert f"{AUC} over weeks" not in _checks(AUC, today, before[-20:], auc_drop=0.03)
    # A day that a person accepted is where it starts anew, and as bad a day is fine.
    accepted = [*before[:-1], dataclasses.replace(before[-1], accepted=True)]
    as_bad = Observed(value=0.64, error=0.005, rows=1000)
    assert all(c.passed for c in _checks(AUC, as_bad, accepted, auc_drop=0.03).values())


def test_days_of_an_old_workdir_without_standard_errors_are_weighed_by_their_rows() -> None:
    values = [0.7 + each for each in NOISE * 4]
    known, unknown = _days(AUC, *values, error=0.01), _days(AUC, *values)
    now = Observed(value=0.7, error=0.01, rows=1000)
    assert _checks(AUC, now, known)[AUC].bound == pytest.approx(_checks(AUC, now, unknown)[AUC].bound)


def test_a_day_that_cannot_be_judged_is_an_error_and_is_not_kept() -> None:
    assert judge(SCHEMA, _now(9.0), BEFORE[:1], CONFIG, ALWAYS, day=TODAY).verdict == "first"
    broken = dataclasses.replace(BEFORE[0], values=None)  # type: ignore[arg-type]
    verdict = judge(SCHEMA, _now(9.0), [broken, broken], CONFIG, ALWAYS, day=TODAY)
    assert (verdict.verdict, verdict.blessed) == ("error", False)
    assert verdict.reason.startswith("AttributeError: ")


def test_what_is_recorded_of_a_day_is_read_again() -> None:
    days = [FIRST_DAY + timedelta(days=n) for n in range(3)]
    written = []
    for n, day in enumerate(days):
        now = {
            **_now(0.5 + n, mean=n),
            AHEAD: Observed(value=0.5 + n, error=math.inf if n else 0.25, rows=9),
        }
        verdict = judge(SCHEMA, now, [], CONFIG, ONCE, day=day)
        if n == 2:
            verdict = dataclasses.replace(verdict, verdict="fail")
        written.append(pl.DataFrame(rows(verdict, now, rates=1.0, size=9)).with_columns(day=pl.lit(day)))
    found = kept_days(pl.concat(written, how="diagonal_relaxed"), days)
    assert [day.day for day in found] == days
    assert [day.values[PRE] for day in found] == [0.5, 1.5, 2.5]
    assert [day.errors[AHEAD] for day in found] == [0.25, math.inf, math.inf]
    assert [day.accepted for day in found] == [False, False, True]
    assert [day.day for day in kept_days(pl.concat(written, how="diagonal_relaxed"), days[1:])] == days[1:]


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
    return dataclasses.replace(run, teacher=dataclasses.replace(run.teacher, gate=gate), alarms=ALWAYS)


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
        r"^teacher: 2026-01-04 did not pass its gate and is not kept: fail; click_logit mean: .* on 60 rows, "
        r"where .* is the bound; .* standard errors off \(gate.logit_shift=.* would keep it\); .*\. Meanwhile "
        r"students read its labels until 2026-01-03, then wait, served as they are, and the other models go on\. "
        r"Correct the day and materialise it again, or change the model's gate \(its bounds, on_failure\) or "
        r"false_alarms_per_year, or keep it as it is with --accept_day=2026-01-04 --reason=\.\.\.$"
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
