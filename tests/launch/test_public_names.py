"""What `tutelage.launch` offers by name, and that it costs nothing before it is used."""

import subprocess
import sys

import pytest

from tutelage import launch


def test_the_public_names_are_these() -> None:
    assert launch.__all__ == ["COMMANDS", "Experiment", "Session", "StudyConfig", "load", "open_workdir"]
    assert dir(launch) == launch.__all__


def test_a_public_name_is_the_one_of_its_module() -> None:
    from tutelage.launch.experiment import Experiment
    from tutelage.launch.session import Session

    assert (launch.Experiment, launch.Session) == (Experiment, Session)
    assert all(getattr(launch, name) is not None for name in launch.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'tutelage.launch' has no attribute 'Settings'$"):
        _ = launch.Settings


def test_the_package_imports_none_of_its_modules() -> None:
    code = "import sys, tutelage.launch; print(*(m for m in sys.modules if m.startswith('tutelage.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["tutelage.launch"]
