"""Every dependency may be used by a project under Apache 2.0."""

import importlib.metadata
from pathlib import Path

import pytest

from tests.licences import WITHOUT_METADATA, Licence, licences

pytestmark = pytest.mark.end_to_end  # Of the installed packages.


def test_the_licence_of_every_runtime_dependency_is_known_and_compatible() -> None:
    found = licences()
    assert {"numpy", "tensorflow", "urllib3"} <= {each.package for each in found}
    assert [each for each in found if not each.compatible] == []


@pytest.mark.parametrize("name", WITHOUT_METADATA)
def test_a_package_that_counts_as_an_exception_still_is_one_and_is_documented(name: str) -> None:
    metadata = importlib.metadata.metadata(name)
    named = [text for text in metadata.get_all("Classifier") or [] if text.startswith("License")]
    assert [metadata.get("License-Expression"), metadata.get("License"), *named] == [None, None]
    assert f"`{name}`" in (Path(__file__).parents[1] / "SECURITY.md").read_text()


@pytest.mark.parametrize(
    ("expression", "compatible"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("GPL-2.0-only OR MIT", True),
        ("MIT AND LGPL-3.0-or-later", False),
        ("BSD-3-Clause AND 0BSD AND CC0-1.0", True),
        ("", False),
    ],
)
def test_one_alternative_of_compatible_licences_only_is_enough(expression: str, compatible: bool) -> None:
    assert Licence(package="a", version="1", expression=expression).compatible is compatible
