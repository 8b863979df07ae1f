"""What the configuration of a network and of a distillation refuses, and with which message."""

import re
import subprocess
import sys
from datetime import date
from functools import partial

import pytest

from tutelage.models.backbones.base import Backbone, InputSpec, described
from tutelage.models.backbones.dcn import DCNv2
from tutelage.models.backbones.dlrm import DLRM
from tutelage.models.backbones.mlp import MLP
from tutelage.models.backbones.mmoe import MMoE
from tutelage.models.config import Distillation, ModelConfig, distil
from tutelage.models.losses import CrossEntropy, SquaredError, ZilnKL
from tutelage.models.task_kinds import TaskKind
from tutelage.pipeline.errors import UserError
from tutelage.pipeline.schema import Task


def test_the_smallest_network_passes() -> None:
    ModelConfig(embedding_dim=1, backbone=MLP(hidden=(1,)))


def network(spec: InputSpec, *, units: object) -> object:
    """A function that could be a network; it is not called here."""
    return spec, units


class NoDataclass(Backbone):
    pass


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"embedding_dim": 0}, "model: embedding_dim is 0, expected at least 1"),
        (
            {"embedding_rate": 0.0},
            "model: embedding_rate 0.0, dense_rate 0.001: expected two numbers above 0",
        ),
        (
            {"embedding_rate": float("nan")},
            "model: embedding_rate nan, dense_rate 0.001: expected two numbers above 0",
        ),
        ({"dense_rate": -0.1}, "model: embedding_rate 0.05, dense_rate -0.1: expected two numbers above 0"),
        (
            {"backbone": (64, 32)},
            "model: backbone is (64, 32), expected a backbone, as in MLP(hidden=(64, 32)), or a",
        ),
        (
            {"backbone": MLP},
            "model: backbone is <class 'tutelage.models.backbones.mlp.MLP'>, expected a backbone, as",
        ),
        (
            {"backbone": NoDataclass()},
            "model: backbone NoDataclass is no dataclass, expected its sizes as fields",
        ),
        ({"backbone": lambda spec: spec}, "which has no name to be recorded by; define it with def"),
        (
            {"backbone": partial(network, units=date(2026, 1, 1))},
            "cannot be recorded (Object of type date is not",
        ),
    ],
)
def test_a_model_that_cannot_be_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        ModelConfig(**{"embedding_dim": 4, "backbone": MLP(hidden=(8, 4)), **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "fields", "says"),
    [
        (MLP, {"hidden": ()}, "MLP: hidden is (), expected at least one layer of at least 1 unit each"),
        (MLP, {"hidden": (8, 0)}, "MLP: hidden is (8, 0), expected at least one layer"),
        (DLRM, {"hidden": (-1,)}, "DLRM: hidden is (-1,), expected at least one layer"),
        (DCNv2, {"hidden": (0,), "cross_layers": 1}, "DCNv2: hidden is (0,), expected at least one layer"),
        (
            DCNv2,
            {"hidden": (8,), "cross_layers": 0},
            "DCNv2: cross_layers is 0, expected at least 1; without any",
        ),
        (
            MMoE,
            {"hidden": (8,), "experts": 2},
            "MMoE: hidden is (8,), expected at least 2 layers of at least 1 unit",
        ),
        (
            MMoE,
            {"hidden": (8, 4), "experts": 0},
            "MMoE: experts is 0 and cross_layers 0, expected at least 1 and 0",
        ),
        (
            MMoE,
            {"hidden": (8, 4), "experts": 2, "cross_layers": -1},
            "MMoE: experts is 2 and cross_layers -1, expected at least 1 and 0",
        ),
        (
            MMoE,
            {"hidden": (8, 4), "experts": 2, "cross_layers": 1, "dot_interaction": True},
            "MMoE: dot_interaction and 1 cross_layers: expected one kind of interaction",
        ),
    ],
)
def test_a_backbone_of_sizes_that_cannot_be_is_refused(
    kind: type[Backbone], fields: dict[str, object], says: str
) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        kind(**fields)


def test_a_function_is_recorded_by_its_name_and_arguments() -> None:
    expected = {"type": "function", "function": "network", "args": [], "keywords": {"units": [8, 4]}}
    assert described(partial(network, units=(8, 4))) == expected
    assert described(network) == expected | {"keywords": {}}


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
