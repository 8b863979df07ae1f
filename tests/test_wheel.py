"""The wheel holds the whole tree and works without the clone. `make wheel` also installs its dependencies."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.wheel import ROOT, build, copy_of_sources

pytestmark = pytest.mark.end_to_end
ROOMS = ("pipeline", "models", "trainers", "export", "launch")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the wheel and nothing else of the project."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, f"--target={folder}", str(wheel)], check=True, timeout=300)
    return folder


def _sources() -> set[str]:
    """The files of the rooms that a wheel must hold, by their paths in it."""
    files = (path for room in ROOMS for end in ("py", "j2") for path in (ROOT / room).rglob(f"*.{end}"))
    return {f"tutelage/{path.relative_to(ROOT).as_posix()}" for path in files}


def test_the_wheel_holds_every_module_and_template_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == _sources()
    assert f"{wheel.name.removesuffix('-py3-none-any.whl')}.dist-info/licenses/LICENSE" in names


def test_the_source_distribution_that_beam_stages_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    sources = copy_of_sources(tmp_path / "sources")
    # What Beam runs for --setup_file, where the package `build` is not installed.
    command = [sys.executable, "setup.py", "--quiet", "sdist", f"--dist-dir={tmp_path}"]
    subprocess.run(command, cwd=sources, check=True, timeout=300)
    (staged,) = tmp_path.glob("tutelage-*.tar.gz")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, f"--wheel-dir={tmp_path}", str(staged)], check=True, timeout=300)
    (built,) = tmp_path.glob("tutelage-*.whl")
    assert sorted(zipfile.ZipFile(built).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


def test_the_image_of_workers_has_every_room_and_the_tested_beam() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert [f"COPY {room} {room}" for room in ROOMS] == [
        line for line in lines if re.match(r"COPY (\w+) \1$", line)
    ]
    beam = next(
        pin for pin in (ROOT / "constraints.txt").read_text().splitlines() if pin.startswith("apache-beam==")
    )
    assert f"ARG BEAM={beam.partition('==')[2]}" in lines
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert kept == {name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]}


def _run(command: list[str | Path], installed: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run with the wheel before the clone on the path, from a folder that is neither."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_every_module_is_imported_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    modules = sorted(
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in _sources()
        if name.endswith(".py")
    )
    # The models come first: they choose the Keras that TensorFlow takes when it is imported.
    code = (
        "import importlib, tutelage.models\n"
        f"for name in {modules!r}:\n"
        "    print(importlib.import_module(name).__file__)\n"
    )
    done = _run([sys.executable, "-c", code], installed, tmp_path)
    assert done.returncode == 0, done.stderr
    files = done.stdout.splitlines()
    assert len(files) == len(modules)
    assert [file for file in files if not Path(file).is_relative_to(installed)] == []


def test_the_commands_of_the_wheel_start(installed: Path, tmp_path: Path) -> None:
    scripts = {path.name for path in (installed / "bin").iterdir()}
    assert scripts == set(PROJECT["scripts"])
    done = _run([sys.executable, installed / "bin/tutelage-run", "--help"], installed, tmp_path)
    assert done.stdout.lstrip().startswith("tutelage-run: "), done.stderr


REQUIREMENTS = [
    requirement
    for texts in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for requirement in map(Requirement, texts)
    if requirement.name != PROJECT["name"]  # An extra that another extra includes.
]


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: requirement.name)
def test_a_dependency_has_a_lower_bound_and_the_tested_version_is_within_its_bounds(
    requirement: Requirement,
) -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    tested = {canonicalize_name(name): version for name, version in pins.items()}
    assert requirement.specifier.contains(tested[canonicalize_name(requirement.name)])
    assert any(bound.operator in (">=", "==") for bound in requirement.specifier)
