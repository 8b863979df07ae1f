"""The top-level folders are one package: `tutelage.pipeline` is `pipeline/`, and so on."""

from setuptools import setup

FOLDERS = ["pipeline", "pipeline.sources", "models", "trainers", "export", "launch", "launch.configs"]

setup(
    packages=[f"tutelage.{folder}" for folder in FOLDERS],
    package_dir={f"tutelage.{folder}": folder.replace(".", "/") for folder in FOLDERS},
)
