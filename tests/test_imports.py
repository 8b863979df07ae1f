"""Which room may import which. A forbidden import fails here, before Bazel's visibility refuses it too."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What a room may import from the project. A name stands for everything below it.
LEAVES = {"pipeline.schema", "pipeline.task_kinds", "pipeline.errors"}
TABLES = LEAVES | {
    "pipeline.lake",
    "pipeline.soft_labels",
    "pipeline.table",
    "pipeline.days",
    "pipeline.quarantine",
    "pipeline.alarms",
    "pipeline.io",
    "pipeline.verdict",
    "pipeline.holdout",
}
MAY_IMPORT = {
    "pipeline": {"pipeline"},
    "models": {"models"} | LEAVES,
    "trainers": {"trainers", "models"} | TABLES,
    "export": {
        "export",
        "models",
        "pipeline.drift",
        "trainers.checkpoints",
        "trainers.metrics",
        "trainers.config",
        "trainers.run",
    }
    | TABLES,
    "launch": {"pipeline", "models", "trainers", "export", "launch"},
}
LIGHT = (
    "pipeline",
    "pipeline.schema",
    "pipeline.soft_labels",
    "pipeline.table",
    "pipeline.task_kinds",
    "pipeline.errors",
    "pipeline.days",
    "pipeline.drift",
    "pipeline.lake",
    "pipeline.quarantine",
    "pipeline.alarms",
    "pipeline.io",
    "pipeline.verdict",
    "pipeline.holdout",
)
HEAVY = ("tensorflow", "apache_beam")


def imported(source: str) -> Iterator[str]:
    """Yield the dotted name of every import in `source`, in functions too. A relative one begins with a dot."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def within(name: str, packages: set[str] | tuple[str, ...]) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


def wrong_imports(module: str, source: str) -> list[str]:
    """Return the imports of `source` that are forbidden in `module`, which is `room.file` or a test."""
    room = module.partition(".")[0]
    wrong = []
    for name in imported(source):
        if name.startswith(".") or within(name, tuple(MAY_IMPORT)):
            wrong.append(f"{name} (say tutelage.…)")
        elif within(name, ("tutelage",)) and room in MAY_IMPORT:
            if not within(name.removeprefix("tutelage."), MAY_IMPORT[room]):
                wrong.append(name)
        elif within(name, HEAVY) and module in LIGHT:
            wrong.append(name)
    return wrong


def files() -> list[Path]:
    return sorted(path for folder in [*MAY_IMPORT, "tests"] for path in (ROOT / folder).rglob("*.py"))


def test_every_import_of_the_project_is_allowed() -> None:
    paths = files()
    assert {path.relative_to(ROOT).parts[0] for path in paths} == {*MAY_IMPORT, "tests"}
    wrong = {}
    for path in paths:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if names := wrong_imports(module, path.read_text()):
            wrong[module] = names
    assert not wrong


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("models.loss", "from tutelage.pipeline import schema, errors"),
        ("models.loss", "from tutelage.pipeline.schema import Schema\nimport tensorflow as tf"),
        ("trainers.feed", "import tutelage.pipeline.lake as lake"),
        ("export.gate", "from tutelage.trainers import checkpoints"),
        ("pipeline.label", "def f():\n    import tensorflow as tf"),
        ("launch.commands", "from tutelage import pipeline, export"),
        ("tests.models.test_loss", "from tutelage.launch import report"),
    ],
)
def test_an_allowed_import_passes(module: str, source: str) -> None:
    assert wrong_imports(module, source) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pipeline.label", "from tutelage.models import ranker"),
        ("pipeline.label", "from tutelage import models"),
        ("pipeline.sources.world", "def f():\n    import tutelage.trainers.feed"),
        ("models.loss", "from tutelage.pipeline import schema, lake"),
        ("models.loss", "from tutelage.pipeline import *"),
        ("models.loss", "from tutelage.pipeline.schema_of_more import Schema"),
        ("trainers.feed", "from tutelage.export.scoring import Scorer"),
        ("export.gate", "import tutelage.trainers"),
        ("export.gate", "from tutelage.launch import report"),
        ("launch.commands", "from pipeline import lake"),
        ("launch.commands", "from . import report"),
        ("tests.launch.report.test_page", "import launch.report"),
        ("pipeline.lake", "def f():\n    import tensorflow as tf"),
        ("pipeline.schema", "from apache_beam import Map"),
    ],
)
def test_a_forbidden_import_is_refused(module: str, source: str) -> None:
    assert len(wrong_imports(module, source)) == 1


def test_light_modules_load_nothing_heavy() -> None:
    code = "\n".join(f"import tutelage.{module}" for module in LIGHT)
    code += f"\nimport sys; print(*sys.modules.keys() & {set(HEAVY)})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
