"""TensorBoard scalars: one point a day, however often it was trained on."""

from datetime import date
from pathlib import Path

import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tutelage.trainers.tensorboard import write_events


def _row(value: float) -> dict[str, object]:
    return {"basis": "day_ahead", "task": "click", "metric": "auc", "slice": "", "value": value}


def test_a_day_trained_on_again_replaces_its_points_and_days_stay_in_order(tmp_path: Path) -> None:
    for day, value in ((1, 0.25), (2, 0.25), (2, 0.75), (1, 0.5)):
        write_events(tmp_path, [_row(value)], day=date(2026, 1, day))
    shown = EventAccumulator(str(tmp_path)).Reload().Tensors("day_ahead/click/auc")
    points = [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in shown]
    assert points == [(20260101, 0.5), (20260102, 0.75)]
