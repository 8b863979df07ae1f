"""A user's network resumes as any does, and one that was changed is refused."""

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.tiny import BATCH, DAYS, MODEL, SCHEMA, make_run
from tutelage.models.backbones.base import InputSpec
from tutelage.models.config import ModelConfig
from tutelage.pipeline.errors import UserError
from tutelage.trainers.checkpoints import Checkpoints
from tutelage.trainers.day_pass import Attempt
from tutelage.trainers.feed import Feed
from tutelage.trainers.partial import resume_partial, save_partial
from tutelage.trainers.trainer import Trainer


def network(spec: InputSpec, *, units: int) -> tf.keras.Model:
    """A functional model."""
    inputs = spec.keras_inputs()
    x = tf.keras.layers.Concatenate()([*inputs.embeddings.values(), inputs.numbers])
    return tf.keras.Model(inputs, tf.keras.layers.Dense(units, activation="relu")(x))


def _trainer(units: int = 3) -> Trainer:
    model: ModelConfig = dataclasses.replace(MODEL, backbone=partial(network, units=units))
    return Trainer(SCHEMA, model, batch_size=BATCH, seed=1)


def test_a_function_s_network_resumes_within_a_day_and_after_it_bit_for_bit(tmp_path: Path) -> None:
    lake, whole, resumed = make_run(tmp_path).lake, _trainer(), _trainer()
    one, two = (Feed(lake, whole.transform).read(day) for day in DAYS[:2])
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    first = whole.train_day(one)

    interrupted = resumed.begin_day(one)
    interrupted.update()
    interrupted.update()
    save_partial(resumed, checkpoints, one, Attempt(ahead={}, trained=interrupted.result(), rates=1.0))
    resumed = _trainer()
    found = resume_partial(resumed, checkpoints, one)
    assert found is not None
    rest = resumed.begin_day(one, found.trained)
    while not rest.finished:
        rest.update()
    second = rest.result()
    np.testing.assert_array_equal(first.losses, second.losses)
    resumed.finish(DAYS[0], second, checkpoints)
    again = _trainer()
    again.restore(checkpoints, checkpoints.states()[-1])
    np.testing.assert_array_equal(whole.train_day(two).losses, again.train_day(two).losses)
    for a, b in zip(whole.ranker.variables, again.ranker.variables, strict=True):
        np.testing.assert_array_equal(a, b)

    with pytest.raises(UserError) as error:
        _trainer(units=4).restore(checkpoints, checkpoints.states()[-1])
    (kernel,) = (path for path in _trainer().ranker.network if path.endswith("kernel"))
    assert str(error.value).startswith(
        f"the checkpoints in {checkpoints.folder} are of a network with other variables: "
        f"{kernel} was [10, 3] and is [10, 4]; {kernel.removesuffix('kernel')}bias was [3] and is [4]; give its"
    )
    assert "\n" not in str(error.value)
