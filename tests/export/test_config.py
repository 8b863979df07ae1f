"""The serving configuration is checked when it is made."""

import dataclasses
import math

import pytest

from tests.tiny import SCHEMA
from tutelage.export.config import ServingConfig
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Feature, Task

CONFIG = ServingConfig(score=(("click", 1.0), ("watch_log1p", -0.5)))


def test_a_score_of_served_outputs_is_accepted() -> None:
    CONFIG.check(SCHEMA)


@pytest.mark.parametrize("name", ["watch", "click_logit", "score", ""])
def test_a_score_of_an_output_that_is_not_served_is_refused(name: str) -> None:
    config = ServingConfig(score=(("click", 1.0), (name, 1.0)))
    with pytest.raises(UserError) as error:
        config.check(SCHEMA)
    assert str(error.value) == f"serving: score names {name!r}; the served outputs are click, watch_log1p"


def test_a_task_called_score_is_refused() -> None:
    schema = dataclasses.replace(SCHEMA, tasks=(Task(name="score", label="click"),))
    with pytest.raises(
        UserError, match=r"^serving: a task's output is called 'score', like the combined score; "
    ):
        ServingConfig(score=(("score", 1.0),)).check(schema)


@pytest.mark.parametrize("name", ["class", "userId", "user id", "_user", "2nd", "日本", "a-b"])
def test_a_feature_whose_name_tensorflow_would_change_is_refused(name: str) -> None:
    schema = dataclasses.replace(SCHEMA, features=(*SCHEMA.features, Feature(name=name, dtype="float32")))
    with pytest.raises(UserError) as error:
        CONFIG.check(schema)
    assert str(error.value) == (
        f"feature {name!r} cannot be the name of a served input: expected a-z, 0-9 and _, "
        "beginning with a letter, and no Python keyword; rename it"
    )


@pytest.mark.parametrize(
    "score", [(), (("click", 1.0), ("click", 2.0)), (("click", math.nan),), (("click", math.inf),)]
)
def test_a_score_that_is_empty_repeats_an_output_or_has_a_weight_that_is_not_finite_is_refused(
    score: tuple[tuple[str, float], ...],
) -> None:
    with pytest.raises(UserError) as error:
        ServingConfig(score=score)
    assert str(error.value) == (
        f"serving: score is {score!r}, expected at least one (served output, weight) pair, "
        "each output once and each weight a finite number"
    )


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("keep", 0, "at least 1"),
        ("max_bytes", 0, "at least 1"),
        ("auc_drop", -0.01, "a number of at least 0"),
        ("entropy_rise", math.nan, "a number of at least 0"),
        ("squared_error_rise", math.inf, "a number of at least 0"),
        ("calibration_drift", -1.0, "a number of at least 0"),
        ("max_latency_ms", 0.0, "a number above 0"),
        ("max_latency_ms", math.nan, "a number above 0"),
    ],
)
def test_a_bound_out_of_range_is_refused(field: str, value: float, expected: str) -> None:
    with pytest.raises(UserError) as error:
        dataclasses.replace(CONFIG, **{field: value})
    assert str(error.value) == f"serving: {field} is {value}, expected {expected}"


def test_values_at_the_edges_of_their_ranges_are_accepted() -> None:
    edges = dataclasses.replace(CONFIG, keep=1, max_bytes=1, auc_drop=0.0, max_latency_ms=0.1)
    assert (edges.keep, edges.max_bytes, edges.auc_drop, edges.max_latency_ms) == (1, 1, 0.0, 0.1)


def test_what_becomes_of_an_undecided_version_is_one_of_two() -> None:
    assert CONFIG.undecided == "pass"
    with pytest.raises(UserError, match=r"^serving: undecided is 'serve', expected pass or wait$"):
        dataclasses.replace(CONFIG, undecided="serve")  # type: ignore[arg-type]
