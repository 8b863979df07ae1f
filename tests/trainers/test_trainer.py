"""One trainer: its update by hand, what a day leaves behind, and that a restored one is the same."""

from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tensorflow as tf

from tests.tiny import DAYS, MODEL, SCHEMA, commit, make_run
from tutelage.models.backbones.mlp import MLP
from tutelage.models.config import ModelConfig
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.schema import Feature, Schema, Task
from tutelage.trainers.checkpoints import Checkpoints
from tutelage.trainers.day import Day
from tutelage.trainers.feed import Feed
from tutelage.trainers.trainer import Trainer


def _day(root: Path, trainer: Trainer, day: date = DAYS[0]) -> Day:
    return Feed(Lake(root / "lake", SCHEMA), trainer.transform).read(day)


def _trainer(*, seed: int = 1, batch_size: int = 25) -> Trainer:
    return Trainer(SCHEMA, MODEL, batch_size=batch_size, seed=seed)


@pytest.mark.parametrize("batch_size", [3, 5])
def test_an_update_is_adagrad_s_for_the_table_and_adam_s_for_the_rest(
    tmp_path: Path, batch_size: int
) -> None:
    # Two of three rows have the same user. Small weights make small gradients, for which it matters
    # what Adagrad starts from and what Adam adds below the line.
    schema = Schema(
        features=(Feature(name="user", dtype="int64", capacity=5), Feature(name="age", dtype="float32")),
        tasks=(Task(name="watch", label="watch_seconds", kind="log1p"),),
        key=("user",),
    )
    lake = Lake(tmp_path, schema)
    lake.create()
    rows = {
        "example_id": [1, 2, 3],
        "event_time_us": [1, 2, 3],
        "user": [0, 1, 0],
        "age": pl.Series([0.5, -1.0, 2.0], dtype=pl.Float32),
        "watch_seconds": pl.Series([0.0, 0.02, 0.0], dtype=pl.Float32),
    }
    commit(lake, DAYS[0], pl.DataFrame(rows))
    config = ModelConfig(embedding_dim=2, backbone=MLP(hidden=(2,)), embedding_rate=0.1, dense_rate=0.01)
    trainer = Trainer(schema, config, batch_size=batch_size, seed=1)
    first, head = trainer.ranker.backbone.shared[0], trainer.ranker.heads["watch"]
    table = np.array([[0.1, -0.2], [0.3, 0.1], [0.2, 0.2], [-0.1, 0.4], [0.05, 0.3]], np.float32)
    trainer.ranker.embeddings.set_weights([table])
    kernel, bias = np.array([[0.2, -0.1], [0.3, 0.4], [0.1, -0.2]]), np.array([0.1, 0.2])
    v, c = np.array([[0.05], [-0.1]]), np.array([0.01])
    first.set_weights([kernel, bias])
    head.set_weights([v, c])

    day = Feed(lake, trainer.transform).read(DAYS[0])
    trained = trainer.train_day(day)

    users, target = day.whole.tensors.rows.numpy()[:, 0], np.log1p([[0.0], [0.02], [0.0]])
    assert users[0] == users[2] != users[1]
    x = np.concatenate([table[users], [[0.5], [-1.0], [2.0]]], axis=1)
    hidden = np.maximum(x @ kernel + bias, 0)
    output = hidden @ v + c
    np.testing.assert_allclose(trained.outputs["watch_log1p"], output[:, 0], rtol=1e-5)
    assert trained.losses == pytest.approx([np.mean((output - target) ** 2)], rel=1e-5)
    # Back from the sum over three rows of (output - target)², divided by a whole batch: rows of a day's
    # last, short one weigh no more than others.
    d_output = 2 * (output - target) / batch_size
    d_hidden = (d_output @ v.T) * (hidden > 0)
    d_table = np.zeros([5, 2])
    np.add.at(d_table, users, (d_hidden @ kernel.T)[:, :2])
    assert 1e-5 < np.abs(d_table[users]).max() < 1e-2
    adagrad = table - 0.1 * d_table / np.sqrt(1e-6 + d_table**2 + 1e-10)
    np.testing.assert_allclose(trainer.ranker.embeddings.table, adagrad, rtol=1e-5)
    others = [row for row in range(5) if row not in users]
    assert (trainer.ranker.embeddings.table.numpy()[others] == table[others]).all()

    def adam(before: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        # Its first step: m = 0.1 g and v = 0.001 g², both made up for having started at 0.
        rate = 0.01 * np.sqrt(1 - 0.999) / (1 - 0.9)
        return before - rate * 0.1 * gradient / (np.sqrt(0.001 * gradient**2) + 1e-7)

    np.testing.assert_allclose(first.kernel, adam(kernel, x.T @ d_hidden), rtol=1e-5)
    np.testing.assert_allclose(first.bias, adam(bias, d_hidden.sum(axis=0)), rtol=1e-5)
    np.testing.assert_allclose(head.kernel, adam(v, hidden.T @ d_output), rtol=1e-5)
    np.testing.assert_allclose(head.bias, adam(c, d_output.sum(axis=0)), rtol=1e-5)


def test_steps_and_rows_are_counted_on_from_day_to_day(tmp_path: Path) -> None:
    make_run(tmp_path)
    trainer, checkpoints = _trainer(), Checkpoints(tmp_path / "checkpoints")
    progress: list[int] = []
    # 60 rows in batches of 25: 25, 25 and 10. Then 57: 25, 25 and 7.
    first = trainer.train_day(_day(tmp_path, trainer), progress=progress.append)
    assert progress == [25, 25, 10]
    assert first.teacher_step().dtype == np.int64
    assert first.teacher_step().tolist() == [0] * 25 + [1] * 25 + [2] * 10
    trainer.finish(DAYS[0], first, checkpoints)
    second = trainer.train_day(_day(tmp_path, trainer, DAYS[1]))
    assert second.teacher_step().tolist() == [3] * 25 + [4] * 25 + [5] * 7
    trainer.finish(DAYS[1], second, checkpoints)
    counted = [(s.day, s.step, s.examples, s.rows) for s in checkpoints.states()]
    assert counted == [(DAYS[0], 3, 60, 60), (DAYS[1], 6, 117, 57)]
    assert checkpoints.states()[-1] == trainer.state


def test_scoring_trains_nothing(tmp_path: Path) -> None:
    make_run(tmp_path)
    trainer = _trainer()
    variables = [*trainer.ranker.variables, *trainer.adagrad.variables, *trainer.adam.variables]
    before = [v.numpy() for v in variables]
    day = _day(tmp_path, trainer)
    scores = trainer.score(day)
    assert all(scores[name].shape == (day.size,) for name in SCHEMA.outputs)
    assert all((v.numpy() == b).all() for v, b in zip(variables, before, strict=True))


def test_a_restored_trainer_scores_and_continues_as_the_one_that_was_saved(tmp_path: Path) -> None:
    make_run(tmp_path)
    saved, restored = _trainer(), _trainer(seed=2)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    saved.finish(DAYS[0], saved.train_day(_day(tmp_path, saved)), checkpoints)

    def fields(trainer: Trainer) -> dict[str, np.ndarray]:
        optimizers = {"adagrad": trainer.adagrad, "adam": trainer.adam}
        return {f"{name} {v.name}": v.numpy() for name, o in optimizers.items() for v in o.variables}

    def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
        assert a.keys() == b.keys()
        assert [name for name in a if not np.array_equal(a[name], b[name])] == []

    following = _day(tmp_path, saved, DAYS[1])
    assert not np.allclose(saved.score(following)["click_logit"], restored.score(following)["click_logit"])
    restored.restore(checkpoints, checkpoints.states()[-1])
    assert restored.state == saved.state
    assert_same(saved.score(following), restored.score(following))
    # An accumulator of the table, two moments of each dense variable, and a count of updates each.
    assert len(fields(saved)) == 1 + 2 * len(saved.dense) + 2
    assert_same(fields(saved), fields(restored))
    assert_same(saved.train_day(following).outputs, restored.train_day(following).outputs)
    assert_same(fields(saved), fields(restored))
    assert tf.reduce_all(saved.ranker.embeddings.table == restored.ranker.embeddings.table)
