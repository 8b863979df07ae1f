"""What a study reports of an arm: each fact from its own columns, and weighted on a downsampled table."""

import dataclasses
import math
from collections.abc import Mapping
from datetime import date
from typing import Any

import numpy as np
import polars as pl
import pytest

from tutelage.export.config import ServingConfig
from tutelage.launch.config import Experiment, load
from tutelage.launch.studies.facts import context, facts_of_arm
from tutelage.pipeline.schema import METRICS, Downsampling
from tutelage.trainers.checkpoints import State


class _Truth:
    """A source that knows with which probability a label was drawn."""

    def truth(self, rows: pl.DataFrame) -> pl.DataFrame:
        return pl.DataFrame({"click": [0.75, 0.25, 0.25, 0.5]})


NO_METRICS = pl.DataFrame(schema=dict(pl.Schema(METRICS)))


def _experiment(source: object = None, **schema: Any) -> Experiment:
    """Return an experiment whose only task is the click."""
    experiment = load("synthetic", smoke=True)
    tasks = experiment.schema.tasks[:1]
    changes = {
        "schema": dataclasses.replace(experiment.schema, tasks=tasks, **schema),
        "source": source,
        "students": (),
        "serving": ServingConfig(score=(("click", 1.0),)),
    }
    return dataclasses.replace(experiment, **changes)  # type: ignore[arg-type]


def _of_click(found: pl.DataFrame) -> Mapping[str, float]:
    return dict(found.filter(task="click").select("metric", "value").iter_rows())


def test_errors_by_bucket_and_the_distance_from_the_truth_are_weighted_on_a_downsampled_table() -> None:
    experiment = _experiment(_Truth(), downsampling=Downsampling(task="click"))
    rows = pl.DataFrame(
        {
            "example_id": [1, 2, 3, 4],
            "user_id": [1, 1, 2, 2],
            "video_id": [1, 2, 1, 2],
            "click": [1, 0, 0, 0],
            "sampling_rate": [0.5, 0.5, 0.5, None],  # weights: 1, 2, 2, 1
            "popularity": [2, 1, 2, 1],
            "activity_bucket": [0, 0, 1, 1],
            "popularity_bucket": [0, 0, 0, 0],
            "age_bucket": [0, 1, 2, 3],
        }
    )
    logits = np.array([math.log(3), -math.log(3), 0, 0], np.float32)  # 3/4, 1/4, 1/2, 1/2
    scores = pl.DataFrame({"example_id": [1, 2, 3, 4], "click_logit": logits})
    found = facts_of_arm(
        rows, predictions=scores, teacher=scores, experiment=experiment, metrics=NO_METRICS, states=[]
    )
    values = _of_click(found)
    # Predicted and observed: 3/4 + 2 · 1/4 and 1; 2 · 1/2 + 1/2 and 0.
    assert values["error_activity"] == pytest.approx(1 / 4 + 3 / 2)
    assert values["error_popularity"] == pytest.approx(5 / 4 + 3 / 2 - 1)
    assert values["error_age"] == pytest.approx(1 / 4 + 1 / 2 + 1 + 1 / 2)
    # All are right but the third row, which has the weight of two rows of six.
    off = 1 / 4 * math.log(1 / 2) + 3 / 4 * math.log(3 / 2)
    assert values["truth"] == pytest.approx(2 * off / 6)


FIVE = pl.DataFrame(
    {
        "example_id": [1, 2, 3, 4, 5],
        "user_id": [1, 1, 1, 1, 2],
        "video_id": [11, 12, 13, 14, 15],
        "click": [1, 0, 0, 0, 1],
        "popularity": [10, 1, 1, 1, 4],
        **{f"{name}_bucket": [0] * 5 for name in ("activity", "popularity", "age")},
    }
)
OWN = pl.DataFrame({"example_id": [1, 2, 3, 4, 5], "click_logit": [1.0, 2.0, 3.0, 4.0, 5.0]})


def test_diversity_is_of_users_lists_of_items() -> None:
    found = facts_of_arm(
        FIVE, predictions=OWN, teacher=OWN, experiment=_experiment(), metrics=NO_METRICS, states=[]
    )
    values = _of_click(found)
    # The top three of user 1 are items 14, 13 and 12, of user 2 item 15: four of five items, once each.
    assert values["coverage"] == pytest.approx(4 / 5)
    # Of places 0, 1, 1, 1, 1: (-2 + 0 + 2 + 4) / 4 / (5 - 1)
    assert values["gini"] == pytest.approx(1 / 4)
    # Popularity at the top: 1 and 4; of all candidates: 13/4 and 4.
    assert values["popularity_lift"] == pytest.approx((1 + 4) / (13 / 4 + 4))


def test_the_rank_correlation_is_with_the_teacher_s_scores_of_the_rows_that_it_scored() -> None:
    teacher = OWN.with_columns(click_logit=pl.Series([2.0, 1.0, 3.0, 5.0, 4.0]))
    # Ranks differ by 1, 1, 0, 1, 1: 1 - 6 · 4 / (5 · 24). Of the first three: 1 - 6 · 2 / (3 · 8).
    for scores, expected in ((teacher, 0.8), (teacher[:3], 0.5), (teacher[:0], math.nan)):
        found = facts_of_arm(
            FIVE, predictions=OWN, teacher=scores, experiment=_experiment(), metrics=NO_METRICS, states=[]
        )
        assert _of_click(found)["spearman"] == pytest.approx(expected, nan_ok=True)


def test_metrics_are_means_of_the_days_ahead_and_seconds_those_of_all_days() -> None:
    rows = [
        ("click", "auc", "day_ahead", 0.6),
        ("click", "auc", "day_ahead", 0.8),
        ("click", "auc", "pre_update", 0.1),
        ("click", "gauc", "day_ahead", 0.5),
        ("click", "rmse", "day_ahead", 7.0),
    ]
    metrics = pl.DataFrame(rows, schema=["task", "metric", "basis", "value"], orient="row")
    states = [
        State(day=date(2024, 5, n), step=n, examples=n, rows=1, seconds=n, waited=100, memory=100)
        for n in (1, 2)
    ]
    found = facts_of_arm(
        FIVE, predictions=OWN, teacher=OWN, experiment=_experiment(), metrics=metrics, states=states
    )
    values = _of_click(found)
    assert (values["auc"], values["gauc"]) == pytest.approx((0.7, 0.5))
    assert "rmse" not in values
    assert found.filter(task="", metric="seconds")["value"].to_list() == [3]


def test_buckets_come_from_the_days_before_the_judged_ones() -> None:
    days = [date(2024, 5, n) for n in (1, 2, 2, 3, 3, 3, 3)]
    rows = pl.DataFrame(
        {
            "day": days,
            "example_id": [5, 6, 7, 4, 3, 2, 1],
            "user_id": [1, 1, 1, 2, 2, 1, 1],
            "video_id": [11, 12, 12, 12, 11, 12, 11],
        }
    )
    found = context(rows.lazy(), _experiment(), [date(2024, 5, 3)])
    assert found["example_id"].to_list() == [1, 2, 3, 4]
    # User 1 has three rows before, user 2 none; item 11 one, two days old, and item 12 two, one day old.
    assert found["popularity"].to_list() == [1, 2, 1, 2]
    # Of two values the lower is in the bucket 3 and the higher in 9.
    assert found["activity_bucket"].to_list() == [9, 9, 3, 3]
    assert found["popularity_bucket"].to_list() == [3, 9, 3, 9]
    assert found["age_bucket"].to_list() == [9, 3, 9, 3]
