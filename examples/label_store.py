"""A teacher of your own writes labels into the store, and students read them: `python label_store.py W/lake`."""

import sys
from dataclasses import replace

import numpy as np
import polars as pl

from tutelage.launch.configs import synthetic
from tutelage.launch.experiment import Experiment
from tutelage.models.config import distil
from tutelage.pipeline import LabelPartition, LabelRequest, SoftLabelStore, labels_before_update
from tutelage.trainers.config import StudentConfig, TeacherConfig


def experiment(*, smoke: bool) -> Experiment:
    """For tutelage-materialize --workdir=W before it, and tutelage-student --model=student after it."""
    own = TeacherConfig(name="own", model=synthetic.TEACHER)  # Its labels are read; it is not trained.
    student = StudentConfig(name="student", model=synthetic.STUDENT, distillation=distil("click"))
    return replace(synthetic.experiment(smoke=smoke), teacher=own, students=(student,), study=None)


def teach(lake: str) -> None:
    """Label every batch with the log odds of a click at its position, then count the batch's clicks."""
    store, clicks = SoftLabelStore.open(lake), np.ones([64, 2])
    rows = pl.scan_delta(f"{lake}/interactions").sort("event_time_us", "example_id").collect()
    logits, step = np.empty(len(rows)), np.arange(len(rows)) // 512
    for start in range(0, len(rows), 512):
        position, click = rows[start : start + 512].select("position", "click").to_numpy().T
        logits[start : start + 512] = np.log(clicks[position, 1] / clicks[position, 0])
        np.add.at(clicks, (position, click), 1)
    labels = labels_before_update(rows["example_id"], {"click_logit": logits}, teacher_step=step)
    for day in rows["day"].unique():
        store.write(LabelPartition("own", "pre_update", day), labels.filter(rows["day"] == day))


def train(lake: str) -> np.ndarray:
    """Train a logit per position on the labels alone: a student as small as can be."""
    store, logits = SoftLabelStore.open(lake), np.zeros(64)
    for day in store.days("own"):
        examples = pl.scan_delta(f"{lake}/interactions").filter(day=day).collect()
        labels, weights, _ = store.join(examples["example_id"], day, LabelRequest(teacher="own"))
        for position, label, weight in zip(examples["position"], labels[:, 0], weights, strict=True):
            logits[position] += 0.05 * weight * (label - logits[position])
    return logits


if __name__ == "__main__":
    teach(sys.argv[1])
    print(train(sys.argv[1]).round(2))
