"""What the configuration of a network and of a distillation refuses, and with which message."""

import re
import subprocess
import sys

import pytest

from tutelage.models.config import Distillation, ModelConfig, distil
from tutelage.models.losses import CrossEntropy, SquaredError, ZilnKL
from tutelage.models.task_kinds import TaskKind
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Task


def test_the_smallest_network_passes() -> None:
    ModelConfig(embedding_dim=1, hidden=(1,), cross_layers=0)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"embedding_dim": 0}, "model: embedding_dim 0, hidden (8, 4) and cross_layers 0: expected sizes"),
        ({"hidden": ()}, "hidden () and cross_layers 0: expected sizes of at least 1, at least one hidden"),
        ({"hidden": (8, 0)}, "hidden (8, 0) and"),
        ({"cross_layers": -1}, "cross_layers -1: expected"),
        (
            {"embedding_rate": 0.0},
            "model: embedding_rate 0.0, dense_rate 0.001: expected two numbers above 0",
        ),
        (
            {"embedding_rate": float("nan")},
            "model: embedding_rate nan, dense_rate 0.001: expected two numbers above 0",
        ),
        (
            {"dot_interaction": True, "cross_layers": 1},
            "model: dot_interaction and 1 cross_layers: expected one kind of interaction",
        ),
        ({"experts": -1}, "model: experts -1, hidden (8, 4): expected at least 0, and a shared layer below"),
        ({"experts": 2, "hidden": (8,)}, "model: experts 2, hidden (8,): expected at least 0, and a shared"),
        ({"dense_rate": -0.1}, "model: embedding_rate 0.05, dense_rate -0.1: expected two numbers above 0"),
    ],
)
def test_a_size_or_a_rate_that_is_none_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        ModelConfig(**{"embedding_dim": 4, "hidden": (8, 4), **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"through": "both"}, "through is 'both', expected auxiliary or direct"),
        ({"alpha": -0.5}, "alpha is -0.5, expected a number of at least 0"),
        ({"alpha": float("inf")}, "alpha is inf, expected a number of at least 0"),
        ({"alpha": float("nan")}, "alpha is nan, expected a number of at least 0"),
        (
            {"loss": "listwise"},
            "loss is 'listwise', expected a SoftLoss, as in CrossEntropy(temperature=2.0), or None",
        ),
        ({"gradient_scale": -1.0}, "gradient_scale is -1.0, expected a number of at least 0"),
        ({"shared_layers": -1}, "shared_layers is -1 and hidden None, expected at least 0 and at least 1"),
        ({"hidden": (4, 0)}, "shared_layers is None and hidden (4, 0), expected at least 0 and at least 1"),
        ({"adapter": True, "through": "direct"}, "adapter is set with through='direct', expected"),
    ],
)
def test_a_distillation_with_a_wrong_field_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"distillation of 'click': {says}")):
        distil("click", **fields)


def test_the_same_settings_are_given_to_each_task() -> None:
    assert distil("click", "watch", alpha=2.0) == (
        Distillation(task="click", alpha=2.0),
        Distillation(task="watch", alpha=2.0),
    )


def test_a_distillation_without_a_loss_has_the_default_of_its_task_s_kind() -> None:
    by_kind = {"binary": CrossEntropy(), "log1p": SquaredError(), "ziln": ZilnKL()}
    for kind, loss in by_kind.items():
        assert Distillation(task="t").loss_for(Task(name="t", label="t", kind=kind)) == loss
    chosen = Distillation(task="t", loss=CrossEntropy(temperature=2.0))
    assert chosen.loss_for(Task(name="t", label="t")) == CrossEntropy(temperature=2.0)


def test_a_loss_that_does_not_fit_the_task_or_a_kind_without_a_default_is_refused() -> None:
    class Plain(TaskKind):
        outputs = ("x",)
        loss_name = "x_loss"

        def hard_loss(self, target: object, raw: object) -> object:
            return target

        def served(self, raw: object) -> object:
            return raw

    with pytest.raises(
        UserError, match=r"^task 't' is log1p and cannot be distilled by ZilnKL; expected Squ"
    ):
        Distillation(task="t", loss=ZilnKL()).loss_for(Task(name="t", label="t", kind="log1p"))
    with pytest.raises(UserError, match=r"^distillation of 't': loss is None, and .*Plain.* has no default"):
        Distillation(task="t").loss_for(Task(name="t", label="t", kind=Plain()))


def test_a_config_is_read_without_tensorflow() -> None:
    code = "import sys, tutelage.models.config; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
