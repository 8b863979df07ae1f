"""A study alone may use labels that break the leak rule, and only those that are named so."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.tiny import DAYS, make_run
from tutelage.launch.studies.labels import LEAKED, StudyRun
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.soft_labels import SNAPSHOT, LabelPartition, LabelRequest, labels_by_snapshot
from tutelage.trainers.run import Run

OUTPUTS = {"click_logit": np.array([0.5]), "watch_log1p": np.array([1.5])}
LEAKING = labels_by_snapshot(np.array([7]), OUTPUTS, snapshot_day=DAYS[1], teacher_step=8)
PARTITION = LabelPartition(LEAKED, SNAPSHOT, DAYS[1])
REFUSED = "1 labels come from a teacher that was already trained on the example"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path)


def test_a_study_writes_and_reads_labels_of_a_teacher_that_was_trained_on_the_example(run: Run) -> None:
    study = StudyRun.of(run)
    assert (study.root, study.schema, study.teacher) == (run.root, run.schema, run.teacher)
    study.lake.soft_labels.write(PARTITION, LEAKING)
    request = LabelRequest(teacher=LEAKED, producer=SNAPSHOT)
    joined = study.lake.snapshot().soft_labels.join(pl.Series([7]), DAYS[1], request)
    assert (joined.labels.tolist(), joined.weight.tolist()) == ([[0.5, 1.5]], [1.0])
    with pytest.raises(UserError, match=REFUSED):
        run.lake.soft_labels.join(pl.Series([7]), DAYS[1], request)


def test_the_other_labels_of_a_study_keep_the_leak_rule(run: Run) -> None:
    with pytest.raises(UserError, match=REFUSED):
        StudyRun.of(run).lake.soft_labels.write(PARTITION._replace(teacher="age0"), LEAKING)


def test_outside_of_a_study_no_name_lifts_the_leak_rule(run: Run) -> None:
    with pytest.raises(UserError, match=REFUSED):
        run.lake.soft_labels.write(PARTITION, LEAKING)
    later = PARTITION._replace(day=DAYS[1] + timedelta(days=1))
    run.lake.soft_labels.write(later, LEAKING)
    assert run.lake.soft_labels.days(LEAKED, SNAPSHOT) == [later.day]
