"""The examples in public docstrings run, and give what they say."""

import doctest
import importlib

import pytest

MODULES = (
    "export.card",
    "launch.alert_config",
    "launch.last_run",
    "launch.logging_setup",
    "models.backbones.attention",
    "models.backbones.base",
    "models.backbones.dcn",
    "models.backbones.dlrm",
    "models.backbones.mlp",
    "models.backbones.mmoe",
    "models.config",
    "models.id_map",
    "models.inputs",
    "models.losses.base",
    "models.losses.cross_entropy",
    "models.metrics",
    "models.ranker",
    "models.task_kinds",
    "models.task_kinds.base",
    "models.towers",
    "pipeline.days",
    "pipeline.errors",
    "pipeline.ids",
    "pipeline.io.atomic",
    "pipeline.io.json",
    "pipeline.io.locks",
    "pipeline.io.retry",
    "pipeline.lake",
    "pipeline.leaks",
    "pipeline.quarantine",
    "pipeline.schema.features",
    "pipeline.schema.schema",
    "pipeline.schema.tasks",
    "pipeline.soft_labels",
    "pipeline.table",
    "pipeline.verdict",
    "trainers",
    "trainers.checkpoints",
    "trainers.config",
    "trainers.diagnosis",
    "trainers.gate",
    "trainers.optimizers",
    "trainers.run",
    "trainers.streaming",
)


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_a_module_run(module: str) -> None:
    found = doctest.testmod(importlib.import_module(f"tutelage.{module}"))
    assert found.attempted > 0
    assert found.failed == 0
