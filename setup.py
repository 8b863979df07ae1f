"""The top-level folders are one package: `tutelage.pipeline` is `pipeline/`, and so on."""

from pathlib import Path

from setuptools import setup

ROOMS = ("pipeline", "models", "trainers", "export", "launch")
ROOT = Path(__file__).parent
FOLDERS = sorted(
    path.parent.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("__init__.py")
)

setup(
    packages=[".".join(("tutelage", *folder.parts)) for folder in FOLDERS],
    package_dir={".".join(("tutelage", *folder.parts)): str(folder) for folder in FOLDERS},
)
