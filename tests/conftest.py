"""Fixtures for all tests."""

import os
from pathlib import Path

import hypothesis
import pytest

from tests.s3 import s3, s3_endpoint  # noqa: F401 (fixtures)

# TensorFlow chooses its Keras when it is imported, so this comes before any test.
os.environ["TF_USE_LEGACY_KERAS"] = "1"

# Every run draws the same examples. There is no deadline, because the first call of a tf.function is slow.
hypothesis.settings.register_profile("tutelage", deadline=None, derandomize=True)
hypothesis.settings.load_profile("tutelage")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets: `$TUTELAGE_DATA`, or `shared/data` beside the repository."""
    path = Path(os.environ.get("TUTELAGE_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not path.is_dir():
        pytest.skip(f"no real data at {path}; set TUTELAGE_DATA")
    return path
