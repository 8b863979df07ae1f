"""The check that Bazel runs on each target names every import that no declared dependency holds."""

from pathlib import Path

import pytest

from tests.check_imports import missing


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The files that a target declares: two modules of one room and a package of another."""
    for name, source in {
        "pipeline/__init__.py": "_MODULES = {'Lake': 'lake'}",
        "pipeline/schema.py": "import os",
        "models/__init__.py": "",
        "models/losses/__init__.py": "",
        "models/losses/mse.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    return tmp_path


@pytest.mark.parametrize(
    "source",
    [
        "import numpy, tensorflow as tf",
        "import tutelage.pipeline.schema",
        "from tutelage import models",
        "from tutelage.models import losses",
        "from tutelage.models.losses import mse",
        "from tutelage.pipeline.schema import Schema",
        "from tutelage.pipeline import Lake",  # a public name that __init__.py mentions
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tutelage.trainers.feed import Feed",
    ],
)
def test_an_import_that_the_target_holds_is_not_named(root: Path, source: str) -> None:
    (root / "models/ranker.py").write_text(source)
    assert missing(root) == []


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import tutelage.trainers.feed", "tutelage.trainers.feed"),
        ("from tutelage import trainers", "tutelage.trainers"),
        ("from tutelage.models.losses import listwise", "tutelage.models.losses.listwise"),
        ("if 1:\n    pass\nelse:\n    import tutelage.export.card", "tutelage.export.card"),
        ("def f():\n    from tutelage.pipeline.days import parse", "tutelage.pipeline.days.parse"),
    ],
)
def test_an_import_that_the_target_lacks_is_named_with_its_importer(
    root: Path, source: str, name: str
) -> None:
    (root / "models/ranker.py").write_text(source)
    assert missing(root) == [f"models.ranker imports {name}"]
