"""The examples in public docstrings run, and give what they say."""

import doctest
import importlib

import pytest

MODULES = ("export.card",)


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_a_module_run(module: str) -> None:
    found = doctest.testmod(importlib.import_module(f"tutelage.{module}"))
    assert found.attempted > 0
    assert found.failed == 0
