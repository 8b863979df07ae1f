"""The examples in the docstrings of the public names run, and give what they say."""

import doctest
import importlib

import pytest

MODULES = (
    "pipeline.days",
    "pipeline.io.atomic",
    "pipeline.io.json",
    "pipeline.io.locks",
    "pipeline.io.retry",
    "pipeline.lake",
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


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"tutelage.{name}"))
    assert found.attempted > 0
    assert found.failed == 0
