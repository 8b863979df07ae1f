"""Fixtures that every folder of tests may use."""

import os
from pathlib import Path

import hypothesis
import pytest

# Before any test imports TensorFlow, which takes up the Keras of this moment.
os.environ["TF_USE_LEGACY_KERAS"] = "1"

# The same examples on every run, and no deadline: the first call of a tf.function traces for a second.
hypothesis.settings.register_profile("tutelage", deadline=None, derandomize=True)
hypothesis.settings.load_profile("tutelage")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets, `$TUTELAGE_DATA` or `shared/data` beside the repository."""
    path = Path(os.environ.get("TUTELAGE_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not path.is_dir():
        pytest.skip(f"no real data at {path}; set TUTELAGE_DATA")
    return path
