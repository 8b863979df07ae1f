"""A table whose negatives were downsampled: training and metrics are right for all examples."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests import tiny
from tests.tiny import judged
from tutelage.models.backbones.mlp import MLP
from tutelage.models.config import ModelConfig
from tutelage.models.metrics import calibration, sigmoid
from tutelage.pipeline.lake import Lake
from tutelage.pipeline.schema import Downsampling, Task
from tutelage.trainers.config import ALL_ROWS, Sampling
from tutelage.trainers.day import Day
from tutelage.trainers.feed import Feed
from tutelage.trainers.metrics import day_metrics, task_metrics
from tutelage.trainers.trainer import Trainer

SCHEMA = replace(tiny.SCHEMA, downsampling=Downsampling(task="click"))
DAY = tiny.DAYS[0]


def _day(root: Path, trainer: Trainer, columns: dict[str, object], *, sampling: Sampling = ALL_ROWS) -> Day:
    n = len(np.asarray(columns["click"]))
    same = {"user": np.zeros(n, int), "topic": ["a"] * n, "seconds": np.ones(n), "age": np.ones(n)}
    whole = {
        "example_id": np.arange(n),
        "event_time_us": np.arange(n),
        **same,
        "watch_seconds": np.ones(n),
        **columns,
    }
    rates = whole.pop("sampling_rate")
    lake = Lake(root, SCHEMA)
    lake.create()
    frame = tiny.frame(DAY, whole).with_columns(sampling_rate=np.array(rates, np.float32))
    tiny.commit(lake, DAY, frame.with_columns(frame["sampling_rate"].fill_nan(None)))
    return Feed(lake, trainer.transform, sampling=sampling).read(DAY)


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    model = ModelConfig(embedding_dim=4, backbone=MLP(hidden=(8,)), dense_rate=0.01, embedding_rate=0.3)
    return Trainer(SCHEMA, model, batch_size=125, seed=1)


def test_a_kept_negative_weighs_as_many_examples_as_were_sampled_for_it(
    tmp_path: Path, trainer: Trainer
) -> None:
    columns = {"click": [0, 1, 0, 0], "sampling_rate": [0.25, 0.25, np.nan, 1.0]}
    day = _day(tmp_path / "all", trainer, columns)
    assert day.whole.tensors.weight.numpy().tolist() == [4, 1, 1, 1]
    # The model's own sampling comes on top of it.
    fewer = Sampling(negatives_of="click", rate=0.5, correction="weights")
    weight = _day(tmp_path / "fewer", trainer, columns, sampling=fewer).whole.tensors.weight.numpy().tolist()
    assert weight[1] == 1
    assert all(w in (0, 2 * whole) for w, whole in zip(weight[::2], (4, 1), strict=True))
    assert any(weight[i] > 0 for i in (0, 2, 3))


def test_scores_of_a_model_trained_on_the_kept_examples_fit_all_of_them(
    tmp_path: Path, trainer: Trainer
) -> None:
    # Of topic a 100 of 1,000 rows are positive, and a quarter of the others was kept; of b 200 of 500, and a half.
    topic = np.repeat(["a", "b"], [100 + 225, 200 + 150])
    click = np.repeat([1, 0, 1, 0], [100, 225, 200, 150])
    rate = np.where(topic == "a", 0.25, 0.5)
    order = np.random.default_rng(1).permutation(len(topic))
    columns = {"topic": topic[order].tolist(), "click": click[order], "sampling_rate": rate[order]}
    day = _day(tmp_path, trainer, columns)
    for _ in range(40):
        trainer.train_day(day)
    scores = sigmoid(trainer.score(day)["click_logit"])
    kept = judged(day).targets[:, 0]
    for name, full, seen in (("a", 100 / 1000, 100 / 325), ("b", 200 / 500, 200 / 350)):
        inside = topic[order] == name
        assert np.mean(kept[inside]) == pytest.approx(seen)
        assert scores[inside].mean() == pytest.approx(full, abs=0.03)
    rows = day_metrics(
        SCHEMA, judged(day).targets, trainer.score(day), basis="day_ahead", weight=judged(day).weight
    )
    (message,) = (row["value"] for row in rows if (row["task"], row["metric"]) == ("click", "calibration"))
    assert message == pytest.approx(1.0, abs=0.05)
    # Without the weights it would say that the scores are less than half of what they should be.
    assert calibration(kept, trainer.score(day)["click_logit"]) < 0.75


@pytest.mark.parametrize("kind", ["binary", "log1p", "ziln"])
def test_a_metric_of_an_example_of_weight_three_is_that_of_three_examples(kind: str) -> None:
    task = Task(name="t", label="t", kind=kind)  # type: ignore[arg-type]
    rng = np.random.default_rng(2)
    n = 60
    label = (rng.random(n) < 0.4) * (1.0 if kind == "binary" else rng.exponential(3.0, n))
    outputs = {name: rng.integers(1, 6, n) / 2 - (name == "t_logit") for name in task.outputs}
    weight = rng.integers(1, 4, n)
    weighed = task_metrics(task, label, outputs, weight=weight.astype(np.float32))
    repeated = task_metrics(
        task, label.repeat(weight), {name: values.repeat(weight) for name, values in outputs.items()}
    )
    assert weighed.keys() == repeated.keys()
    for name, value in repeated.items():
        assert weighed[name] == pytest.approx(value), name
    assert weighed != task_metrics(task, label, outputs)
