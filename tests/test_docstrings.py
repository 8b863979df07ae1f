"""The examples in docstrings run."""

import doctest
import importlib

import pytest

# Modules of `tutelage` with examples, in docstrings of the module or of anything in it.
MODULES = [
    "export.card",
]


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_in_the_docstrings_of_a_module_run(module: str) -> None:
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    found = doctest.testmod(importlib.import_module(f"tutelage.{module}"), optionflags=flags)
    assert found.attempted, "it has no example; take it off MODULES"
    assert not found.failed, "pytest prints the examples that failed"
