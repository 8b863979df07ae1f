"""What a study tells of an arm on a table that lacks negatives is of all rows."""

import dataclasses
import math

import numpy as np
import polars as pl
import pytest

from tutelage.export.config import ServingConfig
from tutelage.launch.config import load
from tutelage.launch.studies.facts import facts_of_arm
from tutelage.pipeline.schema import METRICS, Downsampling


class _Truth:
    """A source that knows with which probability a label was drawn."""

    def truth(self, rows: pl.DataFrame) -> pl.DataFrame:
        return pl.DataFrame({"click": [0.75, 0.25, 0.25, 0.5]})


def test_errors_by_bucket_and_from_the_truth_count_a_row_as_the_rows_that_it_stands_for() -> None:
    experiment = load("synthetic", smoke=True)
    schema = dataclasses.replace(
        experiment.schema, tasks=experiment.schema.tasks[:1], downsampling=Downsampling(task="click")
    )
    changes = {
        "schema": schema,
        "source": _Truth(),
        "students": (),
        "serving": ServingConfig(score=(("click", 1.0),)),
    }
    experiment = dataclasses.replace(experiment, **changes)  # type: ignore[arg-type]
    rows = pl.DataFrame(
        {
            "example_id": [1, 2, 3, 4],
            "user_id": [1, 1, 2, 2],
            "video_id": [1, 2, 1, 2],
            "click": [1, 0, 0, 0],
            "sampling_rate": [0.5, 0.5, 0.5, None],  # of how many rows: 1, 2, 2, 1
            "popularity": [2, 1, 2, 1],
            "activity_bucket": [0, 0, 1, 1],
            "popularity_bucket": [0, 0, 0, 0],
            "age_bucket": [0, 1, 2, 3],
        }
    )
    logits = np.array([math.log(3), -math.log(3), 0, 0], np.float32)  # 3/4, 1/4, 1/2, 1/2
    scores = pl.DataFrame({"example_id": [1, 2, 3, 4], "click_logit": logits})
    metrics = pl.DataFrame(schema=dict(pl.Schema(METRICS)))
    found = facts_of_arm(rows, scores, scores, experiment=experiment, metrics=metrics, states=[])
    values = dict(found.filter(task="click").select("metric", "value").iter_rows())
    # Predicted and observed: 3/4 + 2 · 1/4 and 1; 2 · 1/2 + 1/2 and 0.
    assert values["error_activity"] == pytest.approx(1 / 4 + 3 / 2)
    assert values["error_popularity"] == pytest.approx(5 / 4 + 3 / 2 - 1)
    assert values["error_age"] == pytest.approx(1 / 4 + 1 / 2 + 1 + 1 / 2)
    # Right for all but the two rows that the third stands for, of six.
    off = 1 / 4 * math.log(1 / 2) + 3 / 4 * math.log(3 / 2)
    assert values["truth"] == pytest.approx(2 * off / 6)
