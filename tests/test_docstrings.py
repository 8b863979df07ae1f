"""The examples in public docstrings run, and give what they say."""

import doctest
import importlib

import pytest

MODULES = (
    "models.backbones.attention",
    "models.backbones.base",
    "models.backbones.dcn",
    "models.backbones.dlrm",
    "models.backbones.mlp",
    "models.backbones.mmoe",
    "models.config",
    "models.id_map",
    "models.inputs",
    "models.ranker",
    "models.towers",
)
"""Those that have examples."""


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_run(name: str) -> None:
    results = doctest.testmod(importlib.import_module(f"tutelage.{name}"))
    assert results.attempted
    assert not results.failed
