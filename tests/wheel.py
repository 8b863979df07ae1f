"""Build the wheel into dist/ and try it where the clone is not: `python -m tests.wheel`.

A fresh environment gets the wheel and its dependencies, 3.5 GB. There, from a temporary folder, each file of
examples/ runs from raw data: one that defines `experiment` as a config of tutelage-run, any other as a script.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path

from tests.own_events import write_logs

ROOT = Path(__file__).parents[1]
NOT_SOURCE = (".*", "build", "dist", "demo", "tests", "docs", "benchmarks", "*.egg-info", "__pycache__")


def build(folder: Path) -> Path:
    """Build the wheel into `folder` and return its path.

    It is built from a copy of the sources: setuptools leaves folders behind where it builds, and packs stale
    files of an earlier build into the next one.
    """
    with tempfile.TemporaryDirectory() as temporary:
        sources = copy_of_sources(Path(temporary, "sources"))
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([*command, f"--wheel-dir={folder}", str(sources)], check=True)
    (wheel,) = folder.glob("tutelage-*.whl")
    return wheel


def copy_of_sources(folder: Path) -> Path:
    """Copy what a wheel is built from into the new folder `folder`, and return it."""
    return Path(shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*NOT_SOURCE)))


def run_examples(bin_folder: Path, folder: Path) -> None:
    """Run every example in `folder` with the commands in `bin_folder`; raise if one fails or serves nothing."""
    shutil.copytree(ROOT / "examples", folder / "examples")
    write_logs(folder / "my_logs")
    for example in sorted((folder / "examples").glob("*.py")):
        workdir = folder / example.stem
        if "def experiment(" in example.read_text():
            command = [bin_folder / "tutelage-run", f"--config={example}", "--raw_dir=my_logs", "--smoke"]
            _run([*command, f"--workdir={workdir}"], folder)
            served = sorted(workdir.glob("export/*/2*/saved_model.pb"))
            if not {path.parents[1].name for path in served} - {"teacher"}:
                raise SystemExit(f"{example.name} serves no student; look into {workdir}")
        else:
            _run([bin_folder / "python", example], folder)


def _run(command: Sequence[str | Path], folder: Path) -> None:
    print("+", *command, flush=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(command, cwd=folder, env=environment, check=True)


def main() -> None:
    started = time.monotonic()
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    wheel = build(ROOT / "dist")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        venv.create(folder / "venv", with_pip=True)
        pip = [folder / "venv/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, "-c", ROOT / "constraints.txt", wheel], folder)
        run_examples(folder / "venv/bin", folder)
    print(f"{wheel.relative_to(ROOT)}: installed and tried in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
